//! Filling, gathering and adding rows: shapes to launches.

use super::launch::{Arg, Ladder, Launch, Pointer, Shape, Storage, Target};

/// Every value of `x` (n) becomes `value`.
#[derive(Debug, Clone, Copy)]
pub struct Fill {
    /// (n).
    pub x: Pointer,
    /// The value.
    pub value: f32,
    /// Values.
    pub n: usize,
    /// Whether `x` is f32 whatever the storage type.
    pub is_wide: bool,
}

/// `y` (n,D): row `i` is row `rows[i]` of `x`.
#[derive(Debug, Clone, Copy)]
pub struct Gather {
    /// (n,D).
    pub y: Pointer,
    /// Rows of D.
    pub x: Pointer,
    /// (n) u32.
    pub rows: Pointer,
    /// Rows of `y`.
    pub n: usize,
    /// D.
    pub width: usize,
}

/// Row `i` of `y`, whose rows lie `stride` values apart, += row `i` of `x` (n,D).
#[derive(Debug, Clone, Copy)]
pub struct Add {
    /// Rows of D, `stride` apart.
    pub y: Pointer,
    /// Values from one row of `y` to the next.
    pub stride: usize,
    /// (n,D).
    pub x: Pointer,
    /// Rows.
    pub n: usize,
    /// D.
    pub width: usize,
}

impl Ladder for Fill {
    const OPERATION: &'static str = "rows";
    const DIRECTION: &'static str = "fill";
    const TOP: u32 = 2;

    fn launches(&self, rung: u32, target: Target) -> Option<Vec<Launch>> {
        let storage = if self.is_wide { Storage::F32 } else { target.storage };
        let shape = Shape::values(rung, self.n, storage.run(), true)?;
        let args = vec![Arg::Pointer(self.x), Arg::F32(self.value), Arg::stride(self.n)];
        Some(vec![self.launch("", rung, storage, shape, args)])
    }
}

impl Ladder for Gather {
    const OPERATION: &'static str = "rows";
    const DIRECTION: &'static str = "gather";
    const TOP: u32 = 2;

    fn launches(&self, rung: u32, target: Target) -> Option<Vec<Launch>> {
        let run = target.storage.run();
        let shape = Shape::values(rung, self.n * self.width, run, self.width.is_multiple_of(run))?;
        let pointers = [self.y, self.x, self.rows].map(Arg::Pointer);
        let args = [&pointers[..], &[self.n, self.width].map(Arg::size)].concat();
        Some(vec![self.launch("", rung, target.storage, shape, args)])
    }
}

impl Ladder for Add {
    const OPERATION: &'static str = "rows";
    const DIRECTION: &'static str = "add";
    const TOP: u32 = 2;

    fn launches(&self, rung: u32, target: Target) -> Option<Vec<Launch>> {
        let run = target.storage.run();
        let is_whole = self.width.is_multiple_of(run) && self.stride.is_multiple_of(run);
        let shape = Shape::values(rung, self.n * self.width, run, is_whole)?;
        let args = vec![
            Arg::Pointer(self.y),
            Arg::stride(self.stride),
            Arg::Pointer(self.x),
            Arg::size(self.n),
            Arg::size(self.width),
        ];
        Some(vec![self.launch("", rung, target.storage, shape, args)])
    }
}
