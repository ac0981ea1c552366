//! Pixels to rows of patches and back, and what follows the product with the weight: shapes to launches.
//!
//! The product itself is a [`gemm`](super::gemm) of the patches with the weight (D, 3 p p). Rows may be longer than
//! `3 p p`, with zeros at their end, so that they are whole runs of 16 bytes (`p` = 14 has 588 values); the weight's
//! rows then are as long.

use super::launch::{Arg, Ladder, Launch, Pointer, Shape, Target};
use crate::backend::PatchGrid;

/// Pixels that a thread of the reverse's rung 2 makes.
const PIXELS: usize = 4;

/// The length of a row that holds a patch of `values` (3 p p): whole runs of `run` values.
pub fn row_length(values: usize, run: usize) -> usize {
    values.next_multiple_of(run)
}

/// `patches` (B,T,stride) from `pixels` (B,3,height,width); the CLS row is zero.
#[derive(Debug, Clone, Copy)]
pub struct Patches {
    /// (B,T,stride): rows of 3 p p values (channel, y, x) with zeros after them.
    pub patches: Pointer,
    /// (B,3,height,width) f32.
    pub pixels: Pointer,
    /// Values from one row of `patches` to the next, at least 3 p p.
    pub stride: usize,
    /// The picture and its patches.
    pub grid: PatchGrid,
    /// B.
    pub batch: usize,
}

/// [`Patches`] straight from the picture's bytes.
#[derive(Debug, Clone, Copy)]
pub struct PatchesU8 {
    /// (B,T,stride): rows of 3 p p values (channel, y, x) with zeros after them.
    pub patches: Pointer,
    /// (B,height,width,3) u8.
    pub picture: Pointer,
    /// (3,256) f32: the normalised value of each byte ([`Preprocess::values`](crate::image::Preprocess::values)).
    pub table: Pointer,
    /// Values from one row of `patches` to the next, at least 3 p p.
    pub stride: usize,
    /// The picture and its patches.
    pub grid: PatchGrid,
    /// B.
    pub batch: usize,
}

/// After the product: token 0 of `x` (B,T,D) becomes `cls`, and `positions` are added to all.
#[derive(Debug, Clone, Copy)]
pub struct Positions {
    /// (B,T,D).
    pub x: Pointer,
    /// (D) f32.
    pub cls: Pointer,
    /// (T,D) f32.
    pub positions: Pointer,
    /// B.
    pub batch: usize,
    /// T.
    pub tokens: usize,
    /// D.
    pub width: usize,
}

/// `dpixels` (G,3,height,width) from `dpatches` (G,T,stride).
#[derive(Debug, Clone, Copy)]
pub struct Reverse {
    /// (G,3,height,width) f32.
    pub dpixels: Pointer,
    /// (G,T,stride): rows of 3 p p values (channel, y, x); what follows them is not read.
    pub dpatches: Pointer,
    /// Values from one row of `dpatches` to the next, at least 3 p p.
    pub stride: usize,
    /// The picture and its patches.
    pub grid: PatchGrid,
    /// G.
    pub g: usize,
}

/// A grid as kernels take it, after the row's stride.
fn sizes(stride: usize, grid: PatchGrid) -> [Arg; 6] {
    [stride, grid.rows, grid.cols, grid.patch, grid.height, grid.width].map(Arg::size)
}

impl Ladder for Patches {
    const OPERATION: &'static str = "patch_embed";
    const DIRECTION: &'static str = "patches";
    const TOP: u32 = 2;

    fn launches(&self, rung: u32, target: Target) -> Option<Vec<Launch>> {
        let n = self.batch * self.grid.tokens() * self.stride;
        let run = target.storage.run();
        let shape = Shape::values(rung, n, run, self.stride.is_multiple_of(run))?;
        let pointers = [self.patches, self.pixels].map(Arg::Pointer);
        let args = [&pointers[..], &sizes(self.stride, self.grid), &[Arg::stride(n)]].concat();
        Some(vec![self.launch("", rung, target.storage, shape, args)])
    }
}

impl Ladder for PatchesU8 {
    const OPERATION: &'static str = "patch_embed";
    const DIRECTION: &'static str = "patches_u8";
    const TOP: u32 = 2;

    fn launches(&self, rung: u32, target: Target) -> Option<Vec<Launch>> {
        let n = self.batch * self.grid.tokens() * self.stride;
        let run = target.storage.run();
        let shape = Shape::values(rung, n, run, self.stride.is_multiple_of(run))?;
        let pointers = [self.patches, self.picture, self.table].map(Arg::Pointer);
        let args = [&pointers[..], &sizes(self.stride, self.grid), &[Arg::stride(n)]].concat();
        Some(vec![self.launch("", rung, target.storage, shape, args)])
    }
}

impl Ladder for Positions {
    const OPERATION: &'static str = "patch_embed";
    const DIRECTION: &'static str = "positions";
    const TOP: u32 = 2;

    fn launches(&self, rung: u32, target: Target) -> Option<Vec<Launch>> {
        let n = self.batch * self.tokens * self.width;
        let run = target.storage.run();
        let shape = Shape::values(rung, n, run, self.width.is_multiple_of(run))?;
        let pointers = [self.x, self.cls, self.positions].map(Arg::Pointer);
        let args = [&pointers[..], &[Arg::size(self.tokens), Arg::size(self.width), Arg::stride(n)]].concat();
        Some(vec![self.launch("", rung, target.storage, shape, args)])
    }
}

impl Ladder for Reverse {
    const OPERATION: &'static str = "patch_embed";
    const DIRECTION: &'static str = "reverse";
    const TOP: u32 = 2;

    fn launches(&self, rung: u32, target: Target) -> Option<Vec<Launch>> {
        let n = self.g * 3 * self.grid.height * self.grid.width;
        let shape = Shape::values(rung, n, PIXELS, self.grid.width.is_multiple_of(PIXELS))?;
        let pointers = [self.dpixels, self.dpatches].map(Arg::Pointer);
        let args = [&pointers[..], &sizes(self.stride, self.grid), &[Arg::stride(n)]].concat();
        Some(vec![self.launch("", rung, target.storage, shape, args)])
    }
}
