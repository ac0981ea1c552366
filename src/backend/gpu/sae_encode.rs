//! The SAE's encoder and the selection of latents: shapes to launches.

use super::{
    launch::{Arg, Ladder, Launch, Pointer, Shape, Storage, Target},
    sae::{Code, Edits, Mask, Sae, activation, norm},
};

/// The code of `x` (N,D), before and after the edits.
#[derive(Debug, Clone, Copy)]
pub struct Forward {
    /// What is written.
    pub code: Code,
    /// Scratch (`pre_rows`,S) f32.
    pub pre: Pointer,
    /// Rows whose pre-activations are held at a time.
    pub pre_rows: usize,
    /// (N,D).
    pub x: Pointer,
    /// The SAE.
    pub sae: Sae,
    /// The edits.
    pub edits: Edits,
    /// The rows it sees.
    pub mask: Mask,
    /// `N`.
    pub n: usize,
}

/// Rows whose pre-activations a backend holds at a time: enough to fill a GPU with tiles of rows.
pub const ROWS_AT_A_TIME: usize = 1024;
/// Rows of a piece at most, such that a grid's y holds them.
const MOST_ROWS: usize = 1 << 16;
/// Side of the tile that a block of rung 2's product makes, and its shared memory: `tile::M`, `tile::SHARED_BYTES`.
const TILE: usize = 128;
const STAGES_BYTES: u32 = 65536;
/// Threads of rung 2's blocks.
const THREADS: u32 = 256;
/// The largest k of rung 2's selection.
const MOST_K: usize = 1024;
/// The largest k of rung 3's lists, which a warp shortens in its registers.
const MOST_LISTED: usize = 256;
/// Blocks that fill the largest GPU twice, and shares of the latents at most.
const BLOCKS: usize = 264;
const MOST_SPLITS: usize = 16;

/// How rung 3 cuts its work.
#[derive(Debug, Clone, Copy)]
struct Lists {
    /// Shares of the latents, each with a list for each row.
    splits: usize,
    /// Keys of a list: it is shortened to k when another tile would not fit.
    capacity: usize,
    /// Rows of a piece.
    rows: usize,
}

impl Forward {
    /// First row and number of rows of each piece of at most `rows`.
    fn pieces(&self, rows: usize) -> impl Iterator<Item = (usize, usize)> + '_ {
        (0..self.n).step_by(rows).map(move |first| (first, rows.min(self.n - first)))
    }

    /// h, a thread for each value.
    fn slow_product(&self, storage: Storage, first: usize, rows: usize) -> Launch {
        let Sae { rule, .. } = self.sae;
        let shape = Shape {
            grid: [rule.latents.div_ceil(32) as u32, rows.div_ceil(4) as u32, 1],
            block: [32, 4, 1],
            shared: 0,
        };
        let args = vec![
            Arg::Pointer(self.pre),
            Arg::Pointer(self.x),
            Arg::Pointer(self.sae.encoder),
            Arg::Pointer(self.sae.bias),
            Arg::Pointer(self.sae.input_bias),
            Arg::Pointer(self.sae.mean),
            Arg::Pointer(self.sae.row_norms),
            Arg::I32(rule.norm),
            Arg::F32(rule.norm_value),
            Arg::size(first),
            Arg::size(rows),
            Arg::size(rule.latents),
            Arg::size(rule.width),
        ];
        self.launch("_product", 1, storage, shape, args)
    }

    /// The norm of each row, a warp each, where it depends on the row.
    fn norms(&self, storage: Storage) -> Option<Launch> {
        let Sae { rule, .. } = self.sae;
        let args = vec![
            Arg::Pointer(self.code.edited),
            Arg::Pointer(self.code.edit_slope),
            Arg::Pointer(self.x),
            Arg::I32(rule.norm),
            Arg::F32(rule.norm_value),
            Arg::size(self.n),
            Arg::size(self.code.slots),
            Arg::size(rule.width),
        ];
        let shape = Shape::line(self.n, 8, THREADS);
        (rule.norm != norm::FIXED).then(|| self.launch("_norms", 2, storage, shape, args))
    }

    /// The norm of each row as a product by tiles takes it: `shifts`, gains, and the gain that all rows share.
    fn epilogue(&self) -> [Arg; 3] {
        let Sae { rule, .. } = self.sae;
        let (gains, gain) = match rule.norm {
            norm::FIXED => (0, 1.0 / rule.norm_value),
            _ => (self.code.edit_slope, 0.0),
        };
        [Arg::Pointer(self.code.edited), Arg::Pointer(gains), Arg::F32(gain)]
    }

    /// The operands of a product on tensor cores.
    fn operands(&self) -> [Arg; 5] {
        let Sae { encoder, folded_bias, row_sums, row_norms, .. } = self.sae;
        [self.x, encoder, folded_bias, row_sums, row_norms].map(Arg::Pointer)
    }

    /// h, by tiles: on tensor cores, but for f32, which keeps its bits by norming x first.
    fn product(&self, storage: Storage, first: usize, rows: usize) -> Launch {
        let Sae { rule, .. } = self.sae;
        let shape = Shape {
            grid: [(rule.latents.div_ceil(TILE) * rows.div_ceil(TILE)) as u32, 1, 1],
            block: [THREADS, 1, 1],
            shared: STAGES_BYTES,
        };
        let [shifts, gains, gain] = self.epilogue();
        let sizes = [first, rows, rule.latents, self.code.slots, rule.width].map(Arg::size);
        let Sae { encoder, bias, input_bias, mean, row_norms, .. } = self.sae;
        let operands = match storage {
            Storage::F32 => [self.x, encoder, bias, input_bias, mean, row_norms].map(Arg::Pointer).to_vec(),
            _ => self.operands().to_vec(),
        };
        let args = [&[Arg::Pointer(self.pre), shifts, gains], &operands[..], &[gain], &sizes].concat();
        self.launch("_product", 2, storage, shape, args)
    }

    /// How rung 3 cuts its work, if it serves these sizes: as many shares as fill the GPU and have room. Where there is
    /// room for few blocks only, rung 2 has more of them.
    fn lists(&self) -> Option<Lists> {
        let Sae { rule, .. } = self.sae;
        if !matches!(rule.activation, activation::TOP_K | activation::TOP_K_RELU) || rule.k > MOST_LISTED {
            return None;
        }
        let capacity = (2 * rule.k).clamp(64, 384) + TILE;
        let room = self.pre_rows * rule.latents * size_of::<f32>() / (capacity * size_of::<u64>() + size_of::<u32>());
        let (n, tiles) = (self.n.max(1), rule.latents.div_ceil(TILE));
        let wanted = BLOCKS.div_ceil(n.div_ceil(TILE)).min(tiles);
        let splits = wanted.min(room / n).clamp(1, MOST_SPLITS);
        let rows = if room >= n { n } else { room / TILE * TILE };
        let blocks = rows.div_ceil(TILE) * splits;
        let least = (BLOCKS / 8).min(n.div_ceil(TILE) * tiles / 4);
        (rows > 0 && blocks >= least).then_some(Lists { splits, capacity, rows })
    }

    /// Candidates of a piece's rows, and their selection.
    fn fused(&self, storage: Storage, lists: Lists, first: usize, rows: usize) -> [Launch; 2] {
        let Sae { rule, .. } = self.sae;
        let Lists { splits, capacity, .. } = lists;
        let counts = self.pre + (rows * splits * capacity * size_of::<u64>()) as u64;
        let lists = [Arg::Pointer(self.pre), Arg::Pointer(counts)];
        let mask = [Arg::Pointer(self.mask.bytes), Arg::size(self.mask.tokens)];
        let [shifts, gains, gain] = self.epilogue();
        let is_relu = rule.activation == activation::TOP_K_RELU;
        let sizes = [capacity, first, rows, rule.latents, self.code.slots, rule.width].map(Arg::size);
        let rules = [gain, Arg::I32(is_relu.into()), Arg::size(rule.k)];
        let args = [&lists, &[shifts, gains][..], &self.operands(), &rules, &mask, &sizes].concat();
        let shape = Shape {
            grid: [rows.div_ceil(TILE) as u32, splits as u32, 1],
            block: [THREADS, 1, 1],
            shared: STAGES_BYTES,
        };
        let candidates = self.launch("_candidates", 3, storage, shape, args);

        let code = [self.code.index, self.code.z, self.code.edited, self.code.slope, self.code.edit_slope];
        let rules = [
            Arg::size(splits),
            Arg::size(capacity),
            Arg::Pointer(self.sae.row_norms),
            Arg::size(rule.k),
            Arg::Pointer(self.edits.block),
            Arg::size(self.edits.edits),
            Arg::size(self.edits.forced),
        ];
        let sizes = [first, self.code.slots].map(Arg::size);
        let args = [&code.map(Arg::Pointer)[..], &lists, &rules, &mask, &sizes].concat();
        [candidates, self.launch("_merge", 3, Storage::F32, Shape::line(rows, 1, THREADS), args)]
    }

    /// Rung 2's kernel for this activation, if it serves these sizes.
    fn selection(&self) -> Option<&'static str> {
        let Sae { rule, .. } = self.sae;
        let whole = rule.latents.is_multiple_of(Storage::F32.run());
        match rule.activation {
            activation::GROUP_MAX => Some("_group_max"),
            activation::TOP_K | activation::TOP_K_RELU => (whole && rule.k <= MOST_K).then_some("_top_k"),
            _ => whole.then_some("_select"),
        }
    }

    /// The selection of a piece's rows: rung 2's kernel of this name, or rung 1's.
    fn select(&self, part: Option<&'static str>, first: usize, rows: usize) -> Launch {
        let Sae { rule, .. } = self.sae;
        let (rung, part, shape) = match part {
            Some(part) => (2, part, Shape::line(rows, 1, THREADS)),
            None => (1, "_select", Shape::line(rows, 32, 32)),
        };
        let args = vec![
            Arg::Pointer(self.code.index),
            Arg::Pointer(self.code.z),
            Arg::Pointer(self.code.edited),
            Arg::Pointer(self.code.slope),
            Arg::Pointer(self.code.edit_slope),
            Arg::Pointer(self.pre),
            Arg::Pointer(self.sae.row_norms),
            Arg::I32(rule.activation),
            Arg::size(rule.k),
            Arg::F32(rule.theta),
            Arg::Pointer(self.sae.parameters),
            Arg::Pointer(self.edits.block),
            Arg::size(self.edits.edits),
            Arg::size(self.edits.forced),
            Arg::Pointer(self.mask.bytes),
            Arg::size(self.mask.tokens),
            Arg::size(first),
            Arg::size(rows),
            Arg::size(rule.latents),
            Arg::size(self.code.slots),
        ];
        self.launch(part, rung, Storage::F32, shape, args)
    }
}

impl Ladder for Forward {
    const OPERATION: &'static str = "sae_encode";
    const DIRECTION: &'static str = "forward";
    const TOP: u32 = 3;

    fn launches(&self, rung: u32, target: Target) -> Option<Vec<Launch>> {
        let Sae { rule, .. } = self.sae;
        let storage = target.storage;
        let whole = [rule.width, rule.latents].iter().all(|n| n.is_multiple_of(storage.run()));
        let has_tiles = whole && target.architecture >= 80;
        let norms = || self.norms(storage).into_iter();
        // Where one half of rung 2 does not serve, rung 1's takes its place.
        let (has_product, selection) = match rung {
            1 => (false, None),
            2 if has_tiles || self.selection().is_some() => (has_tiles, self.selection()),
            3 if has_tiles && storage != Storage::F32 => {
                let lists = self.lists()?;
                let pieces = self.pieces(lists.rows).flat_map(|(first, rows)| self.fused(storage, lists, first, rows));
                return Some(norms().chain(pieces).collect());
            }
            _ => return None,
        };
        let pieces = self.pieces(self.pre_rows.clamp(1, MOST_ROWS)).flat_map(|(first, rows)| {
            let product = if has_product { Self::product } else { Self::slow_product };
            [product(self, storage, first, rows), self.select(selection, first, rows)]
        });
        Some(norms().filter(|_| has_product).chain(pieces).collect())
    }
}
