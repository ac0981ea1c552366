//! Pillow's resampling in 22-bit fixed point, bit for bit (`Resample.c` of Pillow, read and written anew).
//!
//! Only a window of the output is computed, so that a resize that is followed by a crop does not work for nothing.
//! Every output pixel is independent of the others: the window has the very bytes that the full picture would have.

use std::ops::Range;

use rayon::prelude::*;

use super::decode::Rgb8;
use crate::error::{Error, Result};

/// Fixed-point bits of a filter weight.
const PRECISION: u32 = 22;
/// One half in fixed point: sums start here, so that the shift rounds.
const HALF: i32 = 1 << (PRECISION - 1);

/// The resampling filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Filter {
    /// The triangle, 2 pixels wide; Pillow's `BILINEAR`.
    Bilinear,
    /// Keys' cubic with a = -0.5, 4 pixels wide; Pillow's `BICUBIC`.
    Bicubic,
}

impl Filter {
    /// Half the filter's width in pixels at scale 1.
    fn support(self) -> f64 {
        match self {
            Filter::Bilinear => 1.0,
            Filter::Bicubic => 2.0,
        }
    }

    /// The filter at distance `t`.
    fn weight(self, t: f64) -> f64 {
        let t = t.abs();
        match self {
            Filter::Bilinear if t < 1.0 => 1.0 - t,
            Filter::Bicubic if t < 1.0 => (1.5 * t - 2.5) * t * t + 1.0,
            Filter::Bicubic if t < 2.0 => (((t - 5.0) * t + 8.0) * t - 4.0) * -0.5,
            _ => 0.0,
        }
    }
}

/// Which axis is resampled first. The bytes in between are rounded, so it decides the result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum PassOrder {
    /// Pillow up to version 12: rows first, always.
    Pillow12,
    /// Pillow from version 13: columns first where the height shrinks by more than twice what the width shrinks.
    Pillow13,
}

impl PassOrder {
    fn vertical_first(self, from: (usize, usize), to: (usize, usize)) -> bool {
        let shrinks = |from: usize, to: usize| from as i64 - to as i64;
        let (dw, dh) = (shrinks(from.0, to.0), shrinks(from.1, to.1));
        self == PassOrder::Pillow13 && dh > 0 && dh > 2 * dw
    }
}

/// A part of a picture, in whole pixels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Window {
    /// Columns.
    pub x: Range<usize>,
    /// Rows.
    pub y: Range<usize>,
}

/// The whole of `picture` at another size.
///
/// # Errors
/// [`Error::Usage`] when a side is zero or the result does not fit in memory.
pub fn resize(picture: &Rgb8, width: usize, height: usize, filter: Filter, order: PassOrder) -> Result<Rgb8> {
    resize_window(picture, (width, height), Window { x: 0..width, y: 0..height }, filter, order)
}

/// What lies in `window` of `picture` at the size `to` = (width, height).
///
/// # Errors
/// [`Error::Usage`] when a side is zero, the window is not inside the resized picture, or it does not fit in memory.
pub fn resize_window(
    picture: &Rgb8,
    to: (usize, usize),
    window: Window,
    filter: Filter,
    order: PassOrder,
) -> Result<Rgb8> {
    let from = (picture.width, picture.height);
    let inside = window.x.end <= to.0 && window.y.end <= to.1 && !window.x.is_empty() && !window.y.is_empty();
    if !inside || picture.data.is_empty() || to.0.max(to.1) > MAX_SIDE {
        let found = format!("columns {:?} and rows {:?} of {} x {}", window.x, window.y, to.0, to.1);
        return Err(Error::usage(format!("cannot resize a {} x {} picture to {found}", from.0, from.1)));
    }
    let columns = Taps::new(from.0, to.0, window.x, filter);
    let rows = Taps::new(from.1, to.1, window.y, filter);
    let (width, height) = (columns.len(), rows.len());
    let whole = Plane { data: &picture.data, x: 0..from.0, y: 0..from.1 };
    let data = if order.vertical_first(from, to) {
        let between = vertical(&whole, columns.reach(), &rows);
        horizontal(&Plane { data: &between, x: columns.reach(), y: 0..height }, 0..height, &columns)
    } else {
        let between = horizontal(&whole, rows.reach(), &columns);
        vertical(&Plane { data: &between, x: 0..width, y: rows.reach() }, 0..width, &rows)
    };
    Ok(Rgb8 { width, height, data })
}

/// No side may be longer than this: positions stay exact and tables small.
pub(super) const MAX_SIDE: usize = 1 << 24;

/// RGB bytes of the columns `x` and rows `y` of a larger picture.
struct Plane<'a> {
    data: &'a [u8],
    x: Range<usize>,
    y: Range<usize>,
}

impl Plane<'_> {
    /// The bytes of row `y` in `columns`, both counted in the larger picture.
    fn row(&self, y: usize, columns: &Range<usize>) -> &[u8] {
        let start = (y - self.y.start) * self.x.len();
        &self.data[(start + columns.start - self.x.start) * 3..(start + columns.end - self.x.start) * 3]
    }
}

/// Which input pixels make each output pixel of one axis, and with what weights.
struct Taps {
    /// Per output pixel the input pixels.
    reach: Vec<Range<usize>>,
    /// The weights of all output pixels, `stride` apart.
    weights: Vec<i32>,
    stride: usize,
}

impl Taps {
    /// The taps of the output pixels `window` when `from` pixels become `to`.
    fn new(from: usize, to: usize, window: Range<usize>, filter: Filter) -> Self {
        if from == to {
            // Weight one at the pixel itself: the pass copies, as Pillow skips it.
            let reach: Vec<_> = window.map(|i| i..i + 1).collect();
            return Taps { weights: vec![1 << PRECISION; reach.len()], reach, stride: 1 };
        }
        let scale = from as f64 / to as f64;
        let stretch = scale.max(1.0);
        let support = filter.support() * stretch;
        let stride = support.ceil() as usize * 2 + 1;
        let mut reach = Vec::with_capacity(window.len());
        let mut weights = vec![0; stride * window.len()];
        let mut exact = Vec::with_capacity(stride);
        for (i, slot) in window.zip(weights.chunks_exact_mut(stride)) {
            let centre = (i as f64 + 0.5) * scale;
            // `as` truncates towards zero and takes what is negative to zero.
            let first = (centre - support + 0.5) as usize;
            let end = ((centre + support + 0.5) as usize).min(from);
            exact.clear();
            exact.extend((first..end).map(|j| filter.weight((j as f64 - centre + 0.5) * (1.0 / stretch))));
            let sum: f64 = exact.iter().sum();
            for (k, &w) in slot.iter_mut().zip(&exact) {
                let scaled = (if sum != 0.0 { w / sum } else { w }) * f64::from(1 << PRECISION);
                *k = (scaled + 0.5f64.copysign(scaled)) as i32;
            }
            reach.push(first..end);
        }
        Taps { reach, weights, stride }
    }

    fn len(&self) -> usize {
        self.reach.len()
    }

    /// All input pixels that are needed.
    fn reach(&self) -> Range<usize> {
        let start = self.reach.iter().map(|r| r.start).min().unwrap_or(0);
        start..self.reach.iter().map(|r| r.end).max().unwrap_or(start)
    }

    fn iter(&self) -> impl Iterator<Item = (&Range<usize>, &[i32])> {
        self.reach.iter().zip(self.weights.chunks_exact(self.stride))
    }
}

fn to_byte(sum: i32) -> u8 {
    (sum >> PRECISION).clamp(0, 255) as u8
}

/// Resamples the given rows along x: `(rows, taps, 3)`.
fn horizontal(plane: &Plane, rows: Range<usize>, taps: &Taps) -> Vec<u8> {
    let mut out = vec![0u8; rows.len() * taps.len() * 3];
    let needed = taps.reach();
    out.par_chunks_exact_mut(taps.len() * 3).zip(rows).for_each(|(out, y)| {
        let row = plane.row(y, &needed);
        for (pixel, (reach, weights)) in out.chunks_exact_mut(3).zip(taps.iter()) {
            let inputs = row[(reach.start - needed.start) * 3..(reach.end - needed.start) * 3].chunks_exact(3);
            let mut sum = [HALF; 3];
            for (input, &k) in inputs.zip(weights) {
                sum[0] += k * i32::from(input[0]);
                sum[1] += k * i32::from(input[1]);
                sum[2] += k * i32::from(input[2]);
            }
            pixel.copy_from_slice(&sum.map(to_byte));
        }
    });
    out
}

/// Resamples the given columns along y: `(taps, columns, 3)`.
fn vertical(plane: &Plane, columns: Range<usize>, taps: &Taps) -> Vec<u8> {
    let width = columns.len() * 3;
    let mut out = vec![0u8; taps.len() * width];
    let jobs: Vec<_> = taps.iter().collect();
    out.par_chunks_exact_mut(width).zip(jobs).for_each_init(Vec::new, |sums, (out, (reach, weights))| {
        sums.clear();
        sums.resize(width, HALF);
        for (y, &k) in reach.clone().zip(weights) {
            for (sum, &input) in sums.iter_mut().zip(plane.row(y, &columns)) {
                *sum += k * i32::from(input);
            }
        }
        for (byte, &sum) in out.iter_mut().zip(sums.iter()) {
            *byte = to_byte(sum);
        }
    });
    out
}
