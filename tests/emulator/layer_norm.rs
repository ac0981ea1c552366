//! LayerNorm and its reverse, both rungs, against f64.

use half::{bf16, f16};
use vitscope::backend::gpu::emulator::{Arg, Emulator, Module, Shape};

use crate::{
    checked, module,
    numbers::{Storage, assert_close, f32_steps, random},
};

const EPS: f32 = 1e-5;

struct Exact {
    y: Vec<f64>,
    stats: Vec<f64>,
}

/// `x` has rows `stride` apart.
fn forward<T: Storage>(x: &[T], stride: usize, gain: &[f32], bias: &[f32], n: usize) -> Exact {
    let d = gain.len();
    let mut exact = Exact { y: vec![], stats: vec![] };
    for row in (0..n).map(|i| &x[i * stride..][..d]) {
        let mean = row.iter().map(|x| x.wide()).sum::<f64>() / d as f64;
        let variance = row.iter().map(|x| (x.wide() - mean).powi(2)).sum::<f64>() / d as f64;
        let rstd = 1.0 / (variance + f64::from(EPS)).sqrt();
        exact.stats.extend([mean, rstd]);
        exact.y.extend((0..d).map(|i| (row[i].wide() - mean) * rstd * f64::from(gain[i]) + f64::from(bias[i])));
    }
    exact
}

/// The launch of a rung: a thread per row, or a warp.
fn shape(rung: u32, rows: usize) -> Shape {
    let threads = rows * if rung == 1 { 1 } else { 32 };
    Shape { grid: [threads.div_ceil(128) as u32, 1, 1], block: [128, 1, 1], shared: 0 }
}

fn check<T: Storage>(
    emulator: &Emulator,
    forward_module: &Module,
    reverse_module: &Module,
    rung: u32,
    n: usize,
    d: usize,
) {
    let what = format!("rung {rung} n {n} D {d}");
    // Rows of a wider tensor; a mean far from 0, as in a residual stream; gradients of two targets.
    let (stride, g) = (d + 8, n * 2);
    let x: Vec<T> = random(n * stride, 2.0, 3.0, 1);
    let (gain, bias): (Vec<f32>, Vec<f32>) = (random(d, 0.5, 1.0, 2), random(d, 1.0, 0.0, 3));
    let exact = forward(&x, stride, &gain, &bias, n);
    // Every sum has D terms, of x up to 5 and with rstd up to 1: an error of the mean moves all values alike.
    let steps = f32_steps(d + 16);
    let slack = |i: usize| steps * (5.0 * exact.stats[i / d * 2 + 1] * 3.0 + exact.y[i].abs() + 1.0);

    let (dev_x, dev_gain, dev_bias) =
        (emulator.upload(&x).unwrap(), emulator.upload(&gain).unwrap(), emulator.upload(&bias).unwrap());
    let (y, stats) = (emulator.unwritten::<T>(n * d).unwrap(), emulator.unwritten::<f32>(n * 2).unwrap());
    let sizes = [Arg::F32(EPS), Arg::I32(n as i32), Arg::I32(d as i32)];
    let args =
        [&[y.arg(), stats.arg(), dev_x.arg(), Arg::I64(stride as i64), dev_gain.arg(), dev_bias.arg()], &sizes[..]]
            .concat();
    let name = format!("layer_norm_forward__{rung}__{}", T::NAME);
    emulator.launch(forward_module, &name, shape(rung, n), &args).unwrap().passed().unwrap();
    assert_close(&what, &y.download().unwrap(), &exact.y, slack);
    let near = |i: usize| steps * 8.0 * exact.stats[i].abs().max(1.0);
    assert_close(&what, &stats.download().unwrap(), &exact.stats, near);

    let dy: Vec<T> = random(g * d, 1.0, 0.0, 4);
    let held: Vec<T> = random(g * d, 1.0, 0.0, 5);
    let dev_dy = emulator.upload(&dy).unwrap();
    for accumulate in [false, true] {
        let mut dx = vec![];
        for row in 0..g {
            let (mean, rstd) = (exact.stats[row % n * 2], exact.stats[row % n * 2 + 1]);
            let t = |i: usize| dy[row * d + i].wide() * f64::from(gain[i]);
            let xhat = |i: usize| (x[row % n * stride + i].wide() - mean) * rstd;
            let mean_t = (0..d).map(t).sum::<f64>() / d as f64;
            let mean_tx = (0..d).map(|i| t(i) * xhat(i)).sum::<f64>() / d as f64;
            let base = |i: usize| if accumulate { held[row * d + i].wide() } else { 0.0 };
            dx.extend((0..d).map(|i| base(i) + rstd * (t(i) - mean_t - xhat(i) * mean_tx)));
        }
        let dev_dx = if accumulate { emulator.upload(&held).unwrap() } else { emulator.unwritten(g * d).unwrap() };
        let sizes = [n as i32, g as i32, d as i32, accumulate.into()].map(Arg::I32);
        let args = [
            &[dev_dx.arg(), dev_dy.arg(), dev_x.arg(), Arg::I64(stride as i64), stats.arg(), dev_gain.arg()],
            &sizes[..],
        ]
        .concat();
        let name = format!("layer_norm_reverse__{rung}__{}", T::NAME);
        emulator.launch(reverse_module, &name, shape(rung, g), &args).unwrap().passed().unwrap();
        // |t| <= 1.5, |xhat| <= 2.5: four sums of D terms, times rstd; the statistics themselves are off by `near`.
        let slack = |i: usize| steps * 64.0 * exact.stats[i / d % n * 2 + 1].max(1.0);
        assert_close(&what, &dev_dx.download().unwrap(), &dx, slack);
    }
}

fn check_rung(rung: u32, files: [&str; 2], shapes: &[(usize, usize)]) {
    for emulator in checked() {
        let [forward, reverse] = files.map(|file| module(&emulator, "layer_norm", file));
        for &(n, d) in shapes {
            check::<f32>(&emulator, &forward, &reverse, rung, n, d);
            check::<f16>(&emulator, &forward, &reverse, rung, n, d);
            check::<bf16>(&emulator, &forward, &reverse, rung, n, d);
        }
    }
}

#[test]
fn rung_1_is_right_for_any_shape() {
    check_rung(1, ["forward_1", "reverse_1"], &[(1, 1), (17, 5), (50, 64), (129, 33), (3, 768)]);
}

#[test]
fn rung_2_is_right_for_whole_vectors() {
    check_rung(2, ["forward_2", "reverse_2"], &[(1, 8), (17, 64), (50, 96), (3, 768), (5, 1024), (1, 2048)]);
}
