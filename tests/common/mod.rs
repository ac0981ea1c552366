//! What several tests share.

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, StandardNormal};

/// Seeded normal numbers.
pub struct Rng(ChaCha8Rng);

impl Rng {
    /// From a seed.
    pub fn new(seed: u64) -> Self {
        Rng(ChaCha8Rng::seed_from_u64(seed))
    }

    /// `n` standard normal numbers.
    pub fn normal(&mut self, n: usize) -> Vec<f64> {
        (0..n).map(|_| StandardNormal.sample(&mut self.0)).collect()
    }
}

/// Checks `gradient` of `f` at `x` by 4-point central differences, element by element: the largest difference is under
/// 1e-6 of the gradient's largest element.
pub fn derivative_matches(what: &str, x: &[f64], gradient: &[f64], f: impl Fn(&[f64]) -> f64) {
    assert_eq!(x.len(), gradient.len(), "{what}");
    let h = 1e-4;
    let mut moved = x.to_vec();
    let largest = gradient.iter().fold(0.0f64, |m, g| m.max(g.abs()));
    for i in 0..x.len() {
        let mut at = |offset: f64| {
            moved[i] = x[i] + offset;
            let value = f(&moved);
            moved[i] = x[i];
            value
        };
        let numeric = (8.0 * (at(h) - at(-h)) - (at(2.0 * h) - at(-2.0 * h))) / (12.0 * h);
        let error = (numeric - gradient[i]).abs();
        assert!(
            error <= 1e-6 * largest.max(1e-3),
            "{what}: element {i}: gradient {}, finite difference {numeric}, relative error {:.1e}",
            gradient[i],
            error / largest
        );
    }
}
