//! The loss of a batch, and the gradients that reach the codes.
//!
//! With `c = x / s - b_dec` the error is `r = x / s - xhat = c - z W_d`: the decoder bias enters through `c` alone.

use rayon::prelude::*;

use super::{
    codes::Codes,
    encode::{Dead, Element, Rule, encode},
    parameters::Parameters,
    recipe::{Algorithm, ramp},
    vector::{Moments, add_rows, dot, simd},
};
use crate::backend::cpu::Real;

/// Tokens that one task decodes.
const TOKENS: usize = 32;

/// A batch after the forward and down to its codes in reverse.
pub(super) struct Pass<T> {
    /// (S): thresholds; zeros but for JumpReLU.
    pub theta: Vec<T>,
    /// Half the width of the kernel of straight-through gradients; 0 but for JumpReLU.
    pub half_band: T,
    /// The reconstruction.
    pub main: Part<T>,
    /// The reconstruction of the error by dead latents.
    pub auxiliary: Option<Part<T>>,
    /// The penalty's gradient with respect to an active `z`.
    pub per_value: T,
    /// The penalty's gradient with respect to a latent's `[h > theta]` of one token.
    pub per_active: T,
    /// `sum |x - xhat|^2 / (N D)`.
    pub reconstruction: f64,
    /// The penalty.
    pub sparsity: f64,
    /// The auxiliary loss, times its coefficient.
    pub aux: f64,
    /// Active latents per token.
    pub l0: f64,
    /// Fraction of variance unexplained.
    pub fvu: f64,
    /// The smallest active `z`, if there is any.
    pub smallest: Option<T>,
}

/// A decoded code, and its gradient.
pub(super) struct Part<T> {
    pub codes: Codes<T>,
    /// (N,D): what was to be decoded less what was.
    pub error: Vec<T>,
    /// The gradient with respect to what was decoded is `gain * error`.
    pub gain: T,
    /// Of every entry: the gradient with respect to its `z`, penalties left out.
    pub dz: Vec<T>,
}

impl<T: Element> Pass<T> {
    /// Of the tokens `centred` (N,D) in step `step`; `dead` are the dead latents, ascending.
    pub fn new(algorithm: &Algorithm, step: usize, parameters: &Parameters<T>, centred: &[T], dead: &[u32]) -> Self {
        let d = parameters.width;
        let n = centred.len() / d;
        let tokens = n as f64;
        let theta = parameters.theta();
        let mut half_band = T::ZERO;
        let bounds: Vec<T>;
        let mut auxiliary = None;
        let rule = match *algorithm {
            Algorithm::Relu { .. } => Rule::Positive,
            Algorithm::TopK { k, aux, k_aux } => {
                auxiliary = Some((aux, k_aux));
                Rule::TopK(k)
            }
            Algorithm::BatchTopK { k, aux, k_aux } => {
                auxiliary = Some((aux, k_aux));
                Rule::BatchTopK(k * n)
            }
            Algorithm::JumpRelu { bandwidth, .. } => {
                half_band = T::of(bandwidth / 2.0);
                bounds = theta.iter().map(|&theta| theta - half_band).collect();
                Rule::Above(&bounds)
            }
        };
        let auxiliary = auxiliary.filter(|(aux, k_aux)| *aux > 0.0 && *k_aux > 0 && !dead.is_empty());
        let dead = match auxiliary {
            Some((_, k)) => Dead { latents: dead, k },
            None => Dead { latents: &[], k: 0 },
        };
        let (codes, dead_codes) = encode(parameters, centred, rule, dead);

        let mut main = Part::decode(codes, centred, parameters, &theta);
        let errors = Moments::of(&main.error, d);
        main.reverse(-2.0 / (tokens * d as f64), parameters);
        let (active, sum, smallest) = main.activity(&theta);
        let l0 = active as f64 / tokens;

        let (mut sparsity, mut per_value, mut per_active) = (0.0, 0.0, 0.0);
        match *algorithm {
            Algorithm::Relu { l1, warm_up, .. } => {
                let l1 = l1 * ramp(step, warm_up);
                (sparsity, per_value) = (l1 * sum / tokens, l1 / tokens);
            }
            Algorithm::JumpRelu { l0: coefficient, target: None, .. } => {
                (sparsity, per_active) = (coefficient * l0, coefficient / tokens);
            }
            Algorithm::JumpRelu { l0: coefficient, target: Some(target), .. } => {
                let excess = l0 / target - 1.0;
                (sparsity, per_active) = (coefficient * excess * excess, 2.0 * coefficient * excess / target / tokens);
            }
            Algorithm::TopK { .. } | Algorithm::BatchTopK { .. } => {}
        }

        let mut aux = 0.0;
        let auxiliary = auxiliary.and_then(|(coefficient, _)| {
            let mut part = Part::decode(dead_codes, &main.error, parameters, &theta);
            let share = coefficient / errors.spread();
            let loss = share * Moments::of(&part.error, d).squares;
            if !loss.is_finite() {
                return None;
            }
            aux = loss;
            part.reverse(-2.0 * share, parameters);
            Some(part)
        });

        Pass {
            reconstruction: errors.squares / (tokens * d as f64),
            fvu: errors.squares / Moments::of(centred, d).spread(),
            per_value: T::of(per_value),
            per_active: T::of(per_active),
            theta,
            half_band,
            main,
            auxiliary,
            sparsity,
            aux,
            l0,
            smallest,
        }
    }

    /// What is minimised.
    pub fn loss(&self) -> f64 {
        self.reconstruction + self.sparsity + self.aux
    }
}

impl<T: Real> Part<T> {
    /// Decodes codes without bias and compares with `target` (N,D).
    fn decode(codes: Codes<T>, target: &[T], parameters: &Parameters<T>, theta: &[T]) -> Self {
        let d = parameters.width;
        let mut error = target.to_vec();
        error.par_chunks_mut(TOKENS * d).enumerate().for_each(|(chunk, error)| {
            simd(
                #[inline(always)]
                || {
                    for (n, error) in (chunk * TOKENS..).zip(error.chunks_exact_mut(d)) {
                        let entries = codes.token(n);
                        let (latents, h) = (&codes.latents[entries.clone()], &codes.h[entries]);
                        add_rows(error, h.len(), |j| {
                            let z = if h[j] > theta[latents[j] as usize] { h[j] } else { T::ZERO };
                            (-z, parameters.decoder_row(latents[j]))
                        });
                    }
                },
            );
        });
        Part { codes, error, gain: T::ZERO, dz: Vec::new() }
    }

    /// Sets the gain, and from it the gradient of every entry: `dz_k = gain <error, W_d[k]>`.
    fn reverse(&mut self, gain: f64, parameters: &Parameters<T>) {
        let d = parameters.width;
        self.gain = T::of(gain);
        self.dz = vec![T::ZERO; self.codes.len()];
        let mut pieces = Vec::with_capacity(self.error.len() / d / TOKENS + 1);
        let mut rest = &mut self.dz[..];
        for (chunk, errors) in self.error.chunks(TOKENS * d).enumerate() {
            let first = chunk * TOKENS;
            let (piece, behind) = rest.split_at_mut(self.codes.entries(first..first + errors.len() / d).len());
            pieces.push((first, errors, piece));
            rest = behind;
        }
        let (codes, gain) = (&self.codes, self.gain);
        pieces.into_par_iter().for_each(|(first, errors, mut dz)| {
            simd(
                #[inline(always)]
                || {
                    for (n, error) in (first..).zip(errors.chunks_exact(d)) {
                        let latents = &codes.latents[codes.token(n)];
                        let (own, behind) = std::mem::take(&mut dz).split_at_mut(latents.len());
                        for (dz, &i) in own.iter_mut().zip(latents) {
                            *dz = gain * dot(error, parameters.decoder_row(i));
                        }
                        dz = behind;
                    }
                },
            );
        });
    }

    /// The number, the sum and the smallest of the active values.
    fn activity(&self, theta: &[T]) -> (usize, f64, Option<T>) {
        let active = self.codes.latents.iter().zip(&self.codes.h).filter(|(i, h)| **h > theta[**i as usize]);
        active.fold((0, 0.0, None), |(count, sum, least), (_, &h)| {
            let least = least.filter(|&least| least <= h).unwrap_or(h);
            (count + 1, sum + h.to_f64(), Some(least))
        })
    }
}
