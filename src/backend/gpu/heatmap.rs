//! From activations and gradients to maps, and from maps to coloured pictures: shapes to launches.

use bytemuck::{Pod, Zeroable};

use super::launch::{Arg, Ladder, Launch, Pointer, Shape, Storage, Target};
use crate::image::{Axis, Colormap};

/// Threads of a block.
const THREADS: u32 = 256;
/// Bytes of dynamic shared memory that rungs 2 of Grad-ECLIP and Grad-CAM may ask for: 48 KiB less what they declare.
const SHARED_BYTES: usize = 38 << 10;

/// `map` (G,P) of Grad-ECLIP. Map `g` belongs to image `g % B`.
#[derive(Debug, Clone, Copy)]
pub struct GradEclip {
    /// (G,P) f32, P = T - 1.
    pub map: Pointer,
    /// (G,queries,D).
    pub d_o: Pointer,
    /// (B,T,3D).
    pub qkv: Pointer,
    /// B.
    pub batch: usize,
    /// T.
    pub tokens: usize,
    /// Query rows of `d_o`.
    pub queries: usize,
    /// D.
    pub width: usize,
    /// G.
    pub g: usize,
}

/// `map` (G,P) of Grad-CAM. Map `g` belongs to image `g % B`.
#[derive(Debug, Clone, Copy)]
pub struct GradCam {
    /// (G,P) f32, P = T - 1.
    pub map: Pointer,
    /// (G,T,D).
    pub dx: Pointer,
    /// (B,T,D).
    pub x: Pointer,
    /// B.
    pub batch: usize,
    /// T.
    pub tokens: usize,
    /// D.
    pub width: usize,
    /// G.
    pub g: usize,
}

/// An entry of a map and its weight in a pixel's value.
#[derive(Debug, Clone, Copy, PartialEq, Pod, Zeroable)]
#[repr(C)]
pub struct Tap {
    /// The weight.
    pub weight: f64,
    /// The entry.
    pub index: u32,
    /// Nothing.
    pub unused: u32,
}

/// An axis's taps as [`Upsample`] takes them, pixel after pixel, and how many each pixel has.
pub fn taps(axis: &Axis) -> (Vec<Tap>, usize) {
    let tap = |&(index, weight): &(usize, f64)| Tap { weight, index: index as u32, unused: 0 };
    (axis.taps.iter().flatten().map(tap).collect(), axis.taps.first().map_or(0, Vec::len))
}

/// `values` (G,height,width): the maps at the pixels that they cover.
#[derive(Debug, Clone, Copy)]
pub struct Upsample {
    /// (G,height,width) f32.
    pub values: Pointer,
    /// (G,rows,cols) f32.
    pub map: Pointer,
    /// (width,taps) of [`Tap`].
    pub x_taps: Pointer,
    /// (height,taps) of [`Tap`].
    pub y_taps: Pointer,
    /// Taps of a pixel in each axis.
    pub taps: usize,
    /// G.
    pub g: usize,
    /// Rows of the map.
    pub rows: usize,
    /// Columns of the map.
    pub cols: usize,
    /// Rows of pixels that the map covers.
    pub height: usize,
    /// Columns of pixels that the map covers.
    pub width: usize,
}

/// `out` (G,height,width,3) u8: the picture with each map over it, as [`crate::image::blend`] draws it.
#[derive(Debug, Clone, Copy)]
pub struct Colour {
    /// (G,height,width,3) u8.
    pub out: Pointer,
    /// (G,inner height,inner width) f32, as [`Upsample`] makes them.
    pub values: Pointer,
    /// (height,width,3) u8.
    pub picture: Pointer,
    /// (G,2) f32: the values of the lowest and the highest colour.
    pub scale: Pointer,
    /// (256,3) u8: [`Colormap::table`].
    pub table: Pointer,
    /// The colour map that the table is of.
    pub colormap: Colormap,
    /// Share of the heatmap's colour, 0..=1.
    pub alpha: f32,
    /// Opacity of the heat, 0..=1.
    pub fade: f32,
    /// The picture's row and column that the values begin at.
    pub corner: (usize, usize),
    /// Rows and columns of the values.
    pub inner: (usize, usize),
    /// G.
    pub g: usize,
    /// Rows of the picture.
    pub height: usize,
    /// Columns of the picture.
    pub width: usize,
}

impl Ladder for GradEclip {
    const OPERATION: &'static str = "heatmap";
    const DIRECTION: &'static str = "grad_eclip";
    const TOP: u32 = 2;

    fn launches(&self, rung: u32, target: Target) -> Option<Vec<Launch>> {
        let shared = 4 * (3 * (self.tokens - 1) + 2 * self.width);
        let is_served = shared <= SHARED_BYTES && self.width.is_multiple_of(target.storage.run());
        let line = Shape::line(self.g, 1, THREADS);
        let shape = match rung {
            1 => line,
            2 if is_served => Shape { shared: shared as u32, ..line },
            _ => return None,
        };
        let pointers = [self.map, self.d_o, self.qkv].map(Arg::Pointer);
        let args = [&pointers[..], &[self.batch, self.tokens, self.queries, self.width].map(Arg::size)].concat();
        Some(vec![self.launch("", rung, target.storage, shape, args)])
    }
}

impl Ladder for GradCam {
    const OPERATION: &'static str = "heatmap";
    const DIRECTION: &'static str = "grad_cam";
    const TOP: u32 = 2;

    fn launches(&self, rung: u32, target: Target) -> Option<Vec<Launch>> {
        let shared = 4 * self.width;
        let is_served = shared <= SHARED_BYTES && self.width.is_multiple_of(target.storage.run());
        let line = Shape::line(self.g, 1, THREADS);
        let shape = match rung {
            1 => line,
            2 if is_served => Shape { shared: shared as u32, ..line },
            _ => return None,
        };
        let pointers = [self.map, self.dx, self.x].map(Arg::Pointer);
        let args = [&pointers[..], &[self.batch, self.tokens, self.width].map(Arg::size)].concat();
        Some(vec![self.launch("", rung, target.storage, shape, args)])
    }
}

impl Ladder for Upsample {
    const OPERATION: &'static str = "heatmap";
    const DIRECTION: &'static str = "upsample";
    const TOP: u32 = 1;

    fn launches(&self, rung: u32, _: Target) -> Option<Vec<Launch>> {
        let n = self.g * self.height * self.width;
        let shape = Shape::values(rung, n, 1, false)?;
        let pointers = [self.values, self.map, self.x_taps, self.y_taps].map(Arg::Pointer);
        let sizes = [self.taps, self.rows, self.cols, self.height, self.width].map(Arg::size);
        let args = [&pointers[..], &sizes, &[Arg::stride(n)]].concat();
        Some(vec![self.launch("", rung, Storage::F32, shape, args)])
    }
}

impl Ladder for Colour {
    const OPERATION: &'static str = "heatmap";
    const DIRECTION: &'static str = "colour";
    const TOP: u32 = 1;

    fn launches(&self, rung: u32, _: Target) -> Option<Vec<Launch>> {
        let n = self.g * self.height * self.width;
        let shape = Shape::values(rung, n, 1, false)?;
        let pointers = [self.out, self.values, self.picture, self.scale, self.table].map(Arg::Pointer);
        let how = [Arg::I32(self.colormap.is_diverging().into()), Arg::F32(self.alpha), Arg::F32(self.fade)];
        let ((top, left), (inner_height, inner_width)) = (self.corner, self.inner);
        let sizes = [top, left, inner_height, inner_width, self.height, self.width].map(Arg::size);
        let args = [&pointers[..], &how, &sizes, &[Arg::stride(n)]].concat();
        Some(vec![self.launch("", rung, Storage::F32, shape, args)])
    }
}
