//! Filling, gathering and adding rows: every rung.

use half::{bf16, f16};
use vitscope::backend::gpu::{
    emulator::Emulator,
    launch::{self, Ladder, Target},
    rows::{Add, Fill, Gather},
};

use crate::{
    checked,
    numbers::{Storage, assert_close, random},
    run,
};

fn check<T: Storage>(emulator: &Emulator, rung: u32, n: usize, width: usize) {
    for count in [n * width, n * width + 3] {
        let x = emulator.unwritten::<T>(count).unwrap();
        run(emulator, &Fill { x: x.address(), value: -1.5, n: count, is_wide: false }, rung, T::STORAGE).unwrap();
        assert!(x.download().unwrap().iter().all(|v| v.wide() == -1.5));
    }
    let wide = emulator.unwritten::<f32>(n).unwrap();
    run(emulator, &Fill { x: wide.address(), value: 0.1, n, is_wide: true }, rung, T::STORAGE).unwrap();
    assert_eq!(wide.download().unwrap(), vec![0.1; n]);

    let (x, stride): (Vec<T>, _) = (random(n * width, 1.0, 0.0, 1), 3 * width);
    let dev_x = emulator.upload(&x).unwrap();
    let rows: Vec<u32> = (0..2 * n as u32).map(|i| i * 7 % n as u32).collect();
    let (dev_rows, y) = (emulator.upload(&rows).unwrap(), emulator.unwritten::<T>(2 * n * width).unwrap());
    let pass = Gather { y: y.address(), x: dev_x.address(), rows: dev_rows.address(), n: 2 * n, width };
    if run(emulator, &pass, rung, T::STORAGE).is_some() {
        let exact: Vec<T> = rows.iter().flat_map(|&row| x[row as usize * width..][..width].to_vec()).collect();
        assert!(y.download().unwrap() == exact, "gather {rung} {n} x {width} {}", T::NAME);
    }

    let held: Vec<T> = random(n * stride, 1.0, 0.0, 2);
    let y = emulator.upload(&held).unwrap();
    let pass = Add { y: y.address(), stride, x: dev_x.address(), n, width };
    if run(emulator, &pass, rung, T::STORAGE).is_some() {
        let added = |i: usize| if i % stride < width { x[i / stride * width + i % stride].wide() } else { 0.0 };
        let exact: Vec<f64> = held.iter().enumerate().map(|(i, v)| v.wide() + added(i)).collect();
        // One sum in f32 of terms up to 1.
        assert_close("add", &y.download().unwrap(), &exact, |_| 2.0 * f32::UNIT);
    }
}

fn check_all(emulator: &Emulator, rung: u32, n: usize, width: usize) {
    check::<f32>(emulator, rung, n, width);
    check::<f16>(emulator, rung, n, width);
    check::<bf16>(emulator, rung, n, width);
}

/// Every kernel over a small shape.
pub fn every_kernel(emulator: &Emulator) {
    for rung in 1..=Add::TOP {
        check_all(emulator, rung, 3, 16);
    }
}

#[test]
fn every_rung_is_right_for_any_shape() {
    for emulator in checked() {
        for rung in 1..=Add::TOP {
            for (n, width) in [(1, 1), (17, 5), (50, 64), (3, 520), (197, 8), (257, 3), (577, 8)] {
                check_all(&emulator, rung, n, width);
            }
        }
    }
}

#[test]
fn rung_2_serves_whole_vectors_only() {
    let served = |width, stride, storage| {
        let target = Target { storage, architecture: 80 };
        let add = Add { y: 0, stride, x: 0, n: 3, width }.launches(2, target).is_some();
        let gather = Gather { y: 0, x: 0, rows: 0, n: 3, width }.launches(2, target).is_some();
        (add, gather)
    };
    assert_eq!(served(12, 36, launch::Storage::F32), (true, true));
    assert_eq!(served(12, 38, launch::Storage::F32), (false, true));
    assert_eq!(served(12, 36, launch::Storage::Bf16), (false, false));
    assert_eq!(served(16, 48, launch::Storage::Bf16), (true, true));
}
