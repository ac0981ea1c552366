//! Pictures: files to RGB (`decode`), RGB to the model's pixels as PIL and the CLIP image processors compute them
//! (`resize`, `preprocess`), and heatmaps to pictures (`colormap`, `overlay`, `text`).

mod decode;
mod tiff_colour;

pub use decode::{DecodeOptions, Rgb8, decode, decode_bytes};
