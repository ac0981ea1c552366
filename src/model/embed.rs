//! A forward without heatmaps: for the image embedding, for streams on the way to it, or from a stream after a block.

use super::{clip::Vision, forward, head};
use crate::{
    Result,
    backend::{AttentionShape, Backend, Memory, PatchGrid},
};

/// What a forward starts from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// Normalised pixels (B,3,R,R).
    Pixels,
    /// The stream (B,T,D) after this block.
    After(usize),
}

/// What a forward gave.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Embedded {
    /// (B,T,D) after each hooked block, in the order of the blocks.
    pub streams: Vec<Vec<f64>>,
    /// (B,E), not normalised; empty where they are not wanted.
    pub embeddings: Vec<f64>,
}

/// What a forward is for.
#[derive(Debug, Clone, PartialEq)]
pub struct EmbedJob {
    /// `B`.
    pub batch: usize,
    /// The patches.
    pub grid: PatchGrid,
    /// What it starts from.
    pub start: Start,
    /// The blocks after which the stream is read, ascending.
    pub hooks: Vec<usize>,
    /// Whether embeddings are wanted. Without them no block past the last hook is computed.
    pub embeddings: bool,
}

/// The forward of `values`, pixels or a stream.
///
/// # Errors
/// Those of the device.
pub fn embed_images<X: Backend>(
    x: &X,
    m: &mut X::Memory,
    vision: &Vision<X::Matrix, X::Vector>,
    positions: &X::Vector,
    job: &EmbedJob,
    values: &[f64],
) -> Result<Embedded> {
    let EmbedJob { batch, grid, start, ref hooks, embeddings } = *job;
    let (tower, t) = (vision.tower(), grid.tokens());
    let end = if embeddings { vision.blocks.len() } else { hooks.last().map_or(0, |deepest| deepest + 1) };
    let (mut stream, first) = match start {
        Start::Pixels => {
            let pixels = m.wide("pixels", &[batch, 3, grid.height, grid.width])?;
            m.upload(pixels, values)?;
            (forward::embed(x, m, vision, positions, pixels, batch, grid)?.0, 0)
        }
        Start::After(layer) => {
            let stream = m.tensor("stream", &[batch, t, tower.width])?;
            m.upload(stream, values)?;
            (stream, layer + 1)
        }
    };
    let (mut tokens, mut streams) = (t, Vec::new());
    for (layer, weights) in vision.blocks.iter().enumerate().take(end).skip(first) {
        let hooked = hooks.contains(&layer);
        // Of the last block only the class token goes on.
        tokens = if layer + 1 == vision.blocks.len() && !hooked { 1 } else { t };
        let shape = AttentionShape {
            batch,
            tokens: t,
            queries: tokens,
            heads: tower.heads,
            head_dim: tower.width / tower.heads,
            causal: false,
        };
        let (activation, mlp) = (tower.activation, tower.mlp_width);
        (stream, _) = forward::block(x, m, weights, activation, stream, shape, "", layer, mlp, false)?;
        if hooked {
            streams.push(m.download(stream)?);
        }
    }
    if !embeddings {
        return Ok(Embedded { streams, embeddings: Vec::new() });
    }
    let (_, embed) = head::embed(x, m, vision, stream, tokens, batch, "")?;
    Ok(Embedded { streams, embeddings: m.download(embed)? })
}
