//! Gradients against finite differences, and whole trainings on small made-up streams.

mod gradients;
mod judge;
mod training;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::StandardNormal;

use super::Algorithm;

/// The algorithms, at their smallest that still does everything. Bands are wide, so that some values lie in them.
fn algorithms() -> Vec<Algorithm> {
    let jump =
        |target| Algorithm::JumpRelu { l0: 0.02, target, bandwidth: 0.3, threshold_init: 0.4, resample_every: 4 };
    vec![
        Algorithm::Relu { l1: 0.05, warm_up: 2, resample_every: 4 },
        Algorithm::TopK { k: 3, aux: 0.5, k_aux: 2 },
        Algorithm::BatchTopK { k: 3, aux: 0.5, k_aux: 2 },
        jump(None),
        jump(Some(3.0)),
    ]
}

fn normal(len: usize, seed: u64) -> Vec<f32> {
    ChaCha8Rng::seed_from_u64(seed).sample_iter::<f32, _>(StandardNormal).take(len).collect()
}

/// Tokens (n,d) that are sums of three of `directions` (features,d), each times 0.5 to 1.5, away from the origin.
fn sparse_stream(directions: &[f32], d: usize, n: usize, seed: u64) -> Vec<f32> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut x = vec![0.3; n * d];
    for x in x.chunks_mut(d) {
        for _ in 0..3 {
            let (at, size) = (rng.random_range(0..directions.len() / d), rng.random_range(0.5..1.5f32));
            x.iter_mut().zip(&directions[at * d..]).for_each(|(x, v)| *x += size * v);
        }
    }
    x
}

/// Random rows (n,d) of length 1.
fn unit_rows(n: usize, d: usize, seed: u64) -> Vec<f32> {
    let mut rows = normal(n * d, seed);
    for row in rows.chunks_mut(d) {
        let norm = row.iter().map(|v| v * v).sum::<f32>().sqrt();
        row.iter_mut().for_each(|v| *v /= norm);
    }
    rows
}
