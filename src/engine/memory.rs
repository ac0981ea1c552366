//! What a question takes of the device's memory, before it is asked.

use super::{Engine, Question, pixels};
use crate::{Result, backend::PatchGrid, model::pass::MapKey, weights::SaeWeights};

/// What a pass takes beside the weights, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PassBytes {
    /// The arena, in the device's memory.
    pub arena: usize,
    /// Pictures and gradients of pixels, in the host's.
    pub host: usize,
}

impl Engine {
    /// What explaining `batch` images on `grid` takes: the largest of its passes.
    ///
    /// # Errors
    /// Those of the recorded pass.
    pub fn pass_bytes(&mut self, batch: usize, grid: PatchGrid, question: &Question) -> Result<PassBytes> {
        let mut jobs = vec![question.direct_job(batch, grid)?];
        if question.methods.iter().any(|(named, _)| !pixels::is_direct(named.method)) {
            jobs.push(question.job(batch, grid, vec![MapKey::Pixels], false)?);
        }
        let runner = self.runner()?;
        let arenas = jobs.iter().map(|job| runner.arena_bytes(job)).collect::<Result<Vec<_>>>()?;
        let gradients =
            if question.methods.iter().any(|(_, key)| *key == MapKey::Pixels) { question.targets() } else { 0 };
        let reals = gradients + usize::from(question.reads_pixels());
        // Pixels that are looked at, and what comes back of their gradient, are held in double precision.
        let host = 3 * batch * grid.height * grid.width * (size_of::<u8>() + reals * size_of::<f64>());
        Ok(PassBytes { arena: arenas.into_iter().max().unwrap_or(0), host })
    }

    /// Bytes that the device could still allocate, where it has memory of its own.
    ///
    /// # Errors
    /// Those of the device.
    pub fn free_bytes(&mut self) -> Result<Option<usize>> {
        self.runner()?.free_bytes()
    }

    /// Bytes of the image tower's weights as the device holds them for `question`: a reverse needs the matrices of the
    /// blocks that it passes a second time, transposed.
    pub fn weight_bytes(&self, question: &Question) -> usize {
        let config = &self.checkpoint.config;
        let tower = &config.vision.tower;
        let (d, f, p) = (tower.width, tower.mlp_width, config.vision.patch);
        let top = question.splice.as_ref().filter(|_| question.texts.is_empty()).map_or(tower.layers - 1, |s| s.layer);
        let keys = || question.methods.iter().map(|(_, key)| *key);
        let single = keys().any(|key| key == MapKey::GradEclipSingle).then_some(top);
        let hook = question.splice.as_ref().filter(|_| question.latents).map(|s| s.layer + 1);
        let lowest = keys().filter_map(|key| key.lowest_reversed(top)).chain(single).chain(hook).min();
        let reversed = |layer: usize| lowest.is_some_and(|lowest| layer >= lowest && layer <= top);
        let bytes = |n, k, reverse| self.runner.matrix_bytes(n, k, reverse);
        let block = |layer: usize| {
            let back = reversed(layer);
            // Where the walk ends at the attention output, qkv is not reversed.
            let through = back && (Some(layer) != lowest || keys().any(|key| key == MapKey::Pixels));
            bytes(3 * d, d, through) + bytes(d, d, back) + bytes(f, d, back) + bytes(d, f, back)
        };
        let blocks: usize = (0..tower.layers).map(block).sum();
        let ends =
            bytes(d, 3 * p * p, keys().any(|key| key == MapKey::Pixels)) + bytes(config.embed, d, lowest.is_some());
        // The trained positions stay in f32, and once more for the grid at hand.
        blocks + ends + config.vision.tokens() * d * (size_of::<f32>() + self.dtype.size())
    }

    /// Bytes of an SAE's weights in the engine's type: the decoder once, the encoder for products and for gathers.
    pub fn sae_bytes(&self, sae: &SaeWeights) -> usize {
        let gathered = (sae.encoder.len() + sae.decoder.len()) * self.dtype.size();
        gathered + self.runner.matrix_bytes(sae.latents, sae.width, false)
    }
}
