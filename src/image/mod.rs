//! Pictures: files to RGB (`decode`), RGB to the model's pixels as Pillow and the CLIP image processors compute them
//! (`resize`, `preprocess`), and heatmaps to pictures (`colormap`, `upsample`, `overlay`, `figure`); curves in panels (`chart`).
//!
//! Nothing here knows a model: a heatmap is a slice of `(rows, cols)` values.

mod chart;
mod colormap;
mod decode;
mod figure;
mod gif_frame;
mod overlay;
mod preprocess;
mod preprocess_json;
mod resize;
mod text;
mod tiff_colour;
mod upsample;

pub use chart::{Chart, ChartPanel, Curve};
pub use colormap::Colormap;
pub use decode::{DecodeOptions, Rgb8, decode, decode_bytes};
pub use figure::{encode_png, render_overlay, side_by_side, write_png};
pub use overlay::{OverlayOptions, Scale, blend};
pub use preprocess::{ByteValues, CLIP_MEAN, CLIP_STD, CropRule, Geometry, Prepared, Preprocess, Rect, ResizeRule};
pub use resize::{Filter, PassOrder, Window, resize, resize_window};
pub use upsample::{Axis, Upsample, upsample};
