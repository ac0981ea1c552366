//! Texts to token ids: the CLIP tokenizer, its two cleaning rules, and prompt templates.
//!
//! [`Tokenizer`] comes from a checkpoint's folder or, where that brings none, from the published vocabulary in the binary.
//! [`EotPooling`] says at which token the text tower is read. [`Template`] puts a text into its prompts, and [`read_texts`]
//! reads a file of texts.

mod bundled;
mod clean;
mod folder;
mod prompts;
mod tokenizer;

pub use clean::Cleaning;
pub use prompts::{Template, read_texts};
pub use tokenizer::{Encoded, EotPooling, Tokenizer};
