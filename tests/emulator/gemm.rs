//! Matrix products with their epilogues, forward and reverse, both rungs, against f64.

use half::{bf16, f16};
use vitscope::backend::gpu::{
    emulator::{Emulator, Settings},
    gemm::{Forward, Reverse},
    launch::{self, Ladder, Target},
};

use crate::{
    CXX, checked,
    numbers::{Storage, assert_close, f32_steps, random},
    run,
};

/// As `include/activation.cuh` numbers them.
const ACTIVATIONS: [i32; 4] = [0, 1, 2, 3];
const NULL: u64 = 0;

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
    let ladder = Forward {
        y: dev_y.address(),
        u: dev_u.address(),
        x: dev_x.address(),
        w: dev_w.address(),
        bias: dev_bias.address(),
        residual: if with_residual { dev_residual.address() } else { NULL },
        residual_stride: stride,
        activation,
        m,
        n,
        k,
    };
    run(emulator, &ladder, rung, T::STORAGE).unwrap();
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
    let (mut exact, mut magnitude) = (vec![], vec![]);
    for (i, j) in (0..m).flat_map(|i| (0..n).map(move |j| (i, j))) {
        let terms = (0..k).map(|l| dy[i * k + l].wide() * w[l * n + j].wide());
        let factor = if activation == 0 { 1.0 } else { slope(activation, u[i % rows * n + j].wide()) };
        exact.push(terms.clone().sum::<f64>() * factor);
        magnitude.push(terms.map(f64::abs).sum::<f64>());
    }
    let [dev_dy, dev_w, dev_u] = [&dy, &w, &u].map(|values| emulator.upload(values).unwrap());
    let dev_dx = emulator.unwritten::<T>(m * n).unwrap();
    let u = if activation == 0 { NULL } else { dev_u.address() };
    let (dx, dy, w) = (dev_dx.address(), dev_dy.address(), dev_w.address());
    run(emulator, &Reverse { dx, dy, w, u, rows, activation, m, n, k }, rung, T::STORAGE).unwrap();
    assert_close(&what, &dev_dx.download().unwrap(), &exact, |i| 1.13 * product_slack(k, magnitude[i]));
}

/// Each rung's kernels over shapes with every tail, with each activation once.
fn all<T: Storage>(emulator: &Emulator, rung: u32, shapes: [(usize, usize, usize); 4]) {
    for (shape, activation) in shapes.into_iter().zip(ACTIVATIONS) {
        forward::<T>(emulator, rung, shape, activation);
        reverse::<T>(emulator, rung, shape, activation);
    }
}

#[test]
fn rung_1_is_right_for_any_shape() {
    for emulator in checked().take(2) {
        let shapes = [(1, 1, 1), (17, 33, 7), (50, 31, 65), (5, 3, 300)];
        all::<f32>(&emulator, 1, shapes);
        all::<f16>(&emulator, 1, shapes);
        all::<bf16>(&emulator, 1, shapes);
    }
}

#[test]
fn rung_2_is_right_for_rows_of_whole_chunks() {
    for emulator in checked() {
        let shapes = [(1, 8, 8), (17, 136, 40), (129, 64, 72), (50, 24, 264)];
        all::<f16>(&emulator, 2, shapes);
        all::<bf16>(&emulator, 2, shapes);
    }
}

/// More steps of k than stages, more than one tile either way, and every tail.
#[test]
fn rung_3_is_right_for_rows_of_whole_chunks() {
    for emulator in checked() {
        let shapes = [(1, 8, 8), (17, 264, 72), (129, 64, 200), (70, 24, 456)];
        all::<f16>(&emulator, 3, shapes);
        all::<bf16>(&emulator, 3, shapes);
    }
}

#[test]
fn rung_3_serves_16_bit_types_on_hopper() {
    let ladder = Reverse { dx: 16, dy: 16, w: 16, u: NULL, rows: 1, activation: 0, m: 1, n: 8, k: 8 };
    let serves =
        |ladder: Reverse, storage, architecture| ladder.launches(3, Target { storage, architecture }).is_some();
    assert!(serves(ladder, launch::Storage::Bf16, 90));
    assert!(!serves(ladder, launch::Storage::F32, 90));
    assert!(!serves(ladder, launch::Storage::F16, 80));
    // sm_100 has neither wgmma nor what replaced it here.
    assert!(!serves(ladder, launch::Storage::F16, 100));
    assert!(!serves(Reverse { n: 12, ..ladder }, launch::Storage::F16, 90));
    assert!(!serves(Reverse { w: 8, ..ladder }, launch::Storage::F16, 90));
}

/// A row's bits do not depend on the rows beside it, nor on where it lies in the batch.
#[test]
fn a_row_has_the_same_bits_in_any_batch() {
    let emulator = Emulator::new(&CXX, Settings::fast()).unwrap();
    let (n, k) = (72, 200);
    let (x, w): (Vec<bf16>, Vec<bf16>) = (random(200 * k, 1.0, 0.0, 1), random(n * k, 1.0, 0.0, 2));
    let dev_w = emulator.upload(&w).unwrap();
    for rung in [2, 3] {
        let product = |x: &[bf16]| {
            let m = x.len() / k;
            let (dev_x, y) = (emulator.upload(x).unwrap(), emulator.unwritten::<bf16>(m * n).unwrap());
            let ladder = plain(y.address(), dev_x.address(), dev_w.address(), (m, n, k));
            run(&emulator, &ladder, rung, launch::Storage::Bf16).unwrap();
            y.download().unwrap()
        };
        let all = product(&x);
        for (first, rows) in [(0, 1), (3, 3), (150, 8), (199, 1)] {
            let some = product(&x[first * k..][..rows * k]);
            assert_eq!(some, all[first * n..][..rows * n], "rung {rung}, rows {first}..{}", first + rows);
        }
    }
}

/// A product with nothing added.
fn plain(y: u64, x: u64, w: u64, (m, n, k): (usize, usize, usize)) -> Forward {
    let (u, bias, residual) = (NULL, NULL, NULL);
    Forward { y, u, x, w, bias, residual, residual_stride: 0, activation: 2, m, n, k }
}

/// Copies, `ldmatrix` and the way out are free of bank conflicts, and memory is touched in whole sectors.
#[test]
fn products_have_no_bank_conflicts() {
    let emulator = Emulator::new(&CXX, Settings { counts: true, ..Settings::checked(0) }).unwrap();
    let (m, n, k) = (128, 256, 64);
    let [x, w] = [m * k, n * k].map(|values| emulator.upload(&random::<bf16>(values, 1.0, 0.0, 1)).unwrap());
    let y = emulator.unwritten::<bf16>(m * n).unwrap();
    let forward = plain(y.address(), x.address(), w.address(), (m, n, k));
    let (dx, dy, w, u) = (y.address(), x.address(), w.address(), NULL);
    let reverse = Reverse { dx, dy, w, u, rows: 1, activation: 0, m, n, k };
    // By `mma.sync` 16 x 8 x 16 in 16 warps, and by `wgmma` 64 x 256 x 16 in 2 warpgroups.
    for (rung, products) in [(2, 16 * 4 * 4 * 4), (3, 2 * 4)] {
        let forward = run(&emulator, &forward, rung, launch::Storage::Bf16).unwrap();
        let reverse = run(&emulator, &reverse, rung, launch::Storage::Bf16).unwrap();
        for counters in [forward[0], reverse[0]] {
            assert_eq!(counters.matrix_products, products);
            assert_eq!(counters.global_sectors, counters.global_sectors_needed, "rung {rung}");
            assert_eq!(counters.shared_passes, counters.shared_passes_needed, "rung {rung} {counters:?}");
        }
    }
}
