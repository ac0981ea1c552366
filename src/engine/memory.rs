//! What a question takes of the device's memory, before it is asked.

use super::{Engine, Question, pixels};
use crate::{Result, backend::PatchGrid, model::pass::MapKey, weights::SaeWeights};

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
        // The host holds the pixels, and what comes back of their gradient, in double precision.
        let host = 3 * batch * grid.height * grid.width * size_of::<f64>();
        let gradients =
            if question.methods.iter().any(|(_, key)| *key == MapKey::Pixels) { question.targets() } else { 0 };
        Ok(bytes.into_iter().max().unwrap_or(0) + host * (1 + gradients))
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
