//! The hand-written reverse of a block and of the embedding. Only activation gradients exist.

use super::clip::{Block, Vision};
use super::forward::{BlockTape, EmbedTape, named};
use crate::{
    Result,
    backend::{Backend, EpilogueReverse, Memory, PatchGrid, Relevance, Rows, Tensor},
    weights::Activation,
};

/// The gradient at the block's attention output, from that at its output.
///
/// `dx` (G,queries,D) holds the gradient of the block's output and afterwards that of `x_mid`. Returns `d_o` (G,queries,D).
pub fn to_attention<X: Backend>(
    x: &X,
    m: &mut X::Memory,
    weights: &Block<X::Matrix, X::Vector>,
    activation: Activation,
    dx: Tensor,
    tape: &BlockTape,
    mlp_width: usize,
    g: usize,
    scope: &str,
) -> Result<Tensor> {
    let name = |name: &str| named(&format!("{scope}d."), tape.layer, name);
    let s = tape.shape;
    let (q, d) = (s.queries, s.width());
    let (n, rows) = (s.batch * q, g * q);
    let du = m.tensor(&name("u"), &[g, q, mlp_width])?;
    // Blocks that a reverse visits were planned with their `u`.
    let after = tape.u.map_or(EpilogueReverse::None, |u| EpilogueReverse::Activation(activation, u, n));
    x.linear_reverse(m, du, dx, &weights.fc2, after, rows)?;
    m.observe(&name("u"), du)?;
    let dh2 = m.tensor(&name("h2"), &[g, q, d])?;
    x.linear_reverse(m, dh2, du, &weights.fc1, EpilogueReverse::None, rows)?;
    x.layer_norm_reverse(m, dx, dh2, tape.x_mid.rows(d), tape.stats2, &weights.ln2, n, rows, true)?;
    m.observe(&name("x_mid"), dx)?;
    let d_o = m.tensor(&name("attn"), &[g, q, d])?;
    x.linear_reverse(m, d_o, dx, &weights.proj, EpilogueReverse::None, rows)?;
    m.observe(&name("attn"), d_o)?;
    Ok(d_o)
}

/// From the attention output to the block's input. `dx` holds the gradient of `x_mid` (G,queries,D).
/// Returns the gradient of the block's input (G,T,D); the relevance row is taken along where asked for.
pub fn to_input<X: Backend>(
    x: &X,
    m: &mut X::Memory,
    weights: &Block<X::Matrix, X::Vector>,
    dx: Tensor,
    d_o: Tensor,
    relevance: Option<Relevance>,
    tape: &BlockTape,
    g: usize,
    scope: &str,
) -> Result<Tensor> {
    let name = |name: &str| named(&format!("{scope}d."), tape.layer, name);
    let s = tape.shape;
    let (t, d) = (s.tokens, s.width());
    let (n, rows) = (s.batch * t, g * t);
    let dqkv = m.tensor(&name("qkv"), &[g, t, 3 * d])?;
    x.attention_reverse(m, Some(dqkv), relevance, d_o, tape.qkv, tape.lse, s, g)?;
    m.observe(&name("qkv"), dqkv)?;
    let dh = m.tensor(&name("h"), &[g, t, d])?;
    x.linear_reverse(m, dh, dqkv, &weights.qkv, EpilogueReverse::None, rows)?;
    if s.queries == t {
        x.layer_norm_reverse(m, dx, dh, tape.x.rows(d), tape.stats1, &weights.ln1, n, rows, true)?;
        return Ok(dx);
    }
    let dinput = m.tensor(&name("input"), &[g, t, d])?;
    x.layer_norm_reverse(m, dinput, dh, tape.x.rows(d), tape.stats1, &weights.ln1, n, rows, false)?;
    x.add_rows(m, dinput, t * d, dx, g, d)?;
    Ok(dinput)
}

/// The gradient of the pixels (G,3,R,R) from that of `x0` (G,T,D).
pub fn to_pixels<X: Backend>(
    x: &X,
    m: &mut X::Memory,
    vision: &Vision<X::Matrix, X::Vector>,
    dx0: Tensor,
    tape: &EmbedTape,
    batch: usize,
    grid: PatchGrid,
    g: usize,
    scope: &str,
) -> Result<Tensor> {
    let (t, d) = (grid.tokens(), vision.tower().width);
    m.observe(&format!("{scope}d.x0"), dx0)?;
    let dtokens = m.tensor("d.tokens", &[g, t, d])?;
    let rows = Rows { tensor: tape.tokens, stride: d };
    x.layer_norm_reverse(m, dtokens, dx0, rows, tape.stats, &vision.ln_pre, batch * t, g * t, false)?;
    let dpatches = m.tensor("d.patches", &[g, t, x.patch_row(3 * grid.patch * grid.patch)])?;
    let (height, width) = (grid.height, grid.width);
    let dpixels = m.wide("d.pixels", &[g, 3, height, width])?;
    x.patch_embed_reverse(m, dpixels, dpatches, dtokens, &vision.patch, g, grid)?;
    m.observe(&format!("{scope}d.pixels"), dpixels)?;
    Ok(dpixels)
}
