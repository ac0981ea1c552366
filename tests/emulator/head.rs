//! Scores, their gradients and the mean over tokens: every rung, against f64.

use half::{bf16, f16};
use vitscope::backend::{
    ScoreKind,
    gpu::{
        emulator::{Emulator, Settings},
        head::{Cosine, MeanTokens, MeanTokensReverse, ScoreReverse},
        launch::Ladder,
    },
};

use crate::{
    CXX, checked,
    numbers::{Storage, assert_close, f32_steps, random},
    run,
};

const SCALE: f32 = 20.0;

/// (Q,E), rows of length 1.
fn texts(queries: usize, width: usize) -> Vec<f32> {
    let mut texts: Vec<f32> = random(queries * width, 1.0, 0.0, 9);
    for text in texts.chunks_mut(width) {
        let norm = text.iter().map(|v| v * v).sum::<f32>().sqrt();
        text.iter_mut().for_each(|v| *v /= norm);
    }
    texts
}

fn dot(a: impl Iterator<Item = f64>, b: impl Iterator<Item = f64>) -> f64 {
    a.zip(b).map(|(a, b)| a * b).sum()
}

fn wide<T: Storage>(values: &[T]) -> impl Iterator<Item = f64> + Clone {
    values.iter().map(|v| v.wide())
}

/// The softmax's slopes by its definition, in f64.
fn softmax_slopes(cos: &[f32], target: usize) -> Vec<f64> {
    let scale = f64::from(SCALE);
    let most = wide(cos).fold(f64::NEG_INFINITY, f64::max);
    let powers: Vec<f64> = wide(cos).map(|c| (scale * (c - most)).exp()).collect();
    let sum: f64 = powers.iter().sum();
    let share = |q: usize| powers[q] / sum;
    let slope = |q: usize| scale * share(target) * (if q == target { 1.0 - share(q) } else { -share(q) });
    (0..cos.len()).map(slope).collect()
}

fn check_score<T: Storage>(emulator: &Emulator, rung: u32, batch: usize, queries: usize, width: usize) {
    let (embed, texts): (Vec<T>, _) = (random(batch * width, 2.0, 0.5, 1), texts(queries, width));
    let (dev_embed, dev_texts) = (emulator.upload(&embed).unwrap(), emulator.upload(&texts).unwrap());
    let cos = emulator.unwritten::<f32>(batch * queries).unwrap();
    let pass =
        Cosine { cos: cos.address(), embed: dev_embed.address(), texts: dev_texts.address(), batch, queries, width };
    if run(emulator, &pass, rung, T::STORAGE).is_none() {
        return;
    }
    let norms: Vec<f64> = embed.chunks(width).map(|e| dot(wide(e), wide(e)).sqrt()).collect();
    let found = cos.download().unwrap();
    let exact: Vec<f64> = (0..batch * queries)
        .map(|i| {
            let (b, q) = (i / queries, i % queries);
            dot(wide(&embed[b * width..][..width]), wide(&texts[q * width..][..width])) / norms[b]
        })
        .collect();
    // Two sums of E products; by Cauchy and Schwarz the products' magnitudes over the norm sum to 1 at most.
    let steps = f32_steps(width + 8);
    assert_close("cosine", &found, &exact, |_| 2.0 * steps);

    let first = queries / 3;
    let g = batch * 2.min(queries - first);
    for kind in [ScoreKind::Cosine, ScoreKind::Logit, ScoreKind::Softmax] {
        let dembed = emulator.unwritten::<T>(g * width).unwrap();
        let pass = ScoreReverse {
            dembed: dembed.address(),
            embed: dev_embed.address(),
            cos: cos.address(),
            texts: dev_texts.address(),
            kind,
            scale: SCALE,
            first,
            batch,
            queries,
            width,
            g,
        };
        run(emulator, &pass, rung, T::STORAGE).unwrap();
        let (mut exact, mut magnitude) = (vec![], vec![]);
        for row in 0..g {
            let (target, b) = (first + row / batch, row % batch);
            let cos = &found[b * queries..][..queries];
            let only = |value: f64| (0..queries).map(|q| if q == target { value } else { 0.0 }).collect();
            let weights: Vec<f64> = match kind {
                ScoreKind::Cosine => only(1.0),
                ScoreKind::Logit => only(SCALE.into()),
                ScoreKind::Softmax => softmax_slopes(cos, target),
            };
            for i in 0..width {
                let direction = embed[b * width + i].wide() / norms[b];
                let text = |q: usize| f64::from(texts[q * width + i]);
                let terms = (0..queries).map(|q| (weights[q], text(q), f64::from(cos[q]) * direction));
                exact.push(terms.clone().map(|(w, t, c)| w * (t - c)).sum::<f64>() / norms[b]);
                magnitude.push(terms.map(|(w, t, c)| w.abs() * (t.abs() + c.abs())).sum::<f64>() / norms[b]);
            }
        }
        // The norm's sum, the softmax's two, and exponents up to 2 SCALE whose own rounding counts relatively.
        let steps = f32_steps(width + 2 * queries + 4 * SCALE as usize + 32);
        let what = format!("{kind:?} rung {rung} {batch} x {queries} x {width}");
        assert_close(&what, &dembed.download().unwrap(), &exact, |i| steps * magnitude[i]);
    }
}

fn check_mean<T: Storage>(emulator: &Emulator, rung: u32, batch: usize, tokens: usize, width: usize) {
    let x: Vec<T> = random(batch * tokens * width, 1.0, 0.5, 1);
    let (dev_x, y) = (emulator.upload(&x).unwrap(), emulator.unwritten::<T>(batch * width).unwrap());
    let pass = MeanTokens { y: y.address(), x: dev_x.address(), batch, tokens, width };
    if run(emulator, &pass, rung, T::STORAGE).is_none() {
        return;
    }
    let column = |i: usize| (0..tokens).map(move |t| (i / width * tokens + t) * width + i % width);
    let exact: Vec<f64> =
        (0..batch * width).map(|i| column(i).map(|at| x[at].wide()).sum::<f64>() / tokens as f64).collect();
    // A sum of T terms up to 1.5.
    assert_close("mean", &y.download().unwrap(), &exact, |_| 1.5 * f32_steps(tokens + 2));

    let dx = emulator.unwritten::<T>(batch * tokens * width).unwrap();
    let dy: Vec<T> = random(batch * width, 1.0, 0.0, 2);
    let dev_dy = emulator.upload(&dy).unwrap();
    let pass = MeanTokensReverse { dx: dx.address(), dy: dev_dy.address(), g: batch, tokens, width };
    run(emulator, &pass, rung, T::STORAGE).unwrap();
    let exact: Vec<f64> = (0..batch * tokens * width)
        .map(|i| dy[i / width / tokens * width + i % width].wide() / tokens as f64)
        .collect();
    assert_close("mean reverse", &dx.download().unwrap(), &exact, |_| 2.0 * f32::UNIT);
}

fn check_scores(emulator: &Emulator, rung: u32, batch: usize, queries: usize, width: usize) {
    check_score::<f32>(emulator, rung, batch, queries, width);
    check_score::<f16>(emulator, rung, batch, queries, width);
    check_score::<bf16>(emulator, rung, batch, queries, width);
}

fn check_means(emulator: &Emulator, rung: u32, batch: usize, tokens: usize, width: usize) {
    check_mean::<f32>(emulator, rung, batch, tokens, width);
    check_mean::<f16>(emulator, rung, batch, tokens, width);
    check_mean::<bf16>(emulator, rung, batch, tokens, width);
}

/// Every kernel over a small shape.
pub fn every_kernel(emulator: &Emulator) {
    for rung in 1..=Cosine::TOP {
        check_scores(emulator, rung, 3, 5, 16);
        check_means(emulator, rung, 3, 7, 16);
    }
}

#[test]
fn every_rung_scores_within_its_rounding() {
    for emulator in checked() {
        for rung in 1..=Cosine::TOP {
            for (batch, queries, width) in [(1, 1, 1), (3, 5, 33), (2, 40, 64), (3, 3, 520), (1, 300, 16)] {
                check_scores(&emulator, rung, batch, queries, width);
            }
        }
    }
}

#[test]
fn every_rung_averages_tokens() {
    for emulator in checked() {
        for rung in 1..=MeanTokens::TOP {
            for (batch, tokens, width) in
                [(1, 1, 1), (2, 17, 5), (3, 50, 64), (1, 5, 520), (1, 197, 24), (3, 257, 8), (1, 577, 8)]
            {
                check_means(&emulator, rung, batch, tokens, width);
            }
        }
    }
}

/// A target that is nearly certain: its slope is the small sum of the others', not what 1 - s leaves.
#[test]
fn a_certain_softmax_keeps_its_small_gradient() {
    let emulator = Emulator::new(&CXX, Settings::checked(1)).unwrap();
    let width = 8;
    let unit = |at: usize| (0..width).map(move |i| if i == at { 1.0f32 } else { 0.0 });
    let texts: Vec<f32> = unit(0).chain(unit(1)).collect();
    // Logits 20 and 0: 1 - s is 2e-9, less than half of f32's step below 1.
    let (embed, cos) = (emulator.upload(&texts[..width]).unwrap(), emulator.upload(&[1.0f32, 0.0]).unwrap());
    let dev_texts = emulator.upload(&texts).unwrap();
    for rung in 1..=ScoreReverse::TOP {
        let dembed = emulator.unwritten::<f32>(width).unwrap();
        let pass = ScoreReverse {
            dembed: dembed.address(),
            embed: embed.address(),
            cos: cos.address(),
            texts: dev_texts.address(),
            kind: ScoreKind::Softmax,
            scale: SCALE,
            first: 0,
            batch: 1,
            queries: 2,
            width,
            g: 1,
        };
        run(&emulator, &pass, rung, f32::STORAGE).unwrap();
        let expected = -20.0 * (-20f64).exp();
        let found = f64::from(dembed.download().unwrap()[1]);
        assert!((found / expected - 1.0).abs() < 1e-5, "rung {rung}: {found:e} for {expected:e}");
    }
}

/// An image's values do not depend on the images beside it.
#[test]
fn every_rung_gives_an_image_the_same_bits_in_any_batch() {
    let emulator = Emulator::new(&CXX, Settings::fast()).unwrap();
    let (queries, width, tokens) = (5, 64, 9);
    let x: Vec<bf16> = random(8 * tokens * width, 1.0, 0.1, 1);
    let texts = emulator.upload(&texts(queries, width)).unwrap();
    let all = |rung: u32, batch: usize| {
        let x = emulator.upload(&x[..batch * tokens * width]).unwrap();
        let embed = emulator.unwritten::<bf16>(batch * width).unwrap();
        let mean = MeanTokens { y: embed.address(), x: x.address(), batch, tokens, width };
        run(&emulator, &mean, rung, bf16::STORAGE).unwrap();
        let cos = emulator.unwritten::<f32>(batch * queries).unwrap();
        let (address, texts) = (cos.address(), texts.address());
        let cosine = Cosine { cos: address, embed: embed.address(), texts, batch, queries, width };
        run(&emulator, &cosine, rung, bf16::STORAGE).unwrap();
        let dembed = emulator.unwritten::<bf16>(batch * width).unwrap();
        let score = ScoreReverse {
            dembed: dembed.address(),
            embed: embed.address(),
            cos: address,
            texts,
            kind: ScoreKind::Softmax,
            scale: SCALE,
            first: 1,
            batch,
            queries,
            width,
            g: batch,
        };
        run(&emulator, &score, rung, bf16::STORAGE).unwrap();
        (embed.download().unwrap(), cos.download().unwrap(), dembed.download().unwrap())
    };
    for rung in 1..=Cosine::TOP {
        let (embed, cos, dembed) = all(rung, 8);
        for batch in [1, 3] {
            let some = all(rung, batch);
            assert_eq!(some.0, embed[..batch * width]);
            assert_eq!(some.1, cos[..batch * queries]);
            assert_eq!(some.2, dembed[..batch * width]);
        }
    }
}
