//! LayerNorm and its reverse, both rungs, against f64.

use half::{bf16, f16};
use vitscope::backend::gpu::{
    emulator::Emulator,
    launch::{self, Ladder, Target},
    layer_norm,
};

use crate::{
    checked,
    numbers::{Storage, assert_close, f32_steps, random},
    run,
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

fn check<T: Storage>(emulator: &Emulator, rung: u32, n: usize, d: usize) {
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
    let pass = layer_norm::Forward {
        y: y.address(),
        stats: stats.address(),
        x: dev_x.address(),
        stride,
        gain: dev_gain.address(),
        bias: dev_bias.address(),
        eps: EPS,
        n,
        width: d,
    };
    run(emulator, &pass, rung, T::STORAGE).unwrap();
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
        let pass = layer_norm::Reverse {
            dx: dev_dx.address(),
            dy: dev_dy.address(),
            x: dev_x.address(),
            stride,
            stats: stats.address(),
            gain: dev_gain.address(),
            n,
            g,
            width: d,
            accumulate,
        };
        run(emulator, &pass, rung, T::STORAGE).unwrap();
        // |t| <= 1.5, |xhat| <= 2.5: four sums of D terms, times rstd; the statistics themselves are off by `near`.
        let slack = |i: usize| steps * 64.0 * exact.stats[i / d % n * 2 + 1].max(1.0);
        assert_close(&what, &dev_dx.download().unwrap(), &dx, slack);
    }
}

fn check_rung(rung: u32, shapes: &[(usize, usize)]) {
    for emulator in checked() {
        for &(n, d) in shapes {
            check::<f32>(&emulator, rung, n, d);
            check::<f16>(&emulator, rung, n, d);
            check::<bf16>(&emulator, rung, n, d);
        }
    }
}

/// Every kernel over a small shape.
pub fn every_kernel(emulator: &Emulator) {
    for rung in 1..=layer_norm::Forward::TOP {
        check::<f32>(emulator, rung, 3, 16);
        check::<f16>(emulator, rung, 3, 16);
        check::<bf16>(emulator, rung, 3, 16);
    }
}

#[test]
fn rung_1_is_right_for_any_shape() {
    check_rung(1, &[(1, 1), (17, 5), (50, 64), (129, 33), (3, 768), (197, 3), (257, 8), (577, 2)]);
}

#[test]
fn rung_2_is_right_for_whole_vectors() {
    check_rung(2, &[(1, 8), (17, 64), (50, 96), (3, 768), (5, 1024), (1, 2048), (197, 24), (257, 8), (577, 8)]);
}

#[test]
fn rung_2_leaves_other_widths_to_rung_1() {
    let pass =
        |width| layer_norm::Forward { y: 0, stats: 0, x: 0, stride: width, gain: 0, bias: 0, eps: EPS, n: 1, width };
    let target = |storage| Target { storage, architecture: 80 };
    assert!(pass(12).launches(2, target(launch::Storage::F32)).is_some());
    assert!(pass(12).launches(2, target(launch::Storage::F16)).is_none());
    assert!(pass(2056).launches(2, target(launch::Storage::F16)).is_none());
}
