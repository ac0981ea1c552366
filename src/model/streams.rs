//! The residual stream at the output of some blocks, and nothing past the deepest of them.

use super::{clip::Vision, forward};
use crate::{
    Error, Result,
    backend::{AttentionShape, Backend, Memory, PatchGrid},
};

/// The outputs (B,T,D) of `layers`, in their order, of one forward on normalised `pixels` (B,3,R,R).
///
/// # Errors
/// [`Error::Usage`] for a block that is not there; those of the device.
pub fn streams<X: Backend>(
    x: &X,
    m: &mut X::Memory,
    vision: &Vision<X::Matrix, X::Vector>,
    positions: &X::Vector,
    batch: usize,
    grid: PatchGrid,
    pixels: &[f64],
    layers: &[usize],
) -> Result<Vec<Vec<f64>>> {
    let (tower, t) = (vision.tower(), grid.tokens());
    let deepest = layers.iter().copied().max().ok_or_else(|| Error::usage("no layer was asked for"))?;
    let shape = AttentionShape {
        batch,
        tokens: t,
        queries: t,
        heads: tower.heads,
        head_dim: tower.width / tower.heads,
        causal: false,
    };
    let input = m.tensor("pixels", &[batch, 3, grid.height, grid.width])?;
    m.upload(input, pixels)?;
    let (mut stream, _) = forward::embed(x, m, vision, positions, input, batch, grid)?;
    let mut outputs = vec![Vec::new(); layers.len()];
    for (layer, weights) in vision.blocks.iter().enumerate().take(deepest + 1) {
        (stream, _) =
            forward::block(x, m, weights, tower.activation, stream, shape, "", layer, tower.mlp_width, false)?;
        for (_, out) in layers.iter().zip(&mut outputs).filter(|(asked, _)| **asked == layer) {
            *out = m.download(stream)?;
        }
    }
    match outputs.iter().position(Vec::is_empty) {
        Some(lost) => Err(Error::usage(format!("the model has no block {}", layers[lost]))),
        None => Ok(outputs),
    }
}
