//! The MLP's activations and their derivatives.

use super::{Real, simd};
use crate::weights::Activation;

/// `act(u)` in place.
pub fn forward<T: Real>(kind: Activation, values: &mut [T]) {
    match kind {
        Activation::QuickGelu => map(values, quick_gelu),
        Activation::Gelu => map(values, gelu),
        Activation::GeluTanh => map(values, gelu_tanh),
    }
}

/// `du = dact * act'(u)` in place.
pub fn reverse<T: Real>(kind: Activation, du: &mut [T], u: &[T]) {
    match kind {
        Activation::QuickGelu => scale(du, u, quick_gelu_slope),
        Activation::Gelu => scale(du, u, gelu_slope),
        Activation::GeluTanh => scale(du, u, gelu_tanh_slope),
    }
}

#[inline(always)]
fn map<T: Real>(values: &mut [T], f: impl Fn(T) -> T) {
    simd(
        #[inline(always)]
        || values.iter_mut().for_each(|v| *v = f(*v)),
    );
}

#[inline(always)]
fn scale<T: Real>(du: &mut [T], u: &[T], slope: impl Fn(T) -> T) {
    simd(
        #[inline(always)]
        || du.iter_mut().zip(u).for_each(|(du, &u)| *du *= slope(u)),
    );
}

/// x sigma(1.702 x), OpenAI CLIP's approximation of GELU.
#[inline(always)]
fn quick_gelu<T: Real>(x: T) -> T {
    x / (T::ONE + (-T::of(1.702) * x).exp())
}

#[inline(always)]
fn quick_gelu_slope<T: Real>(x: T) -> T {
    let s = T::ONE / (T::ONE + (-T::of(1.702) * x).exp());
    s + x * T::of(1.702) * s * (T::ONE - s)
}

/// x Phi(x) (Hendrycks & Gimpel, 2016).
#[inline(always)]
fn gelu<T: Real>(x: T) -> T {
    T::of(0.5) * x * (T::ONE + (x * T::of(std::f64::consts::FRAC_1_SQRT_2)).erf())
}

#[inline(always)]
fn gelu_slope<T: Real>(x: T) -> T {
    let density = (-T::of(0.5) * x * x).exp() * T::of(0.398_942_280_401_432_7); // 1 / sqrt(2 pi)
    T::of(0.5) * (T::ONE + (x * T::of(std::f64::consts::FRAC_1_SQRT_2)).erf()) + x * density
}

const SQRT_2_OVER_PI: f64 = 0.797_884_560_802_865_4;
const CUBIC: f64 = 0.044_715;

/// The tanh approximation of GELU from the same paper.
#[inline(always)]
fn gelu_tanh<T: Real>(x: T) -> T {
    let inner = T::of(SQRT_2_OVER_PI) * (x + T::of(CUBIC) * x * x * x);
    T::of(0.5) * x * (T::ONE + inner.tanh())
}

#[inline(always)]
fn gelu_tanh_slope<T: Real>(x: T) -> T {
    let t = (T::of(SQRT_2_OVER_PI) * (x + T::of(CUBIC) * x * x * x)).tanh();
    let inner = T::of(SQRT_2_OVER_PI) * (T::ONE + T::of(3.0 * CUBIC) * x * x);
    T::of(0.5) * (T::ONE + t) + T::of(0.5) * x * (T::ONE - t * t) * inner
}
