//! Scores and their gradients, and the mean over tokens: shapes to launches.

use super::launch::{Arg, Ladder, Launch, Pointer, Shape, Target};
use crate::backend::ScoreKind;

/// Threads of a block.
const THREADS: u32 = 256;

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

/// The launch shape of a rung that makes one value a thread.
fn shape(rung: u32, n: usize) -> Option<Shape> {
    (rung == 1).then(|| Shape::line(n, THREADS as usize, THREADS))
}

impl Ladder for Cosine {
    const OPERATION: &'static str = "head";
    const DIRECTION: &'static str = "cosine";
    const TOP: u32 = 1;

    fn launches(&self, rung: u32, target: Target) -> Option<Vec<Launch>> {
        let pointers = [self.cos, self.embed, self.texts].map(Arg::Pointer);
        let args = [&pointers[..], &[self.batch, self.queries, self.width].map(Arg::size)].concat();
        Some(vec![self.launch("", rung, target.storage, shape(rung, self.batch * self.queries)?, args)])
    }
}

impl Ladder for ScoreReverse {
    const OPERATION: &'static str = "head";
    const DIRECTION: &'static str = "score_reverse";
    const TOP: u32 = 1;

    fn launches(&self, rung: u32, target: Target) -> Option<Vec<Launch>> {
        let kind = match self.kind {
            ScoreKind::Cosine => 0,
            ScoreKind::Logit => 1,
            ScoreKind::Softmax => 2,
        };
        let pointers = [self.dembed, self.embed, self.cos, self.texts].map(Arg::Pointer);
        let sizes = [self.first, self.batch, self.queries, self.width, self.g].map(Arg::size);
        let args = [&pointers[..], &[Arg::I32(kind), Arg::F32(self.scale)], &sizes].concat();
        Some(vec![self.launch("", rung, target.storage, shape(rung, self.g * self.width)?, args)])
    }
}

impl Ladder for MeanTokens {
    const OPERATION: &'static str = "head";
    const DIRECTION: &'static str = "mean_tokens";
    const TOP: u32 = 1;

    fn launches(&self, rung: u32, target: Target) -> Option<Vec<Launch>> {
        let pointers = [self.y, self.x].map(Arg::Pointer);
        let args = [&pointers[..], &[self.batch, self.tokens, self.width].map(Arg::size)].concat();
        Some(vec![self.launch("", rung, target.storage, shape(rung, self.batch * self.width)?, args)])
    }
}

impl Ladder for MeanTokensReverse {
    const OPERATION: &'static str = "head";
    const DIRECTION: &'static str = "mean_tokens_reverse";
    const TOP: u32 = 1;

    fn launches(&self, rung: u32, target: Target) -> Option<Vec<Launch>> {
        let pointers = [self.dx, self.dy].map(Arg::Pointer);
        let args = [&pointers[..], &[self.g, self.tokens, self.width].map(Arg::size)].concat();
        Some(vec![self.launch("", rung, target.storage, shape(rung, self.g * self.tokens * self.width)?, args)])
    }
}
