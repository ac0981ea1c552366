//! What a question takes of the device's memory, before it is asked.

use super::{Engine, Question, pixels};
use crate::{
    Result,
    backend::PatchGrid,
    model::pass::MapKey,
    weights::{SaeWeights, tensor_names},
};

impl Engine {
    /// Bytes of the arena that explaining `batch` images on `grid` needs: the largest of its passes.
    ///
    /// # Errors
    /// Those of the recorded pass.
    pub fn arena_bytes(&mut self, batch: usize, grid: PatchGrid, question: &Question) -> Result<usize> {
        let direct = question.methods.iter().filter(|(named, _)| pixels::is_direct(named.method));
        let mut keys: Vec<MapKey> = direct.map(|(_, key)| *key).collect();
        keys.sort();
        keys.dedup();
        let mut jobs = vec![question.job(batch, grid, keys, question.latents)?];
        if question.methods.iter().any(|(named, _)| !pixels::is_direct(named.method)) {
            jobs.push(question.job(batch, grid, vec![MapKey::Pixels], false)?);
        }
        let runner = self.runner()?;
        let bytes = jobs.iter().map(|job| runner.arena_bytes(job)).collect::<Result<Vec<_>>>()?;
        Ok(bytes.into_iter().max().unwrap_or(0))
    }

    /// Bytes of the image tower's weights in the engine's type.
    pub fn weight_bytes(&self) -> usize {
        let tensors = tensor_names(&self.checkpoint.config).into_iter();
        let image = tensors.filter(|(name, _)| name.starts_with("vision_model.") || name.starts_with("visual_"));
        image.map(|(_, shape)| shape.iter().product::<usize>()).sum::<usize>() * self.dtype.size()
    }

    /// Bytes of an SAE's weights in the engine's type: the decoder once, the encoder for products and for gathers.
    pub fn sae_bytes(&self, sae: &SaeWeights) -> usize {
        (2 * sae.encoder.len() + sae.decoder.len()) * self.dtype.size()
    }
}
