use super::*;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::StandardNormal;

/// The kernels of this machine.
fn kernels() -> Vec<Kernel> {
    let amx = Kernel::amx();
    if amx.is_none() {
        println!("this machine has no AMX: its kernel is not tested");
    }
    amx.into_iter().chain([Kernel::Fma]).collect()
}

fn normal(len: usize, seed: u64) -> Vec<f32> {
    ChaCha8Rng::seed_from_u64(seed).sample_iter::<f32, _>(StandardNormal).take(len).collect()
}

fn nothing(_: usize, _: usize, _: &mut [f32]) {}

/// `Y = X W^T` (M,N), dense.
fn dense(x: &[f32], m: usize, w: &Panels) -> Vec<f32> {
    let mut y = vec![f32::NAN; m * w.n()];
    product(&mut y, w.n(), x, w.k(), m, w, &nothing);
    y
}

/// Y in f64.
fn judge(x: &[f32], m: usize, w: &[f32], n: usize, k: usize) -> Vec<f64> {
    let dot = |x: &[f32], w: &[f32]| x.iter().zip(w).map(|(&x, &w)| f64::from(x) * f64::from(w)).sum();
    let mut y = Vec::with_capacity(m * n);
    x[..m * k].chunks(k).for_each(|x| y.extend(w[..n * k].chunks(k).map(|w| -> f64 { dot(x, w) })));
    y
}

/// Root mean square and largest error.
fn errors(y: &[f32], exact: &[f64]) -> (f64, f64) {
    let squares = || y.iter().zip(exact).map(|(&y, exact)| (f64::from(y) - exact).powi(2));
    ((squares().sum::<f64>() / y.len() as f64).sqrt(), squares().fold(0.0, f64::max).sqrt())
}

/// The error of the `gemm` crate is a chain of f32 multiply-adds', as PyTorch's is. Ours may be twice that, and is less.
#[test]
fn error_is_that_of_f32() {
    for (m, n, k) in [(64, 256, 768), (40, 160, 3072), (50, 96, 1024), (33, 65, 100)] {
        let w = normal(n * k, 1);
        // A few large channels, as in the residual stream of CLIP.
        let x: Vec<f32> =
            normal(m * k, 2).iter().enumerate().map(|(i, x)| if i % 97 == 0 { 40.0 * x } else { *x }).collect();
        let exact = judge(&x, m, &w, n, k);
        let mut y = vec![0.0; m * n];
        gemm_small(MatMut::new(&mut y, m, n, n), Mat::new(&x, m, k, k), Mat::new(&w, n, k, k).t(), 1.0);
        let (gemm_rms, gemm_max) = errors(&y, &exact);
        for kernel in kernels() {
            let (rms, max) = errors(&dense(&x, m, &Panels::from_rows(n, k, &w, kernel)), &exact);
            println!(
                "{m} x {k} x {n} {kernel:?}: rms {rms:.3e}, {:.2} of gemm's; max {max:.3e}, {:.2}",
                rms / gemm_rms,
                max / gemm_max
            );
            assert!(rms <= 2.0 * gemm_rms && max <= 2.0 * gemm_max);
        }
    }
}

/// Values between the f32 numbers of a product: no part of a split may be missing.
#[test]
fn single_products_are_correctly_rounded_or_next_to_it() {
    let (x, w) = (normal(64, 3), normal(64, 4));
    for kernel in kernels() {
        let y = dense(&x, 64, &Panels::from_rows(64, 1, &w, kernel));
        for (i, y) in y.iter().enumerate() {
            let exact = f64::from(x[i / 64]) * f64::from(w[i % 64]);
            assert!((f64::from(*y) - exact).abs() <= 1.5 * f64::from(f32::EPSILON) * exact.abs(), "{y} {exact}");
        }
    }
}

#[test]
fn every_shape_is_right() {
    for kernel in kernels() {
        for m in [1, 2, 15, 16, 17, 31, 33, 65] {
            for (n, k) in [(1, 1), (31, 33), (32, 32), (33, 31), (300, 70), (7, 1025)] {
                let (x, w) = (normal(m * k, 5), normal(n * k, 6));
                let y = dense(&x, m, &Panels::from_rows(n, k, &w, kernel));
                for (y, exact) in y.iter().zip(judge(&x, m, &w, n, k)) {
                    assert!((f64::from(*y) - exact).abs() < 1e-6 * k as f64, "{kernel:?} {m} {n} {k}: {y} {exact}");
                }
            }
        }
    }
}

#[test]
fn bits_of_a_row_do_not_depend_on_its_company() {
    let (n, k) = (333, 1100);
    let (x, w) = (normal(800 * k, 7), normal(n * k, 8));
    for kernel in kernels() {
        let w = Panels::from_rows(n, k, &w, kernel);
        let all = dense(&x, 800, &w);
        for threads in [1, 2, 5] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            for (m, first) in [(1, 0), (1, 799), (3, 17), (7, 100), (50, 333), (257, 11), (800, 0)] {
                let y = pool.install(|| dense(&x[first * k..], m, &w));
                let expected = &all[first * n..][..m * n];
                assert!(y.iter().zip(expected).all(|(a, b)| a.to_bits() == b.to_bits()), "{kernel:?} {threads} {m}");
            }
        }
    }
}

#[test]
fn weights_come_back_exactly_from_either_order() {
    let (n, k) = (45, 77);
    let w: Vec<f32> = normal(n * k, 9).iter().zip(0..).map(|(w, i)| w * 2f32.powi(i % 200 - 100)).collect();
    let transposed: Vec<f32> = (0..k * n).map(|i| w[i % n * k + i / n]).collect();
    for kernel in kernels() {
        let rows = Panels::from_rows(n, k, &w, kernel);
        let columns = Panels::from_columns(n, k, &transposed, kernel);
        assert_eq!((rows.n(), rows.k()), (n, k));
        assert_eq!(rows.bytes(), if kernel == Kernel::Fma { 64 * 77 * 4 } else { 64 * 96 * 6 });
        assert_eq!(rows.to_rows(), w);
        assert_eq!(columns.to_rows(), w);
    }
}

#[test]
fn the_epilogue_sees_every_element_once_and_nothing_else_is_written() {
    let (m, n, k, ldy, ldx) = (70, 600, 40, 607, 43);
    let (x, w) = (normal(m * ldx, 10), normal(n * k, 11));
    let tight: Vec<f32> = x.chunks(ldx).flat_map(|row| row[..k].to_vec()).collect();
    for kernel in kernels() {
        let w = Panels::from_rows(n, k, &w, kernel);
        let expected = dense(&tight, m, &w);
        // The last row of Y need not be as long as the distance of the rows.
        let mut y = vec![-1.0; (m - 1) * ldy + n];
        product(&mut y, ldy, &x, ldx, m, &w, &|row, column0, piece| {
            for (j, y) in piece.iter_mut().enumerate() {
                assert_eq!(*y, expected[row * n + column0 + j]);
                *y += (row * n + column0 + j) as f32 + 1e6;
            }
        });
        for (i, y) in y.iter().enumerate() {
            let (row, column) = (i / ldy, i % ldy);
            let at = row * n + column;
            assert_eq!(*y, if column < n { expected[at] + (at as f32 + 1e6) } else { -1.0 });
        }
    }
}

#[test]
fn an_epilogue_may_compute_a_product() {
    let (x, w) = (normal(40 * 64, 12), normal(64 * 64, 13));
    // One thread: its pieces are whole rows.
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
    for kernel in kernels() {
        let w = Panels::from_rows(64, 64, &w, kernel);
        let expected = dense(&dense(&x, 40, &w), 40, &w);
        let mut y = vec![0.0; 40 * 64];
        pool.install(|| {
            product(&mut y, 64, &x, 64, 40, &w, &|_, _, row| {
                let again = dense(row, 1, &w);
                row.copy_from_slice(&again);
            });
        });
        assert_eq!(y, expected);
    }
}

#[test]
fn numbers_that_are_not_finite_stay_so() {
    let (inf, nan) = (f32::INFINITY, f32::NAN);
    // x, w (K = 2), expected
    let cases = [
        ([inf, 1.0], [2.0, 1.0], inf),
        ([inf, 1.0], [-0.3, 1.0], -inf),
        ([1.0, 0.7], [1.0, -inf], -inf),
        ([-inf, 1.0], [-inf, 1.0], inf),
        ([inf, 1.0], [0.0, 1.0], nan),
        ([inf, inf], [1.0, -1.0], nan),
        ([nan, 1.0], [0.0, 1.0], nan),
        ([1.0, 1.0], [f32::from_bits(0x7f80_0001), 1.0], nan),
        ([1.0, 1.0], [f32::from_bits(0xffff_ffff), 1.0], nan),
        ([f32::MAX, 0.0], [1.0, 0.0], f32::MAX),
        ([f32::MAX, 0.0], [-0.5, 0.0], f32::MAX * -0.5),
        ([1.0, 0.0], [f32::from_bits(0x7f7f_8000), 0.0], f32::from_bits(0x7f7f_8000)),
        ([f32::MAX, f32::MAX], [1.0, 1.0], inf),
        ([f32::MIN_POSITIVE, 0.0], [1.0, 0.0], f32::MIN_POSITIVE),
    ];
    for kernel in kernels() {
        for (x, w, expected) in cases {
            let y = dense(&x, 1, &Panels::from_rows(1, 2, &w, kernel))[0];
            assert!(y == expected || (y.is_nan() && expected.is_nan()), "{kernel:?} {x:?} {w:?}: {y}, not {expected}");
        }
    }
}

#[test]
fn a_split_is_exact() {
    let random = ChaCha8Rng::seed_from_u64(14).random_iter::<u32>().take(200_000).map(f32::from_bits);
    let chosen = [0.0, 1.0, f32::MAX, f32::MIN, 1.0 + f32::EPSILON, f32::from_bits(0x7f7f_7fff), 2f32.powi(-110)];
    for value in random.chain(chosen) {
        let joined = split::join(split::split(value));
        let exact = value == 0.0 || value.abs() >= 2f32.powi(-110);
        if value.is_nan() {
            assert!(joined.is_nan());
        } else if exact {
            assert_eq!(joined, value, "{:#x}", value.to_bits());
        } else {
            assert!((joined - value).abs() <= 2f32.powi(-133));
        }
    }
}

#[test]
fn small_values_lose_bits_as_stated() {
    for kernel in kernels() {
        for exponent in [-100, -103, -110, -120, -126, -130] {
            let value = 1.234_567_9 * 2f32.powi(exponent);
            let y = dense(&[value], 1, &Panels::from_rows(1, 1, &[1.0], kernel))[0];
            let bound = if exponent >= -103 || kernel == Kernel::Fma { 0.0 } else { 2f32.powi(-125) };
            assert!((y - value).abs() <= bound, "{kernel:?} 2^{exponent}: {y:e} {value:e}");
        }
    }
}

#[test]
fn empty_products() {
    for kernel in kernels() {
        assert_eq!(dense(&[], 0, &Panels::from_rows(5, 3, &[1.0; 15], kernel)), [0f32; 0]);
        assert_eq!(dense(&[1.0; 6], 2, &Panels::from_rows(0, 3, &[], kernel)), [0f32; 0]);
    }
}

#[test]
#[should_panic(expected = "X (3,4), rows 4 apart, does not fit 11 values")]
fn a_short_x_is_refused() {
    dense(&[0.0; 11], 3, &Panels::from_rows(2, 4, &[0.0; 8], Kernel::Fma));
}

#[test]
fn gemm_small_is_right_with_any_strides() {
    let value = |i: usize| (i * 7 % 11) as f32 - 5.0;
    let (m, k, n) = (5, 9, 6);
    let a: Vec<f32> = (0..200).map(value).collect();
    let b: Vec<f32> = (0..300).map(|i| value(i + 3)).collect();
    // a: rows 20 apart; b: transposed, columns 30 apart; c: rows 8 apart.
    let mut c = vec![f32::NAN; m * 8];
    gemm_small(MatMut::new(&mut c, m, n, 8), Mat::new(&a, m, k, 20), Mat::new(&b, n, k, 30).t(), 0.5);
    for (i, row) in c.chunks(8).enumerate() {
        for (j, c) in row[..n].iter().enumerate() {
            let sum: f32 = (0..k).map(|p| a[i * 20 + p] * b[j * 30 + p]).sum();
            assert_eq!(*c, 0.5 * sum);
        }
        assert!(row[n..].iter().all(|c| c.is_nan()));
    }
}

#[test]
#[should_panic(expected = "in 10")]
fn a_short_matrix_is_refused() {
    Mat::new(&[0.0f32; 10], 3, 4, 4);
}
