//! Every gradient of every loss: in f64 against finite differences of the judge's loss, in f32 against f64.

use super::super::{Algorithm, encode::Element, parameters::Parameters, pass::Pass, update::Gradients};
use super::{
    algorithms,
    judge::{Frozen, loss},
    normal, unit_rows,
};
use crate::{backend::cpu::Real, numerics::relative_l2};

/// Past the warm-up of every penalty.
const STEP: usize = 10;

/// A point in the middle of training: nothing is zero, and encoder and decoder differ.
fn point(algorithm: &Algorithm, s: usize, d: usize) -> Parameters<f32> {
    let noise = |len, size: f32, seed| normal(len, seed).into_iter().map(|v| size * v).collect::<Vec<f32>>();
    let decoder = unit_rows(s, d, 1);
    Parameters {
        width: d,
        encoder: decoder.iter().zip(noise(s * d, 0.2, 2)).map(|(w, e)| w + e).collect(),
        encoder_bias: noise(s, 0.1, 3),
        decoder,
        decoder_bias: noise(d, 0.3, 4),
        log_theta: match algorithm {
            Algorithm::JumpRelu { .. } => noise(s, 0.2, 5).iter().map(|v| 0.4f32.ln() + v).collect(),
            _ => Vec::new(),
        },
    }
}

fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&v| f64::from(v)).collect()
}

fn widened(p: &Parameters<f32>) -> Parameters<f64> {
    Parameters {
        width: p.width,
        encoder: wide(&p.encoder),
        encoder_bias: wide(&p.encoder_bias),
        decoder: wide(&p.decoder),
        decoder_bias: wide(&p.decoder_bias),
        log_theta: wide(&p.log_theta),
    }
}

/// The loss and its gradient as the trainer computes them, before anything is projected.
fn gradient<T: Element>(algorithm: &Algorithm, p: &Parameters<T>, x: &[T], dead: &[u32]) -> (f64, Parameters<T>) {
    let d = p.width;
    let centred: Vec<T> = x.iter().enumerate().map(|(j, &x)| x - p.decoder_bias[j % d]).collect();
    let pass = Pass::new(algorithm, STEP, p, &centred, dead);
    let mut gradient = p.zeros();
    Gradients::new(&pass, &centred).collect(p, &mut gradient);
    (pass.loss(), gradient)
}

fn fields<T>(p: &mut Parameters<T>) -> [(&'static str, &mut Vec<T>); 5] {
    [
        ("W_e", &mut p.encoder),
        ("b_enc", &mut p.encoder_bias),
        ("W_d", &mut p.decoder),
        ("b_dec", &mut p.decoder_bias),
        ("log theta", &mut p.log_theta),
    ]
}

/// Central differences with steps of 1e-6: their error is the rounding of the loss over the step, about 1e-10, and the
/// gradients' elements are about 1e-2.
#[test]
fn gradients_are_the_slopes_of_the_loss() {
    let (n, s, d) = (9, 12, 5);
    let dead = [1, 4, 6, 11];
    for algorithm in algorithms() {
        let mut p = widened(&point(&algorithm, s, d));
        let x = wide(&normal(n * d, 6));
        let (ours, mut gradient) = gradient(&algorithm, &p, &x, &dead);
        let (error, at_point) = loss(&algorithm, &p, &x, &dead, None);
        assert!((ours - at_point).abs() < 1e-13, "{algorithm:?}: loss {ours}, by definition {at_point}");
        let frozen = Frozen { error, theta: p.log_theta.iter().map(|v| v.exp()).collect() };
        for (field, (name, gradient)) in fields(&mut gradient).into_iter().enumerate() {
            let mut slopes = Vec::new();
            for j in 0..gradient.len() {
                let mut at = |step: f64| {
                    fields(&mut p)[field].1[j] += step;
                    let value = loss(&algorithm, &p, &x, &dead, Some(&frozen)).1;
                    fields(&mut p)[field].1[j] -= step;
                    value
                };
                slopes.push((at(1e-6) - at(-1e-6)) / 2e-6);
            }
            let difference = relative_l2(gradient, &slopes);
            println!("{algorithm:?} {name}: {difference:.1e}");
            assert!(difference < 1e-7, "{algorithm:?}: d {name} differs by {difference}: {gradient:?}\n{slopes:?}");
            assert!(slopes.is_empty() || slopes.iter().any(|v| v.abs() > 1e-4), "{name} is not tested");
        }
    }
}

/// The f32 path, tiles, vectors and all, is the f64 one but for rounding. A sum of some hundred products in f32 is off
/// by a few roundings of its largest term: 2^-24 each, 1e-6 in all.
#[test]
fn f32_differs_from_f64_by_rounding() {
    let (n, s, d) = (700, 300, 70);
    let dead: Vec<u32> = (0..s as u32).filter(|i| i % 5 == 0).collect();
    for algorithm in algorithms() {
        let p = point(&algorithm, s, d);
        let x = normal(n * d, 6);
        let (loss, mut narrow) = gradient(&algorithm, &p, &x, &dead);
        let (exact_loss, mut exact) = gradient(&algorithm, &widened(&p), &wide(&x), &dead);
        assert!((loss - exact_loss).abs() < 1e-6 * exact_loss, "{algorithm:?}: loss {loss}, in f64 {exact_loss}");
        for ((name, narrow), (_, exact)) in fields(&mut narrow).into_iter().zip(fields(&mut exact)) {
            let difference = relative_l2(&wide(narrow), exact);
            println!("{algorithm:?} {name}: {difference:.1e}");
            assert!(difference < 2e-6, "{algorithm:?}: d {name} differs by {difference}");
        }
    }
}

impl<T: Real> Gradients<'_, T> {
    /// All gradients at once.
    fn collect(&self, p: &Parameters<T>, gradient: &mut Parameters<T>) {
        let d = p.width;
        let rows = gradient.encoder.chunks_mut(d).zip(gradient.decoder.chunks_mut(d));
        let mut parts = Vec::new();
        for (i, (encoder, decoder)) in rows.enumerate() {
            let scalars = self.latent(i, encoder, decoder);
            gradient.encoder_bias[i] = scalars.encoder_bias;
            if let Some(theta) = gradient.log_theta.get_mut(i) {
                *theta = scalars.log_theta;
            }
            parts.push(p.encoder[i * d..][..d].iter().map(|&w| scalars.encoder_bias * w).collect());
        }
        gradient.decoder_bias = self.decoder_bias(&parts);
    }
}
