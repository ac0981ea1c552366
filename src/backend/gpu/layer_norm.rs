//! LayerNorm: shapes to launches.

use super::launch::{Arg, Ladder, Launch, Pointer, Shape, Storage, Target};

/// Threads of a block.
const THREADS: u32 = 256;
/// Rows that a block of rung 2 makes: a warp each.
const WARPS: usize = 8;
/// The widest row that fits a warp's registers in rung 2.
const WIDEST: usize = 2048;

/// `y` (n,D), `stats` (n,2) from rows of `x`.
#[derive(Debug, Clone, Copy)]
pub struct Forward {
    /// (n,D).
    pub y: Pointer,
    /// (n,2) f32: mean and rstd.
    pub stats: Pointer,
    /// Rows of D, `stride` apart.
    pub x: Pointer,
    /// Values from one row of `x` to the next.
    pub stride: usize,
    /// (D) f32.
    pub gain: Pointer,
    /// (D) f32.
    pub bias: Pointer,
    /// Added to the variance.
    pub eps: f32,
    /// Rows.
    pub n: usize,
    /// D.
    pub width: usize,
}

/// `dx` (g,D) from `dy` (g,D) and the forward's rows, of which there are `n`.
#[derive(Debug, Clone, Copy)]
pub struct Reverse {
    /// (g,D), added to what it holds when `accumulate`.
    pub dx: Pointer,
    /// (g,D).
    pub dy: Pointer,
    /// Rows of D, `stride` apart.
    pub x: Pointer,
    /// Values from one row of `x` to the next.
    pub stride: usize,
    /// (n,2) f32.
    pub stats: Pointer,
    /// (D) f32.
    pub gain: Pointer,
    /// Rows of the forward.
    pub n: usize,
    /// Rows of the gradient.
    pub g: usize,
    /// D.
    pub width: usize,
    /// Whether `dx` is added to.
    pub accumulate: bool,
}

/// The launch shape of a rung over so many rows; nothing when the rung does not serve rows of this width.
fn shape(rung: u32, storage: Storage, rows: usize, width: usize, stride: usize) -> Option<Shape> {
    let whole = |n: usize| n.is_multiple_of(storage.run());
    match rung {
        1 => Some(Shape::line(rows, THREADS as usize, THREADS)),
        2 if width <= WIDEST && whole(width) && whole(stride) => Some(Shape::line(rows, WARPS, THREADS)),
        _ => None,
    }
}

impl Ladder for Forward {
    const OPERATION: &'static str = "layer_norm";
    const DIRECTION: &'static str = "forward";
    const TOP: u32 = 2;

    fn launches(&self, rung: u32, target: Target) -> Option<Vec<Launch>> {
        let shape = shape(rung, target.storage, self.n, self.width, self.stride)?;
        let args = vec![
            Arg::Pointer(self.y),
            Arg::Pointer(self.stats),
            Arg::Pointer(self.x),
            Arg::stride(self.stride),
            Arg::Pointer(self.gain),
            Arg::Pointer(self.bias),
            Arg::F32(self.eps),
            Arg::size(self.n),
            Arg::size(self.width),
        ];
        Some(vec![self.launch("", rung, target.storage, shape, args)])
    }
}

impl Ladder for Reverse {
    const OPERATION: &'static str = "layer_norm";
    const DIRECTION: &'static str = "reverse";
    const TOP: u32 = 2;

    fn launches(&self, rung: u32, target: Target) -> Option<Vec<Launch>> {
        let shape = shape(rung, target.storage, self.g, self.width, self.stride)?;
        let args = vec![
            Arg::Pointer(self.dx),
            Arg::Pointer(self.dy),
            Arg::Pointer(self.x),
            Arg::stride(self.stride),
            Arg::Pointer(self.stats),
            Arg::Pointer(self.gain),
            Arg::size(self.n),
            Arg::size(self.g),
            Arg::size(self.width),
            Arg::I32(self.accumulate.into()),
        ];
        Some(vec![self.launch("", rung, target.storage, shape, args)])
    }
}
