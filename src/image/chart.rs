//! Curves in panels side by side: one description, drawn as SVG or in pixels.

use std::fmt::Write as _;

use super::decode::Rgb8;
use super::text::Pen;
use crate::Result;

/// A panel's plot in pixels, and what stands around it.
const PLOT: (f64, f64) = (300.0, 190.0);
const MARGIN: Margin = Margin { left: 62.0, right: 14.0, top: 34.0, bottom: 44.0 };
const TEXT: f64 = 12.0;

const INK: [u8; 3] = [40; 3];
const FRAME: [u8; 3] = [150; 3];
const GRID: [u8; 3] = [228; 3];
/// Colours that the colour-blind can tell apart (Okabe and Ito).
const COLOURS: [[u8; 3]; 4] = [[0, 114, 178], [213, 94, 0], [0, 158, 115], [204, 121, 167]];

struct Margin {
    left: f64,
    right: f64,
    top: f64,
    bottom: f64,
}

/// Points joined by a line.
#[derive(Debug, Clone, PartialEq)]
pub struct Curve {
    /// Its name in the legend.
    pub name: String,
    /// `(x, y)`, by growing x; points that are not finite are left out.
    pub points: Vec<(f64, f64)>,
}

/// A plot of some curves.
#[derive(Debug, Clone, PartialEq)]
pub struct ChartPanel {
    /// Above the plot.
    pub title: String,
    /// Below the plot.
    pub x_label: String,
    /// Whether y is on a logarithmic axis; points at or below 0 are then left out.
    pub log: bool,
    /// The curves.
    pub curves: Vec<Curve>,
}

/// Panels from left to right.
#[derive(Debug, Clone, PartialEq)]
pub struct Chart {
    /// The panels.
    pub panels: Vec<ChartPanel>,
}

/// Where a text stands relative to its point, which is on the line that the letters stand in the middle of.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Anchor {
    Start,
    Middle,
    End,
}

/// What both drawings are made of.
#[derive(Debug)]
enum Mark {
    Line { points: Vec<(f64, f64)>, colour: [u8; 3], width: f64 },
    Text { at: (f64, f64), anchor: Anchor, text: String, colour: [u8; 3] },
}

impl Chart {
    fn size(&self) -> (f64, f64) {
        let width = PLOT.0 + MARGIN.left + MARGIN.right;
        (width * self.panels.len().max(1) as f64, PLOT.1 + MARGIN.top + MARGIN.bottom)
    }

    fn marks(&self) -> Vec<Mark> {
        let step = PLOT.0 + MARGIN.left + MARGIN.right;
        let left = |i: usize| i as f64 * step + MARGIN.left;
        self.panels.iter().enumerate().flat_map(|(i, panel)| panel.marks(left(i), MARGIN.top)).collect()
    }

    /// The chart as an SVG file.
    pub fn svg(&self) -> String {
        let (width, height) = self.size();
        let hex = |[r, g, b]: [u8; 3]| format!("#{r:02x}{g:02x}{b:02x}");
        let mut out = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
             viewBox=\"0 0 {width} {height}\" font-family=\"DejaVu Sans, sans-serif\" font-size=\"{TEXT}\">\n\
             <rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n"
        );
        for mark in self.marks() {
            // Writing to a string cannot fail.
            let _ = match mark {
                Mark::Line { points, colour, width } => {
                    let points: Vec<String> = points.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
                    let (points, colour) = (points.join(" "), hex(colour));
                    writeln!(
                        out,
                        "<polyline points=\"{points}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"{width}\"/>"
                    )
                }
                Mark::Text { at: (x, y), anchor, text, colour } => {
                    let anchor = match anchor {
                        Anchor::Start => "start",
                        Anchor::Middle => "middle",
                        Anchor::End => "end",
                    };
                    let (y, colour) = (y + 0.35 * TEXT, hex(colour));
                    let text = text.replace('&', "&amp;").replace('<', "&lt;");
                    writeln!(
                        out,
                        "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" fill=\"{colour}\">{text}</text>"
                    )
                }
            };
        }
        out.push_str("</svg>\n");
        out
    }

    /// The chart in pixels, twice as many a side as the SVG's units.
    ///
    /// # Errors
    /// None but for a program that was built with a damaged font.
    pub fn picture(&self) -> Result<Rgb8> {
        const ZOOM: f64 = 2.0;
        let (width, height) = self.size();
        let mut page = Rgb8::filled((width * ZOOM) as usize, (height * ZOOM) as usize, [255; 3]);
        // A line of this font is about 1.16 times its size.
        let pen = Pen::new((TEXT * ZOOM * 1.16) as f32)?;
        for mark in self.marks() {
            match mark {
                Mark::Line { points, colour, width } => {
                    let points: Vec<(f64, f64)> = points.iter().map(|(x, y)| (x * ZOOM, y * ZOOM)).collect();
                    points.windows(2).for_each(|ends| segment(&mut page, ends[0], ends[1], colour, width * ZOOM));
                }
                Mark::Text { at: (x, y), anchor, text, colour } => {
                    let share = match anchor {
                        Anchor::Start => 0.0,
                        Anchor::Middle => 0.5,
                        Anchor::End => 1.0,
                    };
                    let left = x * ZOOM - share * pen.width(&text) as f64;
                    let top = y * ZOOM - pen.line_height() as f64 / 2.0;
                    pen.draw(&mut page, left.round() as i64, top.round() as i64, &text, colour);
                }
            }
        }
        Ok(page)
    }
}

impl ChartPanel {
    fn marks(&self, left: f64, top: f64) -> Vec<Mark> {
        let (right, bottom) = (left + PLOT.0, top + PLOT.1);
        let height = |y: f64| if self.log { y.log10() } else { y };
        let shown = |&(x, y): &(f64, f64)| {
            let y = height(y);
            (x.is_finite() && y.is_finite()).then_some((x, y))
        };
        let curves: Vec<Vec<(f64, f64)>> =
            self.curves.iter().map(|curve| curve.points.iter().filter_map(shown).collect()).collect();
        let x_range = range(curves.iter().flatten().map(|p| p.0), false);
        let y_range = range(curves.iter().flatten().map(|p| p.1), !self.log);
        let x_of = |x: f64| left + (x - x_range.0) / (x_range.1 - x_range.0) * PLOT.0;
        let y_of = |y: f64| bottom - (y - y_range.0) / (y_range.1 - y_range.0) * PLOT.1;

        let line = |points, colour, width| Mark::Line { points, colour, width };
        let text = |at, anchor, text: String, colour| Mark::Text { at, anchor, text, colour };
        let mut marks = Vec::new();
        for (value, label) in ticks(y_range, self.log) {
            marks.push(line(vec![(left, y_of(value)), (right, y_of(value))], GRID, 1.0));
            marks.push(text((left - 6.0, y_of(value)), Anchor::End, label, INK));
        }
        for (value, label) in ticks(x_range, false) {
            marks.push(line(vec![(x_of(value), bottom), (x_of(value), bottom + 4.0)], FRAME, 1.0));
            marks.push(text((x_of(value), bottom + 13.0), Anchor::Middle, label, INK));
        }
        let frame = vec![(left, top), (right, top), (right, bottom), (left, bottom), (left, top)];
        marks.push(line(frame, FRAME, 1.0));
        marks.push(text((left, top - 20.0), Anchor::Start, self.title.clone(), INK));
        marks.push(text((right, bottom + 31.0), Anchor::End, self.x_label.clone(), INK));
        for (i, points) in curves.into_iter().enumerate() {
            let points = points.into_iter().map(|(x, y)| (x_of(x), y_of(y))).collect();
            marks.push(line(points, COLOURS[i % COLOURS.len()], 1.6));
        }
        if self.curves.len() > 1 {
            for (i, curve) in self.curves.iter().enumerate() {
                let (y, colour) = (top + 12.0 + 15.0 * i as f64, COLOURS[i % COLOURS.len()]);
                marks.push(text((right - 8.0, y), Anchor::End, curve.name.clone(), colour));
            }
        }
        marks
    }
}

/// Smallest and largest value, never the same; from zero where all values are above it and `zero` asks for it.
fn range(values: impl Iterator<Item = f64>, zero: bool) -> (f64, f64) {
    let (low, high) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| (low.min(v), high.max(v)));
    let low = if zero { low.min(0.0) } else { low };
    match high - low {
        span if span > 0.0 && span.is_finite() => (low, high + if zero { 0.05 * span } else { 0.0 }),
        _ if low.is_finite() => (low, low + 1.0),
        _ => (0.0, 1.0),
    }
}

/// Round values within a range and their labels. On a logarithmic axis the range is that of the exponents.
fn ticks((low, high): (f64, f64), log: bool) -> Vec<(f64, String)> {
    if log {
        let digits: &[f64] = if high - low > 2.5 { &[1.0] } else { &[1.0, 2.0, 5.0] };
        let decades = low.floor() as i32..=high.floor() as i32;
        let values = decades.flat_map(|e| digits.iter().map(move |d| d * 10f64.powi(e)));
        let within = values.filter(|v| (low..=high).contains(&v.log10()));
        return within.map(|v| (v.log10(), label(v, v))).collect();
    }
    let rough = (high - low) / 4.0;
    let decade = 10f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].map(|d| d * decade).into_iter().find(|s| *s >= rough).unwrap_or(rough);
    let first = (low / step - 1e-9).ceil();
    let values = (0..12).map(|i| (first + f64::from(i)) * step);
    values.filter(|v| *v <= high + 1e-9 * step).map(|v| (v, label(v, step))).collect()
}

/// A number with as many decimals as steps of `step` need; thousands as `k`.
fn label(value: f64, step: f64) -> String {
    if value.abs() < 1e-9 * step.abs() {
        return "0".into();
    }
    let text = match (value, step) {
        (v, s) if s >= 1e6 => format!("{}M", v / 1e6),
        (v, s) if s >= 1e3 => format!("{}k", v / 1e3),
        (v, s) if s < 1e-4 => format!("{v:.0e}"),
        (v, s) => format!("{v:.*}", (-s.log10().floor()).max(0.0) as usize),
    };
    text.replace('-', "−")
}

/// A line from `a` to `b` with round ends; a pixel takes as much colour as the line covers of it.
fn segment(page: &mut Rgb8, a: (f64, f64), b: (f64, f64), colour: [u8; 3], width: f64) {
    let reach = width / 2.0 + 1.0;
    let clamp = |v: f64, size: usize| v.clamp(0.0, size as f64) as usize;
    let (dx, dy) = (b.0 - a.0, b.1 - a.1);
    let length = (dx * dx + dy * dy).max(f64::MIN_POSITIVE);
    for y in clamp(a.1.min(b.1) - reach, page.height)..clamp(a.1.max(b.1) + reach + 1.0, page.height) {
        for x in clamp(a.0.min(b.0) - reach, page.width)..clamp(a.0.max(b.0) + reach + 1.0, page.width) {
            let (px, py) = (x as f64 + 0.5, y as f64 + 0.5);
            let along = (((px - a.0) * dx + (py - a.1) * dy) / length).clamp(0.0, 1.0);
            let distance = (px - a.0 - along * dx).hypot(py - a.1 - along * dy);
            let cover = (width / 2.0 + 0.5 - distance).clamp(0.0, 1.0);
            let start = (y * page.width + x) * 3;
            for (byte, ink) in page.data[start..start + 3].iter_mut().zip(colour) {
                *byte = (f64::from(*byte) + (f64::from(ink) - f64::from(*byte)) * cover).round() as u8;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(range: (f64, f64), log: bool) -> String {
        ticks(range, log).into_iter().map(|(_, label)| label).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn ticks_are_round_and_tell_neighbours_apart() {
        assert_eq!(labels((0.0, 5000.0), false), "0 2k 4k");
        assert_eq!(labels((0.0, 0.42), false), "0 0.2 0.4");
        assert_eq!(labels((10.0, 47.0), false), "10 20 30 40");
        assert_eq!(labels((0.0, 3e6), false), "0 1M 2M 3M");
        assert_eq!(labels((-1.0, 1.0), false), "−1.0 −0.5 0 0.5 1.0");
        assert_eq!(labels((-2.0, 0.0), true), "0.01 0.02 0.05 0.1 0.2 0.5 1");
        assert_eq!(labels((-3.0, 1.0), true), "0.001 0.01 0.1 1 10");
    }

    fn chart() -> Chart {
        let curve = |name: &str, y: f64| Curve { name: name.into(), points: vec![(0.0, y), (10.0, 2.0 * y)] };
        let curves = vec![curve("a<b", 1.0), curve("b", 3.0)];
        let panel = ChartPanel { title: "A & B".into(), x_label: "step".into(), log: false, curves };
        let holes = Curve { name: "c".into(), points: vec![(0.0, f64::NAN), (1.0, -1.0), (2.0, 0.5)] };
        let empty = Curve { name: "d".into(), points: Vec::new() };
        let odd = ChartPanel { log: true, curves: vec![holes, empty], ..panel.clone() };
        Chart { panels: vec![panel, odd] }
    }

    #[test]
    fn both_drawings_show_the_curves() {
        let (svg, picture) = (chart().svg(), chart().picture().unwrap());
        assert!(svg.contains("A &amp; B") && svg.contains(">a&lt;b<") && !svg.contains("NaN"));
        // Two frames, a curve each, ticks and grid lines.
        assert!(svg.matches("<polyline").count() > 12);
        assert!(svg.contains(&format!("width=\"{}\"", picture.width / 2)));
        // The end of the first curve: x at the right edge, y = 2 of a range that ends at 6.3.
        let at = |x: f64, y: f64| picture.get((2.0 * x) as usize, (2.0 * y) as usize).unwrap();
        let y = MARGIN.top + PLOT.1 * (1.0 - 2.0 / 6.3);
        let near = |colour: [u8; 3]| colour.iter().zip(COLOURS[0]).all(|(a, b)| a.abs_diff(b) < 60);
        assert!(near(at(MARGIN.left + PLOT.0 - 3.0, y + 0.5)), "{:?}", at(MARGIN.left + PLOT.0 - 3.0, y + 0.5));
        assert!(Chart { panels: Vec::new() }.picture().is_ok());
    }
}
