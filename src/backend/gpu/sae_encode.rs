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

/// Rows of a piece at most, such that a grid's y holds them.
const MOST_ROWS: usize = 1 << 16;
/// Side of the tile that a block of rung 2's product makes, and its shared memory: `tile::M`, `tile::SHARED_BYTES`.
const TILE: usize = 128;
const STAGES_BYTES: u32 = 65536;
/// Threads of rung 2's blocks.
const THREADS: u32 = 256;
/// The largest k of rung 2's selection.
const MOST_K: usize = 1024;

impl Forward {
    /// First row and number of rows of each piece that `pre` holds.
    fn pieces(&self) -> impl Iterator<Item = (usize, usize)> + '_ {
        let rows = self.pre_rows.clamp(1, MOST_ROWS);
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

    /// h, on tensor cores.
    fn product(&self, storage: Storage, first: usize, rows: usize) -> Launch {
        let Sae { rule, .. } = self.sae;
        let shape = Shape {
            grid: [rule.latents.div_ceil(TILE) as u32, rows.div_ceil(TILE) as u32, 1],
            block: [THREADS, 1, 1],
            shared: STAGES_BYTES,
        };
        let (gains, gain) = match rule.norm {
            norm::FIXED => (0, 1.0 / rule.norm_value),
            _ => (self.code.edit_slope, 0.0),
        };
        let args = vec![
            Arg::Pointer(self.pre),
            Arg::Pointer(self.code.edited),
            Arg::Pointer(gains),
            Arg::Pointer(self.x),
            Arg::Pointer(self.sae.encoder),
            Arg::Pointer(self.sae.folded_bias),
            Arg::Pointer(self.sae.row_sums),
            Arg::Pointer(self.sae.row_norms),
            Arg::F32(gain),
            Arg::size(first),
            Arg::size(rows),
            Arg::size(rule.latents),
            Arg::size(self.code.slots),
            Arg::size(rule.width),
        ];
        self.launch("_product", 2, storage, shape, args)
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
    const TOP: u32 = 2;

    fn launches(&self, rung: u32, target: Target) -> Option<Vec<Launch>> {
        let Sae { rule, .. } = self.sae;
        let storage = target.storage;
        // Where one half of rung 2 does not serve, rung 1's takes its place.
        let (has_product, selection) = match rung {
            1 => (false, None),
            2 => {
                let whole = [rule.width, rule.latents].iter().all(|n| n.is_multiple_of(storage.run()));
                (whole && storage != Storage::F32, self.selection())
            }
            _ => return None,
        };
        if rung == 2 && !has_product && selection.is_none() {
            return None;
        }
        let mut launches = Vec::new();
        if has_product {
            launches.extend(self.norms(storage));
        }
        for (first, rows) in self.pieces() {
            launches.push(match has_product {
                true => self.product(storage, first, rows),
                false => self.slow_product(storage, first, rows),
            });
            launches.push(self.select(selection, first, rows));
        }
        Some(launches)
    }
}
