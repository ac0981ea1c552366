//! LayerNorm: statistics in two passes, because CLIP's residual stream has outliers that a one-pass variance loses.

use rayon::prelude::*;

use super::{Real, simd};

/// `y` (n,D), `stats` (n,2), `x` rows `stride` apart.
pub fn forward<T: Real>(y: &mut [T], stats: &mut [T], x: &[T], stride: usize, gain: &[T], bias: &[T], eps: T) {
    let d = gain.len();
    y.par_chunks_mut(d).zip(stats.par_chunks_mut(2)).enumerate().for_each(|(i, (y, stats))| {
        let x = &x[i * stride..][..d];
        simd(
            #[inline(always)]
            || {
                let mean = sum(x, |v| v) / T::of(d as f64);
                let variance = sum(x, |v| (v - mean) * (v - mean)) / T::of(d as f64);
                let rstd = T::ONE / (variance + eps).sqrt();
                for (((y, &x), &gain), &bias) in y.iter_mut().zip(x).zip(gain).zip(bias) {
                    *y = (x - mean) * rstd * gain + bias;
                }
                stats[0] = mean;
                stats[1] = rstd;
            },
        );
    });
}

/// `dx` (g,D) from `dy` (g,D); forward row `i % n`.
///
/// With xhat = (x - mean) rstd and t = dy gain: dx = rstd (t - mean(t) - xhat mean(t xhat)).
pub fn reverse<T: Real>(
    dx: &mut [T],
    dy: &[T],
    x: &[T],
    stride: usize,
    stats: &[T],
    gain: &[T],
    n: usize,
    accumulate: bool,
) {
    let d = gain.len();
    dx.par_chunks_mut(d).zip(dy.par_chunks(d)).enumerate().for_each(|(i, (dx, dy))| {
        let x = &x[(i % n) * stride..][..d];
        let (mean, rstd) = (stats[(i % n) * 2], stats[(i % n) * 2 + 1]);
        simd(
            #[inline(always)]
            || {
                let size = T::of(d as f64);
                let mean_t = sum3(dy, gain, x, |dy, gain, _| dy * gain) / size;
                let mean_tx = sum3(dy, gain, x, |dy, gain, x| dy * gain * ((x - mean) * rstd)) / size;
                for (dx, ((&dy, &gain), &x)) in dx.iter_mut().zip(dy.iter().zip(gain).zip(x)) {
                    let v = rstd * (dy * gain - mean_t - (x - mean) * rstd * mean_tx);
                    *dx = if accumulate { *dx + v } else { v };
                }
            },
        );
    });
}

/// Sum of `f` over `x`, as [`sum3`].
#[inline(always)]
pub(super) fn sum<T: Real>(x: &[T], f: impl Fn(T) -> T) -> T {
    sum3(x, x, x, |x, _, _| f(x))
}

/// Sum of `f` over three rows in 16 interleaved parts: vector code, and less rounding than one long chain. The judge
/// carries the lost digits along instead.
#[inline(always)]
pub(super) fn sum3<T: Real>(a: &[T], b: &[T], c: &[T], f: impl Fn(T, T, T) -> T) -> T {
    if T::IS_JUDGE {
        return exact_sum(a.iter().zip(b).zip(c).map(|((&a, &b), &c)| f(a, b, c)));
    }
    let mut parts = [T::ZERO; 16];
    let (a, b, c) = (a.chunks_exact(16), b.chunks_exact(16), c.chunks_exact(16));
    let tail = a.remainder().iter().zip(b.remainder()).zip(c.remainder());
    let rest: T = tail.map(|((&a, &b), &c)| f(a, b, c)).sum();
    for ((a, b), c) in a.zip(b).zip(c) {
        for (i, part) in parts.iter_mut().enumerate() {
            *part += f(a[i], b[i], c[i]);
        }
    }
    let mut width = 8;
    while width > 0 {
        for i in 0..width {
            parts[i] += parts[i + width];
        }
        width /= 2;
    }
    parts[0] + rest
}

/// A sum that carries the rounding error of every addition along (Neumaier, 1974).
#[inline(always)]
pub(super) fn exact_sum<T: Real>(terms: impl Iterator<Item = T>) -> T {
    let (mut sum, mut lost) = (T::ZERO, T::ZERO);
    for term in terms {
        let next = sum + term;
        lost += if sum.abs() >= term.abs() { (sum - next) + term } else { (term - next) + sum };
        sum = next;
    }
    sum + lost
}
