//! The gradients of the parameters, latent by latent, and the step along them.
//!
//! A latent's rows are summed over its tokens by one thread in the order of the tokens: the sums do not depend on the
//! number of threads. The gradient of a row exists only while the row is updated.

use rayon::prelude::*;

use super::{
    codes::ByLatent,
    parameters::Parameters,
    pass::{Part, Pass},
    vector::{Adam, Moments, add_rows, dot, simd},
};
use crate::backend::cpu::Real;

/// Latents that one task updates.
const LATENTS: usize = 16;

/// What the gradients of all parameters are made from.
pub(super) struct Gradients<'a, T> {
    pass: &'a Pass<T>,
    /// (N,D): the tokens, scaled and centred.
    centred: &'a [T],
    main: ByLatent<T>,
    auxiliary: Option<ByLatent<T>>,
}

/// The gradients of a latent's scalars.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Scalars<T> {
    pub encoder_bias: T,
    pub log_theta: T,
    /// Tokens at which the latent is active.
    pub fired: usize,
}

impl<'a, T: Real> Gradients<'a, T> {
    /// Of a pass over `centred` (N,D).
    pub fn new(pass: &'a Pass<T>, centred: &'a [T]) -> Self {
        let by_latent = |part: &Part<T>| ByLatent::new(&part.codes, &part.dz, pass.theta.len());
        Gradients { pass, centred, main: by_latent(&pass.main), auxiliary: pass.auxiliary.as_ref().map(by_latent) }
    }

    /// The gradients of latent `i`: of its encoder and decoder row (D) and of its scalars.
    #[inline(always)]
    pub fn latent(&self, i: usize, encoder: &mut [T], decoder: &mut [T]) -> Scalars<T> {
        let (pass, d) = (self.pass, encoder.len());
        let theta = pass.theta[i];
        let mut scalars = Scalars::default();
        encoder.fill(T::ZERO);
        decoder.fill(T::ZERO);
        let token = |rows: &'a [T], n: u32| &rows[n as usize * d..][..d];

        let entries = self.main.latent(i);
        let dh = |j: usize| if entries[j].h > theta { entries[j].dz + pass.per_value } else { T::ZERO };
        let z = |j: usize| if entries[j].h > theta { entries[j].h } else { T::ZERO };
        add_rows(encoder, entries.len(), |j| (dh(j), token(self.centred, entries[j].token)));
        add_rows(decoder, entries.len(), |j| (z(j), token(&pass.main.error, entries[j].token)));
        decoder.iter_mut().for_each(|v| *v *= pass.main.gain);
        let mut theta_sum = T::ZERO;
        for (j, entry) in entries.iter().enumerate() {
            scalars.fired += usize::from(entry.h > theta);
            scalars.encoder_bias += dh(j);
            // dz/dtheta = -(theta / eps) K((h - theta) / eps), dH/dtheta = -(1 / eps) K((h - theta) / eps).
            if (entry.h - theta).abs() < pass.half_band {
                theta_sum += theta * entry.dz + pass.per_active;
            }
        }
        if pass.half_band > T::ZERO {
            scalars.log_theta = -theta * theta_sum / (pass.half_band + pass.half_band);
        }

        if let (Some(by_latent), Some(part)) = (&self.auxiliary, &pass.auxiliary) {
            let entries = by_latent.latent(i);
            add_rows(encoder, entries.len(), |j| (entries[j].dz, token(self.centred, entries[j].token)));
            add_rows(decoder, entries.len(), |j| (part.gain * entries[j].h, token(&part.error, entries[j].token)));
            scalars.encoder_bias += entries.iter().map(|entry| entry.dz).sum();
        }
        scalars
    }

    /// The gradient of the decoder bias (D): `gain sum r - W_e^T (gradient of the encoder bias)`. The second term comes in
    /// parts, summed in their order.
    pub fn decoder_bias(&self, through_encoder: &[Vec<T>]) -> Vec<T> {
        let d = self.centred.len() / self.pass.main.codes.tokens();
        let mut gradient = Moments::of(&self.pass.main.error, d).columns;
        gradient.iter_mut().for_each(|v| *v *= self.pass.main.gain.to_f64());
        for part in through_encoder {
            gradient.iter_mut().zip(part).for_each(|(sum, v)| *sum -= v.to_f64());
        }
        gradient.into_iter().map(T::of).collect()
    }

    /// One step of Adam for all parameters. Of the gradient of a decoder row the component along the row is removed, and
    /// the row is brought back to length 1. Returns the scalars of every latent (S).
    pub fn step(&self, adam: Adam<T>, p: &mut Parameters<T>, moments: &mut [Parameters<T>; 2]) -> Vec<Scalars<T>> {
        let d = p.width;
        let rows = LATENTS * d;
        let [m, v] = moments;
        let encoder =
            p.encoder.par_chunks_mut(rows).zip(m.encoder.par_chunks_mut(rows)).zip(v.encoder.par_chunks_mut(rows));
        let decoder =
            p.decoder.par_chunks_mut(rows).zip(m.decoder.par_chunks_mut(rows)).zip(v.decoder.par_chunks_mut(rows));
        let update = |(chunk, (((we, me), ve), ((wd, md), vd))): (usize, (Rows<'_, T>, Rows<'_, T>))| {
            simd(
                #[inline(always)]
                || {
                    let (mut de, mut dd) = (vec![T::ZERO; d], vec![T::ZERO; d]);
                    let mut through_encoder = vec![T::ZERO; d];
                    let mut scalars = Vec::with_capacity(LATENTS);
                    let encoder = we.chunks_exact_mut(d).zip(me.chunks_exact_mut(d)).zip(ve.chunks_exact_mut(d));
                    let decoder = wd.chunks_exact_mut(d).zip(md.chunks_exact_mut(d)).zip(vd.chunks_exact_mut(d));
                    for (i, (((we, me), ve), ((wd, md), vd))) in (chunk * LATENTS..).zip(encoder.zip(decoder)) {
                        let of_latent = self.latent(i, &mut de, &mut dd);
                        add_rows(&mut through_encoder, 1, |_| (of_latent.encoder_bias, we));
                        adam.update(we, [me, ve], &de);
                        let along = dot(&dd, wd);
                        add_rows(&mut dd, 1, |_| (-along, wd));
                        adam.update(wd, [md, vd], &dd);
                        let length = dot(wd, wd).sqrt();
                        wd.iter_mut().for_each(|w| *w /= length);
                        scalars.push(of_latent);
                    }
                    (through_encoder, scalars)
                },
            )
        };
        let (through_encoder, scalars): (Vec<_>, Vec<_>) = encoder.zip(decoder).enumerate().map(update).unzip();
        let scalars = scalars.concat();

        let gradient: Vec<T> = scalars.iter().map(|s| s.encoder_bias).collect();
        adam.update(&mut p.encoder_bias, [&mut m.encoder_bias, &mut v.encoder_bias], &gradient);
        let gradient: Vec<T> = scalars.iter().map(|s| s.log_theta).collect();
        adam.update(&mut p.log_theta, [&mut m.log_theta, &mut v.log_theta], &gradient);
        let gradient = self.decoder_bias(&through_encoder);
        adam.update(&mut p.decoder_bias, [&mut m.decoder_bias, &mut v.decoder_bias], &gradient);
        scalars
    }
}

/// Rows of a weight and of its two moments.
type Rows<'r, T> = ((&'r mut [T], &'r mut [T]), &'r mut [T]);
