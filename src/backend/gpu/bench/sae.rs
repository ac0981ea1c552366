//! The ladders of an SAE that keeps the K largest of S latents.

use super::{Bound, Case, Cost, Data, Make, Sizes};
use crate::{
    Result,
    backend::gpu::{
        launch::Storage,
        sae::{Code, Edits, Mask, Sae, SaeRule, activation, norm},
        sae_decode, sae_encode,
    },
    model::{Splice, Through},
};

/// By ladder.
pub const CASES: [(&str, Make); 5] = [
    ("sae_encode_forward", encode),
    ("sae_decode_forward", decode),
    ("sae_decode_reverse", decode_reverse),
    ("sae_decode_latent", latent),
    ("sae_decode_latent_reverse", latent_reverse),
];

/// Units of inputs, weights and biases in the encoder's case: products are of order one.
const X_UNIT: f64 = 1.0 / 64.0;
const W_UNIT: f64 = 1.0 / 4096.0;
const BIAS_UNIT: f64 = 1.0 / 1024.0;

fn rule(s: &Sizes) -> SaeRule {
    SaeRule {
        width: s.width,
        latents: s.latents,
        activation: activation::TOP_K,
        k: s.active,
        theta: 0.0,
        norm: norm::FIXED,
        norm_value: 1.0,
    }
}

/// An SAE of random matrices, the encoder's of whole multiples of a unit.
fn sae(data: &mut Data, s: &Sizes) -> Result<Sae> {
    let storage = data.storage();
    let bias = data.wholes(s.latents, BIAS_UNIT, Storage::F32)?;
    Ok(Sae {
        rule: rule(s),
        encoder: data.wholes(s.latents * s.width, W_UNIT, storage)?,
        decoder: data.values(s.latents * s.width, (s.width as f64).powf(-0.5))?,
        bias,
        decoder_bias: data.floats(s.width, 0.1)?,
        input_bias: 0,
        mean: 0,
        row_norms: 0,
        parameters: 0,
        folded_bias: bias,
        row_sums: 0,
    })
}

/// All rows.
fn mask(data: &mut Data, s: &Sizes) -> Result<Mask> {
    let tokens = s.grid.tokens();
    Ok(Mask { bytes: data.bytes(&vec![1; tokens])?, tokens })
}

/// A code in which latent 0 fires everywhere.
fn code(data: &mut Data, s: &Sizes) -> Result<Code> {
    let (n, k) = (s.rows(), s.active);
    // Each slot has a share of the latents of its own, so that a row's are different and rise.
    let share = s.latents / k;
    let within = data.random(n * k, |v| (v * 1e6).abs());
    let row = |row: usize| {
        let id = move |slot: usize, within: f64| (slot * share + within as usize % share) as u32;
        let ids = within[row * k..][..k].iter().enumerate().skip(1).map(move |(slot, &within)| id(slot, within));
        [k as u32, 0].into_iter().chain(ids)
    };
    let index: Vec<u32> = (0..n).flat_map(row).collect();
    Ok(Code {
        index: data.bytes(bytemuck::cast_slice(&index))?,
        z: data.floats(n * k, 1.0)?,
        edited: data.floats(n * k, 1.0)?,
        slope: data.floats(n * k, 1.0)?,
        edit_slope: data.floats(n * k, 1.0)?,
        slots: k,
    })
}

fn sizes(s: &Sizes) -> String {
    format!("N {} D {} S {} K {}", s.rows(), s.width, s.latents, s.active)
}

/// Bytes of `slots` f32 of every row's code, and its index.
fn code_bytes(s: &Sizes, slots: usize) -> usize {
    4 * s.rows() * ((slots + 1) * s.active + 1)
}

/// Numbers whose products and sums are exact, so the latents must be the same ones.
fn encode(data: &mut Data, s: &Sizes) -> Result<Case> {
    let (n, k, storage) = (s.rows(), s.active, data.storage());
    let mut slots = || data.wide_output(n * k, Bound::Exact);
    let [z, edited, slope, edit_slope] = [slots()?, slots()?, slots()?, slots()?];
    let pre_rows = n.min(sae_encode::ROWS_AT_A_TIME);
    let pass = sae_encode::Forward {
        code: Code { index: data.bytes_output(4 * n * (k + 1))?, z, edited, slope, edit_slope, slots: k },
        pre: data.scratch(4 * pre_rows * s.latents)?,
        pre_rows,
        x: data.wholes(n * s.width, X_UNIT, storage)?,
        sae: sae(data, s)?,
        edits: Edits { block: 0, edits: 0, forced: 0 },
        mask: mask(data, s)?,
        n,
    };
    let bytes = (n + s.latents) * s.width * storage.bytes() + 4 * s.latents + code_bytes(s, 4);
    let cost = Cost::product(bytes, 2 * n * s.latents * s.width);
    Ok(data.case(sizes(s), pass, cost))
}

fn decode(data: &mut Data, s: &Sizes) -> Result<Case> {
    let (n, values) = (s.rows(), s.rows() * s.width);
    let pass = sae_decode::Forward {
        y: data.output(values, Bound::Sums { terms: 2 * s.active + 16, roundings: 1 })?,
        x: data.values(values, 1.0)?,
        code: code(data, s)?,
        sae: sae(data, s)?,
        splice: Splice::KeepError,
        mask: mask(data, s)?,
        n,
    };
    let bytes = (2 + s.active) * values * data.storage().bytes() + code_bytes(s, 2);
    Ok(data.case(format!("keep-error {}", sizes(s)), pass, Cost::moves(bytes, 2 * s.active * values)))
}

fn decode_reverse(data: &mut Data, s: &Sizes) -> Result<Case> {
    let (n, values) = (s.rows(), s.rows() * s.width);
    let bound = Bound::Sums { terms: s.width + 2 * s.active + 16, roundings: 1 };
    let pass = sae_decode::Reverse {
        dx: data.output(values, bound)?,
        dz: data.wide_output(n * s.active, Bound::Sums { terms: s.width + 16, roundings: 0 })?,
        dy: data.values(values, 1.0)?,
        x: data.values(values, 1.0)?,
        code: code(data, s)?,
        sae: sae(data, s)?,
        splice: Splice::Replace,
        through: Through::Exact,
        mask: mask(data, s)?,
        n,
        g: n,
    };
    let bytes = (2 + 2 * s.active) * values * data.storage().bytes() + code_bytes(s, 5);
    Ok(data.case(format!("replace {}", sizes(s)), pass, Cost::moves(bytes, 4 * s.active * values)))
}

fn latent(data: &mut Data, s: &Sizes) -> Result<Case> {
    let tokens = s.grid.tokens();
    let pass = sae_decode::Latent {
        score: data.wide_output(s.batch, Bound::Sums { terms: tokens + 16, roundings: 0 })?,
        code: code(data, s)?,
        id: 0,
        batch: s.batch,
        tokens,
    };
    // The index is read, and one value of each row.
    let cost = Cost::moves(4 * s.rows() * (s.active + 2), s.rows());
    Ok(data.case(sizes(s), pass, cost))
}

fn latent_reverse(data: &mut Data, s: &Sizes) -> Result<Case> {
    let (n, values) = (s.rows(), s.rows() * s.width);
    let pass = sae_decode::LatentReverse {
        dx: data.output(values, Bound::Sums { terms: 16, roundings: 1 })?,
        x: data.values(values, 1.0)?,
        code: code(data, s)?,
        sae: sae(data, s)?,
        id: 0,
        n,
    };
    let bytes = values * data.storage().bytes() + 4 * n * (s.active + 2) + s.width * data.storage().bytes();
    Ok(data.case(sizes(s), pass, Cost::moves(bytes, 2 * values)))
}
