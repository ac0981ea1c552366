//! Maps on the pixel grid, and the methods that average gradients along a path or under noise.

use rand::SeedableRng;
use rand_distr::{Distribution, StandardNormal};

use super::{Engine, Question, runner::Job};
use crate::{
    Result,
    backend::{Input, PatchGrid},
    model::{
        Edit, Method,
        pass::{MapKey, VariantOutput},
    },
};

/// A batch of normalised pixels.
#[derive(Debug, Clone, Copy)]
pub struct PixelInput<'a> {
    /// (B,3,R,R); empty where no method looks at them.
    pub values: &'a [f64],
    /// `B`.
    pub batch: usize,
    /// The patches.
    pub grid: PatchGrid,
    /// The lists of edits that are run.
    pub variants: &'a [Vec<Edit>],
}

impl PixelInput<'_> {
    /// Values of one image.
    pub fn len(&self) -> usize {
        self.values.len() / self.batch
    }

    /// The pass on other pixels of this size.
    fn job(&self, question: &Question, keys: Vec<MapKey>) -> Result<Job> {
        Ok(Job { variants: self.variants.to_vec(), ..question.job(self.batch, self.grid, keys, false)? })
    }

    /// Image `b` (3,R,R).
    pub fn image(&self, b: usize) -> &[f64] {
        &self.values[b * self.len()..][..self.len()]
    }
}

/// Whether a method's map comes out of the main pass.
pub fn is_direct(method: Method) -> bool {
    !matches!(method, Method::IntegratedGradients { .. } | Method::SmoothGrad { .. })
}

/// The largest absolute value over the channels of (3,R,R).
pub fn largest(gradient: &[f64]) -> Vec<f64> {
    let cells = gradient.len() / 3;
    (0..cells).map(|i| (0..3).fold(0.0, |m: f64, c| m.max(gradient[c * cells + i].abs()))).collect()
}

/// Sum over the channels of input times gradient, both (3,R,R).
pub fn times_input(gradient: &[f64], input: &[f64]) -> Vec<f64> {
    let cells = gradient.len() / 3;
    (0..cells).map(|i| (0..3).map(|c| gradient[c * cells + i] * input[c * cells + i]).sum()).collect()
}

/// The maps of a path method for one variant.
#[derive(Debug, Clone)]
pub struct PathMap {
    batch: usize,
    /// (Q,B,R*R).
    maps: Vec<Vec<f64>>,
    /// (Q,B), integrated gradients only.
    gaps: Option<Vec<f64>>,
}

impl PathMap {
    /// The map of `text` on image `b`.
    pub fn map(&self, text: usize, b: usize) -> Vec<f64> {
        self.maps[text * self.batch + b].clone()
    }

    /// Its completeness gap.
    pub fn gap(&self, text: usize, b: usize) -> Option<f64> {
        self.gaps.as_ref().map(|gaps| gaps[text * self.batch + b])
    }
}

/// For each variant and method the path map, where the method is one.
pub fn path_maps(
    engine: &mut Engine,
    question: &Question,
    input: &PixelInput<'_>,
    variants: &[VariantOutput],
) -> Result<Vec<Vec<Option<PathMap>>>> {
    let mut all = vec![Vec::new(); variants.len()];
    for (named, _) in &question.methods {
        let maps = match named.method {
            Method::IntegratedGradients { steps } => {
                Some(integrated_gradients(engine, question, input, variants, steps)?)
            }
            Method::SmoothGrad { samples, sigma } => Some(smoothgrad(engine, question, input, samples, sigma)?),
            _ => None,
        };
        for (v, all) in all.iter_mut().enumerate() {
            all.push(maps.as_ref().map(|maps| maps[v].clone()));
        }
    }
    Ok(all)
}

/// Pixel gradients (Q,B,3,R,R) of each variant at `values` (B,3,R,R), and raw scores.
fn gradients(
    engine: &mut Engine,
    question: &Question,
    input: &PixelInput<'_>,
    values: &[f64],
) -> Result<Vec<VariantOutput>> {
    let job = input.job(question, vec![MapKey::Pixels])?;
    Ok(engine.runner()?.run(&job, Input::Values(values))?.variants)
}

/// Adds `weight` times the pixel gradients to each variant's sum.
fn accumulate(sums: &mut [Vec<f64>], outputs: &[VariantOutput], weight: f64) {
    for (sum, output) in sums.iter_mut().zip(outputs) {
        let gradient = output.maps.get(&MapKey::Pixels).map_or(&[][..], Vec::as_slice);
        sum.resize(gradient.len(), 0.0);
        sum.iter_mut().zip(gradient).for_each(|(s, g)| *s += weight * g);
    }
}

/// x * integral of the gradient along the straight line from 0 (the mean colour, in normalised pixels) to x,
/// by Gauss-Legendre quadrature; summed over the channels (Sundararajan et al., 2017).
fn integrated_gradients(
    engine: &mut Engine,
    question: &Question,
    input: &PixelInput<'_>,
    variants: &[VariantOutput],
    steps: usize,
) -> Result<Vec<PathMap>> {
    let mut sums = vec![Vec::new(); variants.len()];
    for (node, weight) in gauss_legendre(steps) {
        let at: Vec<f64> = input.values.iter().map(|v| v * node).collect();
        let outputs = gradients(engine, question, input, &at)?;
        accumulate(&mut sums, &outputs, weight);
    }
    let job = input.job(question, Vec::new())?;
    let start = engine.runner()?.run(&job, Input::Values(&vec![0.0; input.values.len()]))?.variants;
    let (targets, batch) = (question.targets(), input.batch);
    Ok(sums
        .iter()
        .zip(variants)
        .zip(&start)
        .map(|((sum, end), start)| {
            let rows = sum.chunks(input.len()).enumerate();
            let maps: Vec<Vec<f64>> = rows.map(|(i, g)| times_input(g, input.image(i % batch))).collect();
            let (end, start) = (question.scores(&end.values), question.scores(&start.values));
            let gaps = maps.iter().enumerate().map(|(i, map)| {
                let at = (i % batch) * targets + i / batch;
                map.iter().sum::<f64>() - (end[at] - start[at])
            });
            PathMap { batch, gaps: Some(gaps.collect()), maps: maps.clone() }
        })
        .collect())
}

/// Mean gradient of noisy copies; the noise is the same for every image, so a map does not depend on its batch.
fn smoothgrad(
    engine: &mut Engine,
    question: &Question,
    input: &PixelInput<'_>,
    samples: usize,
    sigma: f64,
) -> Result<Vec<PathMap>> {
    let deviations: Vec<f64> = (0..input.batch)
        .map(|b| {
            let (low, high) =
                input.image(b).iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), &v| (l.min(v), h.max(v)));
            sigma * (high - low)
        })
        .collect();
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(question.seed);
    let mut sums = vec![Vec::new(); input.variants.len()];
    for _ in 0..samples {
        let noise: Vec<f64> = StandardNormal.sample_iter(&mut rng).take(input.len()).collect();
        let at: Vec<f64> = (0..input.batch)
            .flat_map(|b| input.image(b).iter().zip(&noise).map(|(v, e)| v + deviations[b] * e).collect::<Vec<_>>())
            .collect();
        let outputs = gradients(engine, question, input, &at)?;
        accumulate(&mut sums, &outputs, 1.0 / samples as f64);
    }
    let maps = |sum: &Vec<f64>| sum.chunks(input.len()).map(largest).collect();
    Ok(sums.iter().map(|sum| PathMap { batch: input.batch, maps: maps(sum), gaps: None }).collect())
}

/// Nodes and weights of Gauss-Legendre quadrature on [0,1]: roots of the Legendre polynomial by Newton's method.
fn gauss_legendre(n: usize) -> Vec<(f64, f64)> {
    (0..n)
        .map(|i| {
            let mut x = (std::f64::consts::PI * (i as f64 + 0.75) / (n as f64 + 0.5)).cos();
            let mut slope = 1.0;
            for _ in 0..100 {
                let (mut p, mut before) = (1.0, 0.0);
                for k in 0..n {
                    let next = ((2 * k + 1) as f64 * x * p - k as f64 * before) / (k + 1) as f64;
                    (before, p) = (p, next);
                }
                slope = n as f64 * (x * p - before) / (x * x - 1.0);
                let step = p / slope;
                x -= step;
                if step.abs() < 1e-15 {
                    break;
                }
            }
            (0.5 * (1.0 - x), 1.0 / ((1.0 - x * x) * slope * slope))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quadrature_is_exact_for_polynomials_of_degree_2n_minus_1() {
        for n in [1, 2, 5, 8, 50] {
            let rule = gauss_legendre(n);
            for degree in [0, 1, 2 * n - 1] {
                let integral: f64 = rule.iter().map(|(x, w)| w * x.powi(degree as i32)).sum();
                assert!((integral - 1.0 / (degree as f64 + 1.0)).abs() < 1e-13, "n {n}, degree {degree}: {integral}");
            }
        }
    }
}
