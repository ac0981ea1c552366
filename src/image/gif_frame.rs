//! The first frame of a GIF: where it lies and what is around it. Pillow fills a screen that the frame does not cover
//! with the frame's transparent colour, or else its first colour; the decoder leaves black. (GIF89a, sections 17-23.)

use super::decode::Rgb8;

/// Fills what the first frame leaves of the screen.
pub(super) fn fill_around(picture: &mut Rgb8, bytes: &[u8]) {
    let Some(frame) = first_frame(bytes) else { return };
    let width = picture.width;
    for (i, pixel) in picture.data.chunks_exact_mut(3).enumerate() {
        let (x, y) = (i % width, i / width);
        if !(frame.x.contains(&x) && frame.y.contains(&y)) {
            pixel.copy_from_slice(&frame.fill);
        }
    }
}

struct Frame {
    x: std::ops::Range<usize>,
    y: std::ops::Range<usize>,
    fill: [u8; 3],
}

fn first_frame(bytes: &[u8]) -> Option<Frame> {
    let palette_bytes = |flags: u8| if flags & 0x80 != 0 { 3usize << ((flags & 7) + 1) } else { 0 };
    let global = palette_bytes(*bytes.get(10)?);
    let mut palette = bytes.get(13..13 + global)?;
    let mut at = 13 + global;
    let mut transparent = None;
    // Extensions, each a label and blocks up to an empty one, come before the frame.
    while *bytes.get(at)? == 0x21 {
        if let [0xF9, 4, flags, _, _, index] = *bytes.get(at + 1..at + 7)? {
            transparent = (flags & 1 != 0).then_some(usize::from(index));
        }
        at += 2;
        while let length @ 1.. = usize::from(*bytes.get(at)?) {
            at += 1 + length;
        }
        at += 1;
    }
    let [0x2C, rest @ ..] = bytes.get(at..at + 10)? else { return None };
    let side = |i: usize| usize::from(u16::from_le_bytes([rest[i], rest[i + 1]]));
    let local = palette_bytes(rest[8]);
    if local > 0 {
        palette = bytes.get(at + 10..at + 10 + local)?;
    }
    let fill = palette.chunks_exact(3).nth(transparent.unwrap_or(0)).and_then(|c| c.try_into().ok());
    let (left, top) = (side(0), side(2));
    Some(Frame { x: left..left + side(4), y: top..top + side(6), fill: fill.unwrap_or_default() })
}
