//! From the residual stream to the score: ln_post of the CLS token, projection, cosine with the texts; and back.

use super::clip::{Text, Vision};
use super::forward;
use crate::{
    Error, Result,
    backend::{AttentionShape, Backend, Epilogue, EpilogueReverse, Fetch, Memory, Rows, ScoreKind, Tensor},
};

/// What the head leaves for its reverse.
#[derive(Debug, Clone, Copy)]
pub struct HeadTape {
    /// (B,tokens,D), what the last block (or the splice after it) put out.
    pub x: Tensor,
    /// Tokens of `x`: `T`, or 1 when trimmed.
    pub tokens: usize,
    /// (B,2), of ln_post.
    pub stats: Tensor,
    /// (B,E).
    pub embed: Tensor,
    /// (B,Q).
    pub cos: Tensor,
}

/// The texts of a request, ready to be compared with images.
#[derive(Debug)]
pub struct Texts<V> {
    /// (Q,E), rows of length 1.
    pub embeddings: V,
    /// `Q`.
    pub count: usize,
}

/// `x` (B,tokens,D) to unnormalised embeddings (B,E), after the statistics (B,2) of ln_post.
pub fn embed<X: Backend>(
    x: &X,
    m: &mut X::Memory,
    vision: &Vision<X::Matrix, X::Vector>,
    stream: Tensor,
    tokens: usize,
    batch: usize,
    scope: &str,
) -> Result<(Tensor, Tensor)> {
    let (d, e) = (vision.tower().width, vision.embed);
    let cls = m.tensor("cls", &[batch, d])?;
    let stats = m.wide("ln_post.stats", &[batch, 2])?;
    x.layer_norm(m, cls, stats, Rows { tensor: stream, stride: tokens * d }, &vision.ln_post, batch)?;
    m.observe(&format!("{scope}cls"), cls)?;
    let embed = m.tensor("embed", &[batch, e])?;
    x.linear(m, embed, cls, &vision.projection, Epilogue::None, batch)?;
    m.observe(&format!("{scope}embed"), embed)?;
    Ok((stats, embed))
}

/// `x` (B,tokens,D) to cosines.
pub fn forward<X: Backend>(
    x: &X,
    m: &mut X::Memory,
    vision: &Vision<X::Matrix, X::Vector>,
    texts: &Texts<X::Vector>,
    stream: Tensor,
    tokens: usize,
    batch: usize,
    scope: &str,
) -> Result<HeadTape> {
    let (stats, embed) = self::embed(x, m, vision, stream, tokens, batch, scope)?;
    let cos = m.wide("cos", &[batch, texts.count])?;
    x.cosine(m, cos, embed, &texts.embeddings, batch, texts.count, vision.embed)?;
    m.observe(&format!("{scope}cos"), cos)?;
    Ok(HeadTape { x: stream, tokens, stats, embed, cos })
}

/// The targets of one reverse pass: texts `first .. first + count`.
#[derive(Debug, Clone, Copy)]
pub struct Targets {
    /// The first text.
    pub first: usize,
    /// How many.
    pub count: usize,
}

/// The gradient of the targets' scores at `x` (G,tokens,D).
pub fn reverse<X: Backend>(
    x: &X,
    m: &mut X::Memory,
    vision: &Vision<X::Matrix, X::Vector>,
    texts: &Texts<X::Vector>,
    tape: &HeadTape,
    kind: ScoreKind,
    targets: Targets,
    batch: usize,
    scope: &str,
) -> Result<Tensor> {
    let (e, g) = (vision.embed, targets.count * batch);
    let dembed = m.tensor("d.embed", &[g, e])?;
    let (first, scale) = (targets.first, vision.logit_scale);
    x.score_reverse(m, dembed, tape.embed, tape.cos, &texts.embeddings, kind, scale, first, batch, texts.count, e, g)?;
    m.observe(&format!("{scope}d.embed"), dembed)?;
    embed_reverse(x, m, vision, tape.x, tape.stats, dembed, tape.tokens, batch, g)
}

/// `dembed` (G,E) to `dx` (G,tokens,D): only the CLS rows are not zero.
pub fn embed_reverse<X: Backend>(
    x: &X,
    m: &mut X::Memory,
    vision: &Vision<X::Matrix, X::Vector>,
    stream: Tensor,
    stats: Tensor,
    dembed: Tensor,
    tokens: usize,
    batch: usize,
    g: usize,
) -> Result<Tensor> {
    let d = vision.tower().width;
    let dcls = m.tensor("d.cls", &[g, d])?;
    x.linear_reverse(m, dcls, dembed, &vision.projection, EpilogueReverse::None, g)?;
    let drow = m.tensor("d.row", &[g, d])?;
    let rows = Rows { tensor: stream, stride: tokens * d };
    x.layer_norm_reverse(m, drow, dcls, rows, stats, &vision.ln_post, batch, g, false)?;
    if tokens == 1 {
        return Ok(drow);
    }
    let dx = m.tensor("d.x", &[g, tokens, d])?;
    x.fill(m, dx, 0.0)?;
    x.add_rows(m, dx, tokens * d, drow, g, d)?;
    Ok(dx)
}

/// Token embeddings plus positions (Q,T,D) of token ids (Q,context), for [`embed_texts`]; `pooled` is the position that
/// stands for each text.
///
/// # Errors
/// An id that is not in the vocabulary.
pub fn text_tokens<M, V>(text: &Text<M, V>, ids: &[Vec<u32>], pooled: &[usize]) -> Result<Vec<f64>> {
    let (t, d) = (text_length(pooled), text.config.tower.width);
    let mut tokens = Vec::with_capacity(ids.len() * t * d);
    for &id in ids.iter().flat_map(|ids| &ids[..t]) {
        let row = text.tokens.chunks(d).nth(id as usize).ok_or_else(|| {
            Error::usage(format!("token id {id} is not in the model's vocabulary of {}", text.config.vocab))
        })?;
        let position = tokens.len() / d % t;
        let positions = &text.positions[position * d..][..d];
        tokens.extend(row.iter().zip(positions).map(|(&a, &b)| f64::from(a) + f64::from(b)));
    }
    Ok(tokens)
}

/// No token sees a later one, so what follows the last pooled token can be left out.
fn text_length(pooled: &[usize]) -> usize {
    pooled.iter().max().map_or(1, |last| last + 1)
}

/// The embeddings (Q,E) of the input's [`text_tokens`].
///
/// # Errors
/// Those of the device.
pub fn embed_texts<X: Backend>(
    x: &X,
    m: &mut X::Memory,
    text: &Text<X::Matrix, X::Vector>,
    pooled: &[usize],
) -> Result<Fetch> {
    let tower = &text.config.tower;
    let (q, t, d) = (pooled.len(), text_length(pooled), tower.width);
    let mut stream = m.tensor("tokens", &[q, t, d])?;
    m.input(stream)?;
    let shape =
        AttentionShape { batch: q, tokens: t, queries: t, heads: tower.heads, head_dim: d / tower.heads, causal: true };
    for (layer, weights) in text.blocks.iter().enumerate() {
        (stream, _) =
            forward::block(x, m, weights, tower.activation, stream, shape, "text.", layer, tower.mlp_width, false)?;
    }
    let rows: Vec<usize> = pooled.iter().enumerate().map(|(i, &p)| i * t + p).collect();
    let last = m.tensor("last", &[q, d])?;
    x.gather_rows(m, last, stream, &rows, d)?;
    let normed = m.tensor("normed", &[q, d])?;
    let stats = m.wide("stats", &[q, 2])?;
    x.layer_norm(m, normed, stats, last.rows(d), &text.ln_final, q)?;
    let embed = m.tensor("text_embed", &[q, text.embed])?;
    x.linear(m, embed, normed, &text.projection, Epilogue::None, q)?;
    m.fetch(embed)
}
