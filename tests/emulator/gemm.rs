//! Matrix products with their epilogues, forward and reverse, both rungs, against f64.

use half::{bf16, f16};
use vitscope::backend::gpu::{
    emulator::{Emulator, Settings},
    gemm::{Forward, Reverse},
};

use crate::{
    CXX, checked,
    numbers::{Storage, assert_close, f32_steps, random},
    run,
};

/// As `include/activation.cuh` numbers them.
const ACTIVATIONS: [i32; 4] = [0, 1, 2, 3];

fn act(kind: i32, u: f64) -> f64 {
    match kind {
        1 => u / (1.0 + (-1.702 * u).exp()),
        2 => 0.5 * u * (1.0 + libm::erf(u / 2f64.sqrt())),
        3 => 0.5 * u * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (u + 0.044715 * u.powi(3))).tanh()),
        _ => u,
    }
}

/// The slope by a central difference: its error, 1e-10 here, is far below f32's.
fn slope(kind: i32, u: f64) -> f64 {
    let h = 1e-5;
    (act(kind, u + h) - act(kind, u - h)) / (2.0 * h)
}

/// What a product may be off by: `K` products and sums in f32, and a few operations of the epilogue.
fn product_slack(k: usize, sum_of_magnitudes: f64) -> f64 {
    f32_steps(k + 16) * (sum_of_magnitudes + 4.0)
}

fn forward<T: Storage>(emulator: &Emulator, rung: u32, (m, n, k): (usize, usize, usize), activation: i32) {
    let what = format!("forward rung {rung} {m} x {n} x {k} activation {activation}");
    let (x, w): (Vec<T>, Vec<T>) = (random(m * k, 1.0, 0.0, 1), random(n * k, 1.0, 0.0, 2));
    let (bias, stride): (Vec<f32>, _) = (random(n, 1.0, 0.0, 3), n + 8);
    let residual: Vec<T> = random(m * stride, 1.0, 0.0, 4);
    let with_residual = activation == 0;
    let (mut u, mut magnitude) = (vec![], vec![]);
    for (i, j) in (0..m).flat_map(|i| (0..n).map(move |j| (i, j))) {
        let terms = (0..k).map(|l| x[i * k + l].wide() * w[j * k + l].wide());
        let extra = f64::from(bias[j]) + if with_residual { residual[i * stride + j].wide() } else { 0.0 };
        u.push(terms.clone().sum::<f64>() + extra);
        magnitude.push(terms.map(f64::abs).sum::<f64>());
    }
    let [dev_x, dev_w, dev_residual] = [&x, &w, &residual].map(|values| emulator.upload(values).unwrap());
    let dev_bias = emulator.upload(&bias).unwrap();
    let (dev_y, dev_u) = (emulator.unwritten::<T>(m * n).unwrap(), emulator.unwritten::<T>(m * n).unwrap());
    let pass = Forward {
        y: dev_y.address(),
        u: dev_u.address(),
        x: dev_x.address(),
        w: dev_w.address(),
        bias: dev_bias.address(),
        residual: if with_residual { dev_residual.address() } else { 0 },
        residual_stride: stride,
        activation,
        m,
        n,
        k,
    };
    run(emulator, &pass, rung, T::STORAGE).unwrap();
    assert_close(&what, &dev_u.download().unwrap(), &u, |i| product_slack(k, magnitude[i]));
    let y: Vec<f64> = u.iter().map(|&u| act(activation, u)).collect();
    // No activation's slope exceeds 1.13.
    assert_close(&what, &dev_y.download().unwrap(), &y, |i| 1.13 * product_slack(k, magnitude[i]));
}

fn reverse<T: Storage>(emulator: &Emulator, rung: u32, (m, n, k): (usize, usize, usize), activation: i32) {
    let what = format!("reverse rung {rung} {m} x {n} x {k} activation {activation}");
    let rows = m.div_ceil(2);
    let (dy, w, u): (Vec<T>, Vec<T>, Vec<T>) =
        (random(m * k, 1.0, 0.0, 1), random(k * n, 1.0, 0.0, 2), random(rows * n, 3.0, 0.0, 3));
    let (mut dx, mut magnitude) = (vec![], vec![]);
    for (i, j) in (0..m).flat_map(|i| (0..n).map(move |j| (i, j))) {
        let terms = (0..k).map(|l| dy[i * k + l].wide() * w[l * n + j].wide());
        let factor = if activation == 0 { 1.0 } else { slope(activation, u[i % rows * n + j].wide()) };
        dx.push(terms.clone().sum::<f64>() * factor);
        magnitude.push(terms.map(f64::abs).sum::<f64>());
    }
    let [dev_dy, dev_w, dev_u] = [&dy, &w, &u].map(|values| emulator.upload(values).unwrap());
    let dev_dx = emulator.unwritten::<T>(m * n).unwrap();
    let pass = Reverse {
        dx: dev_dx.address(),
        dy: dev_dy.address(),
        w: dev_w.address(),
        u: if activation == 0 { 0 } else { dev_u.address() },
        rows,
        activation,
        m,
        n,
        k,
    };
    run(emulator, &pass, rung, T::STORAGE).unwrap();
    assert_close(&what, &dev_dx.download().unwrap(), &dx, |i| 1.13 * product_slack(k, magnitude[i]));
}

fn check_rung(emulator: &Emulator, rung: u32, shapes: &[(usize, usize, usize)]) {
    for (&shape, activation) in shapes.iter().zip(ACTIVATIONS.into_iter().cycle()) {
        forward::<f32>(emulator, rung, shape, activation);
        forward::<f16>(emulator, rung, shape, activation);
        forward::<bf16>(emulator, rung, shape, activation);
        reverse::<f32>(emulator, rung, shape, activation);
        reverse::<f16>(emulator, rung, shape, activation);
        reverse::<bf16>(emulator, rung, shape, activation);
    }
}

/// Every kernel over a small shape.
pub fn every_kernel(emulator: &Emulator) {
    check_rung(emulator, 1, &[(5, 3, 7)]);
    check_rung(emulator, 2, &[(17, 24, 40)]);
}

#[test]
fn rung_1_is_right_for_any_shape() {
    for emulator in checked().take(2) {
        check_rung(&emulator, 1, &[(1, 1, 1), (17, 33, 7), (50, 31, 65), (5, 3, 300)]);
    }
}

#[test]
fn rung_2_is_right_for_rows_of_whole_chunks() {
    for emulator in checked() {
        check_rung(&emulator, 2, &[(1, 8, 8), (17, 136, 40), (129, 64, 72), (50, 24, 264)]);
    }
}

/// More row tiles than a group has: a full one and the rest, over several tiles of the weight.
#[test]
fn rung_2_goes_over_all_groups_of_tiles() {
    let emulator = Emulator::new(&CXX, Settings::checked(1)).unwrap();
    check_rung(&emulator, 2, &[(128 * 17 + 5, 264, 8)]);
}

#[test]
fn rung_2_leaves_rows_of_partial_chunks_to_rung_1() {
    let emulator = Emulator::new(&CXX, Settings::fast()).unwrap();
    let null =
        Forward { y: 0, u: 0, x: 0, w: 0, bias: 0, residual: 0, residual_stride: 0, activation: 0, m: 4, n: 12, k: 12 };
    assert!(run(&emulator, &Forward { k: 588, ..null }, 2, f16::STORAGE).is_none());
    assert!(run(&emulator, &null, 2, f16::STORAGE).is_none());
    assert!(run(&emulator, &Forward { k: 6, ..null }, 2, f32::STORAGE).is_none());
}

/// A row's bits do not depend on the rows beside it, nor on where it lies in the batch.
#[test]
fn rungs_1_and_2_give_a_row_the_same_bits_in_any_batch() {
    fn check<T: Storage + std::fmt::Debug>(emulator: &Emulator, rung: u32) {
        let (n, k) = (72, 200);
        let (x, w): (Vec<T>, Vec<T>) = (random(200 * k, 1.0, 0.0, 1), random(n * k, 1.0, 0.0, 2));
        let dev_w = emulator.upload(&w).unwrap();
        let product = |x: &[T]| {
            let m = x.len() / k;
            let (dev_x, y) = (emulator.upload(x).unwrap(), emulator.unwritten::<T>(m * n).unwrap());
            let pass = Forward {
                y: y.address(),
                u: 0,
                x: dev_x.address(),
                w: dev_w.address(),
                bias: 0,
                residual: 0,
                residual_stride: 0,
                activation: 2,
                m,
                n,
                k,
            };
            run(emulator, &pass, rung, T::STORAGE).unwrap();
            y.download().unwrap()
        };
        let all = product(&x);
        for (first, rows) in [(0, 1), (3, 3), (150, 8), (199, 1)] {
            let some = product(&x[first * k..][..rows * k]);
            assert_eq!(some, all[first * n..][..rows * n], "rung {rung} rows {first}..{}", first + rows);
        }
    }
    let emulator = Emulator::new(&CXX, Settings::fast()).unwrap();
    for rung in [1, 2] {
        check::<bf16>(&emulator, rung);
        check::<f32>(&emulator, rung);
    }
}

/// Copies and loads of fragments are free of bank conflicts, and memory is touched in whole sectors.
#[test]
fn rung_2_has_no_bank_conflicts() {
    fn check<T: Storage>(matrix_products: u64) {
        let emulator = Emulator::new(&CXX, Settings { counts: true, ..Settings::checked(0) }).unwrap();
        let (m, n, k) = (128, 128, 64);
        let [x, w] = [m * k, n * k].map(|values| emulator.upload(&random::<T>(values, 1.0, 0.0, 1)).unwrap());
        let y = emulator.unwritten::<T>(m * n).unwrap();
        let (y, x, w) = (y.address(), x.address(), w.address());
        let forward = Forward { y, u: 0, x, w, bias: 0, residual: 0, residual_stride: 0, activation: 0, m, n, k };
        let reverse = Reverse { dx: y, dy: x, w, u: 0, rows: 1, activation: 0, m, n, k };
        let counters =
            [run(&emulator, &forward, 2, T::STORAGE).unwrap(), run(&emulator, &reverse, 2, T::STORAGE).unwrap()];
        for counters in counters.concat() {
            assert_eq!(counters.matrix_products, matrix_products);
            assert_eq!(counters.global_sectors, counters.global_sectors_needed, "{} {counters:?}", T::NAME);
            assert_eq!(counters.shared_passes, counters.shared_passes_needed, "{} {counters:?}", T::NAME);
        }
    }
    // 8 warps, 64 x 32 of C each, 4 steps of 16 in k.
    check::<bf16>(8 * 4 * 4 * 4);
    check::<f32>(0);
}
