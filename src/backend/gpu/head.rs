//! Scores and their gradients, and the mean over tokens: shapes to launches.

use super::launch::{Arg, Ladder, Launch, Pointer, Shape, Target};
use crate::backend::ScoreKind;

/// Threads of a block.
const THREADS: u32 = 256;
/// Warps of a block.
const WARPS: usize = 8;
/// Lanes of a warp: each takes 16 bytes of the columns that a block of the mean's rung 2 sums.
const LANES: usize = 32;

/// `cos` (B,Q) of `embed` (B,E) and unit rows `texts` (Q,E).
#[derive(Debug, Clone, Copy)]
pub struct Cosine {
    /// (B,Q) f32.
    pub cos: Pointer,
    /// (B,E).
    pub embed: Pointer,
    /// (Q,E) f32.
    pub texts: Pointer,
    /// B.
    pub batch: usize,
    /// Q.
    pub queries: usize,
    /// E.
    pub width: usize,
}

/// `dembed` (G,E): row `g` is the gradient of the score of text `first + g / B` for image `g % B`.
#[derive(Debug, Clone, Copy)]
pub struct ScoreReverse {
    /// (G,E).
    pub dembed: Pointer,
    /// (B,E).
    pub embed: Pointer,
    /// (B,Q) f32.
    pub cos: Pointer,
    /// (Q,E) f32.
    pub texts: Pointer,
    /// The score.
    pub kind: ScoreKind,
    /// `exp(logit_scale)`.
    pub scale: f32,
    /// The first target text.
    pub first: usize,
    /// B.
    pub batch: usize,
    /// Q.
    pub queries: usize,
    /// E.
    pub width: usize,
    /// G.
    pub g: usize,
}

/// `y` (B,D) = mean over the tokens of `x` (B,T,D).
#[derive(Debug, Clone, Copy)]
pub struct MeanTokens {
    /// (B,D).
    pub y: Pointer,
    /// (B,T,D).
    pub x: Pointer,
    /// B.
    pub batch: usize,
    /// T.
    pub tokens: usize,
    /// D.
    pub width: usize,
}

/// `dx` (G,T,D) = `dy` (G,D) / T in every token.
#[derive(Debug, Clone, Copy)]
pub struct MeanTokensReverse {
    /// (G,T,D).
    pub dx: Pointer,
    /// (G,D).
    pub dy: Pointer,
    /// G.
    pub g: usize,
    /// T.
    pub tokens: usize,
    /// D.
    pub width: usize,
}

impl Ladder for Cosine {
    const OPERATION: &'static str = "head";
    const DIRECTION: &'static str = "cosine";
    const TOP: u32 = 2;

    fn launches(&self, rung: u32, target: Target) -> Option<Vec<Launch>> {
        let is_whole = self.width.is_multiple_of(target.storage.run());
        let shape = match rung {
            1 => Shape::line(self.batch * self.queries, THREADS as usize, THREADS),
            2 if is_whole => Shape::line(self.batch * self.queries, WARPS, THREADS),
            _ => return None,
        };
        let pointers = [self.cos, self.embed, self.texts].map(Arg::Pointer);
        let args = [&pointers[..], &[self.batch, self.queries, self.width].map(Arg::size)].concat();
        Some(vec![self.launch("", rung, target.storage, shape, args)])
    }
}

impl Ladder for ScoreReverse {
    const OPERATION: &'static str = "head";
    const DIRECTION: &'static str = "score_reverse";
    const TOP: u32 = 2;

    fn launches(&self, rung: u32, target: Target) -> Option<Vec<Launch>> {
        let is_whole = self.width.is_multiple_of(target.storage.run());
        let shape = match rung {
            1 => Shape::line(self.g * self.width, THREADS as usize, THREADS),
            2 if is_whole => Shape::line(self.g, 1, THREADS),
            _ => return None,
        };
        let kind = match self.kind {
            ScoreKind::Cosine => 0,
            ScoreKind::Logit => 1,
            ScoreKind::Softmax => 2,
        };
        let pointers = [self.dembed, self.embed, self.cos, self.texts].map(Arg::Pointer);
        let sizes = [self.first, self.batch, self.queries, self.width, self.g].map(Arg::size);
        let args = [&pointers[..], &[Arg::I32(kind), Arg::F32(self.scale)], &sizes].concat();
        Some(vec![self.launch("", rung, target.storage, shape, args)])
    }
}

impl Ladder for MeanTokens {
    const OPERATION: &'static str = "head";
    const DIRECTION: &'static str = "mean_tokens";
    const TOP: u32 = 2;

    fn launches(&self, rung: u32, target: Target) -> Option<Vec<Launch>> {
        let is_whole = self.width.is_multiple_of(target.storage.run());
        let shape = match rung {
            1 => Shape::line(self.batch * self.width, THREADS as usize, THREADS),
            2 if is_whole => Shape::line(self.batch * self.width.div_ceil(LANES * target.storage.run()), 1, THREADS),
            _ => return None,
        };
        let pointers = [self.y, self.x].map(Arg::Pointer);
        let args = [&pointers[..], &[self.batch, self.tokens, self.width].map(Arg::size)].concat();
        Some(vec![self.launch("", rung, target.storage, shape, args)])
    }
}

impl Ladder for MeanTokensReverse {
    const OPERATION: &'static str = "head";
    const DIRECTION: &'static str = "mean_tokens_reverse";
    const TOP: u32 = 2;

    fn launches(&self, rung: u32, target: Target) -> Option<Vec<Launch>> {
        let (run, n) = (target.storage.run(), self.g * self.tokens * self.width);
        let shape = Shape::values(rung, n, run, self.width.is_multiple_of(run))?;
        let pointers = [self.dx, self.dy].map(Arg::Pointer);
        let args = [&pointers[..], &[self.g, self.tokens, self.width].map(Arg::size)].concat();
        Some(vec![self.launch("", rung, target.storage, shape, args)])
    }
}
