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

/// What decides how overlays look.
pub struct Drawing {
    colormap: Option<Colormap>,
    scale: ScaleRule,
    size: OverlaySize,
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
    pub fn new(args: &DrawArgs) -> Self {
        let base = OverlayOptions { alpha: args.alpha, upsample: args.upsample.into(), ..OverlayOptions::default() };
        Drawing { colormap: args.colormap, scale: args.scale, size: args.overlay_size, base }
    }

    fn colormap(&self, method: Method) -> Colormap {
        self.colormap.unwrap_or(if is_signed(method) { Colormap::RdBu } else { Colormap::Turbo })
    }

    /// The colour scale of a map among `all` maps of its image and method. `own` are the maps of its overlay: before
    /// and after an edit always share one.
    pub fn scale(&self, method: Method, own: &[&[f32]], all: &[&[f32]]) -> Result<Scale> {
        let maps = match self.scale {
            ScaleRule::Own => own,
            ScaleRule::Shared => all,
        };
        if self.colormap(method).is_diverging() { Scale::symmetric(maps) } else { Scale::of(maps) }
    }

    /// Draws.
    ///
    /// # Errors
    /// For a map that is not finite.
    pub fn draw(&self, ready: &Ready, grid: PatchGrid, method: Method, overlay: &Overlay<'_>) -> Result<Rgb8> {
        let (picture, region) = match self.size {
            OverlaySize::Original => (&ready.original, ready.prepared.region),
            OverlaySize::Crop => {
                let size = &ready.prepared.cropped;
                let whole = Rect { left: 0.0, top: 0.0, width: size.width as f64, height: size.height as f64 };
                (size, whole)
            }
        };
        let region = seen(region, ready, grid);
        let options = OverlayOptions {
            colormap: self.colormap(method),
            scale: Some(overlay.scale),
            region: Some(region),
            caption: Some(caption(overlay)),
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
}

fn caption(overlay: &Overlay<'_>) -> String {
    match overlay.baseline {
        None => format!("{}  {}  ·  {}", number(overlay.result.score), overlay.label, overlay.method),
        Some(_) => format!("{}  ·  {}", overlay.label, overlay.method),
    }
}

/// The part of `region` that whole patches cover: what is left over at the right and below is not seen by the model.
fn seen(region: Rect, ready: &Ready, grid: PatchGrid) -> Rect {
    let (height, width) = grid.pixels();
    Rect {
        width: region.width * width as f64 / ready.prepared.width as f64,
        height: region.height * height as f64 / ready.prepared.height as f64,
        ..region
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
        "size": name_of(args.overlay_size),
    })
}
