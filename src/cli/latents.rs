//! What the commands about latents share: an image's latents in order of their use.

use clap::ValueEnum;
use vitscope::{
    Error, Result,
    engine::{Explanation, LatentUse, latent_uses},
};

/// By what latents are ranked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum SortBy {
    /// Sum of the activation over the tokens.
    Activation,
    /// Size of activation times gradient, summed over the tokens, for the first text.
    Contribution,
}

/// The latents that fire in an image, the most used first; ties by index.
///
/// # Errors
/// When the explanation has none, which is a defect.
pub fn ranked(explanation: &Explanation, targets: usize, by: SortBy) -> Result<Vec<LatentUse>> {
    let latents = explanation.result.latents.as_ref();
    let latents = latents.ok_or_else(|| Error::Plan { tensor: "latents".into(), planned: None })?;
    let mut uses = latent_uses(latents, targets);
    let key = |latent: &LatentUse| match by {
        SortBy::Activation => latent.activation,
        SortBy::Contribution => latent.contribution.first().copied().unwrap_or(0.0).abs(),
    };
    uses.sort_by(|a, b| key(b).total_cmp(&key(a)));
    Ok(uses)
}
