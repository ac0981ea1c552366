//! Self-attention in all its directions, every rung, against f64.
//!
//! Inputs are multiples of 1/8, so that every score and every dP is exact in f32 in any order of summation. What is left
//! are the errors that the bounds below count.

use half::{bf16, f16};
use vitscope::backend::{
    AttentionShape,
    gpu::{
        attention::{Forward, PositiveGradient, Relevance, Reverse, Row, scratch_values},
        emulator::{Emulator, Settings},
        launch::{self, Ladder, Target},
    },
};

use crate::{
    CXX, checked,
    numbers::{Storage, assert_close, f32_steps, random},
    orders, run,
};

const KEEP: f32 = 0.5;
const GAIN: f32 = 0.75;

/// Multiples of 1/8 between -1 and 1, times `scale`.
fn eighths<T: Storage>(n: usize, scale: f64, seed: u64) -> Vec<T> {
    random::<f32>(n, 8.0, 0.0, seed).iter().map(|&x| T::of(f64::from(x).round() / 8.0 * scale)).collect()
}

/// What all directions read. Gradients have two targets, unless one is asked for.
#[derive(Clone)]
struct Inputs<T> {
    s: AttentionShape,
    g: usize,
    qkv: Vec<T>,
    d_o: Vec<T>,
    r_in: Vec<f32>,
}

impl<T: Storage> Inputs<T> {
    fn new(s: AttentionShape) -> Self {
        let (d, g) = (s.width(), 2 * s.batch);
        let r_in = random(g * s.tokens, 0.5, 0.5, 3);
        Inputs { s, g, qkv: eighths(s.batch * s.tokens * 3 * d, 2.0, 1), d_o: eighths(g * s.queries * d, 1.0, 2), r_in }
    }

    /// Gradients and relevance of one target alone.
    fn for_one_target(mut self) -> Self {
        self.g = self.s.batch;
        self.d_o.truncate(self.g * self.s.queries * self.s.width());
        self.r_in.truncate(self.g * self.s.tokens);
        self
    }

    /// Keys `j` and `j + 1` become 1024 times query 0, with one value: their scores tower over the others, and are so
    /// large that lse is rounded coarsely.
    fn towering(mut self, j: usize) -> Self {
        let d = self.s.width();
        for image in self.qkv.chunks_mut(self.s.tokens * 3 * d) {
            for (token, i) in [j, j + 1].into_iter().flat_map(|token| (0..d).map(move |i| (token, i))) {
                image[token * 3 * d + d + i] = T::of(1024.0 * image[i].wide());
                image[token * 3 * d + 2 * d + i] = image[2 * d + i];
            }
        }
        self
    }

    /// Row `row` of head `h`: `part` 0 = q, 1 = k, 2 = v.
    fn head(&self, image: usize, row: usize, part: usize, h: usize) -> Vec<f64> {
        let (d, dh) = (self.s.width(), self.s.head_dim);
        let at = ((image * self.s.tokens + row) * 3 + part) * d + h * dh;
        self.qkv[at..][..dh].iter().map(|x| x.wide()).collect()
    }

    fn d_o(&self, image: usize, row: usize, h: usize) -> Vec<f64> {
        let at = (image * self.s.queries + row) * self.s.width() + h * self.s.head_dim;
        self.d_o[at..][..self.s.head_dim].iter().map(|x| x.wide()).collect()
    }
}

/// Values, and how far from them a result may lie before its last rounding.
struct Bounded {
    exact: Vec<f64>,
    slack: Vec<f64>,
}

impl Bounded {
    fn new(n: usize) -> Self {
        Bounded { exact: vec![0.0; n], slack: vec![0.0; n] }
    }

    /// Adds `(w ± error) x` to the values from `at` on. `steps` bounds the relative error of the sum.
    fn add(&mut self, at: usize, (w, error): (f64, f64), x: &[f64], steps: f64) {
        for (i, x) in x.iter().enumerate() {
            self.exact[at + i] += w * x;
            self.slack[at + i] += (error + steps * w.abs()) * x.abs();
        }
    }

    fn check<T: Storage>(&self, what: &str, ours: &[T]) {
        assert_close(what, ours, &self.exact, |i| self.slack[i]);
    }
}

struct Exact {
    o: Bounded,
    lse: Bounded,
    dqkv: Bounded,
    chefer: Bounded,
    rollout: Bounded,
    legrad: Bounded,
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// Everything in f64. `rounds` says that the rung rounds P and dS to the storage type before they enter a product.
fn exact<T: Storage>(x: &Inputs<T>, rounds: bool) -> Exact {
    let s = x.s;
    let (t, d, heads, scale) = (s.tokens, s.width(), s.heads, s.scale());
    let [unit, tiny] = if rounds { [T::UNIT, T::TINY] } else { [0.0; 2] };
    // Results below the smallest normal number of f32 may be taken for zero.
    let tiny = tiny + f64::from(f32::MIN_POSITIVE);
    // A sum over all tokens, in any order, and some operations around it.
    let steps = f32_steps(t + 24);
    let mut e = Exact {
        o: Bounded::new(s.batch * s.queries * d),
        lse: Bounded::new(s.batch * s.queries * heads),
        dqkv: Bounded::new(x.g * t * 3 * d),
        chefer: Bounded::new(x.g * t),
        rollout: Bounded::new(s.batch * t),
        legrad: Bounded::new(x.g * (t - 1)),
    };
    let r_in: Vec<f64> = x.r_in.iter().map(|&r| f64::from(r)).collect();
    let mixed = f32_steps(heads * t + 24);
    for (at, r) in r_in.iter().enumerate() {
        e.chefer.add(at, (f64::from(KEEP), 0.0), &[*r], mixed);
        if at < s.batch * t {
            e.rollout.add(at, (f64::from(KEEP), 0.0), &[*r], mixed);
        }
    }
    let share = f64::from(GAIN) / heads as f64;
    for (g, h) in (0..x.g).flat_map(|g| (0..heads).map(move |h| (g, h))) {
        let b = g % s.batch;
        let part = |part| (0..t).map(|j| x.head(b, j, part, h)).collect::<Vec<_>>();
        let (q, k, v) = (part(0), part(1), part(2));
        for i in 0..s.queries {
            let seen = if s.causal { i + 1 } else { t };
            let d_o = x.d_o(g, i, h);
            let dp: Vec<f64> = v.iter().map(|v| dot(&d_o, v)).collect();
            let w = 1.0 / (heads * s.queries) as f64;
            let positive: Vec<f64> = dp[1..].iter().map(|dp| dp.max(0.0)).collect();
            e.legrad.add(g * (t - 1), (w, 0.0), &positive, mixed);
            let score: Vec<f64> = k[..seen].iter().map(|k| dot(&q[i], k) * scale).collect();
            let most = score.iter().fold(f64::MIN, |m, &s| m.max(s));
            let sum: f64 = score.iter().map(|s| (s - most).exp()).sum();
            let lse = most + sum.ln();
            let p: Vec<f64> = score.iter().map(|s| (s - lse).exp()).collect();
            let delta = dot(&p, &dp[..seen]);
            // What an exponent is off by in the forward pass: the scale, its product, the difference and the units.
            let largest = score.iter().fold(lse.abs(), |m, s| m.max(s.abs()));
            let exponent = 8.0 * f32::UNIT * 2.0 * largest;
            // In reverse P is brought to a sum of 1, so that what a row has in common does not count: not lse's rounding,
            // and of the scale's (itself, to units of log 2, and that constant) only what it makes of the difference of
            // two scores. The difference from lse is rounded once.
            let own: Vec<f64> = score.iter().map(|s| f32::UNIT * (3.0 * (s - most).abs() + (s - lse).abs())).collect();
            let common = dot(&p, &own);
            let off: Vec<f64> = own.iter().map(|own| own + common + steps).collect();
            // The errors of a P that has a sum of 1 enter delta by dP - delta; the rest is the sum's own rounding.
            let spread: f64 = (0..seen).map(|j| off[j] * p[j] * (dp[j] - delta).abs()).sum();
            let delta_off = 2.0 * spread + steps * p.iter().zip(&dp).map(|(p, dp)| p * dp.abs()).sum::<f64>();
            if g < s.batch {
                e.lse.add((b * s.queries + i) * heads + h, (lse, exponent + steps), &[1.0], steps);
            }
            for (j, &off) in off.iter().enumerate() {
                let p_off = p[j] * (2.0 * off + unit) + tiny;
                let ds = p[j] * (dp[j] - delta);
                let ds_off = 2.0 * off * ds.abs() + p[j] * (delta_off + steps * dp[j].abs());
                let ds_off = ds_off * (1.0 + unit) + ds.abs() * unit + tiny * (1.0 + dp[j].abs() + delta.abs());
                if g < s.batch {
                    let p_off = p[j] * (2.0 * (exponent + steps) + unit) + tiny;
                    e.o.add((b * s.queries + i) * d + h * s.head_dim, (p[j], p_off), &v[j], steps);
                    e.rollout.add(b * t + j, (share * p[j], share * p[j] * off), &[r_in[b * t + i]], mixed);
                }
                let (row, column) = ((g * t + i) * 3 * d + h * s.head_dim, (g * t + j) * 3 * d + h * s.head_dim);
                e.dqkv.add(row, (ds * scale, ds_off * scale), &k[j], steps);
                e.dqkv.add(column + d, (ds * scale, ds_off * scale), &q[i], steps);
                e.dqkv.add(column + 2 * d, (p[j], p_off), &d_o, steps);
                let w = share * p[j] * dp[j].max(0.0);
                e.chefer.add(g * t + j, (w, w * off), &[r_in[g * t + i]], mixed);
            }
        }
    }
    e
}

/// What all directions gave. The reverse runs with both results, and with each alone.
#[derive(PartialEq, Debug)]
struct Outcome<T> {
    o: Vec<T>,
    lse: Vec<f32>,
    dqkv: Vec<T>,
    chefer: Vec<f32>,
    rollout: Vec<f32>,
    legrad: Vec<f32>,
}

fn outcome<T: Storage + PartialEq + std::fmt::Debug>(
    emulator: &Emulator,
    x: &Inputs<T>,
    rung: u32,
) -> Option<Outcome<T>> {
    let s = x.s;
    let (t, d) = (s.tokens, s.width());
    let (dev_qkv, dev_d_o) = (emulator.upload(&x.qkv).unwrap(), emulator.upload(&x.d_o).unwrap());
    let dev_r = emulator.upload(&x.r_in).unwrap();
    let (o, lse) = (
        emulator.unwritten::<T>(s.batch * s.queries * d).unwrap(),
        emulator.unwritten::<f32>(s.batch * s.queries * s.heads).unwrap(),
    );
    let (qkv, d_o) = (dev_qkv.address(), dev_d_o.address());
    run(emulator, &Forward { o: o.address(), lse: lse.address(), qkv, shape: s }, rung, T::STORAGE)?;

    let reverse = |with_dqkv: bool, with_relevance: bool| {
        let scratch = emulator.unwritten::<f32>(scratch_values(s, x.g)).unwrap();
        let (dqkv, row) =
            (emulator.unwritten::<T>(x.g * t * 3 * d).unwrap(), emulator.unwritten::<f32>(x.g * t).unwrap());
        let relevance = Relevance { out: row.address(), input: dev_r.address(), keep: KEEP, gain: GAIN };
        let pass = Reverse {
            dqkv: if with_dqkv { dqkv.address() } else { 0 },
            relevance: with_relevance.then_some(relevance),
            d_o,
            qkv,
            lse: lse.address(),
            scratch: scratch.address(),
            shape: s,
            g: x.g,
        };
        run(emulator, &pass, rung, T::STORAGE).unwrap();
        (dqkv.download().unwrap(), row.download().unwrap())
    };
    let (dqkv, chefer) = reverse(true, true);
    // The longest sequences take seconds each.
    if t < 100 {
        assert!(reverse(true, false).0 == dqkv && reverse(false, true).1 == chefer, "either alone gives the same bits");
    }

    let (scratch, row) = (
        emulator.unwritten::<f32>(scratch_values(s, s.batch)).unwrap(),
        emulator.unwritten::<f32>(s.batch * t).unwrap(),
    );
    let relevance = Relevance { out: row.address(), input: dev_r.address(), keep: KEEP, gain: GAIN };
    let pass = Row { relevance, qkv, lse: lse.address(), scratch: scratch.address(), shape: s };
    run(emulator, &pass, rung, T::STORAGE).unwrap();

    let scratch = emulator.unwritten::<f32>(scratch_values(s, x.g)).unwrap();
    // A buffer is never empty.
    let patches = x.g * (t - 1);
    let map = emulator.upload(&vec![0f32; patches.max(1)]).unwrap();
    let pass = PositiveGradient { map: map.address(), d_o, qkv, scratch: scratch.address(), shape: s, g: x.g };
    run(emulator, &pass, rung, T::STORAGE).unwrap();
    Some(Outcome {
        o: o.download().unwrap(),
        lse: lse.download().unwrap(),
        dqkv,
        chefer,
        rollout: row.download().unwrap(),
        legrad: map.download().unwrap()[..patches].to_vec(),
    })
}

fn check<T: Storage + PartialEq + std::fmt::Debug>(emulator: &Emulator, x: &Inputs<T>, rung: u32) {
    let what = |name| format!("rung {rung} {:?} {name}", x.s);
    let ours = outcome(emulator, x, rung).unwrap_or_else(|| panic!("{} is not served", what("")));
    let exact = exact(x, rung > 1);
    exact.o.check(&what("o"), &ours.o);
    exact.lse.check(&what("lse"), &ours.lse);
    exact.dqkv.check(&what("dqkv"), &ours.dqkv);
    exact.chefer.check(&what("chefer"), &ours.chefer);
    exact.rollout.check(&what("rollout"), &ours.rollout);
    exact.legrad.check(&what("legrad"), &ours.legrad);
}

fn shape(
    batch: usize,
    (tokens, queries): (usize, usize),
    heads: usize,
    head_dim: usize,
    causal: bool,
) -> AttentionShape {
    AttentionShape { batch, tokens, queries, heads, head_dim, causal }
}

fn check_types(emulator: &Emulator, rung: u32, s: AttentionShape) {
    check::<f32>(emulator, &Inputs::new(s), rung);
    check::<f16>(emulator, &Inputs::new(s), rung);
    check::<bf16>(emulator, &Inputs::new(s), rung);
}

/// Heads of models: one for each width that rung 2 is compiled for.
const HEAD_SIZES: [usize; 5] = [32, 64, 80, 88, 104];

/// Every kernel over a small shape.
pub fn every_kernel(emulator: &Emulator) {
    for head_dim in HEAD_SIZES {
        for rung in [1, 2] {
            check_types(emulator, rung, shape(1, (9, 9), 1, head_dim, false));
        }
    }
}

#[test]
fn rung_1_is_right_for_any_shape() {
    for emulator in checked() {
        for s in [shape(1, (1, 1), 1, 32, false), shape(3, (17, 17), 2, 5, false), shape(1, (21, 21), 2, 40, true)] {
            check_types(&emulator, 1, s);
        }
        check::<bf16>(&emulator, &Inputs::new(shape(1, (50, 1), 3, 88, false)), 1);
    }
}

#[test]
fn rung_2_is_right_for_any_shape() {
    for emulator in checked() {
        check::<f32>(&emulator, &Inputs::new(shape(3, (17, 17), 2, 32, false)), 2);
        check::<f16>(&emulator, &Inputs::new(shape(1, (1, 1), 2, 64, false)), 2);
        check::<bf16>(&emulator, &Inputs::new(shape(3, (50, 50), 2, 64, false)), 2);
        check::<f16>(&emulator, &Inputs::new(shape(1, (77, 77), 1, 80, true)), 2);
    }
}

#[test]
fn every_rung_is_right_for_every_head_size() {
    let [_, one, other] = &orders();
    for head_dim in HEAD_SIZES {
        for (emulator, batch, tokens) in [(one, 1, 1), (other, 3, 17), (one, 1, 50)] {
            check_types(emulator, 2, shape(batch, (tokens, tokens), 1, head_dim, tokens == 50 && head_dim % 16 == 8));
        }
        check_types(other, 1, shape(3, (17, 17), 1, head_dim, false));
    }
    // Past a tile, of 8 and 40 values filled up to a width.
    for head_dim in [8, 40, 88] {
        check::<f16>(one, &Inputs::new(shape(1, (70, 70), 1, head_dim, true)), 2);
    }
}

/// Heads of a vector or two: rung 1 takes values one by one, whatever their number.
#[test]
fn rung_1_is_right_for_the_sequences_of_real_models() {
    let emulator = Emulator::new(&CXX, Settings::checked(1)).unwrap();
    for (tokens, head_dim) in [(50, 8), (197, 4), (257, 3), (577, 1)] {
        let s = shape(1, (tokens, tokens), 1, head_dim, false);
        check::<f32>(&emulator, &Inputs::new(s).for_one_target(), 1);
        check::<f16>(&emulator, &Inputs::new(s).for_one_target(), 1);
        check::<bf16>(&emulator, &Inputs::new(s).for_one_target(), 1);
    }
}

#[test]
fn rung_2_is_right_for_the_sequences_of_real_models() {
    let emulator = Emulator::new(&CXX, Settings::checked(2)).unwrap();
    let s = |tokens, head_dim| shape(1, (tokens, tokens), 1, head_dim, false);
    for (tokens, head_dims) in [(197, [64, 32]), (257, [80, 104]), (577, [64, 88])] {
        check::<f16>(&emulator, &Inputs::new(s(tokens, head_dims[0])).for_one_target(), 2);
        check::<bf16>(&emulator, &Inputs::new(s(tokens, head_dims[1])).for_one_target(), 2);
        check::<f32>(&emulator, &Inputs::new(s(tokens, 32)).for_one_target(), 2);
    }
}

#[test]
fn one_query_row_is_right() {
    let emulator = Emulator::new(&CXX, Settings::checked(2)).unwrap();
    for rung in [1, 2] {
        for s in [shape(2, (257, 1), 2, 64, false), shape(1, (70, 1), 1, 32, true), shape(1, (70, 20), 1, 32, true)] {
            check::<bf16>(&emulator, &Inputs::new(s), rung);
            check::<f32>(&emulator, &Inputs::new(AttentionShape { tokens: 66, ..s }), rung);
        }
    }
}

/// dP - rowsum(P dP) cancels here, and lse is large. Without P brought to a sum of 1 again, what lse's rounding leaves over
/// is several times the bound of the gradients, and of both rows of relevance.
#[test]
fn a_towering_score_leaves_gradients_and_relevance_right() {
    let emulator = Emulator::new(&CXX, Settings::checked(1)).unwrap();
    for rung in [1, 2] {
        check::<f32>(&emulator, &Inputs::new(shape(1, (20, 20), 1, 64, false)).towering(7), rung);
    }
    let s = shape(1, (70, 70), 1, 64, false);
    check::<f16>(&emulator, &Inputs::new(s).towering(7), 2);
    check::<bf16>(&emulator, &Inputs::new(s).towering(68), 2);
}

/// An image's bits do not depend on the images beside it, nor on where it lies in the batch.
#[test]
fn an_image_has_the_same_bits_in_any_batch() {
    let emulator = Emulator::new(&CXX, Settings::fast()).unwrap();
    for rung in [1, 2] {
        let all = Inputs::<bf16>::new(shape(8, (70, 70), 2, 32, false));
        let whole = outcome(&emulator, &all, rung).unwrap();
        for (first, batch) in [(0, 1), (7, 1), (2, 3)] {
            let (n, row) = (70 * 2 * 32, |values: &[f32], per: usize| {
                [0, 8].map(|target| values[(target + first) * per..][..batch * per].to_vec()).concat()
            });
            let few = Inputs {
                s: AttentionShape { batch, ..all.s },
                g: 2 * batch,
                qkv: all.qkv[first * 3 * n..][..batch * 3 * n].to_vec(),
                d_o: [0, 8].map(|target| all.d_o[(target + first) * n..][..batch * n].to_vec()).concat(),
                r_in: row(&all.r_in, 70),
            };
            let part = outcome(&emulator, &few, rung).unwrap();
            assert_eq!(part.o, whole.o[first * n..][..batch * n]);
            assert_eq!(part.lse, whole.lse[first * 140..][..batch * 140]);
            let dqkv = [0, 8].map(|target| whole.dqkv[(target + first) * 3 * n..][..batch * 3 * n].to_vec());
            assert_eq!(part.dqkv, dqkv.concat());
            assert_eq!(part.chefer, row(&whole.chefer, 70));
            // Rollout has no targets: the first `batch` rows of relevance enter it.
            assert_eq!(part.rollout, whole.rollout[first * 70..][..batch * 70]);
            assert_eq!(part.legrad, row(&whole.legrad, 69));
        }
    }
}

/// Rows are read in whole sectors, and neither `ldmatrix`, the records nor the way out have a bank conflict.
#[test]
fn rung_2_has_no_bank_conflicts() {
    let emulator = Emulator::new(&CXX, Settings { counts: true, ..Settings::checked(0) }).unwrap();
    let (s, g) = (shape(1, (128, 128), 1, 64, false), 1);
    let buffer = |n: usize| emulator.upload(&eighths::<bf16>(n, 1.0, 1)).unwrap();
    let (o, qkv, dqkv) = (buffer(128 * 64), buffer(128 * 192), buffer(128 * 192));
    let wide = |n: usize| emulator.upload(&vec![1f32; n]).unwrap();
    let (lse, out, input, scratch, map) = (wide(128), wide(128), wide(128), wide(scratch_values(s, g)), wide(127));
    let (o, qkv, lse, scratch) = (o.address(), qkv.address(), lse.address(), scratch.address());
    let relevance = Relevance { out: out.address(), input: input.address(), keep: KEEP, gain: GAIN };
    let reverse = Reverse { dqkv: dqkv.address(), relevance: Some(relevance), d_o: o, qkv, lse, scratch, shape: s, g };
    let all = [
        run(&emulator, &Forward { o, lse, qkv, shape: s }, 2, bf16::STORAGE).unwrap(),
        run(&emulator, &reverse, 2, bf16::STORAGE).unwrap(),
        run(&emulator, &Row { relevance, qkv, lse, scratch, shape: s }, 2, bf16::STORAGE).unwrap(),
        run(&emulator, &PositiveGradient { map: map.address(), d_o: o, qkv, scratch, shape: s, g }, 2, bf16::STORAGE)
            .unwrap(),
    ]
    .concat();
    for counters in &all {
        assert_eq!(counters.shared_passes, counters.shared_passes_needed, "{counters:?}");
    }
    // The map begins at the second column, so that its sums straddle sectors.
    let (_, others) = all.split_last().unwrap();
    for counters in others {
        assert_eq!(counters.global_sectors, counters.global_sectors_needed, "{counters:?}");
    }
    // A product of 128 x 128 x 64 has 512. Forward 2, first sweep 2, second 3, keys 4, row 1 and 1, positive gradient 1.
    let products: Vec<u64> = all.iter().map(|counters| counters.matrix_products / 512).collect();
    assert_eq!(products, [2, 5, 4, 0, 1, 1, 0, 1, 0]);
}

#[test]
fn rung_2_leaves_other_sizes_to_rung_1() {
    let pass = |head_dim| Forward { o: 0, lse: 0, qkv: 0, shape: shape(1, (9, 9), 1, head_dim, false) };
    let serves =
        |head_dim, storage, architecture| pass(head_dim).launches(2, Target { storage, architecture }).is_some();
    assert!(serves(12, launch::Storage::F32, 80) && !serves(12, launch::Storage::F16, 80));
    assert!(serves(112, launch::Storage::Bf16, 80) && !serves(128, launch::Storage::Bf16, 80));
    assert!(!serves(64, launch::Storage::Bf16, 75));
    // 145 KiB of shared memory.
    assert!(serves(112, launch::Storage::F32, 80) && !serves(112, launch::Storage::F32, 86));
}
