//! The headers' instructions, one by one, against what they are defined to do.

use half::{bf16, f16};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use vitscope::backend::gpu::{
    emulator::{Emulator, Settings},
    jit::Source,
    launch::Shape,
};

use crate::{CXX, checked, numbers::random};

const INSTRUCTIONS: Source = Source { name: "tests/emulator/instructions.cu", text: include_str!("instructions.cu") };
const SHAPE: Shape = Shape { grid: [1, 1, 1], block: [128, 1, 1], shared: 0 };

/// `n` values from a kernel that takes `x`, in each order of threads.
fn run<T: bytemuck::Pod>(kernel: &str, x: &[f32], n: usize, check: impl Fn(Vec<T>)) {
    for emulator in checked() {
        let module = emulator.module(&CXX, &INSTRUCTIONS, &[]).unwrap();
        let (x, y) = (emulator.upload(x).unwrap(), emulator.unwritten::<T>(n).unwrap());
        emulator.launch(&module, kernel, SHAPE, &[y.arg(), x.arg()]).unwrap().passed().unwrap();
        check(y.download().unwrap());
    }
}

#[test]
fn lanes_exchange_values() {
    let x: Vec<f32> = random(128, 1.0, 0.0, 1);
    run("exchanges", &x, 512, |y: Vec<f32>| {
        for t in 0..128 {
            let warp = &x[t / 32 * 32..][..32];
            let votes = warp.iter().enumerate().fold(0, |votes, (lane, &x)| votes | u32::from(x > 0.0) << lane);
            assert_eq!(y[t], warp[5]);
            assert_eq!(y[128 + t], warp.iter().copied().fold(f32::MIN, f32::max));
            assert_eq!(y[256 + t].to_bits(), votes);
            assert_eq!(y[384 + t].to_bits() as usize, t ^ 3);
        }
    });
}

#[test]
fn a_block_sums_and_its_barriers_pair_warps() {
    // Whole numbers: sums are exact in any order.
    let x: Vec<f32> = (0..128).map(|t| t as f32).collect();
    run("sums", &x, 256, |y: Vec<f32>| {
        assert!(y[..128].iter().all(|&sum| sum == 8128.0));
        assert!(y[128..].iter().all(|&sum| sum == 16256.0));
    });
    run("pairs", &x, 128, |y: Vec<f32>| assert!((0..128).all(|t| y[t] == x[t ^ 32])));
    run("halves", &x, 64, |y: Vec<f32>| assert_eq!(y, x[..64]));
    run("counts", &x, 1, |y: Vec<u32>| assert_eq!(y, [8128]));
}

#[test]
fn tf32_products_are_those_of_the_shortened_values() {
    let x: Vec<f32> = random(128 + 64, 1.0, 0.0, 2);
    let short = |x: f32| f64::from(f32::from_bits(x.to_bits() & 0xffff_e000));
    run("tf32_product", &x, 128, |y: Vec<f32>| {
        for (m, n) in (0..16).flat_map(|m| (0..8).map(move |n| (m, n))) {
            let exact: f64 = (0..8).map(|k| short(x[m * 8 + k]) * short(x[128 + k * 8 + n])).sum();
            // Products of 11 bits are exact; 8 sums of at most 8 are not.
            assert!((f64::from(y[m * 8 + n]) - exact).abs() <= 8.0 * 8.0 / f64::from(1 << 24));
        }
    });
}

/// All patterns of 16 bits, and f32 values near and between them, as the `half` crate converts them.
#[test]
fn conversions_round_to_nearest_even() {
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    let special =
        [0.0, -0.0, 65504.0, 65519.9, 65520.0, 1e-8, 2.9802322e-8, 2.9802326e-8, 6.1e-5, f32::MAX, f32::INFINITY];
    let mut x: Vec<f32> = (0..65536).map(|_| f32::from_bits(rng.random())).collect();
    x[..special.len()].copy_from_slice(&special);
    // Halfway between two f16, which random bits seldom are.
    for (i, x) in x.iter_mut().enumerate().skip(40000) {
        *x = f32::from_bits(f16::from_bits((i - 36000) as u16).to_f32().to_bits() | 0x1000);
    }
    let emulator = Emulator::new(&CXX, Settings::fast()).unwrap();
    let module = emulator.module(&CXX, &INSTRUCTIONS, &[]).unwrap();
    let (dev_x, y) = (emulator.upload(&x).unwrap(), emulator.unwritten::<u16>(4 * 65536).unwrap());
    let shape = Shape { grid: [512, 1, 1], ..SHAPE };
    emulator.launch(&module, "conversions", shape, &[y.arg(), dev_x.arg()]).unwrap().passed().unwrap();
    let y = y.download().unwrap();
    for i in 0..65536 {
        let bits = i as u16;
        let back = [f16::from_bits(bits).is_nan(), bf16::from_bits(bits).is_nan()];
        assert_eq!(y[i], if back[0] { 0x7fff } else { bits }, "f16 {bits:#x}");
        assert_eq!(y[65536 + i], if back[1] { 0x7fff } else { bits }, "bf16 {bits:#x}");
        let expected =
            if x[i].is_nan() { [0x7fff; 2] } else { [f16::from_f32(x[i]).to_bits(), bf16::from_f32(x[i]).to_bits()] };
        assert_eq!([y[2 * 65536 + i], y[3 * 65536 + i]], expected, "{} {:#x}", x[i], x[i].to_bits());
    }
}
