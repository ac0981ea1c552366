//! vitscope: where a CLIP vision transformer looks, and which sparse features make it look there.

pub mod backend;
pub mod demo;
pub mod engine;
pub mod error;
pub mod files;
pub mod image;
pub mod model;
pub mod numerics;
pub mod report;
pub mod sae_eval;
pub mod sae_train;
pub mod text;
pub mod weights;

pub use error::{Error, Result};
