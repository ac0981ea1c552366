//! How good a sparse autoencoder is: how it rebuilds the residual stream, how its latents fire, and what its splice does
//! to CLIP.
//!
//! Everything is accumulated image by image in f64; memory does not grow with the number of images, and the result does
//! not depend on how the images are cut into batches. Sums run over the tokens in scope. With `x` (D) a token, `y` its
//! reconstruction, `m` the mean token and `e = x - y`:
//!
//! | name | definition |
//! |---|---|
//! | L0 | latents that fire per token |
//! | FVU | `sum &#124;e&#124;^2 / sum &#124;x - m&#124;^2` |
//! | explained variance, centred | `1 - FVU`: the convention of SAELens and sparsify, with the mean over all tokens |
//! | explained variance, uncentred | `1 - sum &#124;e&#124;^2 / sum &#124;x&#124;^2`: the convention of Hugo Fry and ConceptScope |
//! | MSE | `sum &#124;e&#124;^2 / (N D)`: per token and dimension |
//! | cosine | mean of `cos(x, y)` |
//! | relative norm | `sqrt(sum &#124;y&#124;^2 / sum &#124;x&#124;^2)` |
//! | loss recovered | `(L_zero - L_spliced) / (L_zero - L)`: 1 is CLIP itself, 0 no better than zero ablation |
//!
//! The splice replaces the stream by the reconstruction, without the error term. Zero ablation sets the same tokens of
//! the same stream to zero, as ViT-Prisma and SAELens do.

mod alignment;
mod contrastive;
mod evaluator;
mod firing;
mod pick;
mod reconstruction;
mod table_file;

pub use alignment::{Ablation, Alignment, AlignmentReport, TextShift, ZeroShotReport};
pub use contrastive::{ContrastiveReport, contrastive_loss};
pub use evaluator::{Candidate, Evaluator, Example, Probes, Report, Scope};
pub use firing::{BINS, Firing, FiringReport, bin_edge};
pub use pick::{Choice, Criterion, Rule};
pub use reconstruction::{Reconstruction, ReconstructionReport};
pub use table_file::read_pairs;

/// `a . b`.
fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// `row` at length 1; zeros stay.
fn unit(row: &[f64]) -> Vec<f64> {
    let norm = dot(row, row).sqrt();
    row.iter().map(|v| if norm > 0.0 { v / norm } else { 0.0 }).collect()
}
