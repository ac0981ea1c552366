//! A forward for the image embedding alone, with streams read on the way, or taken up after a block.

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
    /// (B,E), not normalised.
    pub embeddings: Vec<f64>,
}

/// The forward of `values` from `start` on, for `batch` images on `grid`. Streams are read after the blocks of `hooks`.
///
/// # Errors
/// Those of the device.
pub fn embed_images<X: Backend>(
    x: &X,
    m: &mut X::Memory,
    vision: &Vision<X::Matrix, X::Vector>,
    positions: &X::Vector,
    batch: usize,
    grid: PatchGrid,
    start: Start,
    hooks: &[usize],
    values: &[f64],
) -> Result<Embedded> {
    let (tower, t) = (vision.tower(), grid.tokens());
    let (mut stream, first) = match start {
        Start::Pixels => {
            let pixels = m.tensor("pixels", &[batch, 3, grid.height, grid.width])?;
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
    for (layer, weights) in vision.blocks.iter().enumerate().skip(first) {
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
    let (_, embed) = head::embed(x, m, vision, stream, tokens, batch, "")?;
    Ok(Embedded { streams, embeddings: m.download(embed)? })
}
