//! Matrix products with their epilogues: shapes to launches.

use super::launch::{Arg, Ladder, Launch, Pointer, Shape, Target};
use crate::weights::Activation;

/// Side of the tile that a block of rung 2 makes: `tile::M` and `tile::N` of `include/tile.cuh`.
const TILE: usize = 128;
/// `tile::SHARED_BYTES`.
const STAGES_BYTES: u32 = 65536;

/// An activation as `include/activation.cuh` numbers them.
pub type ActivationNumber = i32;

/// None.
pub const NO_ACTIVATION: ActivationNumber = 0;

/// The number of an activation.
pub fn activation_number(kind: Activation) -> ActivationNumber {
    match kind {
        Activation::QuickGelu => 1,
        Activation::Gelu => 2,
        Activation::GeluTanh => 3,
    }
}

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
fn shape(rung: u32, m: usize, n: usize, whole: bool) -> Option<Shape> {
    match rung {
        1 => Some(Shape { grid: [m.div_ceil(4) as u32, n.div_ceil(32) as u32, 1], block: [32, 4, 1], shared: 0 }),
        2 if whole => {
            let tiles = m.div_ceil(TILE) * n.div_ceil(TILE);
            Some(Shape { grid: [tiles as u32, 1, 1], block: [256, 1, 1], shared: STAGES_BYTES })
        }
        _ => None,
    }
}

impl Ladder for Forward {
    const OPERATION: &'static str = "gemm";
    const DIRECTION: &'static str = "forward";
    const TOP: u32 = 2;

    fn launches(&self, rung: u32, target: Target) -> Option<Vec<Launch>> {
        let whole = [self.n, self.k, self.residual_stride].iter().all(|n| n.is_multiple_of(target.storage.run()));
        let shape = shape(rung, self.m, self.n, whole)?;
        let args = vec![
            Arg::Pointer(self.y),
            Arg::Pointer(self.u),
            Arg::Pointer(self.x),
            Arg::Pointer(self.w),
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
    const TOP: u32 = 2;

    fn launches(&self, rung: u32, target: Target) -> Option<Vec<Launch>> {
        let whole = [self.n, self.k].iter().all(|n| n.is_multiple_of(target.storage.run()));
        let shape = shape(rung, self.m, self.n, whole)?;
        let args = vec![
            Arg::Pointer(self.dx),
            Arg::Pointer(self.dy),
            Arg::Pointer(self.w),
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
