//! What is learned.

use crate::backend::cpu::Real;

/// The parameters of an SAE, or as many moments of their gradients.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Parameters<T> {
    /// `D`.
    pub width: usize,
    /// (S,D).
    pub encoder: Vec<T>,
    /// (S).
    pub encoder_bias: Vec<T>,
    /// (S,D): rows of length 1.
    pub decoder: Vec<T>,
    /// (D): also subtracted from the input.
    pub decoder_bias: Vec<T>,
    /// (S) for JumpReLU, else empty.
    pub log_theta: Vec<T>,
}

impl<T: Real> Parameters<T> {
    /// Zeros of the same shapes.
    pub fn zeros(&self) -> Self {
        let zeros = |values: &Vec<T>| vec![T::ZERO; values.len()];
        Parameters {
            width: self.width,
            encoder: zeros(&self.encoder),
            encoder_bias: zeros(&self.encoder_bias),
            decoder: zeros(&self.decoder),
            decoder_bias: zeros(&self.decoder_bias),
            log_theta: zeros(&self.log_theta),
        }
    }

    /// `S`.
    pub fn latents(&self) -> usize {
        self.encoder_bias.len()
    }

    /// Row `i` of the decoder.
    #[inline(always)]
    pub fn decoder_row(&self, i: u32) -> &[T] {
        &self.decoder[i as usize * self.width..][..self.width]
    }

    /// (S): thresholds; zeros without `log_theta`.
    pub fn theta(&self) -> Vec<T> {
        match self.log_theta.is_empty() {
            true => vec![T::ZERO; self.latents()],
            false => self.log_theta.iter().map(|theta| theta.exp()).collect(),
        }
    }

    /// The tensors, with their names and shapes.
    pub fn tensors(&self) -> Vec<(&'static str, Vec<usize>, &[T])> {
        let (d, s) = (self.width, self.latents());
        let mut tensors = vec![
            ("encoder", vec![s, d], &self.encoder[..]),
            ("encoder_bias", vec![s], &self.encoder_bias),
            ("decoder", vec![s, d], &self.decoder),
            ("decoder_bias", vec![d], &self.decoder_bias),
        ];
        if !self.log_theta.is_empty() {
            tensors.push(("log_threshold", vec![s], &self.log_theta));
        }
        tensors
    }
}
