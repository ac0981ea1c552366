//! Image embeddings, the residual stream on the way to them, and what becomes of them when the stream is changed.

use super::{
    Engine,
    explain::Batch,
    runner::{Pictures, Reconstructed},
};
pub use crate::model::embed::Embedded as EmbeddedImages;
use crate::{
    Error, Result,
    backend::{Input, PatchGrid},
    image::Prepared,
    model::embed::{EmbedJob, Start},
    weights::SaeWeights,
};

impl Engine {
    /// Embeddings (B,E), not normalised, of prepared images, which must all have one size; and their streams (B,T,D)
    /// after the blocks of `hooks`, which are in ascending order.
    ///
    /// # Errors
    /// [`Error::Usage`] for images of several sizes, or a block that the model does not have; those of the device.
    pub fn embed_images(&mut self, images: &[&Prepared], hooks: &[usize]) -> Result<EmbeddedImages> {
        self.forward(images, hooks, true)
    }

    /// The streams (B,T,D) of prepared images, which must all have one size, after the blocks of `hooks`, which are in
    /// ascending order. Blocks past the deepest are not computed.
    ///
    /// # Errors
    /// As [`Engine::embed_images`].
    pub fn streams(&mut self, images: &[&Prepared], hooks: &[usize]) -> Result<Vec<Vec<f32>>> {
        let streams = self.forward(images, hooks, false)?.streams;
        Ok(streams.into_iter().map(|rows| rows.into_iter().map(|v| v as f32).collect()).collect())
    }

    fn forward(&mut self, images: &[&Prepared], hooks: &[usize], embeddings: bool) -> Result<EmbeddedImages> {
        if images.is_empty() {
            return Ok(EmbeddedImages::default());
        }
        let (Batch { pictures, bytes, count, grid }, layers) = (self.batch(images)?, self.layers());
        if !hooks.is_sorted_by(|a, b| a < b) || hooks.last().is_some_and(|&last| last >= layers) {
            return Err(Error::usage(format!("blocks {hooks:?} are not some of 0 to {} in order", layers - 1)));
        }
        let job = EmbedJob { batch: count, grid, start: Start::Pictures, hooks: hooks.to_vec(), embeddings };
        self.runner()?.embed_images(&job, &pictures, Input::Bytes(&bytes))
    }

    /// Embeddings (B,E), not normalised, of images whose stream (B,T,D) after block `layer` is given.
    ///
    /// # Errors
    /// [`Error::Usage`] for a block that the model does not have; those of the device.
    pub fn embed_stream(&mut self, stream: &[f64], batch: usize, grid: PatchGrid, layer: usize) -> Result<Vec<f64>> {
        if layer >= self.layers() {
            return Err(Error::usage(format!("no block {layer}: the model has {}", self.layers())));
        }
        let job = EmbedJob { batch, grid, start: Start::After(layer), hooks: Vec::new(), embeddings: true };
        Ok(self.runner()?.embed_images(&job, &Pictures::Pixels, Input::Values(stream))?.embeddings)
    }

    /// Puts SAEs on the device for [`Engine::reconstruct`], in place of any other.
    ///
    /// # Errors
    /// Those of reading the model's weights.
    pub fn load_saes(&mut self, saes: &[&SaeWeights]) -> Result<()> {
        self.runner()?.load_saes(saes)
    }

    /// Puts the stream (T,D) of one image through SAE number `sae`; `mask` (T) tells the tokens in scope.
    ///
    /// # Errors
    /// Those of the device, a stream of the wrong size among them.
    pub fn reconstruct(&mut self, sae: usize, stream: &[f64], mask: &[bool]) -> Result<Reconstructed> {
        self.runner()?.reconstruct(sae, stream, mask)
    }
}
