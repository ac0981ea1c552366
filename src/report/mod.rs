//! Results on disk: raw maps as `.npy`, an index with one JSON line per result, and one safetensors file per run.
//!
//! Nothing here knows a model. A file is written under a temporary name in its folder and then renamed; the index
//! grows by whole lines.

mod json_lines;
mod names;
mod npy;
mod run_file;

pub use json_lines::{JsonLines, read_lines};
pub use names::{short_hash, slug};
pub use npy::{read_npy, write_npy};
pub use run_file::write_run_file;
