//! Overlays of one image: which colours, which scale, which words.

use serde_json::{Value, json};
use vitscope::{
    Result,
    backend::PatchGrid,
    engine::MapValues,
    image::{Colormap, OverlayOptions, Rect, Rgb8, Scale, render_overlay, side_by_side},
    model::Method,
};

use crate::cli::{
    args::{DrawArgs, FadeRule, OverlaySize, ScaleRule, name_of},
    console::{number, signed},
    pictures::Ready,
};

/// Share of a pixel map's values, in percent, that may leave the colour scale: single pixels stand out far.
const PIXEL_OUTLIERS: f64 = 1.0;

/// What decides how overlays look.
pub struct Drawing {
    colormap: Option<Colormap>,
    scale: ScaleRule,
    fade: FadeRule,
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
    /// Opacity of its heat: [`Drawing::fade`].
    pub fade: f64,
    /// Whether the picture shows what the text names, where the fade looks at that.
    pub found: Option<bool>,
}

impl Scored<'_> {
    /// The score, and how faint the heat is where it is.
    fn words(&self) -> String {
        let percent = (self.fade * 100.0).round();
        let fade = match (self.found, percent) {
            (Some(false), 0.0) => " (not found)".to_owned(),
            (Some(false), _) => format!(" (not found: heat at {percent} %)"),
            (_, 100.0) => String::new(),
            (_, _) => format!(" (heat at {percent} %)"),
        };
        format!("{}{fade}", number(self.score))
    }
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
    /// The maps on its colour scale.
    pub sharing: &'a [&'a MapValues],
}

impl Drawing {
    /// As the user asked.
    pub fn new(args: &DrawArgs, fade: FadeRule, edits: Option<String>) -> Self {
        let base = OverlayOptions { alpha: args.alpha, upsample: args.upsample.into(), ..OverlayOptions::default() };
        Drawing {
            colormap: args.colormap,
            scale: args.scale,
            fade,
            outliers: args.outliers,
            size: args.overlay_size,
            edits,
            base,
        }
    }

    fn colormap(&self, method: Method) -> Colormap {
        self.colormap.unwrap_or(if is_signed(method) { Colormap::RdBu } else { Colormap::Turbo })
    }

    /// The maps that share a map's colour scale, and that its score is compared with: of `all` maps of its image and
    /// method those of its own text, before and after an edit, or all of them.
    pub fn sharing<'m>(&self, text: usize, all: impl Iterator<Item = &'m MapValues>) -> Vec<&'m MapValues> {
        all.filter(|map| self.scale == ScaleRule::Shared || map.text == text).collect()
    }

    /// A map as it is drawn among those that share its colour scale. `found` (Q) is that of
    /// [`Engine::found`](vitscope::engine::Engine::found), where the rule looks at it.
    pub fn scored<'m>(&self, map: &'m MapValues, sharing: &[&MapValues], found: &[f64]) -> Scored<'m> {
        let found = found.get(map.text).copied();
        let fade = self.fade(map, sharing, found.unwrap_or(1.0));
        Scored { map: &map.values, score: map.score, fade, found: found.map(|found| found >= 0.5) }
    }

    /// The opacity, 0 to 1, of the heat of a map.
    ///
    /// A map shows where the score comes from, at any score: the map of a thing that is not there may be as hot as the
    /// map of one that is. By presence an edit takes from the heat what it takes from the text's score.
    fn fade(&self, map: &MapValues, sharing: &[&MapValues], found: f64) -> f64 {
        let own = sharing.iter().copied().filter(|other| other.text == map.text);
        match self.fade {
            FadeRule::Presence => beside(map, own) * found,
            FadeRule::Score => beside(map, sharing.iter().copied()),
            FadeRule::None => 1.0,
        }
    }

    /// The colour scale of maps that share one.
    ///
    /// # Errors
    /// For a map that is not finite.
    fn scale(&self, method: Method, sharing: &[&MapValues]) -> Result<Scale> {
        let maps: Vec<&[f32]> = sharing.iter().map(|map| map.values.as_slice()).collect();
        let diverging = self.colormap(method).is_diverging();
        let whole = if diverging { Scale::symmetric(&maps)? } else { Scale::of(&maps)? };
        let percent = self.outliers.unwrap_or(if method.on_pixels() { PIXEL_OUTLIERS } else { 0.0 });
        Ok(if percent > 0.0 { without_outliers(whole, &maps, percent / 100.0, diverging) } else { whole })
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
            fade: overlay.result.fade as f32,
            scale: Some(self.scale(method, overlay.sharing)?),
            region: Some(region),
            caption: Some(self.caption(overlay)),
            ..self.base.clone()
        };
        let (rows, cols) = overlay.shape;
        match overlay.baseline {
            None => render_overlay(picture, overlay.result.map, rows, cols, &options),
            Some(before) => {
                let after = overlay.result;
                let titles = [
                    format!("before  {}", before.words()),
                    format!("after  {}", after.words()),
                    format!("difference  {}", signed(after.score - before.score)),
                ];
                // A difference is worth as much as the better of its two.
                let fades = [before.fade, after.fade, before.fade.max(after.fade)];
                let panels = [0, 1, 2].map(|i| (titles[i].as_str(), fades[i] as f32));
                side_by_side(picture, before.map, after.map, rows, cols, panels, &options)
            }
        }
    }

    fn caption(&self, overlay: &Overlay<'_>) -> String {
        let mut parts = vec![overlay.label.to_owned(), overlay.method.to_owned()];
        match overlay.baseline {
            None => parts.insert(0, overlay.result.words()),
            Some(_) => parts.extend(self.edits.clone()),
        }
        parts.join(" · ")
    }
}

/// The score of a map over the best one, 0 below zero. Where no score is above zero their ratio means nothing: 1.
fn beside<'m>(map: &MapValues, others: impl Iterator<Item = &'m MapValues>) -> f64 {
    let best = others.map(|other| other.score).fold(map.score, f64::max);
    if best > 0.0 { map.score.max(0.0) / best } else { 1.0 }
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
pub fn options(args: &DrawArgs, fade: FadeRule) -> Value {
    json!({
        "colormap": args.colormap.map_or("by method", Colormap::name),
        "alpha": f64::from((args.alpha * 1e4).round()) / 1e4,
        "upsample": name_of(args.upsample),
        "scale": name_of(args.scale),
        "fade": name_of(fade),
        "outliers": args.outliers.map_or_else(|| "by method".into(), |v| json!(v)),
        "size": name_of(args.overlay_size),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heat_fades_with_presence_or_with_the_score_beside_the_best_on_its_scale() {
        let map = |text, score| MapValues {
            method: 0,
            text,
            rows: 1,
            cols: 1,
            values: vec![1.0],
            exact: vec![1.0],
            score,
            completeness_gap: None,
        };
        let fades = |scale, fade, maps: &[MapValues]| -> Vec<f64> {
            let drawing = Drawing {
                colormap: None,
                scale,
                fade,
                outliers: None,
                size: OverlaySize::Crop,
                edits: None,
                base: OverlayOptions::default(),
            };
            let found = [0.9, 0.6, 0.2];
            maps.iter().map(|map| drawing.scored(map, &drawing.sharing(map.text, maps.iter()), &found).fade).collect()
        };
        // Two texts before and after an edit, and a third that does not fit at all.
        let maps = [map(0, 0.5), map(1, 0.25), map(2, -0.1), map(0, 0.05), map(1, 0.2), map(2, 0.0)];
        assert_eq!(fades(ScaleRule::Shared, FadeRule::Score, &maps), [1.0, 0.5, 0.0, 0.1, 0.4, 0.0]);
        assert_eq!(fades(ScaleRule::Own, FadeRule::Score, &maps), [1.0, 1.0, 1.0, 0.1, 0.8, 1.0]);
        assert_eq!(fades(ScaleRule::Shared, FadeRule::None, &maps), [1.0; 6]);
        // An edit that raises a score makes no heat fainter, and one that lowers it does by as much.
        for scale in [ScaleRule::Shared, ScaleRule::Own] {
            assert_eq!(fades(scale, FadeRule::Presence, &maps[3..]), [0.9, 0.6, 0.2]);
            assert_eq!(fades(scale, FadeRule::Presence, &maps), [0.9, 0.6, 0.2, 0.9 * 0.1, 0.6 * 0.8, 0.2]);
            assert_eq!(fades(scale, FadeRule::Presence, &[map(1, 0.2), map(1, 0.4)]), [0.3, 0.6]);
        }
        for alone in [0.01, 0.0, -0.3] {
            assert_eq!(fades(ScaleRule::Shared, FadeRule::Score, &[map(0, alone)]), [1.0]);
        }
        assert_eq!(fades(ScaleRule::Shared, FadeRule::Score, &[map(0, -0.1), map(1, -0.2)]), [1.0; 2]);
    }

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
