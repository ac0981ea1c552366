//! Matrix products with their epilogues: shapes to launches.

use super::launch::{Arg, Ladder, Launch, Pointer, Shape, Storage, Swizzle, Target, TileMap};

/// Side of the tile that a block of rung 2 makes: `tile::M` and `tile::N` of `include/tile.cuh`.
const TILE: usize = 128;
/// `tile::SHARED_BYTES`.
const STAGES_BYTES: u32 = 65536;
/// What a block of rung 3 makes: `M` and `N` of `include/warpgroup_tile.cuh`.
const WARPGROUP_M: usize = 128;
const WARPGROUP_N: usize = 256;
/// There, `K`, `SLICE` and `SHARED_BYTES`.
const STAGE_K: u32 = 64;
const SLICE: u32 = 64;
const WARPGROUP_STAGES_BYTES: u32 = 196_608;

/// What the epilogues do to a product, as `include/activation.cuh` numbers activations; 0 is none.
pub type ActivationNumber = i32;

/// `y` (M,N) = act(`x` (M,K) `w`ᵀ + bias), or residual + `x` `w`ᵀ + bias.
#[derive(Debug, Clone, Copy)]
pub struct Forward {
    /// (M,N).
    pub y: Pointer,
    /// (M,N) or null: the values before the activation.
    pub u: Pointer,
    /// (M,K).
    pub x: Pointer,
    /// (N,K).
    pub w: Pointer,
    /// (N) f32 or null.
    pub bias: Pointer,
    /// Rows of N or null.
    pub residual: Pointer,
    /// Values from one row of `residual` to the next.
    pub residual_stride: usize,
    /// The activation.
    pub activation: ActivationNumber,
    /// M.
    pub m: usize,
    /// N.
    pub n: usize,
    /// K.
    pub k: usize,
}

/// `dx` (M,N) = `dy` (M,K) `w` (K,N), times the activation's slope at `u`.
#[derive(Debug, Clone, Copy)]
pub struct Reverse {
    /// (M,N).
    pub dx: Pointer,
    /// (M,K).
    pub dy: Pointer,
    /// (K,N).
    pub w: Pointer,
    /// (rows,N) or null: the values before the activation.
    pub u: Pointer,
    /// Rows of `u`: gradient row `i` belongs to row `i % rows`.
    pub rows: usize,
    /// The activation.
    pub activation: ActivationNumber,
    /// M.
    pub m: usize,
    /// N.
    pub n: usize,
    /// K.
    pub k: usize,
}

/// The launch shape of a rung; nothing when the rung does not serve these sizes.
fn shape(rung: u32, target: Target, m: usize, n: usize, whole: bool) -> Option<Shape> {
    let whole = whole && target.storage != Storage::F32;
    let grid = |a: usize, b: usize| [n.div_ceil(a) as u32, m.div_ceil(b) as u32, 1];
    match rung {
        1 => Some(Shape { grid: grid(32, 4), block: [32, 4, 1], shared: 0 }),
        2 if whole => Some(Shape { grid: grid(TILE, TILE), block: [256, 1, 1], shared: STAGES_BYTES }),
        3 if whole && target.architecture == 90 => {
            Some(Shape { grid: grid(WARPGROUP_N, WARPGROUP_M), block: [384, 1, 1], shared: WARPGROUP_STAGES_BYTES })
        }
        _ => None,
    }
}

/// Whether 16 bytes can be copied from each address on.
fn aligned(addresses: [Pointer; 2]) -> bool {
    addresses.iter().all(|address| address.is_multiple_of(16))
}

/// A matrix (rows,columns) as rungs read it: by its address, or from rung 3 on by a map of boxes (columns, rows).
fn matrix(rung: u32, storage: Storage, base: Pointer, size: [usize; 2], area: [u32; 2]) -> Arg {
    match rung {
        1 | 2 => Arg::Pointer(base),
        _ => Arg::Tiles(TileMap::matrix(base, storage, size, area, Swizzle::Bytes128)),
    }
}

impl Ladder for Forward {
    const OPERATION: &'static str = "gemm";
    const DIRECTION: &'static str = "forward";
    const TOP: u32 = 3;

    fn launches(&self, rung: u32, target: Target) -> Option<Vec<Launch>> {
        let whole = [self.n, self.k, self.residual_stride].iter().all(|n| n.is_multiple_of(target.storage.run()));
        let shape = shape(rung, target, self.m, self.n, whole && aligned([self.x, self.w]))?;
        let args = vec![
            Arg::Pointer(self.y),
            Arg::Pointer(self.u),
            matrix(rung, target.storage, self.x, [self.m, self.k], [STAGE_K, WARPGROUP_M as u32]),
            matrix(rung, target.storage, self.w, [self.n, self.k], [STAGE_K, WARPGROUP_N as u32]),
            Arg::Pointer(self.bias),
            Arg::Pointer(self.residual),
            Arg::stride(self.residual_stride),
            Arg::I32(self.activation),
            Arg::size(self.m),
            Arg::size(self.n),
            Arg::size(self.k),
        ];
        Some(vec![self.launch("", rung, target.storage, shape, args)])
    }
}

impl Ladder for Reverse {
    const OPERATION: &'static str = "gemm";
    const DIRECTION: &'static str = "reverse";
    const TOP: u32 = 3;

    fn launches(&self, rung: u32, target: Target) -> Option<Vec<Launch>> {
        let whole = [self.n, self.k].iter().all(|n| n.is_multiple_of(target.storage.run()));
        let shape = shape(rung, target, self.m, self.n, whole && aligned([self.dy, self.w]))?;
        let args = vec![
            Arg::Pointer(self.dx),
            matrix(rung, target.storage, self.dy, [self.m, self.k], [STAGE_K, WARPGROUP_M as u32]),
            matrix(rung, target.storage, self.w, [self.k, self.n], [SLICE, STAGE_K]),
            Arg::Pointer(self.u),
            Arg::size(self.rows),
            Arg::I32(self.activation),
            Arg::size(self.m),
            Arg::size(self.n),
            Arg::size(self.k),
        ];
        Some(vec![self.launch("", rung, target.storage, shape, args)])
    }
}
