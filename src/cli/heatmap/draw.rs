//! Overlays of one image: which colours, which scale, which words.

use serde_json::{Value, json};
use vitscope::{
    Result,
    backend::PatchGrid,
    image::{Colormap, OverlayOptions, Rect, Rgb8, Scale, render_overlay, side_by_side},
    model::Method,
};

use crate::cli::{
    args::{DrawArgs, OverlaySize, ScaleRule, name_of},
    console::{number, signed},
    pictures::Ready,
};

/// Share of a pixel map's values, in percent, that may leave the colour scale: single pixels stand out far.
const PIXEL_OUTLIERS: f64 = 1.0;

/// What decides how overlays look.
pub struct Drawing {
    colormap: Option<Colormap>,
    scale: ScaleRule,
    outliers: Option<f64>,
    size: OverlaySize,
    /// The edits and where they are made, for captions.
    edits: Option<String>,
    base: OverlayOptions,
}

/// A map with its score.
#[derive(Clone, Copy)]
pub struct Scored<'a> {
    /// (rows, cols).
    pub map: &'a [f32],
    /// What it explains.
    pub score: f64,
}

/// One overlay.
pub struct Overlay<'a> {
    /// The text, or the latent.
    pub label: &'a str,
    /// The method as given.
    pub method: &'a str,
    /// Rows and columns of the map.
    pub shape: (usize, usize),
    /// The result.
    pub result: Scored<'a>,
    /// The same before the edits, if there are any.
    pub baseline: Option<Scored<'a>>,
    /// The colours' ends.
    pub scale: Scale,
}

impl Drawing {
    /// As the user asked.
    pub fn new(args: &DrawArgs, edits: Option<String>) -> Self {
        let base = OverlayOptions { alpha: args.alpha, upsample: args.upsample.into(), ..OverlayOptions::default() };
        Drawing {
            colormap: args.colormap,
            scale: args.scale,
            outliers: args.outliers,
            size: args.overlay_size,
            edits,
            base,
        }
    }

    fn colormap(&self, method: Method) -> Colormap {
        self.colormap.unwrap_or(if is_signed(method) { Colormap::RdBu } else { Colormap::Turbo })
    }

    /// The colour scale of a map among `all` maps of its image and method. `own` are the maps of its overlay: before
    /// and after an edit always share one.
    ///
    /// # Errors
    /// For a map that is not finite.
    pub fn scale(&self, method: Method, own: &[&[f32]], all: &[&[f32]]) -> Result<Scale> {
        let maps = match self.scale {
            ScaleRule::Own => own,
            ScaleRule::Shared => all,
        };
        let diverging = self.colormap(method).is_diverging();
        let whole = if diverging { Scale::symmetric(maps)? } else { Scale::of(maps)? };
        let percent = self.outliers.unwrap_or(if method.on_pixels() { PIXEL_OUTLIERS } else { 0.0 });
        Ok(if percent > 0.0 { without_outliers(whole, maps, percent / 100.0, diverging) } else { whole })
    }

    /// Draws.
    ///
    /// # Errors
    /// For a map that is not finite.
    pub fn draw(&self, ready: &Ready, grid: PatchGrid, method: Method, overlay: &Overlay<'_>) -> Result<Rgb8> {
        let (height, width) = if method.on_pixels() { (grid.height, grid.width) } else { grid.covered() };
        let whole = Rect { left: 0.0, top: 0.0, width: width as f64, height: height as f64 };
        let (picture, region) = match self.size {
            OverlaySize::Original => (&ready.original, ready.part(height, width)),
            OverlaySize::Crop => (&ready.prepared.cropped, whole),
        };
        let options = OverlayOptions {
            colormap: self.colormap(method),
            scale: Some(overlay.scale),
            region: Some(region),
            caption: Some(self.caption(overlay)),
            ..self.base.clone()
        };
        let (rows, cols) = overlay.shape;
        match overlay.baseline {
            None => render_overlay(picture, overlay.result.map, rows, cols, &options),
            Some(before) => {
                let (was, is) = (before.score, overlay.result.score);
                let titles = [
                    format!("before  {}", number(was)),
                    format!("after  {}", number(is)),
                    format!("difference  {}", signed(is - was)),
                ];
                let titles = titles.each_ref().map(String::as_str);
                side_by_side(picture, before.map, overlay.result.map, rows, cols, titles, &options)
            }
        }
    }

    fn caption(&self, overlay: &Overlay<'_>) -> String {
        let mut parts = vec![overlay.label.to_owned(), overlay.method.to_owned()];
        match overlay.baseline {
            None => parts.insert(0, number(overlay.result.score)),
            Some(_) => parts.extend(self.edits.clone()),
        }
        parts.join(" · ")
    }
}

/// The scale cut at the value that only a `share` of the values exceeds.
fn without_outliers(whole: Scale, maps: &[&[f32]], share: f64, diverging: bool) -> Scale {
    let height = |v: f32| if diverging { v.abs() } else { v };
    let mut values: Vec<f32> = maps.iter().flat_map(|map| map.iter().map(|&v| height(v))).collect();
    let above = (values.len() as f64 * share) as usize;
    let rank = values.len().saturating_sub(1 + above);
    let (_, &mut max, _) = values.select_nth_unstable_by(rank, f32::total_cmp);
    // A map that is zero nearly everywhere keeps its whole scale.
    match (max > whole.min.max(0.0), diverging) {
        (false, _) => whole,
        (true, true) => Scale { min: -max, max },
        (true, false) => Scale { max, ..whole },
    }
}

/// Whether a method's values mean something below zero.
fn is_signed(method: Method) -> bool {
    matches!(method, Method::GradientXInput | Method::IntegratedGradients { .. })
}

/// What decides how overlays look, for the record.
pub fn options(args: &DrawArgs) -> Value {
    json!({
        "colormap": args.colormap.map_or("by method", Colormap::name),
        "alpha": f64::from((args.alpha * 1e4).round()) / 1e4,
        "upsample": name_of(args.upsample),
        "scale": name_of(args.scale),
        "outliers": args.outliers.map_or_else(|| "by method".into(), |v| json!(v)),
        "size": name_of(args.overlay_size),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outliers_leave_the_scale_and_a_sparse_map_keeps_its_own() {
        let mut map: Vec<f32> = (0..100).map(|i| i as f32 / 100.0).collect();
        map[7] = 50.0;
        let whole = Scale::of(&[&map]).unwrap();
        assert_eq!(without_outliers(whole, &[&map], 0.02, false), Scale { min: 0.0, max: 0.98 });
        map[8] = -60.0;
        let whole = Scale::symmetric(&[&map]).unwrap();
        assert_eq!(without_outliers(whole, &[&map], 0.02, true), Scale { min: -0.99, max: 0.99 });
        let sparse = [0.0, 0.0, 0.0, 9.0];
        let whole = Scale::of(&[&sparse]).unwrap();
        assert_eq!(without_outliers(whole, &[&sparse], 0.3, false), whole);
    }
}
