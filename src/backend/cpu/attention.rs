//! Self-attention by head. Probabilities live for one head of one image at a time and are recomputed in reverse
//! from the saved log-sum-exp.

use std::cell::Cell;

use rayon::prelude::*;

use super::{
    Number,
    matmul::{Mat, MatMut},
    simd,
};
use crate::backend::AttentionShape;

/// Query rows that share one tile of scores.
const TILE: usize = 64;

/// Rows `first .. first + rows` of one head in qkv (T,3D): `part` 0 = q, 1 = k, 2 = v.
fn head<T: Number>(qkv: &[T], s: AttentionShape, part: usize, h: usize, first: usize, rows: usize) -> Mat<'_, T> {
    let stride = 3 * s.width();
    Mat::new(&qkv[first * stride + part * s.width() + h * s.head_dim..], rows, s.head_dim, stride)
}

/// One head of all keys or values.
fn all<T: Number>(qkv: &[T], s: AttentionShape, part: usize, h: usize) -> Mat<'_, T> {
    head(qkv, s, part, h, 0, s.tokens)
}

/// `o` (B,queries,D), `lse` (B,queries,H) from `qkv` (B,T,3D).
pub fn forward<T: Number>(o: &mut [T], lse: &mut [T], qkv: &[T], s: AttentionShape) {
    let (t, d) = (s.tokens, s.width());
    let image = |o: &mut [T], lse: &mut [T], qkv: &[T]| {
        let tiles = o.par_chunks_mut(TILE * d).zip(lse.par_chunks_mut(TILE * s.heads)).enumerate();
        tiles.for_each_init(
            || vec![T::ZERO; TILE * t],
            |scores, (tile, (o, lse))| {
                let (first, rows) = (tile * TILE, o.len() / d);
                for h in 0..s.heads {
                    let p = &mut scores[..rows * t];
                    let q = head(qkv, s, 0, h, first, rows);
                    T::small_product(MatMut::new(p, rows, t, t), q, all(qkv, s, 1, h).t(), s.scale());
                    for (i, p) in p.chunks_mut(t).enumerate() {
                        let seen = if s.causal { first + i + 1 } else { t };
                        lse[i * s.heads + h] = softmax(&mut p[..seen]);
                        p[seen..].fill(T::ZERO);
                    }
                    let out = MatMut::new(&mut o[h * s.head_dim..], rows, s.head_dim, d);
                    T::small_product(out, Mat::new(p, rows, t, t), all(qkv, s, 2, h), 1.0);
                }
            },
        );
    };
    o.par_chunks_mut(s.queries * d)
        .zip(lse.par_chunks_mut(s.queries * s.heads))
        .zip(qkv.par_chunks(t * 3 * d))
        .for_each(|((o, lse), qkv)| image(o, lse, qkv));
}

/// Scores to probabilities; returns their log-sum-exp.
fn softmax<T: Number>(p: &mut [T]) -> T {
    simd(
        #[inline(always)]
        || {
            let max = p.iter().fold(T::NEG_INFINITY, |m, &v| m.max(v));
            p.iter_mut().for_each(|v| *v = (*v - max).exp());
            let sum: T = super::layer_norm::sum(p, |v| v);
            p.iter_mut().for_each(|v| *v /= sum);
            max + sum.ln()
        },
    )
}

/// Probabilities (queries,T) of head `h`, recomputed from the log-sum-exp and brought to a sum of 1 again: where one
/// score towers over the others, dP - rowsum(P * dP) cancels almost completely, and what a sum of 1 + eps leaves over
/// would drown it.
fn probabilities<T: Number>(p: &mut [T], qkv: &[T], lse: &[T], s: AttentionShape, h: usize) {
    let t = s.tokens;
    let q = head(qkv, s, 0, h, 0, s.queries);
    T::small_product(MatMut::new(p, s.queries, t, t), q, all(qkv, s, 1, h).t(), s.scale());
    for (i, p) in p.chunks_mut(t).enumerate() {
        let lse = lse[i * s.heads + h];
        simd(
            #[inline(always)]
            || {
                p.iter_mut().for_each(|v| *v = (*v - lse).exp());
                let sum: T = super::layer_norm::sum(p, |v| v);
                p.iter_mut().for_each(|v| *v /= sum);
            },
        );
    }
}

/// Where the gradients of one head go: dq (T,Dh) at the start, its rows `stride` apart, dk and dv each `part` behind.
struct HeadGradient<'a, T> {
    values: &'a mut [T],
    stride: usize,
    part: usize,
}

impl<T: Number> HeadGradient<'_, T> {
    /// Part 0 = dq, 1 = dk, 2 = dv.
    fn part(&mut self, part: usize, rows: usize, dh: usize) -> MatMut<'_, T> {
        MatMut::new(&mut self.values[part * self.part..], rows, dh, self.stride)
    }
}

/// `dqkv` (G,T,3D) and the relevance row `(r_out, r_in, keep, gain)` (G,T), from `d_o` (G,queries,D).
///
/// dP = dO V^T, dS = P * (dP - rowsum(P * dP)), dQ = scale dS K, dK = scale dS^T Q, dV = P^T dO;
/// A = mean over heads of relu(P * dP).
#[allow(clippy::type_complexity)] // the relevance row is one thing
pub fn reverse<T: Number>(
    dqkv: Option<&mut [T]>,
    relevance: Option<(&mut [T], &[T], T, T)>,
    d_o: &[T],
    qkv: &[T],
    lse: &[T],
    s: AttentionShape,
) {
    let (t, d, dh) = (s.tokens, s.width(), s.head_dim);
    let (image, r_image) = (s.queries * d, t);
    let dqkvs: Vec<Option<&mut [T]>> = match dqkv {
        Some(dqkv) => dqkv.chunks_mut(t * 3 * d).map(Some).collect(),
        None => d_o.chunks(image).map(|_| None).collect(),
    };
    let rows: Vec<Option<(&mut [T], &[T], T, T)>> = match relevance {
        Some((r_out, r_in, keep, gain)) => {
            let pairs = r_out.chunks_mut(r_image).zip(r_in.chunks(r_image));
            pairs.map(|(r_out, r_in)| Some((r_out, r_in, keep, gain))).collect()
        }
        None => d_o.chunks(image).map(|_| None).collect(),
    };
    // With an image for every thread, heads write their columns in turn; else they share the threads, each with rows of
    // its own that are copied together.
    let enough_images = dqkvs.len() >= rayon::current_num_threads();
    let images = d_o.par_chunks(image).zip(dqkvs).zip(rows).enumerate();
    images.for_each(|(g, ((d_o, mut dqkv), relevance))| {
        let b = g % s.batch;
        let qkv = &qkv[b * t * 3 * d..][..t * 3 * d];
        let lse = &lse[b * s.queries * s.heads..][..s.queries * s.heads];
        let r_in = relevance.as_ref().map(|r| r.1);
        let shares: Vec<Vec<T>> = match dqkv.as_deref_mut() {
            Some(dqkv) if enough_images => (0..s.heads)
                .map(|h| {
                    let own = HeadGradient { values: &mut dqkv[h * dh..], stride: 3 * d, part: d };
                    reverse_head(d_o, qkv, lse, s, h, Some(own), r_in)
                })
                .collect(),
            Some(dqkv) => {
                let heads: Vec<(Vec<T>, Vec<T>)> = (0..s.heads)
                    .into_par_iter()
                    .map(|h| {
                        let mut values = vec![T::ZERO; t * 3 * dh];
                        let own = HeadGradient { values: &mut values, stride: 3 * dh, part: dh };
                        let share = reverse_head(d_o, qkv, lse, s, h, Some(own), r_in);
                        (values, share)
                    })
                    .collect();
                for (i, row) in dqkv.chunks_mut(3 * d).enumerate() {
                    for (h, (values, _)) in heads.iter().enumerate() {
                        for part in 0..3 {
                            let from = &values[(i * 3 + part) * dh..][..dh];
                            row[part * d + h * dh..][..dh].copy_from_slice(from);
                        }
                    }
                }
                heads.into_iter().map(|(_, share)| share).collect()
            }
            None => (0..s.heads).into_par_iter().map(|h| reverse_head(d_o, qkv, lse, s, h, None, r_in)).collect(),
        };
        if let Some((r_out, r_in, keep, gain)) = relevance {
            mix(r_out, r_in, keep, gain, shares.iter().map(Vec::as_slice), s);
        }
    });
}

/// `r_out = keep r_in + gain / H sum over heads of row`.
fn mix<'a, T: Number>(
    r_out: &mut [T],
    r_in: &[T],
    keep: T,
    gain: T,
    rows: impl Iterator<Item = &'a [T]>,
    s: AttentionShape,
) {
    r_out.fill(T::ZERO);
    for row in rows {
        r_out.iter_mut().zip(row).for_each(|(r, &v)| *r += v);
    }
    let gain = gain / T::of(s.heads as f64);
    r_out.iter_mut().zip(r_in).for_each(|(r, &r_in)| *r = keep * r_in + gain * *r);
}

thread_local! {
    /// The probabilities and their gradient of the head at work, in the bytes of either number type.
    static SCORES: Cell<Vec<f64>> = const { Cell::new(Vec::new()) };
}

/// One head of one image: its gradients go to `dqkv`; returns its share (T) of `r_in A`, empty where not asked for.
fn reverse_head<T: Number>(
    d_o: &[T],
    qkv: &[T],
    lse: &[T],
    s: AttentionShape,
    h: usize,
    dqkv: Option<HeadGradient<'_, T>>,
    r_in: Option<&[T]>,
) -> Vec<T> {
    let (t, dh, queries) = (s.tokens, s.head_dim, s.queries);
    let mut scores = SCORES.take();
    scores.resize(2 * queries * t, 0.0);
    let (p, rest) = bytemuck::cast_slice_mut::<f64, T>(&mut scores).split_at_mut(queries * t);
    let dp = &mut rest[..queries * t];
    probabilities(p, qkv, lse, s, h);
    let d_o = Mat::new(&d_o[h * dh..], queries, dh, s.width());
    T::small_product(MatMut::new(dp, queries, t, t), d_o, all(qkv, s, 2, h).t(), 1.0);

    let mut row = Vec::new();
    if let Some(r_in) = r_in {
        row = vec![T::ZERO; t];
        for ((p, dp), &r) in p.chunks(t).zip(dp.chunks(t)).zip(r_in) {
            for ((row, &p), &dp) in row.iter_mut().zip(p).zip(dp) {
                *row += r * (p * dp).max(T::ZERO);
            }
        }
    }

    if let Some(mut out) = dqkv {
        // dV before dS takes the place of dP.
        T::small_product(out.part(2, t, dh), Mat::new(p, queries, t, t).t(), d_o, 1.0);
        for (p, dp) in p.chunks(t).zip(dp.chunks_mut(t)) {
            simd(
                #[inline(always)]
                || {
                    // A common part of dP drops out where P sums to 1 exactly. P does so only nearly: the common part
                    // goes first, and what is left of it is small.
                    let dot = super::layer_norm::sum3(p, dp, dp, |p, dp, _| p * dp);
                    dp.iter_mut().for_each(|dp| *dp -= dot);
                    let rest = super::layer_norm::sum3(p, dp, dp, |p, dp, _| p * dp);
                    p.iter().zip(dp.iter_mut()).for_each(|(&p, dp)| *dp = p * (*dp - rest));
                },
            );
        }
        let ds = Mat::new(dp, queries, t, t);
        T::small_product(out.part(0, queries, dh), ds, all(qkv, s, 1, h), s.scale());
        for i in queries..t {
            out.part(0, t, dh).row(i).fill(T::ZERO);
        }
        T::small_product(out.part(1, t, dh), ds.t(), head(qkv, s, 0, h, 0, queries), s.scale());
    }
    SCORES.set(scores);
    row
}

/// The relevance row with A = mean over heads of P.
pub fn row<T: Number>(r_out: &mut [T], r_in: &[T], keep: T, gain: T, qkv: &[T], lse: &[T], s: AttentionShape) {
    let (t, d) = (s.tokens, s.width());
    for (b, (r_out, r_in)) in r_out.chunks_mut(t).zip(r_in.chunks(t)).enumerate() {
        let qkv = &qkv[b * t * 3 * d..][..t * 3 * d];
        let lse = &lse[b * s.queries * s.heads..][..s.queries * s.heads];
        let rows: Vec<Vec<T>> = (0..s.heads)
            .into_par_iter()
            .map(|h| {
                let mut p = vec![T::ZERO; s.queries * t];
                probabilities(&mut p, qkv, lse, s, h);
                let mut row = vec![T::ZERO; t];
                for (p, &r) in p.chunks(t).zip(r_in) {
                    row.iter_mut().zip(p).for_each(|(row, &p)| *row += r * p);
                }
                row
            })
            .collect();
        mix(r_out, r_in, keep, gain, rows.iter().map(Vec::as_slice), s);
    }
}

/// LeGrad's map: `map` (G,P) += mean over heads and query rows of relu(dO V^T), CLS column dropped.
pub fn positive_gradient<T: Number>(map: &mut [T], d_o: &[T], qkv: &[T], s: AttentionShape) {
    let (t, d) = (s.tokens, s.width());
    for (g, (map, d_o)) in map.chunks_mut(t - 1).zip(d_o.chunks(s.queries * d)).enumerate() {
        let qkv = &qkv[(g % s.batch) * t * 3 * d..][..t * 3 * d];
        let columns: Vec<Vec<T>> = (0..s.heads)
            .into_par_iter()
            .map(|h| {
                let mut dp = vec![T::ZERO; s.queries * t];
                let d_o = Mat::new(&d_o[h * s.head_dim..], s.queries, s.head_dim, d);
                T::small_product(MatMut::new(&mut dp, s.queries, t, t), d_o, all(qkv, s, 2, h).t(), 1.0);
                let mut column = vec![T::ZERO; t];
                for dp in dp.chunks(t) {
                    column.iter_mut().zip(dp).for_each(|(c, &v)| *c += v.max(T::ZERO));
                }
                column
            })
            .collect();
        let scale = T::ONE / T::of((s.heads * s.queries) as f64);
        for column in &columns {
            map.iter_mut().zip(&column[1..]).for_each(|(m, &c)| *m += scale * c);
        }
    }
}
