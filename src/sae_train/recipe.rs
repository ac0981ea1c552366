//! What is trained, how, and for how long: everything that decides the result besides the activations.

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// How to train one SAE. Two trainers with the same recipe and the same activations end with the same bits.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Recipe {
    /// Number of latents, `S`.
    pub latents: usize,
    /// Activation, penalty and what is done about dead latents.
    pub algorithm: Algorithm,
    /// Steps of the whole training.
    pub steps: usize,
    /// Tokens of a step, `N`.
    pub batch: usize,
    /// The largest learning rate.
    pub learning_rate: f64,
    /// Steps over which the learning rate grows from 0.
    pub warm_up: usize,
    /// The share of `steps`, at the end, over which the learning rate falls to 0.
    pub decay: f64,
    /// Where the decoder bias starts.
    pub center: Center,
    /// Tokens without firing after which a latent counts as dead.
    pub dead_after: usize,
    /// Of the first decoder rows and of resampling.
    pub seed: u64,
}

/// Where the decoder bias starts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Center {
    /// The mean of the sample.
    Mean,
    /// The geometric median of the sample: outliers hardly move it.
    #[default]
    GeometricMedian,
}

/// Activation, penalty and what is done about dead latents. Coefficients and thresholds are in scaled units, in which
/// the activations have a centred variance of about 1 per dimension.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "name", rename_all = "kebab-case")]
pub enum Algorithm {
    /// `z = relu(h)` with the penalty `l1 * mean over tokens of sum z`.
    #[serde(rename = "relu")]
    Relu {
        /// Coefficient of the penalty.
        l1: f64,
        /// Steps over which the coefficient grows from 0.
        warm_up: usize,
        /// Steps from one resampling of dead latents to the next; 0 is never.
        resample_every: usize,
    },
    /// `z` is the ReLU of a token's `k` largest `h`, ties to the lower index (Gao et al. 2024, arXiv 2406.04093).
    #[serde(rename = "topk")]
    TopK {
        /// Latents that are kept of a token.
        k: usize,
        /// Coefficient of the auxiliary loss; 0 turns it off.
        aux: f64,
        /// The most dead latents of a token that the auxiliary loss uses ([`default_k_aux`]).
        k_aux: usize,
    },
    /// `z` is the ReLU of the batch's `k * N` largest `h`, ties to the earlier token, then to the lower index (Bussmann et
    /// al. 2024, arXiv 2412.06410). The trained SAE has one threshold: the running mean of the smallest kept value.
    #[serde(rename = "batchtopk")]
    BatchTopK {
        /// Latents that are kept of a token, on average.
        k: usize,
        /// As for `TopK`.
        aux: f64,
        /// As for `TopK`.
        k_aux: usize,
    },
    /// `z = relu(h) [h > theta]` with a learned threshold per latent and a penalty on the number of active latents,
    /// through straight-through gradients (Rajamanoharan et al. 2024, arXiv 2407.14435).
    #[serde(rename = "jumprelu")]
    JumpRelu {
        /// Coefficient of the penalty.
        l0: f64,
        /// Without: the penalty is `l0 * L0`. With: `l0 * (L0 / target - 1)^2`.
        target: Option<f64>,
        /// Width of the kernel of the straight-through gradients.
        bandwidth: f64,
        /// Where thresholds start; at least half the bandwidth.
        threshold_init: f64,
        /// Steps from one resampling of dead latents to the next; 0 is never.
        resample_every: usize,
    },
}

/// The most dead latents of a token that the auxiliary loss uses, unless said otherwise: `min(D / 2, 512)`.
pub fn default_k_aux(width: usize) -> usize {
    (width / 2).clamp(1, 512)
}

/// The largest learning rate, unless said otherwise: `1e-3 sqrt(2048 / S)`.
pub fn default_learning_rate(latents: usize) -> f64 {
    1e-3 * (2048.0 / latents.max(1) as f64).sqrt()
}

impl Recipe {
    /// The learning rate of step `step` (from 0): `learning_rate min(1, (step + 1) / warm_up, (steps - step) / (decay
    /// steps))`.
    pub fn learning_rate(&self, step: usize) -> f64 {
        let left = self.steps.saturating_sub(step) as f64;
        let falling = left / (self.decay * self.steps as f64);
        self.learning_rate * ramp(step, self.warm_up).min(if falling.is_nan() { 1.0 } else { falling })
    }

    /// Checks all numbers, for a stream of width `width`.
    ///
    /// # Errors
    /// [`Error::Usage`] naming the first wrong one.
    pub fn validate(&self, width: usize) -> Result<()> {
        let sizes = [("latents", self.latents), ("steps", self.steps), ("batch", self.batch), ("width", width)];
        if let Some((name, _)) = sizes.iter().find(|(_, size)| *size == 0) {
            return Err(Error::usage(format!("SAE training: {name} is 0")));
        }
        let entries = self.latents.checked_mul(width.max(self.batch)).filter(|n| *n <= isize::MAX as usize / 64);
        if entries.is_none() || self.latents.max(self.batch) > u32::MAX as usize {
            let reason = format!("{} latents, width {width}, batch {}: too large", self.latents, self.batch);
            return Err(Error::usage(format!("SAE training: {reason}")));
        }
        let positive = |v: f64| v.is_finite() && v > 0.0;
        let from_0 = |v: f64| v.is_finite() && v >= 0.0;
        let mut checks = vec![
            ("learning rate", self.learning_rate, positive(self.learning_rate)),
            ("decay", self.decay, (0.0..=1.0).contains(&self.decay)),
        ];
        match self.algorithm {
            Algorithm::Relu { l1, .. } => checks.push(("l1", l1, from_0(l1))),
            Algorithm::TopK { k, aux, .. } | Algorithm::BatchTopK { k, aux, .. } => {
                checks.push(("k", k as f64, (1..=self.latents).contains(&k)));
                checks.push(("aux", aux, from_0(aux)));
            }
            Algorithm::JumpRelu { l0, target, bandwidth, threshold_init, .. } => {
                checks.push(("l0", l0, from_0(l0)));
                checks.push(("bandwidth", bandwidth, positive(bandwidth)));
                // Below it, the kernel would reach 0, where all values are that the ReLU cut.
                let reached = threshold_init.is_finite() && threshold_init >= bandwidth / 2.0;
                checks.push(("initial threshold (at least half the bandwidth)", threshold_init, reached));
                checks.extend(target.map(|target| ("target L0", target, positive(target))));
            }
        }
        match checks.iter().find(|(_, _, good)| !good) {
            Some((name, value, _)) => Err(Error::usage(format!("SAE training: {name} cannot be {value}"))),
            None => Ok(()),
        }
    }
}

/// `min(1, (step + 1) / length)`.
pub(super) fn ramp(step: usize, length: usize) -> f64 {
    if step < length { (step + 1) as f64 / length as f64 } else { 1.0 }
}
