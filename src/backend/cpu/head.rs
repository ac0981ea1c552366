//! Scores: cosines of the image embedding with the texts, and their gradients.

use super::{Real, maps::dot};
use crate::backend::ScoreKind;

/// `cos` (B,Q) of `embed` (B,E) and unit rows `texts` (Q,E).
pub fn cosine<T: Real>(cos: &mut [T], embed: &[T], texts: &[T], queries: usize, width: usize) {
    for (cos, embed) in cos.chunks_mut(queries).zip(embed.chunks(width)) {
        let norm = dot(embed, embed).sqrt();
        for (cos, text) in cos.iter_mut().zip(texts.chunks(width)) {
            *cos = dot(embed, text) / norm;
        }
    }
}

/// Parameters of [`reverse`] beside its tensors.
#[derive(Debug, Clone, Copy)]
pub struct ScoreReverse {
    /// The score.
    pub kind: ScoreKind,
    /// `exp(logit_scale)`.
    pub scale: f64,
    /// The first target text.
    pub first: usize,
    /// `B`.
    pub batch: usize,
    /// `Q`.
    pub queries: usize,
    /// `E`.
    pub width: usize,
}

/// `dembed` (G,E): d cos_q / d embed = (text_q - cos_q embed / |embed|) / |embed|.
pub fn reverse<T: Real>(dembed: &mut [T], embed: &[T], cos: &[T], texts: &[T], r: ScoreReverse) {
    let mut weights = vec![T::ZERO; r.queries];
    for (g, dembed) in dembed.chunks_mut(r.width).enumerate() {
        let (target, b) = (r.first + g / r.batch, g % r.batch);
        let (embed, cos) = (&embed[b * r.width..][..r.width], &cos[b * r.queries..][..r.queries]);
        weights.fill(T::ZERO);
        match r.kind {
            ScoreKind::Cosine => weights[target] = T::ONE,
            ScoreKind::Logit => weights[target] = T::of(r.scale),
            ScoreKind::Softmax => softmax_slopes(&mut weights, cos, target, T::of(r.scale)),
        }
        let norm = dot(embed, embed).sqrt();
        dembed.fill(T::ZERO);
        for ((text, &cos), &weight) in texts.chunks(r.width).zip(cos).zip(&weights) {
            if weight == T::ZERO {
                continue;
            }
            for ((d, &text), &e) in dembed.iter_mut().zip(text).zip(embed) {
                *d += weight * (text - cos * e / norm) / norm;
            }
        }
    }
}

/// d softmax_target / d cos_k = scale s_target (delta - s_k). The slopes sum to zero: the target's is minus the sum of the
/// others, as 1 - s_target would cancel where the target is nearly certain.
fn softmax_slopes<T: Real>(slopes: &mut [T], cos: &[T], target: usize, scale: T) {
    let max = cos.iter().fold(T::NEG_INFINITY, |m, &c| m.max(c));
    slopes.iter_mut().zip(cos).for_each(|(s, &c)| *s = (scale * (c - max)).exp());
    let sum: T = slopes.iter().copied().sum();
    let own = slopes[target] / sum;
    slopes[target] = T::ZERO;
    slopes.iter_mut().for_each(|s| *s = -scale * own * (*s / sum));
    slopes[target] = -slopes.iter().copied().sum::<T>();
}
