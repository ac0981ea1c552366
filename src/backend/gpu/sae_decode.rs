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
    const TOP: u32 = 1;

    fn launches(&self, rung: u32, target: Target) -> Option<Vec<Launch>> {
        let Sae { rule, .. } = self.sae;
        let shape = match rung {
            1 => threads(self.n * rule.width),
            _ => return None,
        };
        let args = vec![
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
            Arg::size(self.n),
            Arg::size(self.code.slots),
            Arg::size(rule.width),
        ];
        Some(vec![self.launch("", rung, target.storage, shape, args)])
    }
}

impl Ladder for Reverse {
    const OPERATION: &'static str = "sae_decode";
    const DIRECTION: &'static str = "reverse";
    const TOP: u32 = 1;

    fn launches(&self, rung: u32, target: Target) -> Option<Vec<Launch>> {
        if rung != 1 {
            return None;
        }
        let Sae { rule, .. } = self.sae;
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
    const TOP: u32 = 1;

    fn launches(&self, rung: u32, _target: Target) -> Option<Vec<Launch>> {
        let args = vec![
            Arg::Pointer(self.score),
            Arg::Pointer(self.code.index),
            Arg::Pointer(self.code.z),
            Arg::size(self.id),
            Arg::size(self.batch),
            Arg::size(self.tokens),
            Arg::size(self.code.slots),
        ];
        // The code is f32 whatever the storage type is.
        (rung == 1).then(|| vec![self.launch("", 1, Storage::F32, threads(self.batch), args)])
    }
}

impl Ladder for LatentReverse {
    const OPERATION: &'static str = "sae_decode";
    const DIRECTION: &'static str = "latent_reverse";
    const TOP: u32 = 1;

    fn launches(&self, rung: u32, target: Target) -> Option<Vec<Launch>> {
        let Sae { rule, .. } = self.sae;
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
        (rung == 1).then(|| vec![self.launch("", 1, target.storage, threads(self.n), args)])
    }
}
