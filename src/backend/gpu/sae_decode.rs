//! The SAE's code put back into the stream, a latent as a score, and the reverse of both: shapes to launches.

use super::{
    launch::{Arg, Ladder, Launch, Pointer, Shape, Storage, Target},
    sae::{Code, Mask, Sae, splice_number, through_number},
};
use crate::model::{Splice, Through};

/// Threads of a block of rung 1.
const THREADS: u32 = 128;

/// A thread of rung 1 for each of `n` items.
fn threads(n: usize) -> Shape {
    Shape::line(n, THREADS as usize, THREADS)
}

/// Threads of a block of rung 2 at most: `sae::MOST_THREADS`.
const MOST_THREADS: usize = 512;

/// A block of rung 2 for each of `rows` rows, 16 bytes a thread; nothing when a row does not fit.
fn blocks(storage: Storage, rows: usize, width: usize) -> Option<Shape> {
    let threads = width.div_ceil(storage.run()).next_multiple_of(32);
    let fits = width.is_multiple_of(storage.run()) && threads <= MOST_THREADS;
    fits.then(|| Shape::line(rows, 1, threads as u32))
}

/// `y` (N,D) = `x` with the code put back.
#[derive(Debug, Clone, Copy)]
pub struct Forward {
    /// (N,D).
    pub y: Pointer,
    /// (N,D).
    pub x: Pointer,
    /// Its index, `z` and `edited` are read.
    pub code: Code,
    /// The SAE.
    pub sae: Sae,
    /// What is put back.
    pub splice: Splice,
    /// The rows that are not copied.
    pub mask: Mask,
    /// `N`.
    pub n: usize,
}

/// `dx` (G,D) and `dz` (G,C) from `dy` (G,D).
#[derive(Debug, Clone, Copy)]
pub struct Reverse {
    /// (G,D).
    pub dx: Pointer,
    /// (G,C) f32: the gradient of z'.
    pub dz: Pointer,
    /// (G,D).
    pub dy: Pointer,
    /// (N,D).
    pub x: Pointer,
    /// The forward's.
    pub code: Code,
    /// The SAE.
    pub sae: Sae,
    /// What was put back.
    pub splice: Splice,
    /// The gradient's way.
    pub through: Through,
    /// The rows whose gradient does not pass as it is.
    pub mask: Mask,
    /// `N`: gradient row `i` belongs to forward row `i % N`.
    pub n: usize,
    /// `G`.
    pub g: usize,
}

/// `score` (B): one latent summed over the tokens of each image.
#[derive(Debug, Clone, Copy)]
pub struct Latent {
    /// (B) f32.
    pub score: Pointer,
    /// Its index and `z` are read.
    pub code: Code,
    /// The latent.
    pub id: usize,
    /// `B`.
    pub batch: usize,
    /// Rows of an image.
    pub tokens: usize,
}

/// `dx` (N,D): the gradient of [`Latent`]'s score.
#[derive(Debug, Clone, Copy)]
pub struct LatentReverse {
    /// (N,D).
    pub dx: Pointer,
    /// (N,D).
    pub x: Pointer,
    /// Its index and `slope` are read.
    pub code: Code,
    /// The SAE.
    pub sae: Sae,
    /// The latent.
    pub id: usize,
    /// `N`.
    pub n: usize,
}

impl Ladder for Forward {
    const OPERATION: &'static str = "sae_decode";
    const DIRECTION: &'static str = "forward";
    const TOP: u32 = 2;

    fn launches(&self, rung: u32, target: Target) -> Option<Vec<Launch>> {
        let Sae { rule, .. } = self.sae;
        let mut args = vec![
            Arg::Pointer(self.y),
            Arg::Pointer(self.x),
            Arg::Pointer(self.code.index),
            Arg::Pointer(self.code.z),
            Arg::Pointer(self.code.edited),
            Arg::Pointer(self.sae.decoder),
            Arg::Pointer(self.sae.decoder_bias),
            Arg::Pointer(self.sae.mean),
            Arg::Pointer(self.sae.row_norms),
            Arg::I32(rule.norm),
            Arg::F32(rule.norm_value),
            Arg::I32(splice_number(self.splice)),
            Arg::Pointer(self.mask.bytes),
            Arg::size(self.mask.tokens),
        ];
        let shape = match rung {
            1 => {
                args.push(Arg::size(self.n));
                threads(self.n * rule.width)
            }
            2 => blocks(target.storage, self.n, rule.width)?,
            _ => return None,
        };
        args.extend([self.code.slots, rule.width].map(Arg::size));
        Some(vec![self.launch("", rung, target.storage, shape, args)])
    }
}

impl Reverse {
    /// The arguments of rung 2's one kernel.
    fn in_one(&self) -> Vec<Arg> {
        let Sae { rule, .. } = self.sae;
        let pointers = [
            self.dx,
            self.dz,
            self.dy,
            self.x,
            self.code.index,
            self.code.z,
            self.code.edited,
            self.code.slope,
            self.code.edit_slope,
            self.sae.encoder,
            self.sae.decoder,
            self.sae.decoder_bias,
            self.sae.row_norms,
        ];
        let mut args: Vec<Arg> = pointers.into_iter().map(Arg::Pointer).collect();
        args.extend([
            Arg::I32(rule.norm),
            Arg::F32(rule.norm_value),
            Arg::I32(splice_number(self.splice)),
            Arg::I32(through_number(self.through)),
            Arg::Pointer(self.mask.bytes),
        ]);
        args.extend([self.mask.tokens, self.n, self.code.slots, rule.width].map(Arg::size));
        args
    }
}

impl Ladder for Reverse {
    const OPERATION: &'static str = "sae_decode";
    const DIRECTION: &'static str = "reverse";
    const TOP: u32 = 2;

    fn launches(&self, rung: u32, target: Target) -> Option<Vec<Launch>> {
        let Sae { rule, .. } = self.sae;
        if rung == 2 {
            let row = (rule.width * target.storage.bytes()) as u32;
            let shape = Shape { shared: row, ..blocks(target.storage, self.g, rule.width)? };
            return Some(vec![self.launch("", 2, target.storage, shape, self.in_one())]);
        }
        if rung != 1 {
            return None;
        }
        let sizes = [self.mask.tokens, self.n, self.g, self.code.slots, rule.width].map(Arg::size);
        let latents = [
            Arg::Pointer(self.dz),
            Arg::Pointer(self.dy),
            Arg::Pointer(self.x),
            Arg::Pointer(self.code.index),
            Arg::Pointer(self.sae.decoder),
            Arg::Pointer(self.sae.row_norms),
            Arg::I32(rule.norm),
            Arg::F32(rule.norm_value),
            Arg::Pointer(self.mask.bytes),
        ];
        let input = [
            Arg::Pointer(self.dx),
            Arg::Pointer(self.dz),
            Arg::Pointer(self.dy),
            Arg::Pointer(self.x),
            Arg::Pointer(self.code.index),
            Arg::Pointer(self.code.z),
            Arg::Pointer(self.code.edited),
            Arg::Pointer(self.code.slope),
            Arg::Pointer(self.code.edit_slope),
            Arg::Pointer(self.sae.encoder),
            Arg::Pointer(self.sae.decoder_bias),
            Arg::I32(rule.norm),
            Arg::F32(rule.norm_value),
            Arg::I32(splice_number(self.splice)),
            Arg::I32(through_number(self.through)),
            Arg::Pointer(self.mask.bytes),
        ];
        let args = |pointers: &[Arg]| [pointers, &sizes].concat();
        Some(vec![
            self.launch("_latents", 1, target.storage, threads(self.g * self.code.slots), args(&latents)),
            self.launch("_input", 1, target.storage, threads(self.g), args(&input)),
        ])
    }
}

impl Ladder for Latent {
    const OPERATION: &'static str = "sae_decode";
    const DIRECTION: &'static str = "latent";
    const TOP: u32 = 2;

    fn launches(&self, rung: u32, _target: Target) -> Option<Vec<Launch>> {
        let mut args = vec![
            Arg::Pointer(self.score),
            Arg::Pointer(self.code.index),
            Arg::Pointer(self.code.z),
            Arg::size(self.id),
        ];
        let shape = match rung {
            1 => {
                args.push(Arg::size(self.batch));
                threads(self.batch)
            }
            2 => Shape::line(self.batch, 1, 256),
            _ => return None,
        };
        args.extend([self.tokens, self.code.slots].map(Arg::size));
        // The code is f32 whatever the storage type is.
        Some(vec![self.launch("", rung, Storage::F32, shape, args)])
    }
}

impl Ladder for LatentReverse {
    const OPERATION: &'static str = "sae_decode";
    const DIRECTION: &'static str = "latent_reverse";
    const TOP: u32 = 2;

    fn launches(&self, rung: u32, target: Target) -> Option<Vec<Launch>> {
        let Sae { rule, .. } = self.sae;
        let shape = match rung {
            1 => threads(self.n),
            2 if rule.width.is_multiple_of(target.storage.run()) => Shape::line(self.n, 8, 256),
            _ => return None,
        };
        let args = vec![
            Arg::Pointer(self.dx),
            Arg::Pointer(self.x),
            Arg::Pointer(self.code.index),
            Arg::Pointer(self.code.slope),
            Arg::Pointer(self.sae.encoder),
            Arg::size(self.id),
            Arg::I32(rule.norm),
            Arg::F32(rule.norm_value),
            Arg::size(self.n),
            Arg::size(self.code.slots),
            Arg::size(rule.width),
        ];
        Some(vec![self.launch("", rung, target.storage, shape, args)])
    }
}
