//! How far off a tensor is, and how far off it may be: shared by tests and `verify`.

/// Largest and root-mean-square difference from a reference.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Difference {
    /// Largest absolute difference; infinite when a value is not finite where the reference is.
    pub max: f64,
    /// Root of the mean squared difference.
    pub rms: f64,
}

impl Difference {
    /// `ours` against `reference`, element by element. Slices of different length differ infinitely.
    pub fn of(ours: &[f64], reference: &[f64]) -> Self {
        if ours.len() != reference.len() {
            return Difference { max: f64::INFINITY, rms: f64::INFINITY };
        }
        let (mut max, mut squares) = (0.0f64, 0.0f64);
        for (&a, &b) in ours.iter().zip(reference) {
            let d = if a == b { 0.0 } else { (a - b).abs() };
            // NaN would slip through every comparison.
            let d = if d.is_nan() { f64::INFINITY } else { d };
            max = max.max(d);
            squares += d * d;
        }
        Difference { max, rms: (squares / ours.len().max(1) as f64).sqrt() }
    }

    /// The size of a tensor itself: its difference from zero.
    pub fn size(values: &[f64]) -> Self {
        Self::of(values, &vec![0.0; values.len()])
    }
}

/// How far off a tensor may be: `factor * PyTorch's own error in the type + one rounding step of the type`.
///
/// PyTorch's error is measured against float64 and stored in the fixture, so no bound is picked by hand.
#[derive(Debug, Clone, Copy)]
pub struct Tolerance {
    /// 2 forward and in f32; 3 in reverse for 16-bit types.
    pub factor: f64,
    /// Distance from 1 to the type's next number.
    pub step: f64,
}

impl Tolerance {
    /// The largest allowed difference for a tensor of this `size` of which PyTorch's error is `torch`.
    pub fn bound(&self, torch: Difference, size: Difference) -> Difference {
        Difference {
            max: self.factor * torch.max + self.step * size.max,
            rms: self.factor * torch.rms + self.step * size.rms,
        }
    }
}

/// `difference / bound`, the worse of both measures: at most 1 when all is well.
pub fn ratio(difference: Difference, bound: Difference) -> f64 {
    let part = |d: f64, b: f64| if d == 0.0 { 0.0 } else { d / b };
    part(difference.max, bound.max).max(part(difference.rms, bound.rms))
}

/// Relative L2 difference |ours - reference| / |reference|.
pub fn relative_l2(ours: &[f64], reference: &[f64]) -> f64 {
    let (difference, size) = (Difference::of(ours, reference).rms, Difference::size(reference).rms);
    if difference == 0.0 { 0.0 } else { difference / size }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_slips_through() {
        assert_eq!(Difference::of(&[1.0, f64::NAN], &[1.0, 2.0]).max, f64::INFINITY);
        assert_eq!(Difference::of(&[1.0], &[1.0, 2.0]).max, f64::INFINITY);
        assert_eq!(Difference::of(&[1.0, 5.0], &[1.0, 2.0]).max, 3.0);
        let tolerance = Tolerance { factor: 2.0, step: 0.0 };
        let bound = tolerance.bound(Difference { max: 1.0, rms: 1.0 }, Difference::default());
        assert!(ratio(Difference { max: 2.1, rms: 0.0 }, bound) > 1.0);
        assert!(ratio(Difference { max: 0.0, rms: 2.1 }, bound) > 1.0);
        assert!(
            ratio(
                Difference { max: 1.0, rms: 1e-9 },
                Tolerance::bound(&tolerance, Difference::default(), Difference::default())
            ) > 1.0
        );
    }
}
