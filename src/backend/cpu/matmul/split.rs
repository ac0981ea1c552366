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
pub(super) fn pack_rows(lines: &mut [Line], x: &[&[f32]], k0: usize, steps: usize, tile_rows: usize) {
    #[cfg(target_arch = "x86_64")]
    if bf16::available() {
        // SAFETY: the features that the function is compiled for were just detected.
        return unsafe { bf16::pack_rows(lines, x, k0, steps, tile_rows) };
    }
    with_vectors(
        #[inline(always)]
        || pack_rows_by(lines, x, k0, steps, tile_rows, split_line),
    );
}

/// [`pack_rows`] with a way to split 32 values.
#[inline(always)]
fn pack_rows_by(
    lines: &mut [Line],
    x: &[&[f32]],
    k0: usize,
    steps: usize,
    tile_rows: usize,
    split_line: impl Fn(&[f32; STEP]) -> [Line; 3],
) {
    for (panel, x) in lines.chunks_exact_mut(steps * STEP_LINES).zip(x.chunks(2 * tile_rows)) {
        for step0 in (0..steps).step_by(PACK_STEPS) {
            for (i, row) in x.iter().enumerate() {
                let start = k0 + step0 * STEP;
                let end = row.len().min(k0 + steps * STEP).min(start + PACK_STEPS * STEP);
                let lines = &mut panel[step0 * STEP_LINES + i / tile_rows * TILE_ROWS + i % tile_rows..];
                pack_row(lines, row.get(start..end).unwrap_or_default(), &split_line);
            }
        }
    }
}

/// Splits `values` into the lines 0 (first part), 32 and 64 (second and third), step after step.
#[inline(always)]
fn pack_row(lines: &mut [Line], values: &[f32], split_line: impl Fn(&[f32; STEP]) -> [Line; 3]) {
    let mut put = |step: usize, parts: [Line; 3]| {
        for (plane, part) in parts.into_iter().enumerate() {
            lines[step * STEP_LINES + plane * 2 * TILE_ROWS] = part;
        }
    };
    let (whole, tail) = values.as_chunks::<STEP>();
    for (step, values) in whole.iter().enumerate() {
        put(step, split_line(values));
    }
    if !tail.is_empty() {
        let mut padded = [0.0; STEP];
        padded[..tail.len()].copy_from_slice(tail);
        put(whole.len(), split_line(&padded));
    }
}

/// The three parts of 32 values.
#[inline(always)]
fn split_line(values: &[f32; STEP]) -> [Line; 3] {
    let mut parts = [Line([0; STEP]); 3];
    for (i, &value) in values.iter().enumerate() {
        let [a0, a1, a2] = split(value);
        (parts[0].0[i], parts[1].0[i], parts[2].0[i]) = (a0, a1, a2);
    }
    parts
}

/// Packs 32 columns of the B operand, `value(k, column)` for `k` in `0..32 * steps`, as step x plane x tile x pair lines:
/// pair `p` of a tile holds the values `2 p, 2 p + 1` of each of its 16 columns.
pub(super) fn pack_panel(panel: &mut [Line], value: impl Fn(usize, usize) -> f32) {
    with_vectors(
        #[inline(always)]
        || {
            for (step, lines) in panel.chunks_exact_mut(STEP_LINES).enumerate() {
                for column in 0..WIDTH {
                    let values: [f32; STEP] = std::array::from_fn(|k| value(step * STEP + k, column));
                    for (plane, part) in split_line(&values).into_iter().enumerate() {
                        let (first, slot) = position(plane, 0, column);
                        for (line, pair) in lines[first..].iter_mut().zip(part.0.as_chunks::<2>().0) {
                            line.0[slot..slot + 2].copy_from_slice(pair);
                        }
                    }
                }
            }
        },
    );
}

/// Runs `work`, compiled for AVX-512 where the CPU has it. Only what is inlined into it uses the vectors, so `work` is
/// itself `inline(always)`.
#[inline(always)]
fn with_vectors(work: impl FnOnce()) {
    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "avx512bw,avx512vl")]
        fn with_avx512(work: impl FnOnce()) {
            work();
        }
        if is_x86_feature_detected!("avx512bw") && is_x86_feature_detected!("avx512vl") {
            // SAFETY: the features that the function is compiled for were just detected.
            return unsafe { with_avx512(work) };
        }
    }
    work();
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

/// The same split by the processor's own conversion to bf16, in a third of the instructions. It rounds to nearest, ties
/// to even, and takes parts under 2^-126 as zero, as the tile unit would.
#[cfg(target_arch = "x86_64")]
mod bf16 {
    use super::{Line, OVERFLOWS, STEP, pack_rows_by};
    use std::arch::x86_64::*;
    use std::mem::transmute;

    /// Whether the processor has the conversion.
    pub fn available() -> bool {
        is_x86_feature_detected!("avx512bf16")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512vl")
    }

    #[target_feature(enable = "avx512bf16,avx512bw,avx512vl")]
    pub fn pack_rows(lines: &mut [Line], x: &[&[f32]], k0: usize, steps: usize, tile_rows: usize) {
        pack_rows_by(
            lines,
            x,
            k0,
            steps,
            tile_rows,
            #[inline(always)]
            |values| split_line(values),
        );
    }

    /// The three parts of 32 values.
    #[inline]
    #[target_feature(enable = "avx512bf16,avx512bw,avx512vl")]
    fn split_line(values: &[f32; STEP]) -> [Line; 3] {
        // SAFETY: both are 32 values of 32 bits without further meaning.
        let [mut low, mut high] = unsafe { transmute::<[f32; STEP], [__m512; 2]>(*values) };
        let ordinary = |v: __m512| _mm512_cmp_ps_mask::<_CMP_LT_OQ>(_mm512_abs_ps(v), _mm512_set1_ps(OVERFLOWS));
        if ordinary(low) & ordinary(high) != u16::MAX {
            return super::split_line(values);
        }
        [(); 3].map(|()| {
            let parts = [take_part(&mut low), take_part(&mut high)];
            // SAFETY: both are 32 values of 16 bits without further meaning.
            Line(unsafe { transmute::<[__m256i; 2], [u16; STEP]>(parts) })
        })
    }

    /// The bf16 nearest to each value, which keeps the rest.
    #[inline]
    #[target_feature(enable = "avx512bf16,avx512bw,avx512vl")]
    fn take_part(values: &mut __m512) -> __m256i {
        // SAFETY: both are 16 values of 16 bits without further meaning.
        let bits = unsafe { transmute::<__m256bh, __m256i>(_mm512_cvtneps_pbh(*values)) };
        let part = _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(bits)));
        *values = _mm512_sub_ps(*values, part);
        bits
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{Rng, SeedableRng};

    /// Parts that the tile unit reads as zero anyway are left to each way.
    #[test]
    #[cfg(target_arch = "x86_64")]
    fn both_ways_to_split_agree() {
        if !bf16::available() {
            return;
        }
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(5);
        let mut row: Vec<f32> =
            (0..400).map(|_| f32::from_bits(rng.random())).filter(|v| v.abs() > 1e-30 || v.is_nan()).collect();
        row.extend([0.0, -0.0, 1.0, f32::MAX, f32::MIN, f32::INFINITY, f32::NEG_INFINITY, f32::NAN, OVERFLOWS]);
        row.extend((0..300).map(|_| rng.random::<f32>() - 0.5));
        let rows: Vec<&[f32]> = (0..5).map(|i| &row[i..]).collect();
        let steps = row.len() / STEP;
        let blank = || vec![Line([7; STEP]); steps * STEP_LINES];
        let (mut ours, mut expected) = (blank(), blank());
        pack_rows(&mut ours, &rows, 0, steps, 3);
        pack_rows_by(&mut expected, &rows, 0, steps, 3, split_line);
        let bits = |lines: &[Line]| lines.iter().map(|line| line.0).collect::<Vec<_>>();
        assert_eq!(bits(&ours), bits(&expected));
    }
}
