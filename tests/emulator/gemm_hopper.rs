//! Matrix products by the copy engine and `wgmma`, rung 3, against rung 1: on quarters both rungs' sums are exact and their
//! epilogues the same operations, so every bit must be the same.

use half::{bf16, f16};
use vitscope::backend::gpu::{
    emulator::{Emulator, Settings},
    gemm::{Forward, Reverse},
    launch::{Ladder, Storage as Type, Target},
};

use crate::{CXX, checked, numbers::Storage, run};

const NULL: u64 = 0;

/// `n` quarters from -1 to 1, in an order that repeats along neither rows nor columns.
fn quarters<T: Storage>(n: usize, salt: usize) -> Vec<T> {
    (0..n).map(|i| T::of(((i * i / 7 + i * 5 + salt) % 9) as f64 / 4.0 - 1.0)).collect()
}

/// y, u and dx of a rung.
fn results<T: Storage>(
    emulator: &Emulator,
    rung: u32,
    (m, n, k): (usize, usize, usize),
    activation: i32,
) -> [Vec<T>; 3] {
    let (bias, stride) = (quarters::<f32>(n, 3), n + 8);
    let [x, w, residual] = [(m * k, 1), (n * k, 2), (m * stride, 4)]
        .map(|(values, salt)| emulator.upload(&quarters::<T>(values, salt)).unwrap());
    let [y, u, dx] = [(); 3].map(|()| emulator.unwritten::<T>(m * n).unwrap());
    let bias = emulator.upload(&bias).unwrap();
    let forward = Forward {
        y: y.address(),
        u: if activation == 2 { NULL } else { u.address() },
        x: x.address(),
        w: w.address(),
        bias: if activation == 1 { NULL } else { bias.address() },
        residual: if activation == 0 { residual.address() } else { NULL },
        residual_stride: stride,
        activation,
        m,
        n,
        k,
    };
    // The forward's weight has as many values as one of (K,N), and the residual more than u.
    let reverse = Reverse {
        dx: dx.address(),
        dy: x.address(),
        w: w.address(),
        u: if activation == 0 { NULL } else { residual.address() },
        rows: m.div_ceil(2),
        activation,
        m,
        n,
        k,
    };
    run(emulator, &forward, rung, T::STORAGE).unwrap();
    run(emulator, &reverse, rung, T::STORAGE).unwrap();
    [y, u, dx].map(|values| values.download().unwrap())
}

fn check<T: Storage>(emulators: &[Emulator], size: (usize, usize, usize), activation: i32) {
    let reference = Emulator::new(&CXX, Settings::fast()).unwrap();
    let expected = results::<T>(&reference, 1, size, activation);
    for emulator in emulators {
        let found = results::<T>(emulator, 3, size, activation);
        for ((name, expected), found) in ["y", "u", "dx"].iter().zip(&expected).zip(&found) {
            let bits = |values| bytemuck::cast_slice::<T, u16>(values).to_vec();
            let at = bits(expected).iter().zip(&bits(found)).position(|(a, b)| a != b);
            assert_eq!(at, None, "{name} of {size:?} activation {activation} in {}", T::NAME);
        }
    }
}

/// Every kernel over a small shape.
pub fn every_kernel(emulator: &Emulator) {
    check::<f16>(std::slice::from_ref(emulator), (17, 24, 72), 0);
    check::<bf16>(std::slice::from_ref(emulator), (17, 24, 72), 0);
}

/// One tile and several either way, more steps of k than stages, and every tail.
#[test]
fn rung_3_gives_the_bits_of_rung_1() {
    let emulators: Vec<_> = checked().collect();
    for (size, activation) in [(1, 8, 8), (17, 264, 72), (129, 64, 200), (70, 24, 456)].into_iter().zip(0..) {
        check::<f16>(&emulators, size, activation);
        check::<bf16>(&emulators, size, activation);
    }
}

/// More row tiles than a group has: a full one and the rest, over two tiles of the weight.
#[test]
fn rung_3_goes_over_all_groups_of_tiles() {
    check::<bf16>(&[Emulator::new(&CXX, Settings::checked(1)).unwrap()], (128 * 17 + 5, 264, 8), 0);
}

#[test]
fn rung_3_serves_16_bit_types_on_hopper() {
    let ladder = Reverse { dx: 16, dy: 16, w: 16, u: NULL, rows: 1, activation: 0, m: 1, n: 8, k: 8 };
    let serves = |ladder: Reverse, storage, architecture| {
        let target = Target { storage, architecture };
        ladder.launches(3, target).is_some()
    };
    assert!(serves(ladder, Type::Bf16, 90));
    assert!(!serves(ladder, Type::F32, 90));
    assert!(!serves(ladder, Type::F16, 80));
    // Later ones have no wgmma.
    assert!(!serves(ladder, Type::F16, 100));
    assert!(!serves(Reverse { n: 12, ..ladder }, Type::F16, 90));
    assert!(!serves(Reverse { w: 8, ..ladder }, Type::F16, 90));
}

/// The way out is free of bank conflicts, and memory is written in whole sectors.
#[test]
fn rung_3_has_no_bank_conflicts() {
    let emulator = Emulator::new(&CXX, Settings { counts: true, ..Settings::checked(0) }).unwrap();
    let (m, n, k) = (128, 256, 64);
    let [x, w] = [m * k, n * k].map(|values| emulator.upload(&quarters::<bf16>(values, 1)).unwrap());
    let y = emulator.unwritten::<bf16>(m * n).unwrap();
    let (y, u, x, w) = (y.address(), NULL, x.address(), w.address());
    let forward = Forward { y, u, x, w, bias: 0, residual: 0, residual_stride: 0, activation: 0, m, n, k };
    let reverse = Reverse { dx: y, dy: x, w, u, rows: 1, activation: 0, m, n, k };
    let counters = [run(&emulator, &forward, 3, Type::Bf16).unwrap(), run(&emulator, &reverse, 3, Type::Bf16).unwrap()];
    for counters in counters.concat() {
        // 2 warpgroups, 4 steps of 16 in k.
        assert_eq!(counters.matrix_products, 2 * 4);
        assert_eq!(counters.global_sectors, counters.global_sectors_needed, "{counters:?}");
        assert_eq!(counters.shared_passes, counters.shared_passes_needed, "{counters:?}");
    }
}
