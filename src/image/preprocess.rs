//! A picture to the model's input: resize, centre crop, rescale, normalise, exactly as the image processor of Hugging
//! Face's CLIP (its PIL variant) or open_clip's evaluation transform.

use std::sync::Arc;

use serde::Serialize;

use super::decode::Rgb8;
use super::resize::{Filter, MAX_SIDE, PassOrder, Window, resize_window};
use crate::error::{Error, Result};

/// OpenAI CLIP's channel means.
pub const CLIP_MEAN: [f64; 3] = [0.48145466, 0.4578275, 0.40821073];
/// OpenAI CLIP's channel standard deviations.
pub const CLIP_STD: [f64; 3] = [0.26862954, 0.26130258, 0.27577711];

/// A model's input of more pixels is refused before it is allocated.
const MAX_PIXELS: usize = 1 << 28;

/// To which size a picture is brought before the crop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ResizeRule {
    /// The picture stays as it is.
    Off,
    /// The shorter side becomes this long, the longer one `int(n * long / short)`.
    ShortestEdge(usize),
    /// The picture is made to fit into (height, width) and touches at one side (open_clip's `longest`).
    LongestEdge(usize, usize),
    /// Both sides are given, (height, width); the aspect is lost.
    Squash(usize, usize),
    /// Whole-image mode of Grad-ECLIP: each side becomes the nearest multiple of the patch, at least one.
    Keep {
        /// Side of a patch in pixels.
        patch: usize,
    },
}

/// Where a centre crop begins when the margin is odd, and where a picture lies that is smaller than the crop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum CropRule {
    /// Hugging Face: `(h - n) // 2`; padding before the picture is rounded up.
    HfFloor,
    /// torchvision and open_clip: `round((h - n) / 2)`, halves to even; padding before the picture is rounded down.
    TorchvisionRound,
}

/// How pictures become the model's input.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Preprocess {
    /// The size before the crop.
    pub resize: ResizeRule,
    /// Rounding of the crop's position.
    pub crop: CropRule,
    /// (height, width) of the centre crop, zero-padded where the picture is smaller; `None`: no crop.
    pub crop_size: Option<(usize, usize)>,
    /// Factor on the bytes, 1/255.
    pub rescale: f64,
    /// Mean per channel, of rescaled values.
    pub mean: [f64; 3],
    /// Standard deviation per channel, of rescaled values.
    pub std: [f64; 3],
    /// The resampling filter.
    pub filter: Filter,
    /// Which axis is resampled first.
    pub pass_order: PassOrder,
}

impl Default for Preprocess {
    /// OpenAI CLIP at 224 pixels, as Hugging Face runs it on a present-day Pillow.
    fn default() -> Self {
        Preprocess::clip(224)
    }
}

/// A rectangle in pixels of the original picture; it may reach outside where the crop was padded.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Rect {
    /// Left edge.
    pub left: f64,
    /// Upper edge.
    pub top: f64,
    /// Width.
    pub width: f64,
    /// Height.
    pub height: f64,
}

/// What becomes of a picture of a given size.
#[derive(Clone, Debug, PartialEq)]
pub struct Geometry {
    /// (width, height) after the resize.
    pub resized: (usize, usize),
    /// (width, height) of the model's input.
    pub size: (usize, usize),
    /// (left, top) of the input in the resized picture, negative where it is padded.
    pub offset: (i64, i64),
    /// The part of the original picture that the input shows.
    pub region: Rect,
}

/// The normalised value of each byte, by channel.
pub type ByteValues = [[f32; 256]; 3];

/// A picture as the model takes it: its bytes, and what they mean.
#[derive(Clone, Debug, PartialEq)]
pub struct Prepared {
    /// Columns.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// The picture before rescaling and normalising.
    pub cropped: Rgb8,
    /// What rescaling and normalising make of each byte.
    pub values: Arc<ByteValues>,
    /// The part of the original picture that it shows.
    pub region: Rect,
}

impl Prepared {
    /// Normalised values, `(3, height, width)`.
    pub fn pixels(&self) -> Vec<f32> {
        let mut pixels = Vec::with_capacity(self.cropped.data.len());
        for (c, values) in self.values.iter().enumerate() {
            pixels.extend(self.cropped.data.iter().skip(c).step_by(3).map(|&v| values[usize::from(v)]));
        }
        pixels
    }

    /// The same picture moved `left` columns to the left and `up` rows up, its last column and row repeated.
    pub fn moved(&self, left: usize, up: usize) -> Prepared {
        let Prepared { width, height, region, .. } = *self;
        Prepared { width, height, cropped: self.cropped.moved(left, up), values: self.values.clone(), region }
    }
}

impl Preprocess {
    /// OpenAI CLIP's preprocessing with inputs of `size` x `size` pixels.
    pub fn clip(size: usize) -> Self {
        Preprocess {
            resize: ResizeRule::ShortestEdge(size),
            crop: CropRule::HfFloor,
            crop_size: Some((size, size)),
            rescale: 1.0 / 255.0,
            mean: CLIP_MEAN,
            std: CLIP_STD,
            filter: Filter::Bicubic,
            pass_order: PassOrder::Pillow13,
        }
    }

    /// The same in whole-image mode: no crop, each side the nearest multiple of `patch`.
    pub fn keep(&self, patch: usize) -> Self {
        Preprocess { resize: ResizeRule::Keep { patch }, crop_size: None, ..self.clone() }
    }

    /// What becomes of a picture of `width` x `height` pixels.
    ///
    /// # Errors
    /// [`Error::Usage`] when a size is zero or a side becomes unreasonably long.
    pub fn geometry(&self, width: usize, height: usize) -> Result<Geometry> {
        let resized = self.resized(width, height);
        let (crop_height, crop_width) = self.crop_size.unwrap_or((resized.1, resized.0));
        let sides = [width, height, resized.0, resized.1, crop_width, crop_height];
        if sides.iter().any(|&n| n == 0 || n > MAX_SIDE) || crop_width * crop_height > MAX_PIXELS {
            let rule = self.resize;
            return Err(Error::usage(format!("a {width} x {height} picture cannot be resized by the rule {rule:?}")));
        }
        let offset = (self.crop.offset(resized.0, crop_width), self.crop.offset(resized.1, crop_height));
        let (sx, sy) = (width as f64 / resized.0 as f64, height as f64 / resized.1 as f64);
        let region = Rect {
            left: offset.0 as f64 * sx,
            top: offset.1 as f64 * sy,
            width: crop_width as f64 * sx,
            height: crop_height as f64 * sy,
        };
        Ok(Geometry { resized, size: (crop_width, crop_height), offset, region })
    }

    /// (width, height) after the resize; zero where that is not possible.
    fn resized(&self, width: usize, height: usize) -> (usize, usize) {
        match self.resize {
            ResizeRule::Off => (width, height),
            ResizeRule::Squash(h, w) => (w, h),
            ResizeRule::ShortestEdge(n) => {
                let (short, long) = (width.min(height).max(1), width.max(height));
                let long = (n.saturating_mul(long) as f64 / short as f64) as usize;
                if width <= height { (n, long) } else { (long, n) }
            }
            ResizeRule::LongestEdge(h, w) => {
                let ratio = (height as f64 / h as f64).max(width as f64 / w as f64);
                let side = |n: usize| (n as f64 / ratio).round_ties_even() as usize;
                (side(width), side(height))
            }
            ResizeRule::Keep { patch } => {
                let side = |n: usize| patch * ((n as f64 / patch as f64 + 0.5) as usize).max(1);
                (side(width), side(height))
            }
        }
    }

    /// The model's input from a picture.
    ///
    /// # Errors
    /// [`Error::Usage`], as [`Preprocess::geometry`].
    pub fn apply(&self, picture: &Rgb8) -> Result<Prepared> {
        let Geometry { resized, size: (width, height), offset, region } =
            self.geometry(picture.width, picture.height)?;
        let (x, pad_left) = overlap(offset.0, width, resized.0);
        let (y, pad_top) = overlap(offset.1, height, resized.1);
        let inner = resize_window(picture, resized, Window { x, y }, self.filter, self.pass_order)?;
        let cropped = if (inner.width, inner.height) == (width, height) {
            inner
        } else {
            let mut padded = Rgb8::filled(width, height, [0; 3]);
            padded.paste(&inner, pad_left, pad_top);
            padded
        };
        Ok(Prepared { width, height, cropped, values: Arc::new(self.values()), region })
    }

    /// What becomes of each byte, by channel: the byte times the factor in double precision, rounded to f32, then minus
    /// the mean and divided by the standard deviation in f32.
    pub fn values(&self) -> ByteValues {
        std::array::from_fn(|c| {
            let (mean, std) = (self.mean[c] as f32, self.std[c] as f32);
            std::array::from_fn(|v| ((v as f64 * self.rescale) as f32 - mean) / std)
        })
    }
}

impl CropRule {
    /// Where a crop of `n` begins in `side` pixels.
    fn offset(self, side: usize, n: usize) -> i64 {
        let margin = side as i64 - n as i64;
        match self {
            // Rounded down, also below zero: that is the padding rounded up.
            CropRule::HfFloor => margin.div_euclid(2),
            CropRule::TorchvisionRound if margin < 0 => margin / 2,
            CropRule::TorchvisionRound => (margin as f64 / 2.0).round_ties_even() as i64,
        }
    }
}

/// The part of `0..side` under a crop of `n` that begins at `offset`, and how far from the crop's begin it lies.
fn overlap(offset: i64, n: usize, side: usize) -> (std::ops::Range<usize>, usize) {
    let start = offset.max(0) as usize;
    let pad = (-offset).max(0) as usize;
    (start..(start + n - pad.min(n)).min(side), pad)
}
