//! Training of sparse autoencoders on the CPU: ReLU + L1, TopK, BatchTopK and JumpReLU.

mod recipe;
mod report;
mod trainer;

pub use recipe::{Algorithm, Center, Recipe, default_k_aux, default_learning_rate};
pub use report::StepReport;
pub use trainer::Trainer;
