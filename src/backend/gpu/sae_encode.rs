//! The SAE's encoder and the selection of latents: shapes to launches.

use super::{
    launch::{Arg, Ladder, Launch, Pointer, Shape, Storage, Target},
    sae::{Code, Edits, Mask, Sae},
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

impl Forward {
    /// First row and number of rows of each piece that `pre` holds.
    fn pieces(&self) -> impl Iterator<Item = (usize, usize)> + '_ {
        let rows = self.pre_rows.clamp(1, MOST_ROWS);
        (0..self.n).step_by(rows).map(move |first| (first, rows.min(self.n - first)))
    }

    /// h, a thread for each value.
    fn product_1(&self, storage: Storage, first: usize, rows: usize) -> Launch {
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

    /// The selection of a piece's rows.
    fn select(&self, rung: u32, shape: Shape, first: usize, rows: usize) -> Launch {
        let Sae { rule, .. } = self.sae;
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
        self.launch("_select", rung, Storage::F32, shape, args)
    }
}

impl Ladder for Forward {
    const OPERATION: &'static str = "sae_encode";
    const DIRECTION: &'static str = "forward";
    const TOP: u32 = 1;

    fn launches(&self, rung: u32, target: Target) -> Option<Vec<Launch>> {
        let piece = |(first, rows)| match rung {
            1 => Some([
                self.product_1(target.storage, first, rows),
                self.select(1, Shape::line(rows, 32, 32), first, rows),
            ]),
            _ => None,
        };
        let pieces: Option<Vec<_>> = self.pieces().map(piece).collect();
        pieces.map(|pieces| pieces.into_iter().flatten().collect())
    }
}
