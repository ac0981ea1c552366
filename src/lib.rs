//! vitscope: where a CLIP vision transformer looks, and which sparse features make it look there.

pub mod backend;
pub mod error;
pub mod image;
pub mod report;
pub mod text;
pub mod weights;

pub use error::{Error, Result};
