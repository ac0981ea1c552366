//! An f32 as an exact sum of three bf16, and the packing of rows and weights into tile order.
//!
//! `a = a0 + a1 + a2`, each part the bf16 nearest to what the parts before it leave. bf16 has 8 significant bits and a
//! rounding leaves at most half a unit of sign and 16, then 8 bits, so three parts hold all 24 bits of an f32.
//! `|a1| <= 2^-8 |a|`, `|a2| <= 2^-16 |a|`, without a preferred sign.
//!
//! * Near `f32::MAX`, where rounding to bf16 would overflow, a0 is the largest finite bf16: still exact.
//! * An infinity is (largest, largest, infinity) and a NaN (largest, largest, NaN), so that a product with them is what
//!   f32 arithmetic gives: infinity of the right sign, or NaN.
//! * Parts under 2^-126 are read as zero by the tile unit. So all 24 bits count for `|a| >= 2^-102`; smaller values
//!   carry an absolute error of at most 2^-126 (half of it in the last part), and denormal ones are zero.

use super::amx::{Line, STEP, STEP_LINES, TILE_ROWS, WIDTH};

/// The largest finite bf16.
const LARGEST: f32 = f32::from_bits(0x7f7f_0000);
/// From here on (and for NaN) rounding to bf16 gives no finite number.
const OVERFLOWS: f32 = f32::from_bits(0x7f7f_8000);

/// The bf16 nearest to `a`, ties to even, as an f32; the largest of its sign if there is none.
#[inline(always)]
fn nearest(a: f32) -> f32 {
    let bits = a.to_bits();
    let rounded = f32::from_bits((bits.wrapping_add(0x7fff + ((bits >> 16) & 1))) & 0xffff_0000);
    if a.abs() < OVERFLOWS { rounded } else { LARGEST.copysign(a) }
}

/// Steps that are packed row by row before the next ones: the lines they go to stay in the L1 cache.
const PACK_STEPS: usize = 4;

/// The bits of the three bf16 parts of `a`.
#[inline(always)]
pub(super) fn split(a: f32) -> [u16; 3] {
    let a0 = nearest(a);
    let rest = a - a0;
    let a1 = nearest(rest);
    let a2 = rest - a1;
    [(a0.to_bits() >> 16) as u16, (a1.to_bits() >> 16) as u16, (a2.to_bits() >> 16) as u16]
}

/// The value that [`split`] was given. Exact for zero and `|a| >= 2^-110`, else within 2^-133; the sign of zero and the
/// payload of a NaN are lost.
pub(super) fn join(parts: [u16; 3]) -> f32 {
    let [a0, a1, a2] = parts.map(|bits| f32::from_bits(u32::from(bits) << 16));
    // The last two first: their sum is what a0 left of the value, which is an f32.
    a0 + (a1 + a2)
}

/// Packs the values `k0..k0 + 32 * steps` of the rows of X (zeros past their end) as the A operand:
/// panel x step x plane x tile x row lines. Row `i` stands in tile `i / tile_rows` (two tiles per panel), line
/// `i % tile_rows`.
pub(super) fn pack_rows(lines: &mut Vec<Line>, x: &[&[f32]], k0: usize, steps: usize, tile_rows: usize) {
    lines.resize(x.len().div_ceil(2 * tile_rows) * steps * STEP_LINES, Line([0; STEP]));
    let panels = lines.chunks_exact_mut(steps * STEP_LINES);
    for (panel, x) in panels.zip(x.chunks(2 * tile_rows)) {
        for step0 in (0..steps).step_by(PACK_STEPS) {
            for (i, row) in x.iter().enumerate() {
                let values = &row[row.len().min(k0 + step0 * STEP)..row.len().min(k0 + steps * STEP)];
                let values = &values[..values.len().min(PACK_STEPS * STEP)];
                let lines = &mut panel[step0 * STEP_LINES + i / tile_rows * TILE_ROWS + i % tile_rows..];
                pack_row(lines, values);
            }
        }
    }
}

/// Splits `values` into the lines 0 (first part), 32 and 64 (second and third), step after step.
fn pack_row(lines: &mut [Line], values: &[f32]) {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx512bw") && is_x86_feature_detected!("avx512vl") {
        // SAFETY: the features that the function is compiled for were just detected.
        return unsafe { pack_row_avx512(lines, values) };
    }
    pack_row_generic(lines, values);
}

/// [`pack_row_generic`], compiled for AVX-512.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512bw,avx512vl")]
fn pack_row_avx512(lines: &mut [Line], values: &[f32]) {
    pack_row_generic(lines, values);
}

#[inline(always)]
fn pack_row_generic(lines: &mut [Line], values: &[f32]) {
    let mut split_line = |step: usize, values: &[f32; STEP]| {
        let mut parts = [[0; STEP]; 3];
        for (i, &value) in values.iter().enumerate() {
            let [a0, a1, a2] = split(value);
            (parts[0][i], parts[1][i], parts[2][i]) = (a0, a1, a2);
        }
        for (plane, part) in parts.into_iter().enumerate() {
            lines[step * STEP_LINES + plane * 2 * TILE_ROWS] = Line(part);
        }
    };
    let (whole, tail) = values.as_chunks::<STEP>();
    for (step, values) in whole.iter().enumerate() {
        split_line(step, values);
    }
    if !tail.is_empty() {
        let mut padded = [0.0; STEP];
        padded[..tail.len()].copy_from_slice(tail);
        split_line(whole.len(), &padded);
    }
}

/// Packs 32 columns of the B operand, `value(k, column)` for `k` in `0..32 * steps`, as step x plane x tile x pair lines:
/// pair `p` of a tile holds the values `2 p, 2 p + 1` of each of its 16 columns.
pub(super) fn pack_panel(panel: &mut [Line], value: impl Fn(usize, usize) -> f32) {
    for (step, lines) in panel.chunks_exact_mut(STEP_LINES).enumerate() {
        for column in 0..WIDTH {
            for k in 0..STEP {
                let parts = split(value(step * STEP + k, column));
                for (plane, part) in parts.into_iter().enumerate() {
                    let (line, slot) = position(plane, k, column);
                    lines[line].0[slot] = part;
                }
            }
        }
    }
}

/// The weight at `k`, `column` of a packed panel.
pub(super) fn unpack(panel: &[Line], k: usize, column: usize) -> f32 {
    let lines = &panel[k / STEP * STEP_LINES..];
    join([0, 1, 2].map(|plane| {
        let (line, slot) = position(plane, k % STEP, column);
        lines[line].0[slot]
    }))
}

/// Line and slot of the value `k` (0 to 31) of `column` (0 to 31) in a step of the B operand.
fn position(plane: usize, k: usize, column: usize) -> (usize, usize) {
    let (tile, column) = (column / TILE_ROWS, column % TILE_ROWS);
    ((plane * 2 + tile) * TILE_ROWS + k / 2, 2 * column + k % 2)
}
