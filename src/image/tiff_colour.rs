//! The two TIFF colour kinds that the TIFF decoder does not read as Pillow does: palettes (not at all) and CMYK (with
//! another rounding). Both are handed to the decoder under the name of a kind that it passes through untouched, grey
//! and RGBA, and are converted here. Only classic TIFF is looked at (TIFF 6.0, sections 2 and 8); other files are
//! left as they are.

const PHOTOMETRIC: u16 = 262;
const COLOUR_MAP: u16 = 320;
const SHORT: u16 = 3;

/// How the samples of a relabelled file become RGB.
pub(super) enum TiffColour {
    /// One byte a pixel, an index into these colours.
    Palette(Vec<[u8; 3]>),
    /// Four bytes a pixel.
    Cmyk,
}

/// A copy of a palette or CMYK file under another name, and how to convert its samples; `None` for all other files.
pub(super) fn relabel(bytes: &[u8]) -> Option<(Vec<u8>, TiffColour)> {
    let little = match bytes.get(..4)? {
        [b'I', b'I', 42, 0] => true,
        [b'M', b'M', 0, 42] => false,
        _ => return None,
    };
    let u16_at = |at: usize| -> Option<u16> {
        let b = bytes.get(at..at.checked_add(2)?)?.try_into().ok()?;
        Some(if little { u16::from_le_bytes(b) } else { u16::from_be_bytes(b) })
    };
    let u32_at = |at: usize| -> Option<usize> {
        let b = bytes.get(at..at.checked_add(4)?)?.try_into().ok()?;
        usize::try_from(if little { u32::from_le_bytes(b) } else { u32::from_be_bytes(b) }).ok()
    };

    let directory = u32_at(4)?;
    let entries = usize::from(u16_at(directory)?);
    let entry_of = |tag: u16| {
        (0..entries)
            .map(|i| directory + 2 + 12 * i)
            .find(|&at| u16_at(at) == Some(tag) && u16_at(at + 2) == Some(SHORT))
    };
    let photometric = entry_of(PHOTOMETRIC)? + 8;
    let (name, colour): (u16, _) = match u16_at(photometric)? {
        3 => {
            let map = entry_of(COLOUR_MAP)?;
            let (count, start) = (u32_at(map + 4)? / 3, u32_at(map + 8)?);
            if count > 256 {
                return None;
            }
            // All reds, then all greens, then all blues, of 16 bits each; Pillow keeps the high byte.
            let value = |channel: usize, i: usize| Some((u16_at(start + 2 * (channel * count + i))? >> 8) as u8);
            let colours = (0..count).map(|i| Some([value(0, i)?, value(1, i)?, value(2, i)?]));
            (1, TiffColour::Palette(colours.collect::<Option<_>>()?))
        }
        5 => (2, TiffColour::Cmyk),
        _ => return None,
    };
    let mut copy = bytes.to_vec();
    let name = if little { name.to_le_bytes() } else { name.to_be_bytes() };
    copy.get_mut(photometric..photometric + 2)?.copy_from_slice(&name);
    Some((copy, colour))
}

/// Ink to light as Pillow converts mode CMYK: `(255 - k) - round(c (255 - k) / 255)`, for each of c, m, y.
pub(super) fn cmyk_to_rgb(cmyk: [u8; 4]) -> [u8; 3] {
    let light = 255 - u32::from(cmyk[3]);
    [cmyk[0], cmyk[1], cmyk[2]].map(|ink| {
        let product = u32::from(ink) * light + 128;
        (light - ((product + (product >> 8)) >> 8)) as u8
    })
}
