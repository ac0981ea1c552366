//! Where a training starts: the scale and the centre of a sample, and random decoder rows.

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, StandardNormal};
use rayon::prelude::*;

use super::{
    parameters::Parameters,
    recipe::{Algorithm, Center, Recipe},
};
use crate::{Error, Result};

/// Rows whose sums are taken by one task.
const ROWS: usize = 256;
/// The geometric median is found when it moves by less than this share of the sample's spread.
const MEDIAN_TOLERANCE: f64 = 1e-6;
/// More iterations than Weiszfeld's needs on anything but a sample made to defeat it.
const MEDIAN_STEPS: usize = 100;

/// The scale (a number that the activations are divided by) and the first parameters.
///
/// # Errors
/// [`Error::Usage`] if the sample is empty, not finite, or all its rows are equal.
pub(super) fn start(recipe: &Recipe, d: usize, sample: &[f32]) -> Result<(f32, Parameters<f32>)> {
    if sample.is_empty() || !sample.len().is_multiple_of(d) {
        return Err(Error::usage(format!("SAE training: a sample of {} values for width {d}", sample.len())));
    }
    let mean = weighted_mean(sample, d, |_| 1.0);
    let squares: f64 = ordered_sum(sample, d, |row| distance(row, &mean).powi(2));
    let scale = (squares / sample.len() as f64).sqrt() as f32;
    if !(scale.is_finite() && scale > 0.0) {
        return Err(Error::usage(format!("SAE training: the sample's deviation is {scale}")));
    }
    let center = match recipe.center {
        Center::Mean => mean,
        Center::GeometricMedian => geometric_median(sample, d, mean, f64::from(scale)),
    };
    let decoder = unit_rows(recipe.latents, d, recipe.seed);
    let parameters = Parameters {
        width: d,
        encoder: decoder.clone(),
        encoder_bias: vec![0.0; recipe.latents],
        decoder,
        decoder_bias: center.iter().map(|v| (v / f64::from(scale)) as f32).collect(),
        log_theta: match recipe.algorithm {
            Algorithm::JumpRelu { threshold_init, .. } => vec![threshold_init.ln() as f32; recipe.latents],
            _ => Vec::new(),
        },
    };
    Ok((scale, parameters))
}

/// Random rows (S,D) of length 1.
fn unit_rows(s: usize, d: usize, seed: u64) -> Vec<f32> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut rows = Vec::with_capacity(s * d);
    for _ in 0..s {
        let row: Vec<f64> = StandardNormal.sample_iter(&mut rng).take(d).collect();
        let norm = row.iter().map(|v| v * v).sum::<f64>().sqrt();
        rows.extend(row.iter().map(|v| (v / norm) as f32));
    }
    rows
}

/// The point with the least sum of distances to the rows, by Weiszfeld's iteration: the mean weighted by one over the
/// distance. Rows on the point itself count as if they were a tiny step away.
fn geometric_median(rows: &[f32], d: usize, mut point: Vec<f64>, scale: f64) -> Vec<f64> {
    let tiny = MEDIAN_TOLERANCE * scale * (d as f64).sqrt();
    for _ in 0..MEDIAN_STEPS {
        let next = weighted_mean(rows, d, |row| 1.0 / distance(row, &point).max(tiny));
        let moved = next.iter().zip(&point).map(|(a, b)| (a - b).powi(2)).sum::<f64>().sqrt();
        point = next;
        if moved < tiny {
            break;
        }
    }
    point
}

fn distance(row: &[f32], point: &[f64]) -> f64 {
    row.iter().zip(point).map(|(&v, p)| (f64::from(v) - p).powi(2)).sum::<f64>().sqrt()
}

/// Summed in an order that does not depend on the threads.
fn ordered_sum(rows: &[f32], d: usize, value: impl Fn(&[f32]) -> f64 + Sync) -> f64 {
    let parts: Vec<f64> = rows.par_chunks(ROWS * d).map(|rows| rows.chunks(d).map(&value).sum()).collect();
    parts.iter().sum()
}

fn weighted_mean(rows: &[f32], d: usize, weight: impl Fn(&[f32]) -> f64 + Sync) -> Vec<f64> {
    let part = |rows: &[f32]| {
        let (mut total, mut sum) = (0.0, vec![0.0; d]);
        for row in rows.chunks(d) {
            let weight = weight(row);
            total += weight;
            sum.iter_mut().zip(row).for_each(|(sum, &v)| *sum += weight * f64::from(v));
        }
        (total, sum)
    };
    let parts: Vec<(f64, Vec<f64>)> = rows.par_chunks(ROWS * d).map(part).collect();
    let total: f64 = parts.iter().map(|(weight, _)| weight).sum();
    (0..d).map(|j| parts.iter().map(|(_, sum)| sum[j]).sum::<f64>() / total).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_ignores_how_far_an_outlier_is() {
        // Of four corners of a convex quadrangle it is where the diagonals cross.
        let corners = |far: f32| [0.0, 0.0, 2.0, 2.0, 2.0, 0.0, -far, 2.0 + far];
        for far in [1.0, 1000.0] {
            let rows = corners(far);
            let mean = weighted_mean(&rows, 2, |_| 1.0);
            let median = geometric_median(&rows, 2, mean, 1.0);
            assert!(distance(&[1.0, 1.0], &median) < 1e-3, "{median:?}");
        }
    }

    #[test]
    fn rows_have_length_1_and_follow_the_seed() {
        let rows = unit_rows(5, 7, 3);
        assert!(rows.chunks(7).all(|row| (distance(row, &[0.0; 7]) - 1.0).abs() < 1e-6));
        assert_eq!(rows, unit_rows(5, 7, 3));
        assert_ne!(rows, unit_rows(5, 7, 4));
    }
}
