//! The ladders of a block: products, LayerNorm, attention.

use super::{Bound, Case, Cost, Data, Make, Sizes};
use crate::{
    Result,
    backend::gpu::{attention, gemm, layer_norm},
};

/// By ladder.
pub const CASES: [(&str, Make); 14] = [
    ("gemm_forward", qkv),
    ("gemm_forward", proj),
    ("gemm_forward", fc1),
    ("gemm_forward", fc2),
    ("gemm_reverse", fc2_reverse),
    ("gemm_reverse", fc1_reverse),
    ("gemm_reverse", proj_reverse),
    ("gemm_reverse", qkv_reverse),
    ("layer_norm_forward", norm),
    ("layer_norm_reverse", norm_reverse),
    ("attention_forward", attention),
    ("attention_reverse", attention_reverse),
    ("attention_row", row),
    ("attention_positive_gradient", positive_gradient),
];

/// A product of random numbers whose results are of order one, with bias, and with a residual or an activation.
fn product(data: &mut Data, name: &str, [m, n, k]: [usize; 3], residual: bool, activation: i32) -> Result<Case> {
    let bytes = data.storage().bytes();
    let bound = Bound::Sums { terms: k + 16, roundings: 1 };
    let has_activation = activation != gemm::NO_ACTIVATION;
    let pass = gemm::Forward {
        y: data.output(m * n, bound)?,
        u: if has_activation { data.output(m * n, bound)? } else { 0 },
        x: data.values(m * k, 1.0)?,
        w: data.values(n * k, (k as f64).powf(-0.5))?,
        bias: data.floats(n, 0.1)?,
        residual: if residual { data.values(m * n, 1.0)? } else { 0 },
        residual_stride: if residual { n } else { 0 },
        activation,
        m,
        n,
        k,
    };
    let outer = 1 + usize::from(has_activation) + usize::from(residual);
    let cost = Cost::product(bytes * (m * k + n * k + outer * m * n) + 4 * n, 2 * m * n * k);
    Ok(data.case(format!("{name} M {m} N {n} K {k}"), pass, cost))
}

fn product_reverse(data: &mut Data, name: &str, [m, n, k]: [usize; 3], activation: i32) -> Result<Case> {
    let bytes = data.storage().bytes();
    let has_activation = activation != gemm::NO_ACTIVATION;
    let pass = gemm::Reverse {
        dx: data.output(m * n, Bound::Sums { terms: k + 16, roundings: 1 })?,
        dy: data.values(m * k, 1.0)?,
        w: data.values(k * n, (k as f64).powf(-0.5))?,
        u: if has_activation { data.values(m * n, 1.0)? } else { 0 },
        rows: m,
        activation,
        m,
        n,
        k,
    };
    let outer = 1 + usize::from(has_activation);
    let cost = Cost::product(bytes * (m * k + n * k + outer * m * n), 2 * m * n * k);
    Ok(data.case(format!("{name} M {m} N {n} K {k}"), pass, cost))
}

fn qkv(data: &mut Data, s: &Sizes) -> Result<Case> {
    product(data, "qkv", [s.rows(), 3 * s.width, s.width], false, gemm::NO_ACTIVATION)
}

fn proj(data: &mut Data, s: &Sizes) -> Result<Case> {
    product(data, "proj", [s.rows(), s.width, s.width], true, gemm::NO_ACTIVATION)
}

fn fc1(data: &mut Data, s: &Sizes) -> Result<Case> {
    product(data, "fc1", [s.rows(), s.mlp_width, s.width], false, gemm::activation_number(s.activation))
}

fn fc2(data: &mut Data, s: &Sizes) -> Result<Case> {
    product(data, "fc2", [s.rows(), s.width, s.mlp_width], true, gemm::NO_ACTIVATION)
}

fn fc2_reverse(data: &mut Data, s: &Sizes) -> Result<Case> {
    product_reverse(data, "fc2", [s.rows(), s.mlp_width, s.width], gemm::activation_number(s.activation))
}

fn fc1_reverse(data: &mut Data, s: &Sizes) -> Result<Case> {
    product_reverse(data, "fc1", [s.rows(), s.width, s.mlp_width], gemm::NO_ACTIVATION)
}

fn proj_reverse(data: &mut Data, s: &Sizes) -> Result<Case> {
    product_reverse(data, "proj", [s.rows(), s.width, s.width], gemm::NO_ACTIVATION)
}

fn qkv_reverse(data: &mut Data, s: &Sizes) -> Result<Case> {
    product_reverse(data, "qkv", [s.rows(), s.width, 3 * s.width], gemm::NO_ACTIVATION)
}

fn norm(data: &mut Data, s: &Sizes) -> Result<Case> {
    let (n, width) = (s.rows(), s.width);
    let pass = layer_norm::Forward {
        y: data.output(n * width, Bound::Sums { terms: width + 16, roundings: 1 })?,
        stats: data.wide_output(n * 2, Bound::Sums { terms: width + 16, roundings: 0 })?,
        x: data.values(n * width, 1.0)?,
        stride: width,
        gain: data.floats(width, 1.0)?,
        bias: data.floats(width, 0.1)?,
        eps: 1e-5,
        n,
        width,
    };
    let cost = Cost::moves(2 * n * width * data.storage().bytes() + 8 * (n + width), 8 * n * width);
    Ok(data.case(format!("N {n} D {width}"), pass, cost))
}

fn norm_reverse(data: &mut Data, s: &Sizes) -> Result<Case> {
    let (n, width, bytes) = (s.rows(), s.width, data.storage().bytes());
    let x = data.values(n * width, 1.0)?;
    let gain = data.floats(width, 1.0)?;
    let stats = data.scratch(n * 2 * size_of::<f32>())?;
    let y = data.scratch(n * width * bytes)?;
    let bias = data.floats(width, 0.1)?;
    data.run(&layer_norm::Forward { y, stats, x, stride: width, gain, bias, eps: 1e-5, n, width })?;
    let pass = layer_norm::Reverse {
        dx: data.sum(n * width, Bound::Sums { terms: 2 * width + 16, roundings: 1 })?,
        dy: data.values(n * width, 1.0)?,
        x,
        stride: width,
        stats,
        gain,
        n,
        g: n,
        width,
        accumulate: true,
    };
    let cost = Cost::moves(4 * n * width * bytes + 8 * n + 4 * width, 12 * n * width);
    Ok(data.case(format!("N {n} D {width}, added"), pass, cost))
}

/// Sizes as the tables show them.
fn heads(s: &Sizes) -> String {
    format!("B {} T {} H {} Dh {}", s.batch, s.grid.tokens(), s.heads, s.width / s.heads)
}

/// Values of a stream (B,T,D).
fn stream(s: &Sizes) -> usize {
    s.rows() * s.width
}

/// Multiply-adds of one product of all queries with all keys.
fn pairs(s: &Sizes) -> usize {
    stream(s) * s.grid.tokens()
}

fn attention(data: &mut Data, s: &Sizes) -> Result<Case> {
    let (tokens, bytes) = (s.grid.tokens(), data.storage().bytes());
    let terms = tokens + s.width / s.heads + 64;
    let pass = attention::Forward {
        o: data.output(stream(s), Bound::Sums { terms, roundings: 2 })?,
        lse: data.wide_output(s.rows() * s.heads, Bound::Sums { terms, roundings: 0 })?,
        qkv: data.values(3 * stream(s), 1.0)?,
        shape: s.attention(tokens),
    };
    let cost = Cost::product(4 * stream(s) * bytes + 4 * s.rows() * s.heads, 4 * pairs(s));
    Ok(data.case(heads(s), pass, cost))
}

/// qkv and the lse that belongs to it.
fn forward(data: &mut Data, s: &Sizes) -> Result<[u64; 2]> {
    let qkv = data.values(3 * stream(s), 1.0)?;
    let lse = data.scratch(s.rows() * s.heads * size_of::<f32>())?;
    let o = data.scratch(stream(s) * data.storage().bytes())?;
    data.run(&attention::Forward { o, lse, qkv, shape: s.attention(s.grid.tokens()) })?;
    Ok([qkv, lse])
}

/// A row of relevance that passes a map.
fn relevance(data: &mut Data, s: &Sizes, bound: Bound) -> Result<attention::Relevance> {
    Ok(attention::Relevance {
        out: data.wide_output(s.rows(), bound)?,
        input: data.floats(s.rows(), 1.0)?,
        keep: 0.5,
        gain: 1.0,
    })
}

fn scratch(data: &mut Data, s: &Sizes) -> Result<u64> {
    data.scratch(attention::scratch_values(s.attention(s.grid.tokens()), s.batch) * size_of::<f32>())
}

fn attention_reverse(data: &mut Data, s: &Sizes) -> Result<Case> {
    let (tokens, bytes) = (s.grid.tokens(), data.storage().bytes());
    let bound = Bound::Sums { terms: 4 * tokens + s.width + 64, roundings: 3 };
    let [qkv, lse] = forward(data, s)?;
    let pass = attention::Reverse {
        dqkv: data.output(3 * stream(s), bound)?,
        relevance: Some(relevance(data, s, bound)?),
        d_o: data.values(stream(s), 1.0)?,
        qkv,
        lse,
        scratch: scratch(data, s)?,
        shape: s.attention(tokens),
        g: s.batch,
    };
    // Five products: the scores, dP, dq, dk and dv.
    let cost = Cost::product(7 * stream(s) * bytes + 4 * s.rows() * (s.heads + 2), 10 * pairs(s));
    Ok(data.case(format!("{}, relevance", heads(s)), pass, cost))
}

fn row(data: &mut Data, s: &Sizes) -> Result<Case> {
    let (tokens, bytes) = (s.grid.tokens(), data.storage().bytes());
    let bound = Bound::Sums { terms: 4 * tokens + s.width + 64, roundings: 1 };
    let [qkv, lse] = forward(data, s)?;
    let (relevance, scratch) = (relevance(data, s, bound)?, scratch(data, s)?);
    let pass = attention::Row { relevance, qkv, lse, scratch, shape: s.attention(tokens) };
    let cost = Cost::product(2 * stream(s) * bytes + 4 * s.rows() * (s.heads + 2), 2 * pairs(s));
    Ok(data.case(heads(s), pass, cost))
}

fn positive_gradient(data: &mut Data, s: &Sizes) -> Result<Case> {
    let (tokens, bytes) = (s.grid.tokens(), data.storage().bytes());
    let bound = Bound::Sums { terms: 2 * tokens + s.width + 64, roundings: 0 };
    let maps = s.batch * s.grid.patches();
    let pass = attention::PositiveGradient {
        map: data.wide_sum(maps, bound)?,
        d_o: data.values(stream(s), 1.0)?,
        qkv: data.values(3 * stream(s), 1.0)?,
        scratch: scratch(data, s)?,
        shape: s.attention(tokens),
        g: s.batch,
    };
    let cost = Cost::product(2 * stream(s) * bytes + 8 * maps, 2 * pairs(s));
    Ok(data.case(heads(s), pass, cost))
}
