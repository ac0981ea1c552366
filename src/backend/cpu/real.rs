//! The two number types of the CPU backend and their elementary functions.
//!
//! The functions of f32 are branch-free so that the compiler turns loops over them into vector code; those of f64
//! are the standard library's.

use std::{
    fmt::Debug,
    iter::Sum,
    ops::{Add, AddAssign, Div, DivAssign, Mul, MulAssign, Neg, Sub, SubAssign},
};

/// f32 or f64.
pub trait Real:
    Copy
    + bytemuck::Pod
    + Send
    + Sync
    + Default
    + Debug
    + PartialOrd
    + Sum
    + Add<Output = Self>
    + Sub<Output = Self>
    + Mul<Output = Self>
    + Div<Output = Self>
    + Neg<Output = Self>
    + AddAssign
    + SubAssign
    + MulAssign
    + DivAssign
    + 'static
{
    /// 0.
    const ZERO: Self;
    /// 1.
    const ONE: Self;
    /// Not a number.
    const NAN: Self;
    /// Smaller than every number.
    const NEG_INFINITY: Self;
    /// Whether it is the judge, which spares no pains.
    const IS_JUDGE: bool;
    /// The distance from 1 to the next number.
    const EPSILON: f64;

    /// Nearest value.
    fn of(value: f64) -> Self;
    /// Widened.
    fn to_f64(self) -> f64;
    /// e^x.
    fn exp(self) -> Self;
    /// Natural logarithm.
    fn ln(self) -> Self;
    /// Square root.
    fn sqrt(self) -> Self;
    /// The error function.
    fn erf(self) -> Self;
    /// Hyperbolic tangent.
    fn tanh(self) -> Self;
    /// Absolute value.
    fn abs(self) -> Self;
    /// The larger one.
    fn max(self, other: Self) -> Self;
    /// Whether it is NaN.
    fn is_nan(self) -> bool;
}

impl Real for f64 {
    const ZERO: Self = 0.0;
    const ONE: Self = 1.0;
    const NAN: Self = f64::NAN;
    const NEG_INFINITY: Self = f64::NEG_INFINITY;
    const IS_JUDGE: bool = true;
    const EPSILON: f64 = f64::EPSILON;

    fn of(value: f64) -> Self {
        value
    }
    fn to_f64(self) -> f64 {
        self
    }
    fn exp(self) -> Self {
        f64::exp(self)
    }
    fn ln(self) -> Self {
        f64::ln(self)
    }
    fn sqrt(self) -> Self {
        f64::sqrt(self)
    }
    fn erf(self) -> Self {
        libm::erf(self)
    }
    fn tanh(self) -> Self {
        f64::tanh(self)
    }
    fn abs(self) -> Self {
        f64::abs(self)
    }
    fn max(self, other: Self) -> Self {
        f64::max(self, other)
    }
    fn is_nan(self) -> bool {
        f64::is_nan(self)
    }
}

impl Real for f32 {
    const ZERO: Self = 0.0;
    const ONE: Self = 1.0;
    const NAN: Self = f32::NAN;
    const NEG_INFINITY: Self = f32::NEG_INFINITY;
    const IS_JUDGE: bool = false;
    const EPSILON: f64 = f32::EPSILON as f64;

    #[inline(always)]
    fn of(value: f64) -> Self {
        value as f32
    }
    #[inline(always)]
    fn to_f64(self) -> f64 {
        f64::from(self)
    }
    /// e^x = 2^n e^r with n = round(x / ln 2), |r| <= ln 2 / 2; the Taylor series of e^r to r^7 is off by less than
    /// 2^-27. Below -87.3 the result is 0 instead of a denormal, above 88.7 infinity; NaN stays NaN.
    #[inline(always)]
    fn exp(self) -> Self {
        const LN2_HIGH: f32 = 0.693_359_4; // 355 / 512: n * LN2_HIGH is exact
        const LN2_LOW: f32 = -2.121_944_4e-4;
        const ROUND: f32 = 12_582_912.0; // 1.5 * 2^23: adding it rounds to an integer
        let x = self.clamp(-87.3, 88.8);
        let shifted = x * std::f32::consts::LOG2_E + ROUND;
        let n = shifted - ROUND;
        let r = (x - n * LN2_HIGH) - n * LN2_LOW;
        let mut p = 1.0 / 5040.0;
        p = p * r + 1.0 / 720.0;
        p = p * r + 1.0 / 120.0;
        p = p * r + 1.0 / 24.0;
        p = p * r + 1.0 / 6.0;
        p = p * r + 0.5;
        p = p * r * r + r + 1.0;
        // n stands in the last bits of `shifted`. 2^n in two factors, so that n = 128 has a finite first one.
        let n = shifted.to_bits() as i32 - ROUND.to_bits() as i32;
        let half = n >> 1;
        let scale = |k: i32| f32::from_bits(((k + 127) << 23) as u32);
        let y = p * scale(half) * scale(n - half);
        if self < -87.3 {
            0.0
        } else if self > 88.722_84 {
            f32::INFINITY
        } else {
            y
        }
    }
    #[inline(always)]
    fn ln(self) -> Self {
        f32::ln(self)
    }
    #[inline(always)]
    fn sqrt(self) -> Self {
        f32::sqrt(self)
    }
    /// Below 1: x P(x^2). Above: 1 - e^(-x^2) Q(1 / (1 + x / 2)). P and Q are Chebyshev fits of degree 6 of erf(x) / x
    /// on 0..1 and of erfc(x) e^(x^2) on 1..4, made for this function; both are off by less than 1e-7.
    #[inline(always)]
    fn erf(self) -> Self {
        const P: [f32; 7] = [
            std::f32::consts::FRAC_2_SQRT_PI,
            -0.376_126_26,
            0.112_835_97,
            -0.026_854_329,
            0.005_189_312,
            -0.000_801_885_5,
            7.882_497e-5,
        ];
        const Q: [f32; 7] =
            [0.000_606_408_75, 0.273_618_16, 0.330_840_68, 0.101_268_25, 0.403_838_37, -0.057_338_737, -0.053_540_617];
        let horner = |c: &[f32; 7], x: f32| c.iter().rev().fold(0.0, |sum, &c| sum * x + c);
        let x = self.abs();
        let small = self * horner(&P, x * x);
        let large = (1.0 - Real::exp(-(x * x)) * horner(&Q, 1.0 / (1.0 + 0.5 * x))).copysign(self);
        if x < 1.0 { small } else { large }
    }
    #[inline(always)]
    fn tanh(self) -> Self {
        // 1 - 2 / (e^2x + 1); for small x, where that cancels, the odd Taylor series.
        const SERIES: [f32; 7] =
            [1.0, -1.0 / 3.0, 2.0 / 15.0, -17.0 / 315.0, 62.0 / 2835.0, -1382.0 / 155_925.0, 21_844.0 / 6_081_075.0];
        let x2 = self * self;
        let series = self * SERIES.iter().rev().fold(0.0, |sum, &c| sum * x2 + c);
        let quotient = 1.0 - 2.0 / (Real::exp(2.0 * self) + 1.0);
        if self.abs() < 0.4 { series } else { quotient }
    }
    #[inline(always)]
    fn abs(self) -> Self {
        f32::abs(self)
    }
    #[inline(always)]
    fn max(self, other: Self) -> Self {
        f32::max(self, other)
    }
    #[inline(always)]
    fn is_nan(self) -> bool {
        f32::is_nan(self)
    }
}

#[cfg(test)]
mod tests {
    use super::Real;

    #[test]
    fn elementary_functions_of_f32_are_within_two_units_of_the_exact_value() {
        let worst = |ours: fn(f32) -> f32, exact: fn(f64) -> f64, low: f32, high: f32| {
            let steps = 200_000;
            (0..=steps).fold(0.0f64, |worst, i| {
                let x = low + (high - low) * i as f32 / steps as f32;
                let want = exact(f64::from(x));
                let unit = (want.abs() * f64::from(f32::EPSILON)).max(f64::from(f32::MIN_POSITIVE));
                worst.max((f64::from(ours(x)) - want).abs() / unit)
            })
        };
        let exp = worst(Real::exp, f64::exp, -87.0, 88.7);
        let erf = worst(Real::erf, libm::erf, -6.0, 6.0);
        let tanh = worst(Real::tanh, f64::tanh, -12.0, 12.0);
        assert!(exp < 2.0 && erf < 2.0 && tanh < 4.0, "exp {exp}, erf {erf}, tanh {tanh}");
    }

    #[test]
    fn exp_has_the_right_ends() {
        assert_eq!(Real::exp(f32::NEG_INFINITY), 0.0);
        assert_eq!(Real::exp(f32::INFINITY), f32::INFINITY);
        assert_eq!(Real::exp(-1000f32), 0.0);
        assert_eq!(Real::exp(0f32), 1.0);
        assert!(Real::exp(f32::NAN).is_nan());
    }
}
