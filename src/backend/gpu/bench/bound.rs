//! How far a rung's result may lie from rung 1's.

use crate::{
    backend::gpu::launch::Storage,
    numerics::{Difference, relative_l2},
};

/// How far two rungs may differ. Both round, each at places of its own.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Bound {
    /// Not at all.
    Exact,
    /// Sums of random terms of either sign.
    Sums {
        /// Operations in f32 on the way to a value.
        terms: usize,
        /// Roundings to the storage type on the way, the last one included.
        roundings: usize,
    },
}

/// Half the distance from 1 to the type's next number: the most that rounding changes a value, relatively.
fn unit(storage: Storage) -> f64 {
    match storage {
        Storage::F32 => 0.5f64.powi(24),
        Storage::F16 => 0.5f64.powi(11),
        Storage::Bf16 => 0.5f64.powi(8),
    }
}

/// Standard deviations that no rounding error leaves: λ of Higham and Mary, "A new approach to probabilistic rounding
/// error analysis" (2019). A sum of n terms has an error of at most λ sqrt(n) u times the sum of their sizes, which for
/// random signs is about sqrt(n) times the sum's own size.
const DEVIATIONS: f64 = 8.0;

impl Bound {
    /// The relative difference of `ours` from rung 1's, and whether it is within the bound where 16-bit roundings are to
    /// `storage`. What is no number is never within.
    pub fn judge(self, ours: &[f64], first: &[f64], storage: Storage) -> (f64, bool) {
        let (difference, size) = (Difference::of(ours, first), Difference::size(first));
        let relative = relative_l2(ours, first);
        let Bound::Sums { terms, roundings } = self else { return (relative, difference.max == 0.0) };
        // Each of the two rungs may be off by as much.
        let unit = 2.0 * (terms as f64 * unit(Storage::F32) + roundings as f64 * unit(storage));
        let near = |(&a, &b): (&f64, &f64)| (a - b).abs() <= unit * (DEVIATIONS * size.rms + b.abs());
        let all_near = ours.len() == first.len() && ours.iter().zip(first).all(near);
        (relative, all_near && difference.rms <= unit * size.rms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roundings_pass_and_nothing_else_does() {
        let first: Vec<f64> = (0..1000).map(|i| f64::from(i * 37 % 101) / 50.0 - 1.0).collect();
        let bound = Bound::Sums { terms: 64, roundings: 1 };
        let judge = |change: &dyn Fn(usize, f64) -> f64| {
            let ours: Vec<f64> = first.iter().enumerate().map(|(i, &v)| change(i, v)).collect();
            bound.judge(&ours, &first, Storage::Bf16).1
        };
        assert!(judge(&|_, v| half::bf16::from_f64(v).to_f64()));
        assert!(!judge(&|i, v| if i == 500 { v + 0.5 } else { v }), "one value");
        assert!(!judge(&|_, v| v * 1.02), "all a little");
        assert!(!judge(&|i, v| if i == 3 { f64::NAN } else { v }));
        assert!(!judge(&|i, v| if i == 3 { f64::INFINITY } else { v }));
        let exact = |ours: &[f64]| Bound::Exact.judge(ours, &[1.0, 2.0], Storage::F32).1;
        assert!(exact(&[1.0, 2.0]) && !exact(&[1.0, 2.0 + 1e-15]) && !exact(&[1.0]));
    }
}
