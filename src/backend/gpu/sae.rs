//! An SAE for the kernels: what is uploaded once, and what each pass adds: edits, a mask, the code's tensors.

use half::{bf16, f16};

use super::launch::{Pointer, Storage};
use crate::{
    backend::cpu::sae::forced,
    model::{Edit, Splice, Through},
    weights::{InputNorm, SaeActivation, SaeWeights},
};

/// Sizes and rules of an SAE as launches pass them, numbered as in `include/sae.cuh`.
#[derive(Debug, Clone, Copy)]
pub struct SaeRule {
    /// `D`.
    pub width: usize,
    /// `S`.
    pub latents: usize,
    /// The activation.
    pub activation: i32,
    /// How many a top-k keeps, or how many groups there are; else 0.
    pub k: usize,
    /// What a pre-activation must exceed, where that is one number for all.
    pub theta: f32,
    /// The input norm.
    pub norm: i32,
    /// Its scale or eps.
    pub norm_value: f32,
}

/// Activations as `include/sae.cuh` numbers them.
pub mod activation {
    /// max(h, 0).
    pub const RELU: i32 = 0;
    /// The k largest.
    pub const TOP_K: i32 = 1;
    /// The k largest, if positive.
    pub const TOP_K_RELU: i32 = 2;
    /// One winner of each group.
    pub const GROUP_MAX: i32 = 3;
    /// One threshold.
    pub const THRESHOLD: i32 = 4;
    /// A threshold for each latent.
    pub const JUMP_RELU: i32 = 5;
    /// Gate and magnitude.
    pub const GATED: i32 = 6;
}

/// Input norms as `include/sae.cuh` numbers them.
pub mod norm {
    /// (x - mean) / scale, or none.
    pub const FIXED: i32 = 0;
    /// LayerNorm of the token.
    pub const LAYER_NORM: i32 = 1;
    /// The token at length sqrt(D).
    pub const UNIT_NORM: i32 = 2;
}

impl SaeRule {
    /// The rule of an SAE.
    pub fn new(w: &SaeWeights) -> Self {
        let (activation, k, theta) = match w.activation {
            SaeActivation::Relu => (activation::RELU, 0, 0.0),
            SaeActivation::TopK { k, relu: false } => (activation::TOP_K, k, 0.0),
            SaeActivation::TopK { k, relu: true } => (activation::TOP_K_RELU, k, 0.0),
            SaeActivation::GroupMax { k } => (activation::GROUP_MAX, k, 0.0),
            SaeActivation::Threshold { theta } => (activation::THRESHOLD, 0, theta),
            SaeActivation::JumpRelu { .. } => (activation::JUMP_RELU, 0, 0.0),
            SaeActivation::Gated { .. } => (activation::GATED, 0, 0.0),
        };
        let (norm, norm_value) = match w.norm {
            InputNorm::None => (norm::FIXED, 1.0),
            InputNorm::Fixed { scale, .. } => (norm::FIXED, scale),
            InputNorm::LayerNorm { eps } => (norm::LAYER_NORM, eps as f32),
            InputNorm::UnitNorm => (norm::UNIT_NORM, 0.0),
        };
        SaeRule { width: w.width, latents: w.latents, activation, k, theta, norm, norm_value }
    }

    /// Slots a row needs with these edits.
    pub fn slots(&self, edits: &[Edit]) -> usize {
        let kept = if self.k > 0 { self.k } else { self.latents };
        (kept + forced(edits).len()).min(self.latents)
    }
}

/// What is uploaded of an SAE, prepared for a storage type. An empty array becomes a null pointer.
#[derive(Debug)]
pub struct SaeArrays<'a> {
    /// Sizes and rules.
    pub rule: SaeRule,
    /// (S,D), to be stored in the storage type.
    pub encoder: &'a [f32],
    /// (S,D), to be stored in the storage type.
    pub decoder: &'a [f32],
    /// (S).
    pub bias: &'a [f32],
    /// (D).
    pub decoder_bias: &'a [f32],
    /// `p` (D), or empty.
    pub input_bias: &'a [f32],
    /// (D), or empty.
    pub mean: &'a [f32],
    /// Norms of the decoder's rows (S) where pre-activations are rescaled by them, or empty.
    pub row_norms: Vec<f32>,
    /// Thresholds (S) of a JumpReLU; gate bias, magnitude bias and exp(r_mag) (3,S) of a gated SAE; else empty.
    pub parameters: Vec<f32>,
    /// (S): `bias` less the encoder's product, as it is stored, with what is subtracted from every input.
    pub folded_bias: Vec<f32>,
    /// (S): sums of the encoder's rows, as they are stored, where the input norm subtracts a token's mean; else empty.
    pub row_sums: Vec<f32>,
}

impl<'a> SaeArrays<'a> {
    /// Prepares an SAE whose matrices are stored in `storage`.
    pub fn new(w: &'a SaeWeights, storage: Storage) -> Self {
        let rule = SaeRule::new(w);
        let (mean, scale) = match &w.norm {
            InputNorm::Fixed { mean, scale } => (mean.as_deref().unwrap_or_default(), f64::from(*scale)),
            _ => (&[][..], 1.0),
        };
        let input_bias = w.input_bias.as_deref().unwrap_or_default();
        let at = |values: &[f32], d: usize| values.get(d).map_or(0.0, |&v| f64::from(v));
        let subtracted: Vec<f64> = (0..w.width).map(|d| at(input_bias, d) + at(mean, d) / scale).collect();
        let stored = |v: f32| match storage {
            Storage::F32 => f64::from(v),
            Storage::F16 => f16::from_f32(v).to_f64(),
            Storage::Bf16 => bf16::from_f32(v).to_f64(),
        };
        let rows = || w.encoder.chunks(w.width);
        let dot = |row: &[f32]| row.iter().zip(&subtracted).map(|(&v, s)| stored(v) * s).sum::<f64>();
        SaeArrays {
            rule,
            encoder: &w.encoder,
            decoder: &w.decoder,
            bias: &w.encoder_bias,
            decoder_bias: &w.decoder_bias,
            input_bias,
            mean,
            row_norms: if w.rescale_by_decoder_norm { w.decoder_norms() } else { Vec::new() },
            parameters: match &w.activation {
                SaeActivation::JumpRelu { theta } => theta.clone(),
                SaeActivation::Gated { gate_bias, mag_bias, r_mag } => {
                    let gain: Vec<f32> = r_mag.iter().map(|&r| f64::from(r).exp() as f32).collect();
                    [gate_bias.as_slice(), mag_bias, &gain].concat()
                }
                _ => Vec::new(),
            },
            folded_bias: w.encoder_bias.iter().zip(rows()).map(|(&b, row)| (f64::from(b) - dot(row)) as f32).collect(),
            row_sums: match rule.norm {
                norm::LAYER_NORM => rows().map(|row| row.iter().map(|&v| stored(v)).sum::<f64>() as f32).collect(),
                _ => Vec::new(),
            },
        }
    }
}

/// An SAE on a device: [`SaeArrays`] where they were uploaded; null for those that are empty.
#[derive(Debug, Clone, Copy)]
pub struct Sae {
    /// Sizes and rules.
    pub rule: SaeRule,
    /// (S,D) in the storage type.
    pub encoder: Pointer,
    /// (S,D) in the storage type.
    pub decoder: Pointer,
    /// (S) f32.
    pub bias: Pointer,
    /// (D) f32.
    pub decoder_bias: Pointer,
    /// (D) f32 or null.
    pub input_bias: Pointer,
    /// (D) f32 or null.
    pub mean: Pointer,
    /// (S) f32 or null.
    pub row_norms: Pointer,
    /// f32 or null.
    pub parameters: Pointer,
    /// (S) f32.
    pub folded_bias: Pointer,
    /// (S) f32 or null.
    pub row_sums: Pointer,
}

/// The code of `N` rows on a device: see [`crate::backend::Code`].
#[derive(Debug, Clone, Copy)]
pub struct Code {
    /// (N, C + 1) u32.
    pub index: Pointer,
    /// (N,C) f32.
    pub z: Pointer,
    /// (N,C) f32.
    pub edited: Pointer,
    /// (N,C) f32.
    pub slope: Pointer,
    /// (N,C) f32.
    pub edit_slope: Pointer,
    /// `C`.
    pub slots: usize,
}

/// Which rows the SAE sees: row `n` if byte `n % tokens` is not 0.
#[derive(Debug, Clone, Copy)]
pub struct Mask {
    /// (tokens) u8; see [`mask_bytes`].
    pub bytes: Pointer,
    /// How many.
    pub tokens: usize,
}

/// A mask as kernels read it.
pub fn mask_bytes(mask: &[bool]) -> Vec<u8> {
    mask.iter().map(|&seen| seen.into()).collect()
}

/// Edits as kernels read them: the records, then the latents written even where they do not fire, then those named by
/// the records.
#[derive(Debug)]
pub struct EditBlock {
    /// What is uploaded.
    pub words: Vec<u32>,
    /// Records.
    pub edits: usize,
    /// Latents written even where they do not fire.
    pub forced: usize,
}

/// An edit of an [`EditBlock`].
#[repr(C)]
#[derive(Debug, Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct EditRecord {
    kind: u32,
    /// The word of the block where its latents begin.
    first: u32,
    count: u32,
    value: f32,
}

impl EditBlock {
    /// The block of these edits.
    pub fn new(edits: &[Edit]) -> Self {
        let forced = forced(edits);
        let mut named = Vec::new();
        let start = edits.len() * (size_of::<EditRecord>() / size_of::<u32>()) + forced.len();
        let record = |edit: &Edit| {
            let (kind, value) = match *edit {
                Edit::Zero(_) => (0, 0.0),
                Edit::Scale(_, factor) => (1, factor as f32),
                Edit::Set(_, to) => (2, to as f32),
                Edit::Add(_, delta) => (3, delta as f32),
                Edit::Keep(_) => (4, 0.0),
            };
            let mut latents: Vec<u32> = edit.latents().iter().map(|&id| id as u32).collect();
            latents.sort_unstable();
            let first = start + named.len();
            named.extend_from_slice(&latents);
            EditRecord { kind, first: first as u32, count: latents.len() as u32, value }
        };
        let records: Vec<EditRecord> = edits.iter().map(record).collect();
        let words = [bytemuck::cast_slice(&records), &forced, &named].concat();
        EditBlock { words, edits: edits.len(), forced: forced.len() }
    }
}

/// An [`EditBlock`] on a device.
#[derive(Debug, Clone, Copy)]
pub struct Edits {
    /// The words; not read when there are no edits.
    pub block: Pointer,
    /// Records.
    pub edits: usize,
    /// Latents written even where they do not fire.
    pub forced: usize,
}

/// A splice's number.
pub(super) fn splice_number(splice: Splice) -> i32 {
    match splice {
        Splice::Replace => 0,
        Splice::KeepError => 1,
    }
}

/// The number of a gradient's way.
pub(super) fn through_number(through: Through) -> i32 {
    match through {
        Through::Exact => 0,
        Through::Detached => 1,
        Through::Straight => 2,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_holds_records_then_forced_then_named_latents() {
        let edits: Vec<Edit> = ["add:7,2=0.5", "keep:3,1", "set:2=1"].map(|e| e.parse().unwrap()).to_vec();
        let block = EditBlock::new(&edits);
        assert_eq!((block.edits, block.forced), (3, 2));
        let half = 0.5f32.to_bits();
        let one = 1f32.to_bits();
        assert_eq!(block.words, [3, 14, 2, half, 4, 16, 2, 0, 2, 18, 1, one, 2, 7, 2, 7, 1, 3, 2]);
    }
}
