//! The encoder: `h = W_e c + b_enc` (N,S) of the centred tokens `c`, tile by tile, of which only what fires is kept.

use rayon::prelude::*;

use super::{
    codes::Codes,
    parameters::Parameters,
    top_k::{TopK, above},
    vector::simd,
};
use crate::backend::cpu::{
    Real,
    matmul::{Kernel, Panels, product},
};

/// Rows of a tile for each thread: as many as the product uses a panel of weights for.
const TILE_ROWS: usize = 256;
/// Values of `h` that are held at once.
const TILE_VALUES: usize = 1 << 24;
/// Rows that one task selects from.
const ROWS: usize = 8;

/// A number type with a matrix product.
pub(super) trait Element: Real {
    /// Packed weights.
    type Matrix: Sync;
    /// Packs `w` (S,D).
    fn pack(s: usize, d: usize, w: &[Self]) -> Self::Matrix;
    /// `h` (M,S) = `c` (M,D) `w`^T + `bias`.
    fn linear(h: &mut [Self], c: &[Self], w: &Self::Matrix, bias: &[Self]);
}

impl Element for f32 {
    type Matrix = Panels;

    fn pack(s: usize, d: usize, w: &[f32]) -> Panels {
        Panels::from_rows(s, d, w, Kernel::best())
    }

    fn linear(h: &mut [f32], c: &[f32], w: &Panels, bias: &[f32]) {
        product(h, w.n(), c, w.k(), c.len() / w.k(), w, &|_, column, h| {
            h.iter_mut().zip(&bias[column..]).for_each(|(h, bias)| *h += bias);
        });
    }
}

/// Which values of `h` are kept.
#[derive(Clone, Copy)]
pub(super) enum Rule<'a, T> {
    /// The positive ones.
    Positive,
    /// Of the positive ones the largest of a token.
    TopK(usize),
    /// Of the positive ones so many of the batch.
    BatchTopK(usize),
    /// `relu(h) > bound`, given for every latent (S).
    Above(&'a [T]),
}

/// Dead latents, ascending, and how many of a token the auxiliary loss uses at most.
#[derive(Clone, Copy)]
pub(super) struct Dead<'a> {
    pub latents: &'a [u32],
    pub k: usize,
}

/// The codes of `centred` (N,D), and those of the dead latents.
pub(super) fn encode<T: Element>(
    parameters: &Parameters<T>,
    centred: &[T],
    rule: Rule<'_, T>,
    dead: Dead<'_>,
) -> (Codes<T>, Codes<T>) {
    let (d, s) = (parameters.width, parameters.latents());
    let packed = T::pack(s, d, &parameters.encoder);
    let rows = (TILE_ROWS * rayon::current_num_threads()).min(TILE_VALUES / s).min(centred.len() / d).max(1);
    let mut h = vec![T::ZERO; rows * s];
    let (mut codes, mut dead_codes) = (Codes::default(), Codes::default());
    let mut bound = T::ZERO;
    for centred in centred.chunks(rows * d) {
        let h = &mut h[..centred.len() / d * s];
        T::linear(h, centred, &packed, &parameters.encoder_bias);
        let found: Vec<_> = h.par_chunks(ROWS * s).map(|h| select(h, s, rule, bound, dead)).collect();
        for (found, found_dead) in &found {
            codes.append(found);
            dead_codes.append(found_dead);
        }
        if let Rule::BatchTopK(keep) = rule
            && codes.len() > 2 * keep
        {
            bound = keep_largest(&mut codes, keep);
        }
    }
    if let Rule::BatchTopK(keep) = rule {
        keep_largest(&mut codes, keep);
    }
    (codes, dead_codes)
}

/// What some rows of `h` keep. `bound`: values up to it are known not to be among the batch's largest.
fn select<T: Real>(h: &[T], s: usize, rule: Rule<'_, T>, bound: T, dead: Dead<'_>) -> (Codes<T>, Codes<T>) {
    let (mut codes, mut dead_codes) = (Codes::default(), Codes::default());
    let (mut top_k, mut dead_h) = (TopK::default(), Vec::with_capacity(dead.latents.len()));
    simd(
        #[inline(always)]
        || {
            for h in h.chunks_exact(s) {
                match rule {
                    Rule::Positive => above(h, |_| T::ZERO, |i, h| codes.push(i as u32, h)),
                    Rule::BatchTopK(_) => above(h, |_| bound, |i, h| codes.push(i as u32, h)),
                    Rule::TopK(k) => top_k.select(h, k).iter().for_each(|&(h, i)| codes.push(i, h)),
                    // relu(h) > b, where b < 0 holds for all.
                    Rule::Above(bounds) => above(
                        h,
                        |i| if bounds[i] < T::ZERO { T::NEG_INFINITY } else { bounds[i] },
                        |i, h| codes.push(i as u32, h.max(T::ZERO)),
                    ),
                }
                codes.end_token();
                dead_h.clear();
                dead_h.extend(dead.latents.iter().map(|&i| h[i as usize]));
                for &(h, i) in top_k.select(&dead_h, dead.k) {
                    dead_codes.push(dead.latents[i as usize], h);
                }
                dead_codes.end_token();
            }
        },
    );
    (codes, dead_codes)
}

/// Keeps the `keep` largest entries, ties to the earlier one. Returns the smallest of them, or 0 if there were fewer.
fn keep_largest<T: Real>(codes: &mut Codes<T>, keep: usize) -> T {
    if codes.len() <= keep {
        return T::ZERO;
    }
    let mut order: Vec<(T, usize)> = codes.h.iter().copied().zip(0..).collect();
    let descending =
        |a: &(T, usize), b: &(T, usize)| b.0.partial_cmp(&a.0).unwrap_or(std::cmp::Ordering::Equal).then(a.1.cmp(&b.1));
    let last = *order.select_nth_unstable_by(keep - 1, descending).1;
    let values = codes.h.clone();
    codes.retain(|entry| descending(&(values[entry], entry), &last).is_le());
    last.0
}

#[cfg(test)]
mod tests {
    use super::*;

    /// In plain loops.
    impl Element for f64 {
        type Matrix = (usize, Vec<f64>);

        fn pack(_: usize, d: usize, w: &[f64]) -> (usize, Vec<f64>) {
            (d, w.to_vec())
        }

        fn linear(h: &mut [f64], c: &[f64], (d, w): &(usize, Vec<f64>), bias: &[f64]) {
            for (h, c) in h.chunks_mut(bias.len()).zip(c.chunks(*d)) {
                for ((h, w), bias) in h.iter_mut().zip(w.chunks(*d)).zip(bias) {
                    *h = bias + c.iter().zip(w).map(|(c, w)| c * w).sum::<f64>();
                }
            }
        }
    }

    /// A batch of many tiles: the running bound loses nothing, and ties go to the earlier token.
    #[test]
    fn the_batch_keeps_its_largest() {
        let (n, s) = (40_000, 8);
        let parameters = Parameters {
            width: 1,
            encoder: (0..s).map(|i| 1.0 + i as f64).collect(),
            encoder_bias: vec![0.0; s],
            ..Parameters::default()
        };
        let centred: Vec<f64> = (0..n).map(|i| f64::from((i * 7919 % 1009) as u32) - 300.0).collect();
        let keep = 9001;
        let dead = Dead { latents: &[1, 3], k: 1 };
        let (codes, dead) = encode(&parameters, &centred, Rule::BatchTopK(keep), dead);
        let mut all: Vec<(f64, usize, u32)> = (0..n)
            .flat_map(|n| (0..s).map(move |i| (n, i)))
            .map(|(n, i)| (centred[n] * (1.0 + i as f64), n, i as u32))
            .collect();
        all.sort_by(|a, b| b.0.total_cmp(&a.0).then((a.1, a.2).cmp(&(b.1, b.2))));
        all.truncate(keep);
        all.sort_by_key(|(_, n, i)| (*n, *i));
        let found: Vec<_> = (0..n)
            .flat_map(|n| codes.token(n).map(move |e| (n, e)))
            .map(|(n, e)| (codes.h[e], n, codes.latents[e]))
            .collect();
        assert_eq!(found, all);
        assert_eq!(dead.len(), centred.iter().filter(|c| **c > 0.0).count());
        assert!(dead.latents.iter().all(|i| *i == 3));
    }
}
