//! Pictures: files to RGB (`decode`), RGB to the model's pixels as PIL and the CLIP image processors compute them
//! (`resize`, `preprocess`), and heatmaps to pictures (`colormap`, `overlay`, `text`).

mod decode;
mod preprocess;
mod preprocess_json;
mod resize;
mod tiff_colour;

pub use decode::{DecodeOptions, Rgb8, decode, decode_bytes};
pub use preprocess::{CLIP_MEAN, CLIP_STD, CropRule, Geometry, Prepared, Preprocess, Rect, ResizeRule};
pub use resize::{Filter, PassOrder, Window, resize, resize_window};
