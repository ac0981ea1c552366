//! A map on the patch grid to the pixels of a picture, with PyTorch's geometry (`interpolate`, `align_corners=False`).

use std::ops::Range;

use super::preprocess::Rect;
use crate::error::{Error, Result};

/// How values between patch centres are found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Upsample {
    /// Straight lines between patch centres.
    #[default]
    Bilinear,
    /// The value of the patch that a pixel's centre lies in (PyTorch's `nearest-exact`): shows the true grid.
    Nearest,
    /// Keys' cubic with a = -0.75, as PyTorch's; it can leave the range of the map.
    Bicubic,
}

/// The map, `(rows, cols)`, at `height` x `width`: `(height, width)`.
///
/// # Errors
/// [`Error::Usage`] when the map is not `rows * cols` finite values, or a size is zero.
pub fn upsample(
    map: &[f32],
    rows: usize,
    cols: usize,
    height: usize,
    width: usize,
    kernel: Upsample,
) -> Result<Vec<f32>> {
    let all = Rect { left: 0.0, top: 0.0, width: width as f64, height: height as f64 };
    Ok(upsample_into(map, rows, cols, &all, (width, height), kernel)?.values)
}

/// A map at the pixels of the part of a picture that it lies on.
pub(super) struct Placed {
    /// The picture's columns that it covers.
    pub x: Range<usize>,
    /// The picture's rows that it covers.
    pub y: Range<usize>,
    /// `(y, x)`.
    pub values: Vec<f32>,
}

/// The map at every pixel of a picture of `size` = (width, height) whose centre lies in `region`.
pub(super) fn upsample_into(
    map: &[f32],
    rows: usize,
    cols: usize,
    region: &Rect,
    size: (usize, usize),
    kernel: Upsample,
) -> Result<Placed> {
    check(map, rows, cols)?;
    let positive = size.0 > 0 && size.1 > 0 && region.width > 0.0 && region.height > 0.0;
    if !positive {
        return Err(Error::usage(format!("a heatmap cannot be drawn on {region:?} of {} x {} pixels", size.0, size.1)));
    }
    let Axis { pixels: x, taps: xs } = Axis::new(cols, region.left, region.width, size.0, kernel);
    let Axis { pixels: y, taps: ys } = Axis::new(rows, region.top, region.height, size.1, kernel);
    // (rows, x)
    let wide: Vec<f64> = map
        .chunks_exact(cols)
        .flat_map(|row| xs.iter().map(move |taps| taps.iter().map(|&(j, w)| w * f64::from(row[j])).sum()))
        .collect();
    let mut values = Vec::with_capacity(x.len() * y.len());
    for taps in &ys {
        values.extend((0..x.len()).map(|i| taps.iter().map(|&(j, w)| w * wide[j * x.len() + i]).sum::<f64>() as f32));
    }
    Ok(Placed { x, y, values })
}

/// Refuses a map that is not `rows * cols` finite values.
pub(super) fn check(map: &[f32], rows: usize, cols: usize) -> Result<()> {
    if map.is_empty() || rows.checked_mul(cols) != Some(map.len()) {
        return Err(Error::usage(format!("a heatmap of {rows} x {cols} cannot have {} values", map.len())));
    }
    match map.iter().position(|v| !v.is_finite()) {
        Some(i) => Err(Error::usage(format!("the heatmap is {} at row {}, column {}", map[i], i / cols, i % cols))),
        None => Ok(()),
    }
}

/// One axis of an upsampling: which pixels a map covers, and of what they are made.
#[derive(Debug, Clone, PartialEq)]
pub struct Axis {
    /// The picture's pixels that the map covers.
    pub pixels: Range<usize>,
    /// Of each of them, the map's entries and their weights; all have the same number of them.
    pub taps: Vec<Vec<(usize, f64)>>,
}

impl Axis {
    /// `n` entries over the `extent` pixels from `start` on, of a picture of `side` pixels.
    pub fn new(n: usize, start: f64, extent: f64, side: usize, kernel: Upsample) -> Self {
        // A pixel is in when its centre, i + 0.5, is.
        let first = ((start - 0.5).ceil().max(0.0) as usize).min(side);
        let end = ((start + extent - 0.5).ceil().max(0.0) as usize).clamp(first, side);
        let taps = (first..end).map(|i| {
            let at = (i as f64 + 0.5 - start) / extent * n as f64;
            let clamp = |j: i64| j.clamp(0, n as i64 - 1) as usize;
            match kernel {
                Upsample::Nearest => vec![(clamp(at as i64), 1.0)],
                Upsample::Bilinear => {
                    let at = (at - 0.5).max(0.0);
                    let (low, t) = (at.floor(), at.fract());
                    vec![(clamp(low as i64), 1.0 - t), (clamp(low as i64 + 1), t)]
                }
                Upsample::Bicubic => {
                    let at = at - 0.5;
                    let low = at.floor();
                    (-1..3).map(|k| (clamp(low as i64 + k), cubic(at - low - k as f64))).collect()
                }
            }
        });
        Axis { pixels: first..end, taps: taps.collect() }
    }
}

/// Keys' cubic convolution, a = -0.75.
fn cubic(t: f64) -> f64 {
    const A: f64 = -0.75;
    let t = t.abs();
    if t < 1.0 { ((A + 2.0) * t - (A + 3.0)) * t * t + 1.0 } else { (((t - 5.0) * t + 8.0) * t - 4.0) * A }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// On a 2 x 3 grid.
    const MAP: [f32; 6] = [-1.5, -0.5, 2.5, 0.5, 0.5, 2.5];

    fn close(found: &[f32], expected: &[f32]) {
        assert_eq!(found.len(), expected.len());
        for (f, e) in found.iter().zip(expected) {
            assert!((f - e).abs() < 2e-6, "{found:?}\n{expected:?}");
        }
    }

    #[test]
    fn agrees_with_torch_interpolate() {
        // torch.nn.functional.interpolate(map, size=(3, 5), mode=...): bilinear, bicubic, nearest-exact
        let bilinear = [-1.5, -1.1, -0.5, 1.3, 2.5, -0.5, -0.3, -0.0, 1.5, 2.5, 0.5, 0.5, 0.5, 1.7, 2.5];
        let bicubic = [
            -1.7779444, -1.4741806, -0.5868056, 1.3805694, 2.7963333, -0.548, -0.486, -0.0, 1.566, 2.74, 0.6819444,
            0.5021806, 0.5868056, 1.7514306, 2.6836667,
        ];
        let nearest = [-1.5, -1.5, -0.5, 2.5, 2.5, 0.5, 0.5, 0.5, 2.5, 2.5, 0.5, 0.5, 0.5, 2.5, 2.5];
        for (kernel, expected) in
            [(Upsample::Bilinear, bilinear), (Upsample::Bicubic, bicubic), (Upsample::Nearest, nearest)]
        {
            close(&upsample(&MAP, 2, 3, 3, 5, kernel).unwrap(), &expected);
        }
    }

    #[test]
    fn a_region_shifts_the_map() {
        let region = Rect { left: 4.0, top: 1.0, width: 6.0, height: 4.0 };
        let placed = upsample_into(&MAP, 2, 3, &region, (20, 9), Upsample::Bilinear).unwrap();
        assert_eq!((placed.x, placed.y), (4..10, 1..5));
        assert_eq!(placed.values, upsample(&MAP, 2, 3, 4, 6, Upsample::Bilinear).unwrap());
        // Where a padded crop reaches over the picture's edge, only what is on the picture is drawn.
        let region = Rect { left: -2.0, top: 0.0, width: 6.0, height: 9.0 };
        assert_eq!(upsample_into(&MAP, 2, 3, &region, (20, 9), Upsample::Nearest).unwrap().x, 0..4);
    }

    #[test]
    fn maps_that_are_not_finite_or_of_another_size_are_errors() {
        let error = upsample(&[1.0, f32::NAN], 1, 2, 4, 4, Upsample::Bilinear).unwrap_err();
        assert!(error.to_string().contains("row 0, column 1"));
        assert!(upsample(&MAP, 3, 3, 4, 4, Upsample::Bilinear).is_err());
        assert!(upsample(&[], 0, 0, 4, 4, Upsample::Bilinear).is_err());
        assert!(upsample(&MAP, 2, 3, 0, 4, Upsample::Bilinear).is_err());
    }
}
