//! Self-attention: shapes to launches.

use super::launch::{Arg, Ladder, Launch, Pointer, Shape, Target};
use crate::backend::AttentionShape;

/// Dynamic shared memory that a block may ask for on every architecture from sm_80 on (sm_86 and sm_89 have least).
const MOST_SHARED: usize = 99 << 10;

/// The softmax's scale.
fn scale(s: AttentionShape) -> Arg {
    Arg::F32(s.scale() as f32)
}

/// f32 values of scratch memory that [`Reverse`], [`Row`] or [`PositiveGradient`] needs for `g` gradient images (for
/// [`Row`], the batch): by head, two statistics of each query row and one sum of each column.
pub fn scratch_values(s: AttentionShape, g: usize) -> usize {
    g * s.heads * (2 * s.queries + s.tokens)
}

/// `o` (B,queries,D) and `lse` (B,queries,H) from `qkv` (B,T,3D).
#[derive(Debug, Clone, Copy)]
pub struct Forward {
    /// (B,queries,D).
    pub o: Pointer,
    /// (B,queries,H) f32: log-sum-exp of the scores.
    pub lse: Pointer,
    /// (B,T,3D).
    pub qkv: Pointer,
    /// Sizes.
    pub shape: AttentionShape,
}

/// `r_out` = `keep` `r_in` + `gain` `r_in` A: a row of relevance that passes an attention map A.
#[derive(Debug, Clone, Copy)]
pub struct Relevance {
    /// (G,T) f32; not where `input` is.
    pub out: Pointer,
    /// (G,T) f32.
    pub input: Pointer,
    /// Share of `input` that is kept.
    pub keep: f32,
    /// Weight of the attention term.
    pub gain: f32,
}

impl Relevance {
    fn args(&self) -> [Arg; 4] {
        [Arg::Pointer(self.out), Arg::Pointer(self.input), Arg::F32(self.keep), Arg::F32(self.gain)]
    }
}

/// `dqkv` (G,T,3D), and the relevance row with A = mean over heads of relu(P * dP), from `d_o` (G,queries,D).
#[derive(Debug, Clone, Copy)]
pub struct Reverse {
    /// (G,T,3D) or null.
    pub dqkv: Pointer,
    /// The relevance row, where asked for.
    pub relevance: Option<Relevance>,
    /// (G,queries,D).
    pub d_o: Pointer,
    /// (B,T,3D).
    pub qkv: Pointer,
    /// (B,queries,H) f32.
    pub lse: Pointer,
    /// [`scratch_values`] of f32; rung 1 needs none.
    pub scratch: Pointer,
    /// Sizes.
    pub shape: AttentionShape,
    /// G: gradient image `g` belongs to forward image `g % B`.
    pub g: usize,
}

/// The relevance row with A = mean over heads of P.
#[derive(Debug, Clone, Copy)]
pub struct Row {
    /// The row, of B images.
    pub relevance: Relevance,
    /// (B,T,3D).
    pub qkv: Pointer,
    /// (B,queries,H) f32.
    pub lse: Pointer,
    /// [`scratch_values`] of f32; rung 1 needs none.
    pub scratch: Pointer,
    /// Sizes.
    pub shape: AttentionShape,
}

/// `map` (G,T-1) += mean over heads and query rows of relu(dO Vᵀ), CLS column dropped.
#[derive(Debug, Clone, Copy)]
pub struct PositiveGradient {
    /// (G,T-1) f32.
    pub map: Pointer,
    /// (G,queries,D).
    pub d_o: Pointer,
    /// (B,T,3D).
    pub qkv: Pointer,
    /// [`scratch_values`] of f32; rung 1 needs none.
    pub scratch: Pointer,
    /// Sizes.
    pub shape: AttentionShape,
    /// G: gradient image `g` belongs to forward image `g % B`.
    pub g: usize,
}

impl Ladder for Forward {
    const OPERATION: &'static str = "attention";
    const DIRECTION: &'static str = "forward";
    const TOP: u32 = 1;

    fn launches(&self, rung: u32, target: Target) -> Option<Vec<Launch>> {
        let s = self.shape;
        // Rung 1: a row of probabilities.
        let shared = 4 * s.tokens;
        if rung != 1 || shared > MOST_SHARED {
            return None;
        }
        let mut args = [self.o, self.lse, self.qkv].map(Arg::Pointer).to_vec();
        args.extend([scale(s), Arg::I32(s.causal.into())]);
        args.extend([s.queries, s.tokens, s.heads, s.head_dim].map(Arg::size));
        let shape = Shape { shared: shared as u32, ..Shape::line(s.batch * s.queries * s.heads, 1, 32) };
        Some(vec![self.launch("", rung, target.storage, shape, args)])
    }
}

impl Ladder for Reverse {
    const OPERATION: &'static str = "attention";
    const DIRECTION: &'static str = "reverse";
    const TOP: u32 = 1;

    fn launches(&self, rung: u32, target: Target) -> Option<Vec<Launch>> {
        let s = self.shape;
        // Rung 1: two statistics a row, and for each of 4 warps a row of P and of dS.
        let shared = 4 * s.tokens * (2 + 4 * 2);
        if rung != 1 || shared > MOST_SHARED {
            return None;
        }
        let mut inputs = [self.d_o, self.qkv, self.lse].map(Arg::Pointer).to_vec();
        inputs.extend([scale(s), Arg::I32(s.causal.into())]);
        inputs.extend([s.queries, s.tokens, s.batch, s.heads, s.head_dim].map(Arg::size));
        let mut launches = vec![];
        if self.dqkv != 0 {
            let args = [&[Arg::Pointer(self.dqkv)], &inputs[..]].concat();
            let shape = Shape { shared: shared as u32, ..Shape::line(self.g * s.heads, 1, 128) };
            launches.push(self.launch("", rung, target.storage, shape, args));
        }
        if let Some(relevance) = &self.relevance {
            let args = [&relevance.args(), &inputs[..], &[Arg::size(self.g)]].concat();
            let shape = Shape::line(self.g * s.tokens, 128, 128);
            launches.push(self.launch("_relevance", rung, target.storage, shape, args));
        }
        Some(launches)
    }
}

impl Ladder for Row {
    const OPERATION: &'static str = "attention";
    const DIRECTION: &'static str = "row";
    const TOP: u32 = 1;

    fn launches(&self, rung: u32, target: Target) -> Option<Vec<Launch>> {
        let s = self.shape;
        if rung != 1 {
            return None;
        }
        let inputs = [Arg::Pointer(self.qkv), Arg::Pointer(self.lse), scale(s), Arg::I32(s.causal.into())];
        let sizes = [s.queries, s.tokens, s.batch, s.heads, s.head_dim].map(Arg::size);
        let args = [&self.relevance.args()[..], &inputs, &sizes].concat();
        Some(vec![self.launch("", rung, target.storage, Shape::line(s.batch * s.tokens, 128, 128), args)])
    }
}

impl Ladder for PositiveGradient {
    const OPERATION: &'static str = "attention";
    const DIRECTION: &'static str = "positive_gradient";
    const TOP: u32 = 1;

    fn launches(&self, rung: u32, target: Target) -> Option<Vec<Launch>> {
        let s = self.shape;
        if rung != 1 {
            return None;
        }
        let values = self.g * (s.tokens - 1);
        if values == 0 {
            return Some(vec![]);
        }
        let mut args = [self.map, self.d_o, self.qkv].map(Arg::Pointer).to_vec();
        args.extend([s.queries, s.tokens, s.batch, s.heads, s.head_dim, self.g].map(Arg::size));
        Some(vec![self.launch("", rung, target.storage, Shape::line(values, 128, 128), args)])
    }
}
