//! Random inputs, storage types, and how far a kernel's result may lie from the one in f64.

use half::{bf16, f16};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use vitscope::backend::gpu::launch;

/// A storage type of kernels.
pub trait Storage: bytemuck::Pod + PartialEq {
    /// As launches name it.
    const STORAGE: launch::Storage;
    /// As entry names end.
    const NAME: &'static str;
    /// Half the distance from 1 to the next number: the most that rounding changes a value, relatively.
    const UNIT: f64;
    /// Half the smallest positive number: the most that rounding changes a tiny value.
    const TINY: f64;
    fn of(x: f64) -> Self;
    fn wide(self) -> f64;
}

impl Storage for f32 {
    const STORAGE: launch::Storage = launch::Storage::F32;
    const NAME: &'static str = "f32";
    const UNIT: f64 = 1.0 / (1u64 << 24) as f64;
    const TINY: f64 = 1e-38;
    fn of(x: f64) -> Self {
        x as f32
    }
    fn wide(self) -> f64 {
        self.into()
    }
}

impl Storage for f16 {
    const STORAGE: launch::Storage = launch::Storage::F16;
    const NAME: &'static str = "f16";
    const UNIT: f64 = 1.0 / 2048.0;
    const TINY: f64 = 1.0 / (1u64 << 25) as f64;
    fn of(x: f64) -> Self {
        f16::from_f64(x)
    }
    fn wide(self) -> f64 {
        self.into()
    }
}

impl Storage for bf16 {
    const STORAGE: launch::Storage = launch::Storage::Bf16;
    const NAME: &'static str = "bf16";
    const UNIT: f64 = 1.0 / 256.0;
    const TINY: f64 = 1e-38;
    fn of(x: f64) -> Self {
        bf16::from_f64(x)
    }
    fn wide(self) -> f64 {
        self.into()
    }
}

/// Values between -1 and 1, scaled and shifted.
pub fn random<T: Storage>(n: usize, scale: f64, shift: f64, seed: u64) -> Vec<T> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    (0..n).map(|_| T::of(rng.random_range(-1.0..1.0) * scale + shift)).collect()
}

/// `n` operations in f32, each rounded: the classical bound on the relative error of their sum (Higham, section 3.1).
pub fn f32_steps(n: usize) -> f64 {
    let steps = n as f64 * f32::UNIT;
    steps / (1.0 - steps)
}

/// Requires each value within `slack` of the exact one, plus one rounding to the storage type.
pub fn assert_close<T: Storage>(what: &str, ours: &[T], exact: &[f64], slack: impl Fn(usize) -> f64) {
    assert_eq!(ours.len(), exact.len());
    for (i, (&ours, &exact)) in ours.iter().zip(exact).enumerate() {
        let allowed = slack(i) * (1.0 + T::UNIT) + exact.abs() * T::UNIT + T::TINY;
        let error = (ours.wide() - exact).abs();
        assert!(
            error <= allowed,
            "{what} {} value {i}: {} for {exact}, error {error:e} > {allowed:e}",
            T::NAME,
            ours.wide()
        );
    }
}

/// Random bytes.
pub fn bytes(n: usize, seed: u64) -> Vec<u8> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    (0..n).map(|_| rng.random()).collect()
}
