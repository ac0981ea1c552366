//! Matrix products with their epilogues, forward and reverse, both rungs, against f64.

use half::{bf16, f16};
use vitscope::backend::gpu::{
    emulator::{Emulator, Module, Settings},
    launch::{Arg, Shape},
};

use crate::{
    CXX, checked, module,
    numbers::{Storage, assert_close, f32_steps, random},
};

/// As `include/activation.cuh` numbers them.
const ACTIVATIONS: [i32; 4] = [0, 1, 2, 3];
/// `tile::SHARED_BYTES` of `include/tile.cuh`.
const STAGES_BYTES: u32 = 65536;

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

fn shape(rung: u32, m: usize, n: usize) -> Shape {
    let grid = |a: usize, b: usize| [n.div_ceil(a) as u32, m.div_ceil(b) as u32, 1];
    match rung {
        1 => Shape { grid: grid(32, 4), block: [32, 4, 1], shared: 0 },
        _ => Shape { grid: grid(128, 128), block: [256, 1, 1], shared: STAGES_BYTES },
    }
}

/// What a product may be off by: `K` products and sums in f32, and a few operations of the epilogue.
fn product_slack(k: usize, sum_of_magnitudes: f64) -> f64 {
    f32_steps(k + 16) * (sum_of_magnitudes + 4.0)
}

fn forward<T: Storage>(
    emulator: &Emulator,
    module: &Module,
    rung: u32,
    (m, n, k): (usize, usize, usize),
    activation: i32,
) {
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
    let args = [
        dev_y.arg(),
        dev_u.arg(),
        dev_x.arg(),
        dev_w.arg(),
        dev_bias.arg(),
        if with_residual { dev_residual.arg() } else { Arg::Pointer(0) },
        Arg::I64(stride as i64),
        Arg::I32(activation),
        Arg::I32(m as i32),
        Arg::I32(n as i32),
        Arg::I32(k as i32),
    ];
    let name = format!("gemm_forward__{rung}__{}", T::NAME);
    emulator.launch(module, &name, shape(rung, m, n), &args).unwrap().passed().unwrap();
    assert_close(&what, &dev_u.download().unwrap(), &u, |i| product_slack(k, magnitude[i]));
    let y: Vec<f64> = u.iter().map(|&u| act(activation, u)).collect();
    // No activation's slope exceeds 1.13.
    assert_close(&what, &dev_y.download().unwrap(), &y, |i| 1.13 * product_slack(k, magnitude[i]));
}

fn reverse<T: Storage>(
    emulator: &Emulator,
    module: &Module,
    rung: u32,
    (m, n, k): (usize, usize, usize),
    activation: i32,
) {
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
    let pointers =
        [dev_dx.arg(), dev_dy.arg(), dev_w.arg(), if activation == 0 { Arg::Pointer(0) } else { dev_u.arg() }];
    let sizes = [rows as i32, activation, m as i32, n as i32, k as i32].map(Arg::I32);
    let name = format!("gemm_reverse__{rung}__{}", T::NAME);
    let args = [&pointers[..], &sizes[..]].concat();
    emulator.launch(module, &name, shape(rung, m, n), &args).unwrap().passed().unwrap();
    assert_close(&what, &dev_dx.download().unwrap(), &dx, |i| 1.13 * product_slack(k, magnitude[i]));
}

#[test]
fn rung_1_is_right_for_any_shape() {
    for emulator in checked().take(2) {
        let (f, r) = (module(&emulator, "gemm", "forward_1"), module(&emulator, "gemm", "reverse_1"));
        for (shape, activation) in [(1, 1, 1), (17, 33, 7), (50, 31, 65), (5, 3, 300)].into_iter().zip(ACTIVATIONS) {
            forward::<f32>(&emulator, &f, 1, shape, activation);
            forward::<f16>(&emulator, &f, 1, shape, activation);
            forward::<bf16>(&emulator, &f, 1, shape, activation);
            reverse::<f32>(&emulator, &r, 1, shape, activation);
            reverse::<f16>(&emulator, &r, 1, shape, activation);
            reverse::<bf16>(&emulator, &r, 1, shape, activation);
        }
    }
}

#[test]
fn rung_2_is_right_for_rows_of_whole_chunks() {
    for emulator in checked() {
        let (f, r) = (module(&emulator, "gemm", "forward_2"), module(&emulator, "gemm", "reverse_2"));
        let shapes = [(1, 8, 8), (17, 136, 40), (129, 64, 72), (50, 24, 264)];
        for (shape, activation) in shapes.into_iter().zip(ACTIVATIONS) {
            forward::<f16>(&emulator, &f, 2, shape, activation);
            forward::<bf16>(&emulator, &f, 2, shape, activation);
            reverse::<f16>(&emulator, &r, 2, shape, activation);
            reverse::<bf16>(&emulator, &r, 2, shape, activation);
        }
    }
}

/// A row's bits do not depend on the rows beside it, nor on where it lies in the batch.
#[test]
fn rung_2_gives_a_row_the_same_bits_in_any_batch() {
    let emulator = Emulator::new(&CXX, Settings::fast()).unwrap();
    let module = module(&emulator, "gemm", "forward_2");
    let (n, k) = (72, 200);
    let (x, w): (Vec<bf16>, Vec<bf16>) = (random(200 * k, 1.0, 0.0, 1), random(n * k, 1.0, 0.0, 2));
    let dev_w = emulator.upload(&w).unwrap();
    let run = |x: &[bf16]| {
        let m = x.len() / k;
        let (dev_x, y) = (emulator.upload(x).unwrap(), emulator.unwritten::<bf16>(m * n).unwrap());
        let null = Arg::Pointer(0);
        let sizes = [Arg::I64(0), Arg::I32(2), Arg::I32(m as i32), Arg::I32(n as i32), Arg::I32(k as i32)];
        let args = [&[y.arg(), null, dev_x.arg(), dev_w.arg(), null, null], &sizes[..]].concat();
        emulator.launch(&module, "gemm_forward__2__bf16", shape(2, m, n), &args).unwrap().passed().unwrap();
        y.download().unwrap()
    };
    let all = run(&x);
    for (first, rows) in [(0, 1), (3, 3), (150, 8), (199, 1)] {
        assert_eq!(run(&x[first * k..][..rows * k]), all[first * n..][..rows * n], "rows {first}..{}", first + rows);
    }
}

/// Copies and `ldmatrix` are free of bank conflicts, and memory is touched in whole sectors.
#[test]
fn rung_2_has_no_bank_conflicts() {
    for (rung, name) in [("forward_2", "gemm_forward__2__bf16"), ("reverse_2", "gemm_reverse__2__bf16")] {
        let emulator = Emulator::new(&CXX, Settings { counts: true, ..Settings::checked(0) }).unwrap();
        let module = module(&emulator, "gemm", rung);
        let (m, n, k) = (128, 128, 64);
        let [x, w] = [m * k, n * k].map(|values| emulator.upload(&random::<bf16>(values, 1.0, 0.0, 1)).unwrap());
        let (y, null) = (emulator.unwritten::<bf16>(m * n).unwrap(), Arg::Pointer(0));
        let sizes = [m as i32, n as i32, k as i32].map(Arg::I32);
        let args = if rung == "forward_2" {
            [&[y.arg(), null, x.arg(), w.arg(), null, null, Arg::I64(0), Arg::I32(0)], &sizes[..]].concat()
        } else {
            [&[y.arg(), x.arg(), w.arg(), null, Arg::I32(1), Arg::I32(0)], &sizes[..]].concat()
        };
        let counters = emulator.launch(&module, name, shape(2, m, n), &args).unwrap().passed().unwrap();
        // 8 warps, 64 x 32 of C each, 4 steps of 16 in k.
        assert_eq!(counters.matrix_products, 8 * 4 * 4 * 4);
        assert_eq!(counters.global_sectors, counters.global_sectors_needed, "{name}");
        assert_eq!(counters.shared_passes, counters.shared_passes_needed, "{name} {counters:?}");
    }
}
