//! Training of sparse autoencoders on the CPU: ReLU + L1, TopK, BatchTopK and JumpReLU.

mod buffer;
mod checkpoint;
mod difference;
mod feed;
mod recipe;
mod report;
mod result;
mod run;
mod shards;
mod source;
mod trainer;

pub use buffer::Buffer;
pub use recipe::{Algorithm, Center, Recipe, default_k_aux, default_learning_rate};
pub use report::StepReport;
pub use result::Finished;
pub use run::{Event, Run, RunSpec, SaeSpec, Standing};
pub use shards::{Index, Shard, ShardDtype, ShardSource, ShardWriter};
pub use source::{Piece, Position, Source, order};
pub use trainer::Trainer;
