//! Self-attention: shapes to launches.

use super::launch::{Arg, Ladder, Launch, Pointer, Shape, Target};
use crate::backend::AttentionShape;

/// Rows of queries or keys that a block of the rungs 2 works on: `ROWS` of `include/attention.cuh`.
const ROWS: usize = 64;
/// `THREADS` there.
const THREADS: u32 = 128;
/// Threads of a block that sums over heads.
const SUM_THREADS: u32 = 256;

/// A head size that the rungs 2 are compiled for: smaller heads are filled up with zeros.
struct Width {
    values: usize,
    forward: &'static str,
    queries: &'static str,
    sums: &'static str,
    keys: &'static str,
}

macro_rules! widths {
    ($($values:literal),*) => {
        [$(Width {
            values: $values,
            forward: concat!("_d", $values),
            queries: concat!("_queries_d", $values),
            sums: concat!("_sums_d", $values),
            keys: concat!("_keys_d", $values),
        }),*]
    };
}

static WIDTHS: [Width; 5] = widths![32, 64, 80, 96, 112];

/// Dynamic shared memory that a block may ask for, by compute capability.
fn most_shared(architecture: u32) -> usize {
    match architecture {
        80 | 87 => 163 << 10,
        90 | 100 | 103 => 227 << 10,
        80.. => 99 << 10,
        _ => 48 << 10,
    }
}

/// The blocks of a rung 2 kernel and the width it is compiled for: one block for so many units of `rows` rows, with so
/// many tiles of shared memory and `extra` bytes; nothing when the rung does not serve these heads or this target.
fn tiles(
    s: AttentionShape,
    target: Target,
    (units, rows): (usize, usize),
    tiles: usize,
    extra: usize,
) -> Option<(&'static Width, Shape)> {
    let width = WIDTHS.iter().find(|width| width.values >= s.head_dim)?;
    // A row is an odd number of 16-byte chunks.
    let row = ((width.values / target.storage.run()) | 1) * 16;
    let shared = tiles * ROWS * row + extra;
    let is_served = target.architecture >= 80
        && s.head_dim.is_multiple_of(target.storage.run())
        && shared <= most_shared(target.architecture);
    let shape = Shape::line(units * rows.div_ceil(ROWS), 1, THREADS);
    is_served.then_some((width, Shape { shared: shared as u32, ..shape }))
}

/// Bytes of query records that [`tiles`] of keys need besides: two stages, 16 bytes a query.
const RECORDS: usize = 2 * ROWS * 16;

/// The softmax's scale.
fn scale(s: AttentionShape) -> Arg {
    Arg::F32(s.scale() as f32)
}

/// f32 values of scratch memory that [`Reverse`], [`Row`] or [`PositiveGradient`] needs for `g` gradient images (for
/// [`Row`], the batch): by head, two statistics of each query row and one sum of each column.
pub fn scratch_values(s: AttentionShape, g: usize) -> usize {
    g * s.heads * (2 * s.queries + s.tokens)
}

/// The first launch of `of` where P is wanted without dqkv: what each query row's exp(score - lse) sums to, (B,queries,H)
/// in rung 1, 1 over it in rung 2's `statistics` (B,H,queries,2).
fn sums<L: Ladder>(of: &L, rung: u32, target: Target, args: [Pointer; 3], s: AttentionShape) -> Option<Launch> {
    let (part, shape) = match rung {
        1 => ("_sums", Shape::line(s.batch * s.queries * s.heads, 1, 32)),
        // Queries, two stages of keys.
        _ => tiles(s, target, (s.batch * s.heads, s.queries), 3, 0).map(|(width, shape)| (width.sums, shape))?,
    };
    let mut args = args.map(Arg::Pointer).to_vec();
    args.extend([scale(s), Arg::I32(s.causal.into())]);
    args.extend([s.queries, s.tokens, s.heads, s.head_dim].map(Arg::size));
    Some(of.launch(part, rung, target.storage, shape, args))
}

/// Where [`scratch_values`] has the sums of columns, behind the statistics of so many images.
fn columns(scratch: Pointer, s: AttentionShape, images: usize) -> Pointer {
    scratch + (size_of::<f32>() * 2 * images * s.heads * s.queries) as Pointer
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

    /// The end of `of`'s rung 2: the sum of `columns` (images,H,T) over the heads.
    fn over_heads<L: Ladder>(
        &self,
        of: &L,
        target: Target,
        columns: Pointer,
        s: AttentionShape,
        images: usize,
    ) -> Launch {
        let values = images * s.tokens;
        let args = vec![
            Arg::Pointer(self.out),
            Arg::Pointer(self.input),
            Arg::F32(self.keep),
            Arg::F32(self.gain / s.heads as f32),
            Arg::Pointer(columns),
            Arg::size(s.tokens),
            Arg::size(s.heads),
            Arg::stride(values),
        ];
        of.launch("_heads", 2, target.storage, Shape::line(values, SUM_THREADS as usize, SUM_THREADS), args)
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
    /// [`scratch_values`] of f32.
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
    /// [`scratch_values`] of f32.
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
    const TOP: u32 = 2;

    fn launches(&self, rung: u32, target: Target) -> Option<Vec<Launch>> {
        let s = self.shape;
        let (part, shape) = match rung {
            1 => {
                // A row of probabilities.
                let shared = 4 * s.tokens;
                let shape = Shape::line(s.batch * s.queries * s.heads, 1, 32);
                (shared <= most_shared(target.architecture))
                    .then_some(("", Shape { shared: shared as u32, ..shape }))?
            }
            2 => {
                // Queries, two stages of keys and values.
                let (width, shape) = tiles(s, target, (s.batch * s.heads, s.queries), 5, 0)?;
                (width.forward, shape)
            }
            _ => return None,
        };
        let mut args = [self.o, self.lse, self.qkv].map(Arg::Pointer).to_vec();
        args.extend([scale(s), Arg::I32(s.causal.into())]);
        args.extend([s.queries, s.tokens, s.heads, s.head_dim].map(Arg::size));
        Some(vec![self.launch(part, rung, target.storage, shape, args)])
    }
}

impl Reverse {
    /// What every kernel reads, and the sizes.
    fn inputs(&self) -> Vec<Arg> {
        let s = self.shape;
        let mut args = [self.d_o, self.qkv, self.lse].map(Arg::Pointer).to_vec();
        args.extend([scale(s), Arg::I32(s.causal.into())]);
        args.extend([s.queries, s.tokens, s.batch, s.heads, s.head_dim].map(Arg::size));
        args
    }

    fn obvious(&self, target: Target) -> Option<Vec<Launch>> {
        let s = self.shape;
        // Two statistics a row, and for each of 4 warps a row of P and of dS.
        let shared = 4 * s.tokens * (2 + 4 * 2);
        let inputs = self.inputs();
        let mut launches = vec![];
        if self.dqkv != 0 {
            if shared > most_shared(target.architecture) {
                return None;
            }
            let args = [&[Arg::Pointer(self.dqkv)], &inputs[..]].concat();
            let shape = Shape { shared: shared as u32, ..Shape::line(self.g * s.heads, 1, 128) };
            launches.push(self.launch("", 1, target.storage, shape, args));
        }
        if let Some(relevance) = &self.relevance {
            launches.push(sums(self, 1, target, [self.scratch, self.qkv, self.lse], s)?);
            let args =
                [&relevance.args()[..], &[Arg::Pointer(self.scratch)], &inputs[..], &[Arg::size(self.g)]].concat();
            let shape = Shape::line(self.g * s.tokens, 128, 128);
            launches.push(self.launch("_relevance", 1, target.storage, shape, args));
        }
        Some(launches)
    }

    fn flash(&self, target: Target) -> Option<Vec<Launch>> {
        let s = self.shape;
        let statistics = self.scratch;
        let columns = columns(statistics, s, self.g);
        let heads = self.g * s.heads;
        let inputs = self.inputs();
        let mut launches = vec![];
        if self.dqkv != 0 {
            // Queries, dO, two stages of keys and values.
            let (width, shape) = tiles(s, target, (heads, s.queries), 6, 0)?;
            let args = [&[self.dqkv, statistics].map(Arg::Pointer), &inputs[..]].concat();
            launches.push(self.launch(width.queries, 2, target.storage, shape, args));
        } else {
            launches.push(sums(self, 2, target, [statistics, self.qkv, self.lse], s)?);
        }
        // Keys, values, two stages of queries and dO.
        let (width, shape) = tiles(s, target, (heads, s.tokens), 6, RECORDS)?;
        let [columns, r_in] = self.relevance.map_or([0, 0], |relevance| [columns, relevance.input]);
        let args = [&[self.dqkv, columns, r_in, statistics].map(Arg::Pointer), &inputs[..]].concat();
        launches.push(self.launch(width.keys, 2, target.storage, shape, args));
        if let Some(relevance) = &self.relevance {
            launches.push(relevance.over_heads(self, target, columns, s, self.g));
        }
        Some(launches)
    }
}

impl Ladder for Reverse {
    const OPERATION: &'static str = "attention";
    const DIRECTION: &'static str = "reverse";
    const TOP: u32 = 2;

    fn launches(&self, rung: u32, target: Target) -> Option<Vec<Launch>> {
        match rung {
            1 => self.obvious(target),
            2 => self.flash(target),
            _ => None,
        }
    }
}

impl Ladder for Row {
    const OPERATION: &'static str = "attention";
    const DIRECTION: &'static str = "row";
    const TOP: u32 = 2;

    fn launches(&self, rung: u32, target: Target) -> Option<Vec<Launch>> {
        let s = self.shape;
        let mut inputs = [self.qkv, self.lse].map(Arg::Pointer).to_vec();
        inputs.extend([scale(s), Arg::I32(s.causal.into())]);
        inputs.extend([s.queries, s.tokens, s.batch, s.heads, s.head_dim].map(Arg::size));
        let first = sums(self, rung, target, [self.scratch, self.qkv, self.lse], s)?;
        match rung {
            1 => {
                let args = [&self.relevance.args()[..], &[Arg::Pointer(self.scratch)], &inputs[..]].concat();
                let shape = Shape::line(s.batch * s.tokens, 128, 128);
                Some(vec![first, self.launch("", rung, target.storage, shape, args)])
            }
            2 => {
                // Keys, two stages of queries.
                let (width, shape) = tiles(s, target, (s.batch * s.heads, s.tokens), 3, RECORDS)?;
                let columns = columns(self.scratch, s, s.batch);
                let args = [&[columns, self.relevance.input, self.scratch].map(Arg::Pointer), &inputs[..]].concat();
                Some(vec![
                    first,
                    self.launch(width.keys, rung, target.storage, shape, args),
                    self.relevance.over_heads(self, target, columns, s, s.batch),
                ])
            }
            _ => None,
        }
    }
}

impl Ladder for PositiveGradient {
    const OPERATION: &'static str = "attention";
    const DIRECTION: &'static str = "positive_gradient";
    const TOP: u32 = 2;

    fn launches(&self, rung: u32, target: Target) -> Option<Vec<Launch>> {
        let s = self.shape;
        let values = self.g * s.tokens.saturating_sub(1);
        if values == 0 {
            return Some(vec![]);
        }
        let sizes = [s.queries, s.tokens, s.batch, s.heads, s.head_dim].map(Arg::size);
        match rung {
            1 => {
                let args =
                    [&[self.map, self.d_o, self.qkv].map(Arg::Pointer), &sizes[..], &[Arg::size(self.g)]].concat();
                Some(vec![self.launch("", rung, target.storage, Shape::line(values, 128, 128), args)])
            }
            2 => {
                // Values, two stages of dO.
                let (width, shape) = tiles(s, target, (self.g * s.heads, s.tokens), 3, RECORDS)?;
                let keys = [&[self.scratch, self.d_o, self.qkv].map(Arg::Pointer), &sizes[..]].concat();
                let heads = vec![
                    Arg::Pointer(self.map),
                    Arg::F32(1.0 / (s.heads * s.queries) as f32),
                    Arg::Pointer(self.scratch),
                    Arg::size(s.tokens),
                    Arg::size(s.heads),
                    Arg::stride(values),
                ];
                let sum = Shape::line(values, SUM_THREADS as usize, SUM_THREADS);
                Some(vec![
                    self.launch(width.keys, rung, target.storage, shape, keys),
                    self.launch("_heads", rung, target.storage, sum, heads),
                ])
            }
            _ => None,
        }
    }
}
