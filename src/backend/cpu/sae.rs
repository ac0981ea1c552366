//! The sparse autoencoder: encode and select, edit, put back, and the reverse of all that by gathered rows.
//!
//! With u the normalised input, W_e and W_d the encoder and decoder rows, r the decoder row norms (or 1) and s the
//! scale of the normalisation at one token:
//!
//! ```text
//! h = (W_e (u - p) + b_e) r        z = act(h)        y = s (W_d^T (z / r) + b_d) + shift
//! ```

use rayon::prelude::*;

use super::{Number, Real, layer_norm::sum, maps::dot, select};
use crate::{
    model::{Edit, Splice, Through},
    weights::{InputNorm, SaeActivation, SaeWeights},
};

/// An SAE in the backend's number type.
pub struct CpuSae<T: Number> {
    /// `D`.
    pub width: usize,
    /// `S`.
    pub latents: usize,
    encoder: T::Matrix,
    /// (S,D), for gathers.
    encoder_rows: Vec<T>,
    encoder_bias: Vec<T>,
    /// (S,D).
    decoder: Vec<T>,
    decoder_bias: Vec<T>,
    input_bias: Option<Vec<T>>,
    /// `r` (S) where pre-activations are rescaled.
    row_norms: Option<Vec<T>>,
    /// The selection rule.
    pub activation: Activation<T>,
    norm: InputNorm,
    fixed_mean: Option<Vec<T>>,
}

/// [`SaeActivation`] in the backend's number type.
#[derive(Debug)]
pub enum Activation<T> {
    /// max(h, 0).
    Relu,
    /// The k largest; `relu` drops those that are not positive.
    TopK {
        /// How many.
        k: usize,
        /// Whether negative ones are dropped.
        relu: bool,
    },
    /// One winner in each of k contiguous groups.
    GroupMax {
        /// How many groups.
        k: usize,
    },
    /// h > theta, one threshold for all (h itself, not its ReLU).
    Threshold(T),
    /// h > theta, by latent, after ReLU.
    JumpRelu(Vec<T>),
    /// Gate and magnitude.
    Gated {
        /// (S).
        gate_bias: Vec<T>,
        /// (S).
        mag_bias: Vec<T>,
        /// exp(r_mag) (S).
        mag_gain: Vec<T>,
    },
}

/// One row of a code.
struct Slots<'a, T> {
    index: &'a [u32],
    z: &'a [T],
    edited: &'a [T],
    slope: &'a [T],
    edit_slope: &'a [T],
}

/// The code's tensors, all rows.
pub struct CodeRef<'a, T> {
    /// (N, C + 1).
    pub index: &'a [u32],
    /// (N,C).
    pub z: &'a [T],
    /// (N,C).
    pub edited: &'a [T],
    /// (N,C).
    pub slope: &'a [T],
    /// (N,C).
    pub edit_slope: &'a [T],
    /// `C`.
    pub slots: usize,
}

impl<T> CodeRef<'_, T> {
    fn row(&self, n: usize) -> Slots<'_, T> {
        let index = &self.index[n * (self.slots + 1)..][..self.slots + 1];
        let used = n * self.slots..n * self.slots + index[0] as usize;
        let cut = |values: &'_ [T]| -> std::ops::Range<usize> { if values.is_empty() { 0..0 } else { used.clone() } };
        Slots {
            index: &index[1..][..used.len()],
            z: &self.z[cut(self.z)],
            edited: &self.edited[cut(self.edited)],
            slope: &self.slope[cut(self.slope)],
            edit_slope: &self.edit_slope[cut(self.edit_slope)],
        }
    }
}

/// The code's tensors, to write.
pub struct CodeMut<'a, T> {
    /// (N, C + 1).
    pub index: &'a mut [u32],
    /// (N,C).
    pub z: &'a mut [T],
    /// (N,C).
    pub edited: &'a mut [T],
    /// (N,C).
    pub slope: &'a mut [T],
    /// (N,C).
    pub edit_slope: &'a mut [T],
    /// `C`.
    pub slots: usize,
}

/// The normalisation at one token: u = (x - shift) / scale, and what its derivative needs.
struct Normed<T> {
    shift: T,
    scale: T,
    /// Unbiased standard deviation (layer norm only).
    std: T,
}

impl<T: Number> CpuSae<T> {
    /// Converts an SAE.
    pub fn new(w: &SaeWeights) -> Self {
        let convert = |v: &[f32]| -> Vec<T> { v.iter().map(|&v| T::of(f64::from(v))).collect() };
        let decoder = convert(&w.decoder);
        let row_norms = w
            .rescale_by_decoder_norm
            .then(|| w.decoder.chunks(w.width).map(|row| T::of(row_norm(row))).collect::<Vec<T>>());
        let activation = match &w.activation {
            SaeActivation::Relu => Activation::Relu,
            SaeActivation::TopK { k, relu } => Activation::TopK { k: *k, relu: *relu },
            SaeActivation::GroupMax { k } => Activation::GroupMax { k: *k },
            SaeActivation::Threshold { theta } => Activation::Threshold(T::of(f64::from(*theta))),
            SaeActivation::JumpRelu { theta } => Activation::JumpRelu(convert(theta)),
            SaeActivation::Gated { gate_bias, mag_bias, r_mag } => Activation::Gated {
                gate_bias: convert(gate_bias),
                mag_bias: convert(mag_bias),
                mag_gain: r_mag.iter().map(|&r| T::of(f64::from(r).exp())).collect(),
            },
        };
        CpuSae {
            width: w.width,
            latents: w.latents,
            encoder: T::matrix(w.latents, w.width, w.encoder.clone()),
            encoder_rows: convert(&w.encoder),
            encoder_bias: convert(&w.encoder_bias),
            decoder,
            decoder_bias: convert(&w.decoder_bias),
            input_bias: w.input_bias.as_deref().map(convert),
            row_norms,
            activation,
            fixed_mean: match &w.norm {
                InputNorm::Fixed { mean, .. } => mean.as_deref().map(convert),
                _ => None,
            },
            norm: w.norm.clone(),
        }
    }

    /// Slots a row can need before edits.
    pub fn kept(&self) -> usize {
        match self.activation {
            Activation::TopK { k, .. } | Activation::GroupMax { k } => k,
            _ => self.latents,
        }
    }

    fn encoder_row(&self, i: u32) -> &[T] {
        &self.encoder_rows[i as usize * self.width..][..self.width]
    }

    fn decoder_row(&self, i: u32) -> &[T] {
        &self.decoder[i as usize * self.width..][..self.width]
    }

    /// `r_i`.
    fn row_norm(&self, i: u32) -> T {
        self.row_norms.as_ref().map_or(T::ONE, |r| r[i as usize])
    }

    fn normed(&self, x: &[T]) -> Normed<T> {
        let d = T::of(self.width as f64);
        match &self.norm {
            InputNorm::None => Normed { shift: T::ZERO, scale: T::ONE, std: T::ONE },
            InputNorm::Fixed { scale, .. } => Normed { shift: T::ZERO, scale: T::of(f64::from(*scale)), std: T::ONE },
            InputNorm::LayerNorm { .. } => {
                let mean = sum(x, |v| v) / d;
                let std = (sum(x, |v| (v - mean) * (v - mean)) / (d - T::ONE)).sqrt();
                // Undone by std, not by std + eps: see `splice`.
                Normed { shift: mean, scale: std, std }
            }
            InputNorm::UnitNorm => Normed { shift: T::ZERO, scale: dot(x, x).sqrt() / d.sqrt(), std: T::ONE },
        }
    }

    /// What the input is divided by.
    fn divisor(&self, normed: &Normed<T>) -> T {
        match self.norm {
            InputNorm::LayerNorm { eps } => normed.std + T::of(eps),
            _ => normed.scale,
        }
    }

    /// `u - p` (D).
    fn input(&self, out: &mut [T], x: &[T]) {
        let normed = self.normed(x);
        let divisor = self.divisor(&normed);
        for (j, (out, &x)) in out.iter_mut().zip(x).enumerate() {
            let mean = self.fixed_mean.as_ref().map_or(normed.shift, |m| m[j]);
            let p = self.input_bias.as_ref().map_or(T::ZERO, |p| p[j]);
            *out = (x - mean) / divisor - p;
        }
    }

    /// The code of `x` (N,D). `pre` (rows,S) is scratch.
    pub fn encode(&self, code: CodeMut<'_, T>, pre: &mut [T], x: &[T], edits: &[Edit], mask: &[bool]) {
        let (d, s, c) = (self.width, self.latents, code.slots);
        let extra = forced(edits);
        let block = pre.len() / s;
        let mut input = vec![T::ZERO; block * d];
        let rows = code
            .index
            .chunks_mut(block * (c + 1))
            .zip(code.z.chunks_mut(block * c).zip(code.edited.chunks_mut(block * c)))
            .zip(code.slope.chunks_mut(block * c).zip(code.edit_slope.chunks_mut(block * c)))
            .zip(x.chunks(block * d));
        for (first, (((index, (z, edited)), (slope, edit_slope)), x)) in rows.enumerate() {
            let n = x.len() / d;
            input.par_chunks_mut(d).zip(x.par_chunks(d)).for_each(|(input, x)| self.input(input, x));
            T::product(pre, &input, d, n, &self.encoder, &|_, col, h| {
                for (j, h) in h.iter_mut().enumerate() {
                    *h = (*h + self.encoder_bias[col + j]) * self.row_norm((col + j) as u32);
                }
            });
            index
                .par_chunks_mut(c + 1)
                .zip(z.par_chunks_mut(c).zip(edited.par_chunks_mut(c)))
                .zip(slope.par_chunks_mut(c).zip(edit_slope.par_chunks_mut(c)))
                .zip(pre.par_chunks(s))
                .enumerate()
                .for_each(|(i, (((index, (z, edited)), (slope, edit_slope)), h))| {
                    let (count, index) = match index.split_first_mut() {
                        Some(split) => split,
                        None => return,
                    };
                    *count = 0;
                    if !mask[(first * block + i) % mask.len()] {
                        return;
                    }
                    let mut used = self.select(index, z, slope, h);
                    for &id in &extra {
                        if !index[..used].contains(&id) {
                            (index[used], z[used], slope[used]) = (id, T::ZERO, T::ZERO);
                            used += 1;
                        }
                    }
                    *count = used as u32;
                    for j in 0..used {
                        (edited[j], edit_slope[j]) = apply(edits, index[j], z[j]);
                    }
                });
        }
    }

    /// Fills slots with the latents that fire; returns how many.
    fn select(&self, index: &mut [u32], z: &mut [T], slope: &mut [T], h: &[T]) -> usize {
        let mut used = 0;
        let mut keep = |i: usize, value: T, gain: T| {
            (index[used], z[used], slope[used]) = (i as u32, value, gain * self.row_norm(i as u32));
            used += 1;
        };
        match &self.activation {
            Activation::Relu => positive(h, |_| T::ZERO).for_each(|i| keep(i, h[i], T::ONE)),
            Activation::JumpRelu(theta) => {
                positive(h, |i| theta[i].max(T::ZERO)).for_each(|i| keep(i, h[i], T::ONE));
            }
            Activation::Threshold(theta) => positive(h, |_| *theta).for_each(|i| keep(i, h[i], T::ONE)),
            Activation::TopK { k, relu } => {
                for i in select::top_k(h, *k) {
                    if !relu || h[i] > T::ZERO {
                        keep(i, h[i], T::ONE);
                    }
                }
            }
            Activation::GroupMax { k } => {
                let size = h.len() / k;
                for (group, values) in h.chunks(size).enumerate() {
                    let best = select::top_k(values, 1).map(|i| group * size + i);
                    best.filter(|&i| h[i] > T::ZERO).for_each(|i| keep(i, h[i], T::ONE));
                }
            }
            Activation::Gated { gate_bias, mag_bias, mag_gain } => {
                for i in 0..h.len() {
                    let magnitude = mag_gain[i] * h[i] + mag_bias[i];
                    if h[i] + gate_bias[i] > T::ZERO && magnitude > T::ZERO {
                        keep(i, magnitude, mag_gain[i]);
                    }
                }
            }
        }
        used
    }

    /// `y` (N,D).
    pub fn splice(&self, y: &mut [T], x: &[T], code: &CodeRef<'_, T>, splice: Splice, mask: &[bool]) {
        let d = self.width;
        y.par_chunks_mut(d).zip(x.par_chunks(d)).enumerate().for_each(|(n, (y, x))| {
            y.copy_from_slice(x);
            if !mask[n % mask.len()] {
                return;
            }
            let slots = code.row(n);
            let normed = self.normed(x);
            match splice {
                Splice::Replace => {
                    y.copy_from_slice(&self.decoder_bias);
                    for (&i, &z) in slots.index.iter().zip(slots.edited) {
                        add_scaled(y, self.decoder_row(i), z / self.row_norm(i));
                    }
                    for (j, y) in y.iter_mut().enumerate() {
                        let mean = self.fixed_mean.as_ref().map_or(normed.shift, |m| m[j]);
                        *y = *y * normed.scale + mean;
                    }
                }
                Splice::KeepError => {
                    for ((&i, &z), &edited) in slots.index.iter().zip(slots.z).zip(slots.edited) {
                        if edited != z {
                            add_scaled(y, self.decoder_row(i), (edited - z) / self.row_norm(i) * normed.scale);
                        }
                    }
                }
            }
        });
    }

    /// `dx` (g,D) and `dz` (g,C) from `dy` (g,D); forward row `i % n`.
    pub fn splice_reverse(
        &self,
        dx: &mut [T],
        dz: &mut [T],
        dy: &[T],
        x: &[T],
        code: &CodeRef<'_, T>,
        splice: Splice,
        through: Through,
        mask: &[bool],
        n: usize,
    ) {
        let d = self.width;
        let rows = dx.par_chunks_mut(d).zip(dz.par_chunks_mut(code.slots)).zip(dy.par_chunks(d)).enumerate();
        rows.for_each(|(row, ((dx, dz), dy))| {
            let row = row % n;
            dx.copy_from_slice(dy);
            dz.fill(T::ZERO);
            if !mask[row % mask.len()] {
                return;
            }
            let (slots, x) = (code.row(row), &x[row * d..][..d]);
            let normed = self.normed(x);
            for (dz, &i) in dz.iter_mut().zip(slots.index) {
                *dz = dot(self.decoder_row(i), dy) / self.row_norm(i) * normed.scale;
            }
            if through == Through::Straight {
                return;
            }
            // The error is kept and differentiated only in this mode; else the gradient passes the latents alone.
            let error = splice == Splice::KeepError && through == Through::Exact;
            let mut through_latents = vec![T::ZERO; d]; // sum_i w_i dz_i W_e[i]
            let mut through_scale = if error { T::ZERO } else { dot(&self.decoder_bias, dy) * normed.scale };
            for (j, &i) in slots.index.iter().enumerate() {
                let (gain, value) = if error {
                    (slots.edit_slope[j] - T::ONE, slots.edited[j] - slots.z[j])
                } else {
                    (slots.edit_slope[j], slots.edited[j])
                };
                through_scale += value * dz[j];
                let weight = gain * slots.slope[j] * dz[j];
                if weight != T::ZERO {
                    add_scaled(&mut through_latents, self.encoder_row(i), weight);
                }
            }
            if !error {
                dx.fill(T::ZERO);
            }
            self.norm_reverse(dx, &through_latents, through_scale, x, &normed);
            if !error && matches!(self.norm, InputNorm::LayerNorm { .. }) {
                // y = std * (...) + mean(x): the mean's own way.
                let mean = sum(dy, |v| v) / T::of(d as f64);
                dx.iter_mut().for_each(|dx| *dx += mean);
            }
        });
    }

    /// `dx` += the reverse of u = norm(x) for `du`, and of the output's scale: `dscale` is the gradient of the scale
    /// times the scale, <y / scale, dy> scale.
    fn norm_reverse(&self, dx: &mut [T], du: &[T], dscale: T, x: &[T], normed: &Normed<T>) {
        let size = T::of(self.width as f64);
        match self.norm {
            InputNorm::None | InputNorm::Fixed { .. } => add_scaled(dx, du, T::ONE / normed.scale),
            InputNorm::LayerNorm { .. } => {
                let (std, divisor) = (normed.std, self.divisor(normed));
                let mean = sum(du, |v| v) / size;
                let along: T = du.iter().zip(x).map(|(&r, &x)| r * (x - normed.shift)).sum();
                // d std / dx = (x - mean) / ((D - 1) std)
                let pull = (dscale / std - along / (divisor * divisor)) / ((size - T::ONE) * std);
                for ((dx, &r), &x) in dx.iter_mut().zip(du).zip(x) {
                    *dx += (r - mean) / divisor + pull * (x - normed.shift);
                }
            }
            InputNorm::UnitNorm => {
                let square = dot(x, x);
                let along = dot(du, x) / normed.scale;
                for ((dx, &r), &x) in dx.iter_mut().zip(du).zip(x) {
                    *dx += r / normed.scale + (dscale - along) * x / square;
                }
            }
        }
    }

    /// `dx` (N,D): the gradient of latent `id` summed over the tokens where it fires.
    pub fn latent_reverse(&self, dx: &mut [T], x: &[T], code: &CodeRef<'_, T>, id: usize) {
        let d = self.width;
        dx.par_chunks_mut(d).zip(x.par_chunks(d)).enumerate().for_each(|(n, (dx, x))| {
            dx.fill(T::ZERO);
            let slots = code.row(n);
            let Some(slot) = slots.index.iter().position(|&i| i as usize == id) else { return };
            if slots.slope[slot] != T::ZERO {
                let mut du = vec![T::ZERO; d];
                add_scaled(&mut du, self.encoder_row(id as u32), slots.slope[slot]);
                self.norm_reverse(dx, &du, T::ZERO, x, &self.normed(x));
            }
        });
    }
}

/// `score` (B): the sum of latent `id` over the tokens.
pub fn latent<T: Real>(score: &mut [T], code: &CodeRef<'_, T>, id: usize, tokens: usize) {
    for (b, score) in score.iter_mut().enumerate() {
        let z = (b * tokens..(b + 1) * tokens).filter_map(|n| {
            let slots = code.row(n);
            slots.index.iter().position(|&i| i as usize == id).map(|slot| slots.z[slot])
        });
        *score = z.sum();
    }
}

/// Norm of a decoder row, summed in f64.
fn row_norm(row: &[f32]) -> f64 {
    row.iter().map(|&v| f64::from(v) * f64::from(v)).sum::<f64>().sqrt()
}

fn add_scaled<T: Real>(y: &mut [T], x: &[T], scale: T) {
    y.iter_mut().zip(x).for_each(|(y, &x)| *y += scale * x);
}

/// Latents above their threshold, in order.
fn positive<T: Real>(h: &[T], theta: impl Fn(usize) -> T) -> impl Iterator<Item = usize> {
    (0..h.len()).filter(move |&i| h[i] > theta(i))
}

/// Latents that edits write even where they do not fire.
pub fn forced(edits: &[Edit]) -> Vec<u32> {
    let mut ids: Vec<u32> = edits
        .iter()
        .filter(|edit| matches!(edit, Edit::Set(..) | Edit::Add(..)))
        .flat_map(|edit| edit.latents().iter().map(|&id| id as u32))
        .collect();
    ids.sort_unstable();
    ids.dedup();
    ids
}

/// z' and dz'/dz of latent `id` after all edits in their order.
fn apply<T: Real>(edits: &[Edit], id: u32, z: T) -> (T, T) {
    let (mut value, mut slope) = (z, T::ONE);
    for edit in edits {
        let named = edit.latents().contains(&(id as usize));
        match edit {
            Edit::Zero(_) if named => (value, slope) = (T::ZERO, T::ZERO),
            Edit::Keep(_) if !named => (value, slope) = (T::ZERO, T::ZERO),
            Edit::Scale(_, factor) if named => {
                value *= T::of(*factor);
                slope *= T::of(*factor);
            }
            Edit::Set(_, to) if named => (value, slope) = (T::of(*to), T::ZERO),
            Edit::Add(_, delta) if named => value += T::of(*delta),
            _ => {}
        }
    }
    (value, slope)
}
