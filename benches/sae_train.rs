//! Steps of SAE training: TopK at two sizes, a batch of 4096 tokens. Criterion's "elements" are tokens.
//!
//! `cargo bench --bench sae_train`

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::StandardNormal;
use std::hint::black_box;
use std::time::Duration;
use vitscope::sae_train::{Algorithm, Recipe, Trainer, default_k_aux, default_learning_rate};

/// (D, S, K).
const SIZES: [(usize, usize, usize); 2] = [(128, 2048, 8), (768, 6144, 32)];
const BATCH: usize = 4096;

/// Sparse mixtures of twice as many directions as dimensions: `(tokens, d)`.
fn activations(tokens: usize, d: usize) -> Vec<f32> {
    let mut rng = ChaCha8Rng::seed_from_u64(7);
    let directions: Vec<f32> = (&mut rng).sample_iter(StandardNormal).take(2 * d * d).collect();
    let mut x = vec![0.0; tokens * d];
    for x in x.chunks_exact_mut(d) {
        for _ in 0..8 {
            let (direction, size) = (rng.random_range(0..2 * d), rng.random_range(0.5..1.5f32));
            x.iter_mut().zip(&directions[direction * d..]).for_each(|(x, v)| *x += size * v);
        }
        x.iter_mut().for_each(|x| *x += 0.1 * rng.sample::<f32, _>(StandardNormal));
    }
    x
}

fn steps(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group(format!("step, {} threads", rayon::current_num_threads()));
    group.throughput(Throughput::Elements(BATCH as u64));
    group.sample_size(20).warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(6));
    for (d, s, k) in SIZES {
        let recipe = Recipe {
            latents: s,
            algorithm: Algorithm::TopK { k, aux: 1.0 / 32.0, k_aux: default_k_aux(d) },
            steps: 1 << 20,
            batch: BATCH,
            learning_rate: default_learning_rate(s),
            warm_up: 20,
            decay: 0.2,
            center: Default::default(),
            dead_after: 10_000_000,
            seed: 1,
        };
        let x = activations(4 * BATCH, d);
        let Ok(mut trainer) = Trainer::new(&recipe, d, &x) else { return };
        let mut batches = x.chunks_exact(BATCH * d).cycle();
        group.bench_function(BenchmarkId::from_parameter(format!("topk D {d} S {s} K {k}")), |bencher| {
            bencher.iter(|| batches.next().map(|x| black_box(trainer.step(x))));
        });
    }
    group.finish();
}

criterion_group!(benches, steps);
criterion_main!(benches);
