//! Overlays as figures: titles, colour bars with numbers, captions, and the before / after / difference panel.

use std::io::Cursor;
use std::path::Path;

use image::codecs::png::{CompressionType, FilterType, PngEncoder};
use image::{ExtendedColorType, ImageEncoder};

use super::colormap::Colormap;
use super::decode::Rgb8;
use super::overlay::{OverlayOptions, Scale, blend};
use super::preprocess::Rect;
use super::text::Pen;
use crate::error::{Error, Result};
use crate::files::write_file;

const PAPER: [u8; 3] = [255; 3];
const INK: [u8; 3] = [32; 3];
const FRAME: [u8; 3] = [120; 3];
/// Pictures with a side below the first number are enlarged until it is at least the second, so that the text fits.
const SMALL: (usize, usize) = (112, 224);

/// The picture with a heatmap, `(rows, cols)`, over it; with a colour bar and a caption where `options` ask for them.
///
/// # Errors
/// [`Error::Usage`], as [`blend`].
pub fn render_overlay(picture: &Rgb8, map: &[f32], rows: usize, cols: usize, options: &OverlayOptions) -> Result<Rgb8> {
    if !options.colorbar && options.caption.is_none() {
        return blend(picture, map, rows, cols, options);
    }
    let (picture, options) = legible(picture, options);
    let scale = options.scale.map_or_else(|| Scale::fitting(options.colormap, map), Ok)?;
    let overlay = blend(&picture, map, rows, cols, &OverlayOptions { scale: Some(scale), ..options.clone() })?;
    let bar = options.colorbar.then_some((options.colormap, scale));
    figure(&[Panel { title: None, picture: overlay, bar }], options.caption.as_deref())
}

/// Three panels, each with a title and its own `fade`: the map before, the map after, both on one scale, and after
/// minus before in signed colours around zero. `options.colormap` and `options.scale` are those of the first two.
///
/// # Errors
/// [`Error::Usage`], as [`blend`], and when the two maps differ in size.
pub fn side_by_side(
    picture: &Rgb8,
    before: &[f32],
    after: &[f32],
    rows: usize,
    cols: usize,
    panels: [(&str, f32); 3],
    options: &OverlayOptions,
) -> Result<Rgb8> {
    if before.len() != after.len() {
        return Err(Error::usage(format!("maps of {} and {} values cannot be compared", before.len(), after.len())));
    }
    let (picture, options) = legible(picture, options);
    let shared = options.scale.map_or_else(|| Scale::of(&[before, after]), Ok)?;
    let difference: Vec<f32> = after.iter().zip(before).map(|(a, b)| a - b).collect();
    let signed = Scale::symmetric(&[&difference])?;
    let plan = [
        (before, options.colormap, shared, false),
        (after, options.colormap, shared, true),
        (difference.as_slice(), Colormap::RdBu, signed, true),
    ];
    let mut drawn = Vec::with_capacity(3);
    for ((map, colormap, scale, with_bar), (title, fade)) in plan.into_iter().zip(panels) {
        let options = OverlayOptions { colormap, fade, scale: Some(scale), ..options.clone() };
        let overlay = blend(&picture, map, rows, cols, &options)?;
        let bar = (with_bar && options.colorbar).then_some((colormap, scale));
        drawn.push(Panel { title: Some(title), picture: overlay, bar });
    }
    figure(&drawn, options.caption.as_deref())
}

/// The bytes of a PNG file.
///
/// # Errors
/// [`Error::Usage`] when the picture is empty or too large for the format.
pub fn encode_png(picture: &Rgb8) -> Result<Vec<u8>> {
    let side = |n: usize| u32::try_from(n).map_err(|_| Error::usage("a PNG side has at most 32 bits"));
    let mut out = Cursor::new(Vec::new());
    PngEncoder::new_with_quality(&mut out, CompressionType::Fast, FilterType::Adaptive)
        .write_image(&picture.data, side(picture.width)?, side(picture.height)?, ExtendedColorType::Rgb8)
        .map_err(|e| Error::usage(format!("a {} x {} picture cannot be a PNG: {e}", picture.width, picture.height)))?;
    Ok(out.into_inner())
}

/// Writes a PNG file, under a temporary name in the same folder first.
///
/// # Errors
/// [`Error::Io`] when it cannot be written, [`Error::Usage`] as [`encode_png`].
pub fn write_png(path: impl AsRef<Path>, picture: &Rgb8) -> Result<()> {
    write_file(path.as_ref(), &encode_png(picture)?)
}

/// One picture of a figure.
struct Panel<'a> {
    title: Option<&'a str>,
    picture: Rgb8,
    bar: Option<(Colormap, Scale)>,
}

/// A small picture enlarged by a whole factor, and the region with it.
fn legible(picture: &Rgb8, options: &OverlayOptions) -> (Rgb8, OverlayOptions) {
    let short = picture.width.min(picture.height);
    if short >= SMALL.0 || short == 0 {
        return (picture.clone(), options.clone());
    }
    let factor = SMALL.1.div_ceil(short);
    let mut data = Vec::with_capacity(picture.data.len() * factor * factor);
    for row in picture.data.chunks_exact(picture.width * 3) {
        let wide: Vec<u8> = row.chunks_exact(3).flat_map(|pixel| pixel.repeat(factor)).collect();
        data.extend(wide.repeat(factor));
    }
    let f = factor as f64;
    let times = |r: Rect| Rect { left: r.left * f, top: r.top * f, width: r.width * f, height: r.height * f };
    let larger = Rgb8 { width: picture.width * factor, height: picture.height * factor, data };
    (larger, OverlayOptions { region: options.region.map(times), ..options.clone() })
}

/// Panels in a row, all of the first one's height, and the caption below.
fn figure(panels: &[Panel], caption: Option<&str>) -> Result<Rgb8> {
    let height = panels.iter().map(|p| p.picture.height).max().unwrap_or(0);
    // A narrow panel needs smaller letters, or its title would end before its number.
    let narrowest = panels.iter().map(|p| p.picture.width).min().unwrap_or(0);
    let pen = Pen::new((height as f32 / 19.0).min(narrowest as f32 / 17.0).clamp(14.0, 34.0))?;
    let line = pen.line_height();
    let (margin, gap) = (line / 2, line / 2);

    let bars: Vec<Option<Bar>> = panels.iter().map(|p| p.bar.map(|(c, s)| Bar::new(&pen, c, s, height))).collect();
    let bar_width = |bar: &Option<Bar>| bar.as_ref().map_or(0, |b| gap + b.width);
    let widths = panels.iter().zip(&bars).map(|(p, bar)| p.picture.width + bar_width(bar));
    let inner: usize = widths.sum::<usize>() + (panels.len().saturating_sub(1)) * line;
    let title_height = if panels.iter().any(|p| p.title.is_some()) { line + gap / 2 } else { 0 };
    let lines = caption.map_or_else(Vec::new, |text| pen.wrap(text, inner, 2));
    let caption_height = if lines.is_empty() { 0 } else { gap / 2 + lines.len() * line };
    let top = margin + title_height;
    // Half a line of numbers sticks out above and below a bar: the margins hold it.
    let mut page = Rgb8::filled(inner + 2 * margin, top + height + caption_height + margin + 1, PAPER);

    let mut left = margin;
    for (panel, bar) in panels.iter().zip(&bars) {
        if let Some(title) = panel.title {
            let room = panel.picture.width + bar_width(bar);
            for text in pen.wrap(title, room, 1) {
                pen.draw(&mut page, left as i64, margin as i64, &text, INK);
            }
        }
        page.paste(&panel.picture, left, top);
        left += panel.picture.width;
        if let Some(bar) = bar {
            bar.draw(&pen, &mut page, left + gap, top, height);
            left += gap + bar.width;
        }
        left += line;
    }
    for (i, text) in lines.iter().enumerate() {
        let y = top + height + gap / 2 + i * line;
        pen.draw(&mut page, margin as i64, y as i64, text, INK);
    }
    Ok(page)
}

/// A colour bar with its numbers.
struct Bar {
    colours: [[u8; 3]; 256],
    /// From the lowest to the highest, evenly spaced.
    labels: Vec<String>,
    /// Width of the coloured part.
    strip: usize,
    /// Length of a tick.
    tick: usize,
    /// With numbers.
    width: usize,
}

impl Bar {
    fn new(pen: &Pen, colormap: Colormap, scale: Scale, height: usize) -> Self {
        let line = pen.line_height();
        let count = if height >= 8 * line { 5 } else { 3 };
        let labels = labels(scale, colormap, count);
        let (strip, tick) = ((line * 3 / 4).max(8), (line / 4).max(3));
        let text = labels.iter().map(|l| pen.width(l)).max().unwrap_or(0);
        Bar { colours: colormap.table(), labels, strip, tick, width: strip + 2 * tick + text }
    }

    fn draw(&self, pen: &Pen, page: &mut Rgb8, left: usize, top: usize, height: usize) {
        let last = height.saturating_sub(1);
        for y in 0..height {
            let colour = self.colours[255 - y * 255 / last.max(1)];
            let edge = y == 0 || y == last;
            page.paste(&Rgb8::filled(self.strip, 1, if edge { FRAME } else { colour }), left, top + y);
        }
        for x in [left, left + self.strip - 1] {
            page.paste(&Rgb8::filled(1, height, FRAME), x, top);
        }
        let steps = self.labels.len().saturating_sub(1).max(1);
        for (i, label) in self.labels.iter().enumerate() {
            let y = top + last - last * i / steps;
            page.paste(&Rgb8::filled(self.tick, 1, FRAME), left + self.strip, y);
            let (x, y) = (left + self.strip + 2 * self.tick, y as i64 - pen.line_height() as i64 / 2);
            pen.draw(page, x as i64, y, label, INK);
        }
    }
}

/// `count` evenly spaced numbers along a scale, all with as many decimals as tell neighbours apart.
fn labels(scale: Scale, colormap: Colormap, count: usize) -> Vec<String> {
    let (min, max) = (f64::from(scale.min), f64::from(scale.max));
    if scale.is_flat() {
        // One value: at the middle of a diverging map, else at the bottom.
        let value = number(min, None);
        return if colormap.is_diverging() { vec![String::new(), value, String::new()] } else { vec![value] };
    }
    let step = (max - min) / (count - 1) as f64;
    let largest = max.abs().max(min.abs());
    let plain = (1e-3..1e5).contains(&largest) && step > largest * 1e-5;
    let decimals = plain.then(|| (1.0 - step.log10() - 1e-6).ceil().clamp(0.0, 8.0) as usize);
    let value = |i: usize| if i + 1 == count { max } else { min + step * i as f64 };
    let signed = |v: f64| {
        // What is zero but for rounding is zero.
        let v = if v.abs() < step * 1e-6 { 0.0 } else { v };
        let plus = if colormap.is_diverging() && v > 0.0 { "+" } else { "" };
        format!("{plus}{}", number(v, decimals))
    };
    (0..count).map(|i| signed(value(i))).collect()
}

/// A number with a true minus sign; `None` decimals: scientific.
fn number(v: f64, decimals: Option<usize>) -> String {
    let text = match decimals {
        _ if v == 0.0 => "0".into(),
        Some(n) => format!("{v:.n$}"),
        None if (1e-3..1e5).contains(&v.abs()) => {
            format!("{:.4}", v).trim_end_matches('0').trim_end_matches('.').into()
        }
        None => format!("{v:.2e}"),
    };
    text.replace('-', "−")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shades(width: usize, height: usize) -> Rgb8 {
        let data = (0..width * height).flat_map(|i| [(i % width * 255 / width) as u8, 120, 90]).collect();
        Rgb8 { width, height, data }
    }

    #[test]
    fn numbers_of_a_bar_tell_neighbours_apart() {
        let of = |min, max, map| labels(Scale { min, max }, map, 5).join(" ");
        assert_eq!(of(0.0, 1.0, Colormap::Turbo), "0 0.25 0.50 0.75 1.00");
        assert_eq!(of(-0.02, 0.02, Colormap::RdBu), "−0.020 −0.010 0 +0.010 +0.020");
        assert_eq!(of(0.0, 4e-7, Colormap::Turbo), "0 1.00e−7 2.00e−7 3.00e−7 4.00e−7");
        assert_eq!(of(100.0, 300.0, Colormap::Jet), "100 150 200 250 300");
        assert_eq!(of(0.5, 0.5, Colormap::Turbo), "0.5");
        assert_eq!(labels(Scale { min: 0.0, max: 0.0 }, Colormap::RdBu, 5), ["", "0", ""]);
    }

    #[test]
    fn bar_and_caption_stand_beside_and_below_the_picture() {
        let picture = shades(160, 120);
        let map = [0.0, 0.1, 0.2, 0.4];
        let bare = OverlayOptions { colorbar: false, ..Default::default() };
        let plain = render_overlay(&picture, &map, 2, 2, &bare).unwrap();
        assert_eq!((plain.width, plain.height), (160, 120));
        let caption = Some("0.2731  a cup".to_owned());
        let full = render_overlay(&picture, &map, 2, 2, &OverlayOptions { caption, ..Default::default() }).unwrap();
        assert!(full.width > 160 + 40 && full.height > 120 + 14);
        // The overlay itself is inside, unchanged, and the page around it is white.
        let at = (0..full.width).find(|&x| full.get(x, 60) != Some(PAPER)).unwrap();
        assert!((0..160).all(|x| full.get(at + x, at + 40) == plain.get(x, 40)));
        assert_eq!(full.get(0, 0), Some(PAPER));
    }

    #[test]
    fn small_pictures_are_enlarged_for_the_text() {
        let full = render_overlay(&shades(32, 32), &[0.0, 1.0], 1, 2, &OverlayOptions::default()).unwrap();
        assert!(full.height >= 224 && full.height < 300);
    }

    #[test]
    fn before_and_after_share_a_scale_and_an_unchanged_map_shows_no_difference() {
        let picture = shades(128, 128);
        let (before, after) = ([0.0, 1.0, 2.0, 3.0], [0.0, 1.0, 2.0, 9.0]);
        let titles = [("before", 1.0), ("after", 1.0), ("difference", 1.0)];
        let options = OverlayOptions::default();
        let three = side_by_side(&picture, &before, &after, 2, 2, titles, &options).unwrap();
        assert!(three.width > 3 * 128);
        let same = side_by_side(&picture, &before, &before, 2, 2, titles, &options).unwrap();
        assert_ne!(three, same);
        assert!(side_by_side(&picture, &before, &[0.0], 2, 2, titles, &options).is_err());
        assert!(side_by_side(&picture, &before, &[f32::NAN; 4], 2, 2, titles, &options).is_err());
    }

    #[test]
    fn the_title_of_a_narrow_panel_holds_its_score() {
        let picture = shades(112, 1000);
        let titled = |score: &str| {
            let title = format!("before  {score} (heat at 23 %)");
            let panels = [(title.as_str(), 1.0), ("after", 1.0), ("difference", 1.0)];
            side_by_side(&picture, &[0.0, 1.0], &[0.0, 1.0], 1, 2, panels, &OverlayOptions::default()).unwrap()
        };
        assert_ne!(titled("−0.4661"), titled("−0.4664"), "the last digit is there");
    }

    #[test]
    fn a_png_reads_back_and_leaves_no_temporary_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("overlay.png");
        let picture = shades(31, 7);
        write_png(&path, &picture).unwrap();
        assert_eq!(super::super::decode(&path, &Default::default()).unwrap(), picture);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
        let error = write_png(folder.path().join("no/such/folder.png"), &picture).unwrap_err();
        assert!(matches!(error, Error::Io { .. }));
    }
}
