//! A forward without heatmaps: for the image embedding, for streams on the way to it, or from a stream after a block.

use super::{clip::Vision, forward, head};
use crate::{
    Result,
    backend::{AttentionShape, Backend, Fetch, Fetched, Memory, PatchGrid},
};

/// What a forward starts from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// Pictures.
    Pictures,
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

/// What a forward will give.
#[derive(Debug, Clone)]
pub struct EmbedFetch {
    streams: Vec<Fetch>,
    embeddings: Option<Fetch>,
}

impl EmbedFetch {
    /// What it gave.
    pub fn values(&self, fetched: &mut Fetched) -> Embedded {
        Embedded {
            streams: self.streams.iter().map(|&stream| fetched.take(stream)).collect(),
            embeddings: self.embeddings.map(|embeddings| fetched.take(embeddings)).unwrap_or_default(),
        }
    }
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

/// The forward of the run's input: pictures or a stream.
///
/// # Errors
/// Those of the device.
pub fn embed_images<X: Backend>(
    x: &X,
    m: &mut X::Memory,
    vision: &Vision<X::Matrix, X::Vector>,
    positions: &X::Vector,
    table: Option<&X::Vector>,
    job: &EmbedJob,
) -> Result<EmbedFetch> {
    let EmbedJob { batch, grid, start, ref hooks, embeddings } = *job;
    let (tower, t) = (vision.tower(), grid.tokens());
    let end = if embeddings { vision.blocks.len() } else { hooks.last().map_or(0, |deepest| deepest + 1) };
    let (mut stream, first) = match start {
        Start::Pictures => {
            let picture = forward::input(m, table, batch, grid)?;
            (forward::embed(x, m, vision, positions, picture, batch, grid)?.0, 0)
        }
        Start::After(layer) => {
            let stream = m.tensor("stream", &[batch, t, tower.width])?;
            m.input(stream)?;
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
            streams.push(m.fetch(stream)?);
        }
    }
    if !embeddings {
        return Ok(EmbedFetch { streams, embeddings: None });
    }
    let (_, embed) = head::embed(x, m, vision, stream, tokens, batch, "")?;
    Ok(EmbedFetch { streams, embeddings: Some(m.fetch(embed)?) })
}
