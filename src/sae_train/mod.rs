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
//! Around it: where activations come from (source.rs, shards.rs), the shuffled buffer (buffer.rs, feed.rs), and the run
//! with its log, checkpoints and results (run.rs, checkpoint.rs, result.rs).
//!
//! Every sum has an order that the threads do not change: the same activations give the same bits.

mod buffer;
mod checkpoint;
mod codes;
mod difference;
mod encode;
mod feed;
mod parameters;
mod pass;
mod recipe;
mod report;
mod resample;
mod result;
mod run;
mod shards;
mod source;
mod start;
mod state;
#[cfg(test)]
mod tests;
mod top_k;
mod trainer;
mod update;
mod vector;

pub use buffer::Buffer;
pub use recipe::{Algorithm, Center, Recipe, default_k_aux, default_learning_rate};
pub use report::StepReport;
pub use result::Finished;
pub use run::{Event, Run, RunSpec, SaeSpec, Standing};
pub use shards::{Index, Shard, ShardDtype, ShardSource, ShardWriter};
pub use source::{Piece, Position, Source, order};
pub use trainer::Trainer;
