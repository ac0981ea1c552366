//! The products of ViT-B/32 at batch 16 (and at batch 1) by our kernels and by the `gemm` crate, on one thread and on
//! all. Criterion's "elements" are floating point operations: Gelem/s is GFLOP/s.
//!
//! `cargo bench --bench matmul`

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::StandardNormal;
use std::hint::black_box;
use std::time::Duration;
use vitscope::backend::cpu::matmul::{Kernel, Panels, product};

/// (M, K, N): qkv, projection, fc1, fc2 of 16 images of 50 tokens; fc1 of ViT-L/14's 257 tokens, of one image, of one token.
const SHAPES: [(usize, usize, usize); 7] = [
    (800, 768, 2304),
    (800, 768, 768),
    (800, 768, 3072),
    (800, 3072, 768),
    (257, 1024, 4096),
    (50, 768, 3072),
    (1, 768, 3072),
];

fn normal(len: usize, seed: u64) -> Vec<f32> {
    ChaCha8Rng::seed_from_u64(seed).sample_iter::<f32, _>(StandardNormal).take(len).collect()
}

/// `Y = X W^T` by the `gemm` crate, W (N,K) row-major.
fn gemm_crate(y: &mut [f32], x: &[f32], w: &[f32], (m, k, n): (usize, usize, usize), parallelism: gemm::Parallelism) {
    assert!(y.len() == m * n && x.len() == m * k && w.len() == n * k);
    let (k_stride, n_stride) = (k as isize, n as isize);
    // SAFETY: the strides are those of dense matrices, whose lengths were checked.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            y.as_mut_ptr(),
            1,
            n_stride,
            false,
            x.as_ptr(),
            1,
            k_stride,
            w.as_ptr(),
            k_stride,
            1,
            0.0,
            1.0,
            false,
            false,
            false,
            parallelism,
        );
    }
}

fn matmul(criterion: &mut Criterion) {
    let threads = rayon::current_num_threads();
    for count in if threads == 1 { vec![1] } else { vec![1, threads] } {
        let Ok(pool) = rayon::ThreadPoolBuilder::new().num_threads(count).build() else {
            eprintln!("the system gives no {count} threads");
            return;
        };
        let parallelism = if count == 1 { gemm::Parallelism::None } else { gemm::Parallelism::Rayon(count) };
        for (m, k, n) in SHAPES {
            let (x, w) = (normal(m * k, 1), normal(n * k, 2));
            let (mut y, mut expected) = (vec![0.0; m * n], vec![0.0; m * n]);
            gemm_crate(&mut expected, &x, &w, (m, k, n), parallelism);
            let mut group = criterion.benchmark_group(format!("{m}x{k}x{n}, {count} threads"));
            group.throughput(Throughput::Elements(2 * (m * k * n) as u64));
            group.sample_size(20).warm_up_time(Duration::from_millis(200)).measurement_time(Duration::from_secs(1));
            for (name, kernel) in [("amx", Kernel::amx()), ("fma", Some(Kernel::Fma))] {
                let Some(kernel) = kernel else { continue };
                let panels = Panels::from_rows(n, k, &w, kernel);
                let mut run = || product(black_box(&mut y), n, black_box(&x), k, m, &panels, &|_, _, _| ());
                pool.install(&mut run);
                group.bench_function(BenchmarkId::from_parameter(name), |bencher| {
                    bencher.iter(|| pool.install(&mut run))
                });
                let difference = y.iter().zip(&expected).fold(0f32, |most, (a, b)| most.max((a - b).abs()));
                assert!(difference < 1e-6 * k as f32, "{name} differs by {difference}");
            }
            group.bench_function(BenchmarkId::from_parameter("gemm crate"), |bencher| {
                bencher
                    .iter(|| pool.install(|| gemm_crate(black_box(&mut y), black_box(&x), &w, (m, k, n), parallelism)));
            });
            group.finish();
        }
    }
}

criterion_group!(benches, matmul);
criterion_main!(benches);
