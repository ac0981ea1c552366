//! Bytes of a resized and cropped picture to normalised pixels: shapes to launches.

use super::launch::{Arg, Ladder, Launch, Pointer, Shape, Storage, Target};

/// Pixels that a thread of rung 2 makes.
const PIXELS: usize = 4;

/// `pixels` (B,3,height,width) f32 from `picture` (B,height,width,3) u8.
#[derive(Debug, Clone, Copy)]
pub struct Forward {
    /// (B,3,height,width) f32, whatever the storage type.
    pub pixels: Pointer,
    /// (B,height,width,3) u8.
    pub picture: Pointer,
    /// (3,256) f32: the normalised value of each byte ([`Preprocess::values`](crate::image::Preprocess::values)).
    pub table: Pointer,
    /// B.
    pub batch: usize,
    /// Rows of pixels.
    pub height: usize,
    /// Columns of pixels.
    pub width: usize,
}

impl Ladder for Forward {
    const OPERATION: &'static str = "preprocess";
    const DIRECTION: &'static str = "forward";
    const TOP: u32 = 2;

    fn launches(&self, rung: u32, _: Target) -> Option<Vec<Launch>> {
        let area = self.height * self.width;
        let n = self.batch * area;
        let shape = Shape::values(rung, n, PIXELS, area.is_multiple_of(PIXELS))?;
        let pointers = [self.pixels, self.picture, self.table].map(Arg::Pointer);
        let args = [&pointers[..], &[area, n].map(Arg::stride)].concat();
        Some(vec![self.launch("", rung, Storage::F32, shape, args)])
    }
}
