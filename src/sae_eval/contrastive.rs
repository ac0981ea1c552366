//! CLIP's own training loss, with and without the splice.

use serde::Serialize;

use super::{Ablation, dot};

/// CLIP's symmetric InfoNCE (Radford et al. 2021) of `n` image-caption pairs: the mean of the cross-entropies of finding
/// each image's caption and each caption's image among the `n`. `images` and `texts` are (n,E) with rows of length 1 (or
/// 0), `scale` is `exp(logit_scale)`. A caption that occurs twice counts as two, as in CLIP's training.
pub fn contrastive_loss(images: &[f64], texts: &[f64], width: usize, scale: f64) -> f64 {
    let (images, texts) = (images.chunks(width), texts.chunks(width));
    let n = images.len();
    let logits: Vec<f64> = images.flat_map(|i| texts.clone().map(move |t| scale * dot(i, t))).collect();
    let row = |i: usize| cross_entropy((0..n).map(|j| logits[i * n + j]), logits[i * n + i]);
    let column = |i: usize| cross_entropy((0..n).map(|j| logits[j * n + i]), logits[i * n + i]);
    (0..n).map(|i| 0.5 * (row(i) + column(i))).sum::<f64>() / n as f64
}

/// `log sum exp(logits) - right`.
pub(super) fn cross_entropy(logits: impl Iterator<Item = f64> + Clone, right: f64) -> f64 {
    let max = logits.clone().fold(f64::NEG_INFINITY, f64::max);
    max - right + logits.map(|v| (v - max).exp()).sum::<f64>().ln()
}

/// The contrastive loss over batches of pairs.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ContrastiveReport {
    /// Image-caption pairs.
    pub pairs: usize,
    /// Pairs in a full batch; the last one may hold fewer. The loss is the mean over pairs.
    pub batch: usize,
    /// The losses, natural logarithm.
    pub loss: Ablation,
    /// `(L_zero - L_spliced) / (L_zero - L)`.
    pub recovered: f64,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Images along the axes, texts along (1,0) and (0.6,0.8), scale 2: logits [[2, 1.2], [0, 1.6]].
    #[test]
    fn the_loss_is_that_computed_by_hand() {
        let loss = contrastive_loss(&[1.0, 0.0, 0.0, 1.0], &[1.0, 0.0, 0.6, 0.8], 2, 2.0);
        let softplus = |v: f64| v.exp().ln_1p();
        let rows = softplus(1.2 - 2.0) + softplus(0.0 - 1.6);
        let columns = softplus(0.0 - 2.0) + softplus(1.2 - 1.6);
        assert!((loss - (rows + columns) / 4.0).abs() < 1e-14, "{loss}");
        // Images that say nothing: the logarithm of the number of pairs.
        let blind = contrastive_loss(&[0.0; 6], &[1.0, 0.0, 0.0, 1.0, 0.6, 0.8], 2, 100.0);
        assert!((blind - 3f64.ln()).abs() < 1e-14, "{blind}");
        // A large scale does not overflow.
        assert_eq!(contrastive_loss(&[1.0, 0.0, 0.0, 1.0], &[1.0, 0.0, 0.0, 1.0], 2, 1e4), 0.0);
    }
}
