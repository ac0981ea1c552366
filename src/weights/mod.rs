//! Weights on disk: safetensors files, CLIP checkpoints in every key layout, and sparse autoencoders, all brought to
//! one canonical form. Shapes, types and finiteness are checked before anything large is allocated; a file that could
//! be read in two ways is refused.

mod config;
mod sae;

pub use config::{Activation, ClipConfig, Pooling, TextConfig, Tower, VisionConfig};
pub use sae::{Hook, InputNorm, SaeActivation, SaeWeights, TokenScopeHint};
