//! What is computed: CLIP forward, its hand-written reverse, the SAE in the residual stream, scores and heatmaps.
//!
//! Everything is written once over [`crate::backend::Backend`].

pub mod clip;
pub mod embed;
mod forward;
pub mod head;
pub mod method;
mod methods;
pub mod output;
pub mod pass;
mod positions;
pub mod request;
mod reverse;
pub mod splice;

pub use method::{METHOD_NAMES, Method, NamedMethod, resolve_layer};
pub use positions::interpolate_positions;
pub use request::{Edit, Score, Splice, Through, Tokens};
