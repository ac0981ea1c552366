//! How good a sparse autoencoder is: how it rebuilds the residual stream, how its latents fire, and what its splice does
//! to CLIP.
//!
//! Everything is accumulated image by image in f64; memory does not grow with the number of images, and the result does
//! not depend on how the images are cut into batches, nor on which other SAEs are evaluated (but for rounding, where one
//! of several reads the last block: the others' forward then computes more of it than the class token). Sums run over the tokens in scope. With `x` (D) a token, `y` its
//! reconstruction, `m` the mean token and `e = x - y`:
//!
//! | name | definition |
//! |---|---|
//! | L0 | latents that fire per token |
//! | FVU | `sum \|e\|^2 / sum \|x - m\|^2` |
//! | explained variance, centred | `1 - FVU`: the convention of SAELens and sparsify, here around the mean of all tokens |
//! | explained variance, uncentred | `1 - sum \|e\|^2 / sum \|x\|^2`: the convention of Hugo Fry and ConceptScope |
//! | MSE | `sum \|e\|^2 / (N D)`: per token and dimension |
//! | cosine | mean of `cos(x, y)` |
//! | relative norm | `sqrt(sum \|y\|^2 / sum \|x\|^2)` |
//! | loss recovered | `(L_zero - L_spliced) / (L_zero - L)`: 1 is CLIP itself, 0 no better than zero ablation |
//!
//! The splice replaces the stream by the reconstruction, without the error term (with it nothing would change). Zero
//! ablation sets the same tokens of the same stream to zero; SAELens and ViT-Prisma set all tokens to zero. `L` is CLIP's
//! contrastive loss, or the cross-entropy of zero-shot classes as in ViT-Prisma, both with CLIP's logit scale.

mod alignment;
mod contrastive;
mod evaluator;
mod firing;
mod pairs;
mod pick;
mod reconstruction;

pub use alignment::{Ablation, Alignment, AlignmentReport, TextShift, ZeroShotReport};
pub use contrastive::{ContrastiveReport, contrastive_loss};
pub use evaluator::{Candidate, Evaluator, Example, Probes, Report, Scope};
pub use firing::{BINS, Firing, FiringReport, bin_edge};
pub use pairs::read_pairs;
pub use pick::{Choice, Criterion, Rule};
pub use reconstruction::{Reconstruction, ReconstructionReport};

/// `a . b`.
fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// `row` at length 1; zeros stay.
fn unit(row: &[f64]) -> Vec<f64> {
    let norm = dot(row, row).sqrt();
    row.iter().map(|v| if norm > 0.0 { v / norm } else { 0.0 }).collect()
}
