//! Picture files to 8-bit RGB, with the pixels that Pillow's `Image.open(path).convert("RGB")` gives.
//!
//! Alpha is dropped (not composited), palettes and grey are expanded, 16-bit grey is clipped at 255 and 16-bit colour
//! keeps its high byte, as Pillow does. JPEG and lossy WebP decoders differ from Pillow's by a few grey levels.

use std::io::Cursor;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use image::metadata::Orientation;
use image::{ColorType, ImageDecoder, ImageFormat, ImageReader, Limits};

use super::gif_frame;
use super::tiff_colour::{self, TiffColour};
use crate::error::{Error, Result};

/// An 8-bit RGB picture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rgb8 {
    /// Columns.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// The pixels, `(height, width, 3)`, row by row.
    pub data: Vec<u8>,
}

impl Rgb8 {
    /// A picture of one colour.
    pub fn filled(width: usize, height: usize, colour: [u8; 3]) -> Self {
        Rgb8 { width, height, data: colour.repeat(width * height) }
    }

    /// A picture over given pixels, `(height, width, 3)`.
    ///
    /// # Errors
    /// [`Error::Usage`] when a side is zero or the number of bytes is not `width * height * 3`.
    pub fn new(width: usize, height: usize, data: Vec<u8>) -> Result<Self> {
        let expected = width.checked_mul(height).and_then(|n| n.checked_mul(3));
        if width == 0 || height == 0 || expected != Some(data.len()) {
            let found = data.len();
            return Err(Error::usage(format!("a {width} x {height} RGB picture cannot have {found} bytes")));
        }
        Ok(Rgb8 { width, height, data })
    }

    /// The colour at column `x` and row `y`, or `None` outside the picture.
    pub fn get(&self, x: usize, y: usize) -> Option<[u8; 3]> {
        if x >= self.width || y >= self.height {
            return None;
        }
        let start = (y * self.width + x) * 3;
        self.data.get(start..start + 3)?.try_into().ok()
    }

    /// The picture moved `left` columns to the left and `up` rows up. The last column and row are repeated where it ends.
    pub fn moved(&self, left: usize, up: usize) -> Rgb8 {
        let mut data = Vec::with_capacity(self.data.len());
        for y in 0..self.height {
            let row = (y + up).min(self.height - 1) * self.width * 3;
            for x in 0..self.width {
                let start = row + (x + left).min(self.width - 1) * 3;
                data.extend_from_slice(&self.data[start..start + 3]);
            }
        }
        Rgb8 { width: self.width, height: self.height, data }
    }

    /// Copies `other` into this picture with its upper left corner at (`left`, `top`); what does not fit is cut off.
    pub fn paste(&mut self, other: &Rgb8, left: usize, top: usize) {
        let width = other.width.min(self.width.saturating_sub(left));
        let height = other.height.min(self.height.saturating_sub(top));
        for row in 0..height {
            let from = row * other.width * 3;
            let to = ((top + row) * self.width + left) * 3;
            self.data[to..to + width * 3].copy_from_slice(&other.data[from..from + width * 3]);
        }
    }
}

/// What [`decode`] does beyond reading the pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DecodeOptions {
    /// Rotate the picture as its EXIF orientation says. The CLIP pipelines do not, so the default is `false`.
    /// (TIFF files are always rotated: Pillow does that when it opens them.)
    pub exif: bool,
    /// Pictures with more pixels than this are refused before their pixels are allocated.
    pub max_pixels: u64,
}

impl Default for DecodeOptions {
    /// No EXIF rotation, at most 2^28 pixels (a square of side 16384).
    fn default() -> Self {
        DecodeOptions { exif: false, max_pixels: 1 << 28 }
    }
}

/// Reads and decodes a jpeg, png, webp, bmp, gif (first frame) or tiff (first page) file.
///
/// # Errors
/// [`Error::Io`] when the file cannot be read, [`Error::Image`] when it is not a whole picture of a known format or
/// has more than `max_pixels` pixels.
pub fn decode(path: impl AsRef<Path>, options: &DecodeOptions) -> Result<Rgb8> {
    let path = path.as_ref();
    let bytes = std::fs::read(path).map_err(|e| Error::io(path, e))?;
    decode_bytes(path, &bytes, options)
}

/// Decodes the bytes of a picture file; `path` only names it in errors.
///
/// # Errors
/// [`Error::Image`], as [`decode`].
pub fn decode_bytes(path: impl AsRef<Path>, bytes: &[u8], options: &DecodeOptions) -> Result<Rgb8> {
    // The decoders are other people's code on hostile bytes: a panic in one of them is this picture's error.
    let decoded = catch_unwind(AssertUnwindSafe(|| decode_unguarded(bytes, options)));
    decoded
        .unwrap_or_else(|_| Err("the decoder failed on these bytes".into()))
        .map_err(|e| Error::image(path.as_ref(), e))
}

fn decode_unguarded(bytes: &[u8], options: &DecodeOptions) -> Result<Rgb8, String> {
    let format = image::guess_format(bytes)
        .ok()
        .filter(ImageFormat::reading_enabled)
        .ok_or("not a picture of a known format (jpeg, png, webp, bmp, gif, tiff)")?;
    if format == ImageFormat::Jpeg && !jpeg_is_complete(bytes) {
        return Err("the file is truncated (it has no end-of-image marker)".into());
    }
    let relabelled = if format == ImageFormat::Tiff { tiff_colour::relabel(bytes) } else { None };
    let (bytes, tiff_colour) = match &relabelled {
        Some((copy, colour)) => (copy.as_slice(), Some(colour)),
        None => (bytes, None),
    };

    let mut reader = ImageReader::with_format(Cursor::new(bytes), format);
    // A decoder may hold the raw samples (up to 8 bytes a pixel) and as much again to work in.
    let mut limits = Limits::no_limits();
    limits.max_alloc = Some(options.max_pixels.saturating_mul(16).saturating_add(1 << 24));
    reader.limits(limits);
    let mut decoder = reader.into_decoder().map_err(|e| e.to_string())?;
    let (width, height) = decoder.dimensions();
    let pixels = u64::from(width) * u64::from(height);
    if pixels == 0 {
        return Err(format!("the picture is empty ({width} x {height})"));
    }
    if pixels > options.max_pixels {
        return Err(format!("{width} x {height} is {pixels} pixels, more than the limit of {}", options.max_pixels));
    }
    let rotated = options.exif || format == ImageFormat::Tiff;
    let orientation =
        if rotated { decoder.orientation().map_err(|e| e.to_string())? } else { Orientation::NoTransforms };
    let kind = match (decoder.color_type(), tiff_colour) {
        (ColorType::L8, Some(TiffColour::Palette(colours))) => Kind::Palette(colours),
        (ColorType::Rgba8, Some(TiffColour::Cmyk)) => Kind::Cmyk,
        (other, Some(_)) => return Err(format!("a palette or CMYK picture with samples of type {other:?}")),
        // Grey with one transparent value comes as grey and alpha; Pillow still treats it as 16-bit grey.
        (ColorType::La16, None) if format == ImageFormat::Png && bytes.get(PNG_COLOUR_TYPE) == Some(&0) => {
            Kind::Grey16A
        }
        (other, None) => Kind::Plain(other),
    };
    let length = usize::try_from(decoder.total_bytes()).map_err(|_| "too large for this machine")?;
    let mut raw = vec![0u8; length];
    decoder.read_image(&mut raw).map_err(|e| e.to_string())?;
    let data = to_rgb(&kind, raw)?;
    let mut picture = Rgb8 { width: width as usize, height: height as usize, data };
    if format == ImageFormat::Gif {
        gif_frame::fill_around(&mut picture, bytes);
    }
    Ok(orient(picture, orientation))
}

/// Where a PNG file says its colour type: after the signature, the chunk's head, two sides and the bit depth.
const PNG_COLOUR_TYPE: usize = 8 + 8 + 4 + 4 + 1;

/// What the samples of a decoder mean.
enum Kind<'a> {
    Plain(ColorType),
    Grey16A,
    Palette(&'a [[u8; 3]]),
    Cmyk,
}

/// Samples as the decoder gives them (native byte order) to RGB, by Pillow's rules.
fn to_rgb(kind: &Kind, raw: Vec<u8>) -> Result<Vec<u8>, String> {
    let high = |pair: &[u8]| (u16::from_ne_bytes([pair[0], pair[1]]) >> 8) as u8;
    // Pillow reads 16-bit grey as mode "I;16" and clips it on conversion; its other 16-bit modes keep the high byte.
    let clip = |pair: &[u8]| [u16::from_ne_bytes([pair[0], pair[1]]).min(255) as u8; 3];
    let colour = match kind {
        Kind::Plain(colour) => colour,
        Kind::Grey16A => return Ok(raw.chunks_exact(4).flat_map(clip).collect()),
        Kind::Cmyk => {
            return Ok(raw.chunks_exact(4).flat_map(|p| tiff_colour::cmyk_to_rgb([p[0], p[1], p[2], p[3]])).collect());
        }
        Kind::Palette(colours) => {
            let colour = |&i: &u8| colours.get(usize::from(i)).copied().unwrap_or_default();
            return Ok(raw.iter().flat_map(colour).collect());
        }
    };
    Ok(match colour {
        ColorType::Rgb8 => raw,
        ColorType::L8 => raw.iter().flat_map(|&v| [v; 3]).collect(),
        ColorType::La8 => raw.chunks_exact(2).flat_map(|p| [p[0]; 3]).collect(),
        ColorType::Rgba8 => raw.chunks_exact(4).flat_map(|p| [p[0], p[1], p[2]]).collect(),
        ColorType::L16 => raw.chunks_exact(2).flat_map(clip).collect(),
        ColorType::La16 => raw.chunks_exact(4).flat_map(|p| [high(p); 3]).collect(),
        ColorType::Rgb16 => raw.chunks_exact(2).map(high).collect(),
        ColorType::Rgba16 => raw.chunks_exact(8).flat_map(|p| [high(p), high(&p[2..]), high(&p[4..])]).collect(),
        other => return Err(format!("samples of type {other:?} are not supported")),
    })
}

/// Applies an EXIF orientation, as Pillow's `ImageOps.exif_transpose`.
fn orient(picture: Rgb8, orientation: Orientation) -> Rgb8 {
    // The output pixel (x, y) is the input pixel (u, v); w and h are the input's size.
    let source: fn(usize, usize, usize, usize) -> (usize, usize) = match orientation {
        Orientation::NoTransforms => return picture,
        Orientation::FlipHorizontal => |x, y, w, _| (w - 1 - x, y),
        Orientation::Rotate180 => |x, y, w, h| (w - 1 - x, h - 1 - y),
        Orientation::FlipVertical => |x, y, _, h| (x, h - 1 - y),
        Orientation::Rotate90FlipH => |x, y, _, _| (y, x),
        Orientation::Rotate90 => |x, y, _, h| (y, h - 1 - x),
        Orientation::Rotate270FlipH => |x, y, w, h| (w - 1 - y, h - 1 - x),
        Orientation::Rotate270 => |x, y, w, _| (w - 1 - y, x),
    };
    let (w, h) = (picture.width, picture.height);
    let (width, height) = if orientation.to_exif() >= 5 { (h, w) } else { (w, h) };
    let mut data = Vec::with_capacity(picture.data.len());
    for y in 0..height {
        for x in 0..width {
            let (u, v) = source(x, y, w, h);
            let start = (v * w + u) * 3;
            data.extend_from_slice(&picture.data[start..start + 3]);
        }
    }
    Rgb8 { width, height, data }
}

/// Whether a JPEG stream reaches its end-of-image marker. The decoder fills missing data with grey, Pillow refuses it.
/// Only the marker structure is read (ITU T.81 annex B).
fn jpeg_is_complete(bytes: &[u8]) -> bool {
    let mut at = 2;
    while let Some(&byte) = bytes.get(at) {
        let Some(&marker) = bytes.get(at + 1) else { return false };
        // Entropy-coded data, a stuffed zero, a fill byte, a restart or another marker without a length.
        if byte != 0xFF || matches!(marker, 0x00 | 0x01 | 0xD0..=0xD8 | 0xFF) {
            at += if byte == 0xFF && marker != 0xFF { 2 } else { 1 };
        } else if marker == 0xD9 {
            return true;
        } else {
            let (Some(&high), Some(&low)) = (bytes.get(at + 2), bytes.get(at + 3)) else { return false };
            at += 2 + usize::from(u16::from_be_bytes([high, low]));
        }
    }
    false
}
