//! The last step of the token methods: from activations and gradients to one value a patch.

use rayon::prelude::*;

use super::{Real, layer_norm::sum3, simd};
use crate::backend::AttentionShape;

/// `map` (G,P) of Grad-ECLIP from `d_o` (G,queries,D) and `qkv` (B,T,3D).
pub fn grad_eclip<T: Real>(map: &mut [T], d_o: &[T], qkv: &[T], s: AttentionShape) {
    let (t, d) = (s.tokens, s.width());
    map.par_chunks_mut(t - 1).zip(d_o.par_chunks(s.queries * d)).enumerate().for_each(|(g, (map, d_o))| {
        let qkv = &qkv[(g % s.batch) * t * 3 * d..][..t * 3 * d];
        let part = |token: usize, part: usize| &qkv[(token * 3 + part) * d..][..d];
        map.fill(T::ZERO);
        let key_norms: Vec<T> = (1..t).map(|i| dot(part(i, 1), part(i, 1)).sqrt()).collect();
        let mut lambda = vec![T::ZERO; t - 1];
        for (token, d_o) in d_o.chunks(d).enumerate() {
            if d_o.iter().all(|&v| v == T::ZERO) {
                continue; // a token that the score does not read
            }
            let q = part(token, 0);
            let q_norm = dot(q, q).sqrt();
            let (mut low, mut high) = (-T::NEG_INFINITY, T::NEG_INFINITY);
            for (i, (lambda, &k_norm)) in lambda.iter_mut().zip(&key_norms).enumerate() {
                *lambda = dot(q, part(i + 1, 1)) / (q_norm * k_norm);
                low = if *lambda < low { *lambda } else { low };
                high = high.max(*lambda);
            }
            // Equal keys carry no spatial information: all weights are then 1.
            let range = high - low;
            for (i, (map, &kappa)) in map.iter_mut().zip(&lambda).enumerate() {
                let weight = if range > T::ZERO { (kappa - low) / range } else { T::ONE };
                *map += weight * dot(d_o, part(i + 1, 2));
            }
        }
        map.iter_mut().for_each(|v| *v = v.max(T::ZERO));
    });
}

/// `map` (G,P) of Grad-CAM from `dx` (G,T,D) and `x` (B,T,D).
pub fn grad_cam<T: Real>(map: &mut [T], dx: &[T], x: &[T], batch: usize, t: usize, d: usize) {
    map.par_chunks_mut(t - 1).zip(dx.par_chunks(t * d)).enumerate().for_each(|(g, (map, dx))| {
        let x = &x[(g % batch) * t * d..][..t * d];
        let mut alpha = vec![T::ZERO; d];
        for dx in dx.chunks(d).skip(1) {
            alpha.iter_mut().zip(dx).for_each(|(a, &v)| *a += v);
        }
        let scale = T::ONE / T::of((t - 1) as f64);
        for (map, x) in map.iter_mut().zip(x.chunks(d).skip(1)) {
            *map = (dot(&alpha, x) * scale).max(T::ZERO);
        }
    });
}

/// `y` (B,D) = mean over the tokens of `x` (B,T,D).
pub fn mean_tokens<T: Real>(y: &mut [T], x: &[T], t: usize, d: usize) {
    y.par_chunks_mut(d).zip(x.par_chunks(t * d)).for_each(|(y, x)| {
        y.fill(T::ZERO);
        for x in x.chunks(d) {
            y.iter_mut().zip(x).for_each(|(y, &x)| *y += x);
        }
        y.iter_mut().for_each(|y| *y /= T::of(t as f64));
    });
}

/// `dx` (G,T,D) = `dy` (G,D) / T in every token.
pub fn mean_tokens_reverse<T: Real>(dx: &mut [T], dy: &[T], t: usize, d: usize) {
    dx.par_chunks_mut(d).enumerate().for_each(|(row, dx)| {
        let dy = &dy[row / t * d..][..d];
        dx.iter_mut().zip(dy).for_each(|(dx, &dy)| *dx = dy / T::of(t as f64));
    });
}

/// Inner product.
pub(super) fn dot<T: Real>(a: &[T], b: &[T]) -> T {
    simd(
        #[inline(always)]
        || sum3(a, b, b, |a, b, _| a * b),
    )
}
