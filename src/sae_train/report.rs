//! What a step did.

use serde::Serialize;

/// What a step did. Losses are of the batch before the step's update, in scaled units.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct StepReport {
    /// The step's number, from 0.
    pub step: usize,
    /// What is minimised: `reconstruction + sparsity + aux`.
    pub loss: f64,
    /// `sum |x - xhat|^2 / (N D)`.
    pub reconstruction: f64,
    /// The penalty, times its coefficient; 0 for `topk` and `batchtopk`.
    pub sparsity: f64,
    /// The auxiliary loss, times its coefficient.
    pub aux: f64,
    /// Active latents per token.
    pub l0: f64,
    /// Latents that did not fire for `dead_after` tokens, this batch included.
    pub dead: usize,
    /// `sum |x - xhat|^2 / sum |x - mean(x)|^2`, the mean over this batch.
    pub fvu: f64,
    /// Of this step.
    pub learning_rate: f64,
}
