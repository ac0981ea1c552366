//! Lines of text in pictures, in DejaVu Sans (Latin, Greek and Cyrillic; other characters become `?`).

use ab_glyph::{Font, FontRef, PxScaleFont, ScaleFont};

use super::decode::Rgb8;
use crate::error::{Error, Result};

const FONT: &[u8] = include_bytes!("../../assets/DejaVuSans.ttf");

/// A font size to measure and draw with.
pub(super) struct Pen {
    font: PxScaleFont<FontRef<'static>>,
}

impl Pen {
    /// A pen whose lines are `height` pixels high, from the highest ascender to the lowest descender.
    pub(super) fn new(height: f32) -> Result<Self> {
        let font = FontRef::try_from_slice(FONT).map_err(|e| Error::file("assets/DejaVuSans.ttf", e.to_string()))?;
        Ok(Pen { font: font.into_scaled(height) })
    }

    /// Pixels from one line to the next.
    pub(super) fn line_height(&self) -> usize {
        self.font.height().ceil() as usize
    }

    /// Width of a line in pixels.
    pub(super) fn width(&self, line: &str) -> usize {
        line.chars().map(|c| self.font.h_advance(self.glyph(c))).sum::<f32>().ceil() as usize
    }

    fn glyph(&self, c: char) -> ab_glyph::GlyphId {
        let id = self.font.glyph_id(c);
        if id.0 == 0 { self.font.glyph_id('?') } else { id }
    }

    /// Draws a line with its upper left corner at (`left`, `top`); what lies outside the picture is cut off.
    pub(super) fn draw(&self, picture: &mut Rgb8, left: i64, top: i64, line: &str, colour: [u8; 3]) {
        let mut x = left as f32;
        let baseline = top as f32 + self.font.ascent().round();
        for c in line.chars() {
            let id = self.glyph(c);
            let glyph = id.with_scale_and_position(self.font.scale(), ab_glyph::point(x, baseline));
            x += self.font.h_advance(id);
            let Some(outline) = self.font.outline_glyph(glyph) else { continue };
            let corner = outline.px_bounds().min;
            outline.draw(|dx, dy, cover| {
                let (px, py) = (corner.x as i64 + i64::from(dx), corner.y as i64 + i64::from(dy));
                if (0..picture.width as i64).contains(&px) && (0..picture.height as i64).contains(&py) {
                    let start = (py as usize * picture.width + px as usize) * 3;
                    for (byte, ink) in picture.data[start..start + 3].iter_mut().zip(colour) {
                        let mixed = f32::from(*byte) + (f32::from(ink) - f32::from(*byte)) * cover.clamp(0.0, 1.0);
                        *byte = mixed.round() as u8;
                    }
                }
            });
        }
    }

    /// `text` in lines no wider than `width`, broken between words; what does not fit into `lines` ends with `…`.
    pub(super) fn wrap(&self, text: &str, width: usize, lines: usize) -> Vec<String> {
        let mut out: Vec<String> = Vec::new();
        let mut left_over = false;
        for word in text.split_whitespace() {
            let joined = out.last().map(|line| format!("{line} {word}"));
            match joined {
                Some(joined) if self.width(&joined) <= width => {
                    if let Some(last) = out.last_mut() {
                        *last = joined;
                    }
                }
                _ if out.len() == lines => {
                    left_over = true;
                    break;
                }
                _ => out.push(word.to_owned()),
            }
        }
        let count = out.len();
        for (i, line) in out.iter_mut().enumerate() {
            let cut = left_over && i + 1 == count;
            if cut || self.width(line) > width {
                while !line.is_empty() && self.width(&format!("{line}…")) > width {
                    line.pop();
                }
                line.push('…');
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_fit_their_width_and_long_text_ends_with_dots() {
        let pen = Pen::new(14.0).unwrap();
        let text = "a photograph of a cup of coffee on a wooden table in the morning sun";
        let lines = pen.wrap(text, 120, 2);
        assert_eq!(lines.len(), 2);
        assert!(lines.iter().all(|l| pen.width(l) <= 120) && lines[1].ends_with('…'));
        assert_eq!(pen.wrap("short", 120, 2), ["short"]);
        assert!(pen.width(&pen.wrap("Donaudampfschifffahrtsgesellschaft", 60, 1)[0]) <= 60);
    }

    #[test]
    fn ink_stays_inside_the_picture_and_unknown_characters_are_question_marks() {
        let pen = Pen::new(20.0).unwrap();
        let drawn = |text| {
            let mut picture = Rgb8::filled(60, 24, [255; 3]);
            pen.draw(&mut picture, 2, 2, text, [0; 3]);
            picture
        };
        assert_eq!(drawn("鳥"), drawn("?"));
        assert_ne!(drawn("é"), drawn("?"));
        assert!(drawn("W").data.iter().any(|&v| v < 40));
        let mut edge = Rgb8::filled(5, 5, [255; 3]);
        pen.draw(&mut edge, -8, -8, "MMMM", [0; 3]);
        assert_eq!(edge.data.len(), 75);
    }
}
