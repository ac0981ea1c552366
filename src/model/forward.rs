//! The forward: embedding, blocks, and what each leaves on the tape.

use super::clip::{Block, Vision};
use crate::{
    Result,
    backend::{AttentionShape, Backend, Epilogue, Memory, PatchGrid, Picture, Rows, Tensor},
    weights::Activation,
};

/// Names a tensor under a prefix that tells passes over the same block apart.
pub fn named(scope: &str, layer: usize, name: &str) -> String {
    format!("{scope}block.{layer}.{name}")
}

/// What the embedding leaves for its reverse.
#[derive(Debug, Clone, Copy)]
pub struct EmbedTape {
    /// (B,T,D), before ln_pre.
    pub tokens: Tensor,
    /// (B*T,2).
    pub stats: Tensor,
}

/// What a block leaves for its reverse and for the heatmaps.
#[derive(Debug, Clone, Copy)]
pub struct BlockTape {
    /// (B,T,D), the block's input.
    pub x: Tensor,
    /// (B*T,2), of ln1.
    pub stats1: Tensor,
    /// (B,T,3D).
    pub qkv: Tensor,
    /// (B,queries,H).
    pub lse: Tensor,
    /// (B,queries,D), after attention.
    pub x_mid: Tensor,
    /// (B*queries,2), of ln2.
    pub stats2: Tensor,
    /// (B,queries,F), what the activation gets; kept only for a reverse.
    pub u: Option<Tensor>,
    /// Sizes; `queries` tells whether the block was trimmed to CLS.
    pub shape: AttentionShape,
    /// The block.
    pub layer: usize,
}

impl BlockTape {
    /// Tokens that the block puts out.
    pub fn tokens_out(&self) -> usize {
        self.shape.queries
    }
}

/// The run's input: normalised pixels, or with a `table` (3,256) of the normalised value of each byte the bytes.
pub fn input<'a, M: Memory, V>(
    m: &mut M,
    table: Option<&'a V>,
    batch: usize,
    grid: PatchGrid,
) -> Result<Picture<'a, V>> {
    let (height, width) = (grid.height, grid.width);
    Ok(match table {
        None => {
            let pixels = m.wide("pixels", &[batch, 3, height, width])?;
            m.input(pixels)?;
            Picture::Pixels(pixels)
        }
        Some(table) => {
            let bytes = m.indices("picture", &[(batch * 3 * height * width).div_ceil(size_of::<u32>())])?;
            m.input_bytes(bytes)?;
            Picture::Bytes { bytes, table }
        }
    })
}

/// Pictures to `x0` (B,T,D).
pub fn embed<X: Backend>(
    x: &X,
    m: &mut X::Memory,
    vision: &Vision<X::Matrix, X::Vector>,
    positions: &X::Vector,
    picture: Picture<'_, X::Vector>,
    batch: usize,
    grid: PatchGrid,
) -> Result<(Tensor, EmbedTape)> {
    let (d, t) = (vision.tower().width, grid.tokens());
    let patches = m.tensor("patches", &[batch, t, x.patch_row(3 * grid.patch * grid.patch)])?;
    let tokens = m.tensor("tokens", &[batch, t, d])?;
    x.patch_embed(m, tokens, patches, picture, &vision.patch, &vision.cls, positions, batch, grid)?;
    let x0 = m.tensor("x0", &[batch, t, d])?;
    let stats = m.wide("ln_pre.stats", &[batch * t, 2])?;
    x.layer_norm(m, x0, stats, tokens.rows(d), &vision.ln_pre, batch * t)?;
    m.observe("x0", x0)?;
    Ok((x0, EmbedTape { tokens, stats }))
}

/// One block on `input` (B,T,D). Returns its output (B,queries,D) and its tape.
pub fn block<X: Backend>(
    x: &X,
    m: &mut X::Memory,
    weights: &Block<X::Matrix, X::Vector>,
    activation: Activation,
    input: Tensor,
    shape: AttentionShape,
    scope: &str,
    layer: usize,
    mlp_width: usize,
    keep: bool,
) -> Result<(Tensor, BlockTape)> {
    let (b, t, q, d) = (shape.batch, shape.tokens, shape.queries, shape.width());
    let name = |name: &str| named(scope, layer, name);

    let h = m.tensor(&name("h"), &[b, t, d])?;
    let stats1 = m.wide(&name("stats1"), &[b * t, 2])?;
    x.layer_norm(m, h, stats1, input.rows(d), &weights.ln1, b * t)?;
    m.observe(&name("h"), h)?;
    let qkv = m.tensor(&name("qkv"), &[b, t, 3 * d])?;
    x.linear(m, qkv, h, &weights.qkv, Epilogue::None, b * t)?;
    m.observe(&name("qkv"), qkv)?;
    let o = m.tensor(&name("attn"), &[b, q, d])?;
    let lse = m.wide(&name("lse"), &[b, q, shape.heads])?;
    x.attention(m, o, lse, qkv, shape)?;
    m.observe(&name("attn"), o)?;
    m.observe(&name("lse"), lse)?;

    // The residual of a trimmed block is the CLS row of each image.
    let residual = Rows { tensor: input, stride: if q == t { d } else { t * d } };
    let x_mid = m.tensor(&name("x_mid"), &[b, q, d])?;
    x.linear(m, x_mid, o, &weights.proj, Epilogue::Residual(residual), b * q)?;
    m.observe(&name("x_mid"), x_mid)?;

    let h2 = m.tensor(&name("h2"), &[b, q, d])?;
    let stats2 = m.wide(&name("stats2"), &[b * q, 2])?;
    x.layer_norm(m, h2, stats2, x_mid.rows(d), &weights.ln2, b * q)?;
    let u = if keep { Some(m.tensor(&name("u"), &[b, q, mlp_width])?) } else { None };
    let act = m.tensor(&name("act"), &[b, q, mlp_width])?;
    x.linear(m, act, h2, &weights.fc1, Epilogue::Activation(activation, u), b * q)?;
    if let Some(u) = u {
        m.observe(&name("u"), u)?;
    }
    let out = m.tensor(&name("x"), &[b, q, d])?;
    x.linear(m, out, act, &weights.fc2, Epilogue::Residual(x_mid.rows(d)), b * q)?;
    m.observe(&name("x"), out)?;
    Ok((out, BlockTape { x: input, stats1, qkv, lse, x_mid, stats2, u, shape, layer }))
}
