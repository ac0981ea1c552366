//! Training of sparse autoencoders on the CPU: ReLU + L1, TopK, BatchTopK and JumpReLU.
//!
//! With `c = x / s - b_dec` for a token `x` (D) and the scale `s` of the activations:
//!
//! ```text
//! h = W_e c + b_enc            (S)   the one dense product, by tiles of tokens (encode.rs, top_k.rs)
//! z = activation(h)            (S)   sparse: K entries of a token                       (codes.rs)
//! r = c - z W_d                (D)   the error; loss = sum r^2 / (N D) + penalty + aux   (pass.rs)
//! dz = <dxhat, W_d>, dW_d = z dxhat, dW_e = dh c: K rows of a token, summed by latent (update.rs)
//! ```
//!
//! Every sum has an order that the threads do not change: the same activations give the same bits.

mod codes;
mod encode;
mod parameters;
mod pass;
mod recipe;
mod report;
mod resample;
mod start;
mod state;
#[cfg(test)]
mod tests;
mod top_k;
mod trainer;
mod update;
mod vector;

pub use recipe::{Algorithm, Center, Recipe, default_k_aux, default_learning_rate};
pub use report::StepReport;
pub use trainer::Trainer;
