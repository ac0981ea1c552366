//! The latents that fire in an image, and what each contributes to each score.

use crate::model::pass::Latents;

/// The sparse code of one image.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ImageLatents {
    /// For each token (CLS first) its latents.
    pub tokens: Vec<Vec<TokenLatent>>,
}

/// One latent at one token.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct TokenLatent {
    /// The latent.
    pub id: u32,
    /// Its activation.
    pub z: f64,
    /// Its activation after the edits.
    pub edited: f64,
    /// (Q): gradient of each score with respect to the edited activation.
    pub gradient: Vec<f64>,
}

impl ImageLatents {
    /// Image `b` of `batch`, from what the device gave.
    pub fn of(latents: &Latents, b: usize, batch: usize, targets: usize) -> Self {
        let c = latents.slots;
        let rows = latents.index.len() / (c + 1);
        let tokens = rows / batch;
        let token = |t: usize| {
            let row = b * tokens + t;
            let index = &latents.index[row * (c + 1)..][..c + 1];
            (0..index[0] as usize)
                .map(|slot| TokenLatent {
                    id: index[1 + slot],
                    z: latents.z[row * c + slot],
                    edited: latents.edited[row * c + slot],
                    gradient: (0..targets)
                        .filter_map(|q| latents.dz.get((q * rows + row) * c + slot).copied())
                        .collect(),
                })
                .collect()
        };
        ImageLatents { tokens: (0..tokens).map(token).collect() }
    }
}

/// One latent over a whole image.
#[derive(Debug, Clone, PartialEq)]
pub struct LatentUse {
    /// The latent.
    pub id: u32,
    /// Sum of its activation over the tokens.
    pub activation: f64,
    /// Its largest activation.
    pub peak: f64,
    /// Tokens where it fires.
    pub tokens: usize,
    /// (Q): sum over the tokens of activation times gradient: to first order what zeroing it takes from the score.
    pub contribution: Vec<f64>,
    /// (P): its activation on the patches.
    pub activation_map: Vec<f32>,
    /// (Q,P): activation times gradient on the patches.
    pub contribution_maps: Vec<Vec<f32>>,
}

/// Gathers the latents of an image, each over all tokens, in order of their index.
pub fn latent_uses(image: &ImageLatents, targets: usize) -> Vec<LatentUse> {
    let patches = image.tokens.len().saturating_sub(1);
    let mut uses: std::collections::BTreeMap<u32, LatentUse> = std::collections::BTreeMap::new();
    for (t, latents) in image.tokens.iter().enumerate() {
        for latent in latents {
            let entry = uses.entry(latent.id).or_insert_with(|| LatentUse {
                id: latent.id,
                activation: 0.0,
                peak: f64::NEG_INFINITY,
                tokens: 0,
                contribution: vec![0.0; targets],
                activation_map: vec![0.0; patches],
                contribution_maps: vec![vec![0.0; patches]; targets],
            });
            entry.activation += latent.edited;
            entry.peak = entry.peak.max(latent.edited);
            entry.tokens += 1;
            for (q, gradient) in latent.gradient.iter().enumerate() {
                entry.contribution[q] += latent.edited * gradient;
                if t > 0 {
                    entry.contribution_maps[q][t - 1] = (latent.edited * gradient) as f32;
                }
            }
            if t > 0 {
                entry.activation_map[t - 1] = latent.edited as f32;
            }
        }
    }
    uses.into_values().collect()
}
