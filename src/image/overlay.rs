//! Heatmaps over pictures: the blend itself. Bars, captions and panels around it are in `figure`.

use rayon::prelude::*;

use super::colormap::Colormap;
use super::decode::Rgb8;
use super::preprocess::Rect;
use super::upsample::{Upsample, check, upsample_into};
use crate::error::{Error, Result};

/// Which values are the two ends of the colour map.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Scale {
    /// The value of the lowest colour.
    pub min: f32,
    /// The value of the highest colour.
    pub max: f32,
}

impl Scale {
    /// From the lowest to the highest value of all the given maps: for maps that shall be compared.
    ///
    /// # Errors
    /// [`Error::Usage`] when there is no value, or one that is not finite.
    pub fn of(maps: &[&[f32]]) -> Result<Self> {
        maps.iter().try_for_each(|map| check(map, 1, map.len()))?;
        let values = || maps.iter().flat_map(|m| m.iter().copied());
        let scale =
            Scale { min: values().fold(f32::INFINITY, f32::min), max: values().fold(f32::NEG_INFINITY, f32::max) };
        if scale.min > scale.max {
            return Err(Error::usage("a scale needs at least one map"));
        }
        Ok(scale)
    }

    /// The smallest scale around zero that holds all values of the given maps: for signed maps.
    ///
    /// # Errors
    /// [`Error::Usage`], as [`Scale::of`].
    pub fn symmetric(maps: &[&[f32]]) -> Result<Self> {
        let Scale { min, max } = Scale::of(maps)?;
        let most = max.max(-min);
        Ok(Scale { min: -most, max: most })
    }

    /// What [`render_overlay`](super::render_overlay) takes where no scale is given.
    pub(super) fn fitting(colormap: Colormap, map: &[f32]) -> Result<Self> {
        if colormap.is_diverging() { Scale::symmetric(&[map]) } else { Scale::of(&[map]) }
    }

    /// Whether all values are the same, so that there is nothing to tell apart.
    pub(super) fn is_flat(self) -> bool {
        // Subnormal differences count as none: dividing by them overflows.
        self.max - self.min < f32::MIN_POSITIVE
    }

    /// Where `value` lies, 0..=1. On a flat scale there is no heat: the lowest colour, or the middle one where that
    /// means zero.
    fn position(self, value: f32, colormap: Colormap) -> f32 {
        if self.is_flat() {
            return if colormap.is_diverging() { 0.5 } else { 0.0 };
        }
        // In double precision: the width of the scale may exceed f32.
        let (min, max) = (f64::from(self.min), f64::from(self.max));
        ((f64::from(value) - min) / (max - min)).clamp(0.0, 1.0) as f32
    }
}

/// How a heatmap is drawn.
#[derive(Clone, Debug, PartialEq)]
pub struct OverlayOptions {
    /// The colours.
    pub colormap: Colormap,
    /// Share of the heatmap's colour, 0..=1.
    pub alpha: f32,
    /// Opacity of the heat, 0..=1: at 1 the colours are those of the values, at 0 all are that of no heat (the lowest;
    /// with a diverging map none).
    pub fade: f32,
    /// Values of the ends of the colour map; `None`: the map's own range (around zero for a diverging colour map).
    pub scale: Option<Scale>,
    /// How the patch grid becomes pixels.
    pub upsample: Upsample,
    /// The part of the picture that the map lies on; what is outside is dimmed. `None`: all of it.
    pub region: Option<Rect>,
    /// Draw a colour bar with numbers at the right.
    pub colorbar: bool,
    /// A line of text below the picture (two lines when it is long).
    pub caption: Option<String>,
}

impl Default for OverlayOptions {
    fn default() -> Self {
        OverlayOptions {
            colormap: Colormap::Turbo,
            alpha: 0.5,
            fade: 1.0,
            scale: None,
            upsample: Upsample::Bilinear,
            region: None,
            colorbar: true,
            caption: None,
        }
    }
}

/// The picture with the map, `(rows, cols)`, over it, of the picture's own size; no bar and no caption.
///
/// Sequential maps are mixed at `alpha` everywhere. With a diverging map the picture is shown in pale grey and the
/// colour's share grows with the value, so that where nothing changes there is only the picture. `fade` draws the heat
/// of either kind fainter, and leaves the rest as it is.
///
/// # Errors
/// [`Error::Usage`] when the map is not `rows * cols` finite values or `alpha`, `fade` or the scale is out of range.
pub fn blend(picture: &Rgb8, map: &[f32], rows: usize, cols: usize, options: &OverlayOptions) -> Result<Rgb8> {
    check(map, rows, cols)?;
    for (name, share) in [("alpha", options.alpha), ("fade", options.fade)] {
        if !(0.0..=1.0).contains(&share) {
            return Err(Error::usage(format!("{name} {share} is not between 0 and 1")));
        }
    }
    let scale = match options.scale {
        Some(Scale { min, max }) if !(min.is_finite() && max.is_finite() && min <= max) => {
            return Err(Error::usage(format!("a colour scale cannot run from {min} to {max}")));
        }
        Some(scale) => scale,
        None => Scale::fitting(options.colormap, map)?,
    };
    let size = (picture.width, picture.height);
    let all = Rect { left: 0.0, top: 0.0, width: size.0 as f64, height: size.1 as f64 };
    let placed = upsample_into(map, rows, cols, options.region.as_ref().unwrap_or(&all), size, options.upsample)?;

    let diverging = options.colormap.is_diverging();
    let table = options.colormap.table().map(|colour| colour.map(f32::from));
    let mut out = picture.clone();
    out.data.par_chunks_exact_mut(size.0 * 3).enumerate().for_each(|(y, row)| {
        for (x, pixel) in row.chunks_exact_mut(3).enumerate() {
            let base = if diverging { pale_grey(pixel) } else { [pixel[0], pixel[1], pixel[2]].map(f32::from) };
            let drawn = if placed.x.contains(&x) && placed.y.contains(&y) {
                let value = placed.values[(y - placed.y.start) * placed.x.len() + x - placed.x.start];
                let t = scale.position(value, options.colormap);
                let colour = table[(t * 255.0).round() as usize];
                if diverging {
                    mix(base, colour, options.fade * options.alpha.sqrt() * (2.0 * t - 1.0).abs().sqrt())
                } else {
                    mix(base, mix(table[0], colour, options.fade), options.alpha)
                }
            } else {
                mix(base, OUTSIDE, 0.6)
            };
            pixel.copy_from_slice(&drawn.map(|v| v.round() as u8));
        }
    });
    Ok(out)
}

/// The colour that what the model does not see is dimmed towards.
const OUTSIDE: [f32; 3] = [235.0; 3];

fn mix(a: [f32; 3], b: [f32; 3], share: f32) -> [f32; 3] {
    std::array::from_fn(|c| a[c] + (b[c] - a[c]) * share)
}

/// Rec. 709 luma, lifted half way to white.
fn pale_grey(pixel: &[u8]) -> [f32; 3] {
    let luma = 0.2126 * f32::from(pixel[0]) + 0.7152 * f32::from(pixel[1]) + 0.0722 * f32::from(pixel[2]);
    [(luma + 255.0) / 2.0; 3]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grey(width: usize, height: usize) -> Rgb8 {
        Rgb8::filled(width, height, [100; 3])
    }

    #[test]
    fn alpha_mixes_the_colour_of_the_value() {
        let options = OverlayOptions { upsample: Upsample::Nearest, ..Default::default() };
        let out = blend(&grey(4, 2), &[0.0, 3.0], 1, 2, &options).unwrap();
        let table = Colormap::Turbo.table();
        let expected = |i: usize| table[i].map(|v| ((100.0 + f32::from(v)) / 2.0).round() as u8);
        assert_eq!((out.get(0, 0), out.get(3, 1)), (Some(expected(0)), Some(expected(255))));
        let none = OverlayOptions { alpha: 0.0, ..options };
        assert_eq!(blend(&grey(4, 2), &[0.0, 3.0], 1, 2, &none).unwrap(), grey(4, 2));
    }

    #[test]
    fn a_shared_scale_shows_magnitude() {
        let (weak, strong) = ([0.0, 1.0], [0.0, 4.0]);
        let scale = Some(Scale::of(&[&weak, &strong]).unwrap());
        let options = OverlayOptions { scale, alpha: 1.0, upsample: Upsample::Nearest, ..Default::default() };
        let table = Colormap::Turbo.table();
        assert_eq!(blend(&grey(2, 1), &weak, 1, 2, &options).unwrap().get(1, 0), Some(table[64]));
        assert_eq!(blend(&grey(2, 1), &strong, 1, 2, &options).unwrap().get(1, 0), Some(table[255]));
        assert_eq!(Scale::symmetric(&[&[-2.0, 1.0]]).unwrap(), Scale { min: -2.0, max: 2.0 });
    }

    #[test]
    fn faded_heat_goes_and_the_rest_stays() {
        let at = |colormap, fade| {
            let options = OverlayOptions { colormap, fade, upsample: Upsample::Nearest, ..Default::default() };
            let out = blend(&grey(3, 1), &[0.0, 1.0, 2.0], 1, 3, &options).unwrap();
            [0, 1, 2].map(|x| out.get(x, 0).unwrap().map(i32::from))
        };
        for (colormap, cold) in [(Colormap::Turbo, at(Colormap::Turbo, 1.0)[0]), (Colormap::RdBu, [178; 3])] {
            let (full, faint, none) = (at(colormap, 1.0), at(colormap, 0.25), at(colormap, 0.0));
            assert_eq!((full[0], none), (cold, [cold; 3]), "{colormap}");
            for (heat, fainter) in full.iter().zip(&faint) {
                let quarter = (0..3).all(|c| ((heat[c] - cold[c]) - 4 * (fainter[c] - cold[c])).abs() <= 4);
                assert!(quarter, "{colormap}: {heat:?} {fainter:?}");
            }
        }
    }

    #[test]
    fn a_constant_map_has_no_heat() {
        for value in [0.0, -3.5, f32::MIN_POSITIVE / 8.0] {
            let out =
                blend(&grey(3, 3), &[value; 4], 2, 2, &OverlayOptions { alpha: 1.0, ..Default::default() }).unwrap();
            assert_eq!(out.get(1, 1), Some(Colormap::Turbo.table()[0]));
        }
        let signed = OverlayOptions { colormap: Colormap::RdBu, alpha: 1.0, ..Default::default() };
        let zero = blend(&grey(3, 3), &[0.0; 4], 2, 2, &signed).unwrap();
        assert_eq!(zero.get(1, 1), Some([178; 3]), "the pale picture alone");
    }

    #[test]
    fn hostile_maps_and_options_are_errors_or_harmless() {
        let picture = grey(3, 3);
        let with = |f: fn(&mut OverlayOptions)| {
            let mut options = OverlayOptions::default();
            f(&mut options);
            blend(&picture, &[0.0, 1.0], 1, 2, &options)
        };
        assert!(blend(&picture, &[f32::NAN, 1.0], 1, 2, &OverlayOptions::default()).is_err());
        assert!(with(|o| o.alpha = f32::NAN).is_err() && with(|o| o.alpha = 1.5).is_err());
        assert!(with(|o| o.scale = Some(Scale { min: 1.0, max: 0.0 })).is_err());
        assert!(blend(&picture, &[f32::MIN, f32::MAX], 1, 2, &OverlayOptions::default()).is_ok());
        assert!(Scale::of(&[]).is_err());
    }

    #[test]
    fn outside_the_region_the_picture_is_dimmed_without_heat() {
        let region = Some(Rect { left: 2.0, top: 0.0, width: 2.0, height: 2.0 });
        let options = OverlayOptions { region, alpha: 1.0, ..Default::default() };
        let out = blend(&grey(6, 2), &[1.0, 1.0], 1, 2, &options).unwrap();
        assert_eq!((out.get(0, 0), out.get(5, 1)), (Some([181; 3]), Some([181; 3])));
        assert_eq!(out.get(2, 0), Some(Colormap::Turbo.table()[0]));
    }
}
