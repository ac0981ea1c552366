//! Weights on disk: safetensors files, CLIP checkpoints in every key layout, and sparse autoencoders, all brought to
//! one canonical form. Shapes, types and finiteness are checked before anything large is allocated; a file that could
//! be read in two ways is refused.

mod clip_checkpoint;
mod config;
mod hf_cache;
mod hf_config;
#[cfg(feature = "hub")]
mod hub;
mod inspect;
mod json_fields;
mod names;
mod open_clip_config;
mod random;
mod sae;
mod safetensors_file;
mod source;

pub use clip_checkpoint::{ClipCheckpoint, PreprocessSource};
pub use config::{Activation, ClipConfig, Pooling, TextConfig, Tower, VisionConfig};
pub use hf_cache::{HubCache, HubId};
#[cfg(feature = "hub")]
pub use hub::{Hub, Progress};
pub use inspect::inspect;
pub use names::{parameters, tensor_names};
pub use random::{PRESETS, preset};
pub use sae::{Fit, Hook, InputNorm, SaeActivation, SaeWeights, Stored, TokenScopeHint};
pub use safetensors_file::{Data, Dtype, TensorFile, write};
pub use source::Source;
