//! How well the stream is rebuilt.

use serde::Serialize;

use super::dot;

/// Sums over tokens.
#[derive(Debug, Clone, Default)]
pub struct Reconstruction {
    /// Of the class token, and of the patches.
    tokens: [u64; 2],
    /// Latents that fired, likewise.
    active: [u64; 2],
    /// (D): the mean token so far.
    mean: Vec<f64>,
    /// Sum of squared distances from the mean, by Welford's update, which does not cancel as a difference of sums does.
    centred: f64,
    /// Sum of |x|^2.
    stream: f64,
    /// Sum of |y|^2.
    rebuilt: f64,
    /// Sum of |x - y|^2.
    error: f64,
    /// Sum of cos(x, y).
    cosines: f64,
}

impl Reconstruction {
    /// Adds a token `x` (D) with its reconstruction `y` (D), for which `active` latents fired.
    pub fn add(&mut self, x: &[f64], y: &[f64], active: usize, is_cls: bool) {
        let kind = usize::from(!is_cls);
        self.tokens[kind] += 1;
        self.active[kind] += active as u64;
        self.mean.resize(x.len(), 0.0);
        let n = self.tokens() as f64;
        for (mean, x) in self.mean.iter_mut().zip(x) {
            let from_old = x - *mean;
            *mean += from_old / n;
            self.centred += from_old * (x - *mean);
        }
        let (xx, yy, xy) = (dot(x, x), dot(y, y), dot(x, y));
        self.stream += xx;
        self.rebuilt += yy;
        self.error += x.iter().zip(y).map(|(x, y)| (x - y).powi(2)).sum::<f64>();
        // A product of roots: the root of the product overflows first.
        self.cosines += xy / (xx.sqrt() * yy.sqrt()).max(f64::MIN_POSITIVE);
    }

    /// Tokens so far.
    pub fn tokens(&self) -> u64 {
        self.tokens.iter().sum()
    }

    /// The measures; NaN where nothing was seen to measure.
    pub fn report(&self) -> ReconstructionReport {
        let n = self.tokens() as f64;
        let l0 = |kind: usize| self.active[kind] as f64 / self.tokens[kind] as f64;
        let fvu = self.error / self.centred;
        ReconstructionReport {
            tokens: self.tokens(),
            l0: self.active.iter().sum::<u64>() as f64 / n,
            l0_cls: l0(0),
            l0_patches: l0(1),
            fvu,
            explained_variance: 1.0 - fvu,
            explained_variance_uncentred: 1.0 - self.error / self.stream,
            mse: self.error / (n * self.mean.len() as f64),
            cosine: self.cosines / n,
            relative_norm: (self.rebuilt / self.stream).sqrt(),
        }
    }
}

/// The measures of [`Reconstruction`]; the room's first page defines them.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ReconstructionReport {
    /// Tokens in scope.
    pub tokens: u64,
    /// Latents that fire per token.
    pub l0: f64,
    /// The same of class tokens.
    pub l0_cls: f64,
    /// The same of patches.
    pub l0_patches: f64,
    /// Fraction of variance unexplained, around the mean token.
    pub fvu: f64,
    /// `1 - fvu`.
    pub explained_variance: f64,
    /// The same around zero.
    pub explained_variance_uncentred: f64,
    /// Squared error per token and dimension.
    pub mse: f64,
    /// Mean cosine of token and reconstruction.
    pub cosine: f64,
    /// Norm of the reconstructions over norm of the tokens.
    pub relative_norm: f64,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Three tokens of width 2, the first a class token.
    const TOKENS: [[f64; 2]; 3] = [[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]];

    fn of(rebuilt: [[f64; 2]; 3], shift: f64) -> ReconstructionReport {
        let mut sums = Reconstruction::default();
        for (i, (x, y)) in TOKENS.iter().zip(&rebuilt).enumerate() {
            sums.add(&x.map(|v| v + shift), &y.map(|v| v + shift), 2 - i, i == 0);
        }
        sums.report()
    }

    #[test]
    fn a_perfect_reconstruction_explains_everything_and_the_mean_explains_nothing() {
        let perfect = of(TOKENS, 0.0);
        assert_eq!((perfect.tokens, perfect.fvu, perfect.mse), (3, 0.0, 0.0));
        assert_eq!((perfect.cosine, perfect.relative_norm, perfect.explained_variance_uncentred), (1.0, 1.0, 1.0));
        assert_eq!((perfect.l0, perfect.l0_cls, perfect.l0_patches), (1.0, 2.0, 0.5));
        let mean = of([[0.0, 1.0 / 3.0]; 3], 0.0);
        assert!((mean.fvu - 1.0).abs() < 1e-15 && mean.explained_variance.abs() < 1e-15);
        let nothing = of([[0.0; 2]; 3], 0.0);
        assert_eq!((nothing.explained_variance_uncentred, nothing.cosine, nothing.relative_norm), (0.0, 0.0, 0.0));
    }

    /// |x - m|^2 sums to 2 + 2/3, |e|^2 to 1, |x|^2 to 3, |y|^2 to 4; the cosines are 1, 1 and 1.
    #[test]
    fn measures_are_those_computed_by_hand() {
        let got = of([[1.0, 0.0], [0.0, 1.0], [-2.0, 0.0]], 0.0);
        assert!((got.fvu - 3.0 / 8.0).abs() < 1e-15, "{}", got.fvu);
        assert!((got.explained_variance - 5.0 / 8.0).abs() < 1e-15);
        assert!((got.explained_variance_uncentred - 2.0 / 3.0).abs() < 1e-15);
        assert_eq!((got.mse, got.cosine), (1.0 / 6.0, 1.0));
        assert!((got.relative_norm - 2f64.sqrt()).abs() < 1e-15);
    }

    /// Streams have dimensions with a mean far from zero: a difference of sums would leave no digit of the variance.
    #[test]
    fn a_far_mean_costs_no_digits() {
        let far = of([[1.0, 0.0], [0.0, 1.0], [-2.0, 0.0]], 1e9);
        assert!((far.fvu - 3.0 / 8.0).abs() < 1e-6, "{}", far.fvu);
    }

    #[test]
    fn tokens_of_one_kind_leave_the_other_without_a_number() {
        let mut sums = Reconstruction::default();
        sums.add(&[1.0], &[0.5], 3, true);
        let report = sums.report();
        assert!(report.l0_patches.is_nan() && report.l0_cls == 3.0);
        assert_eq!(serde_json::to_value(report).unwrap()["l0_patches"], serde_json::Value::Null);
    }
}
