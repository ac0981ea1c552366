//! Splices, latent scores and their reverse against the CPU backend in f64, on the same code.

use half::{bf16, f16};
use vitscope::{
    backend::{
        Arena, Backend, Memory,
        gpu::{emulator::Emulator, launch::Ladder, sae, sae_decode},
    },
    model::{Splice, Through},
    weights::{InputNorm, SaeActivation},
};

use crate::{
    checked,
    numbers::{Storage, assert_close, f32_steps, random},
    orders, run,
    sae::{Case, OnDevice, Truth, Values, X, case, edits, norms},
};

/// What a row's results are sums of: the same formulas over absolute values. A sum in f32 is off by no more than this
/// times the bound for its number of steps, whatever cancels.
struct Magnitudes<'a, T> {
    case: &'a Case<T>,
    values: &'a Values,
    slots: usize,
    row_norms: Vec<f64>,
}

/// A row's norm.
struct Normed {
    shift: f64,
    scale: f64,
    divisor: f64,
}

impl<T: Storage> Magnitudes<'_, T> {
    fn normed(&self, x: &[T]) -> Normed {
        let d = x.len() as f64;
        let root = |shift: f64, d: f64| (x.iter().map(|x| (x.wide() - shift).powi(2)).sum::<f64>() / d).sqrt();
        match self.case.weights.norm {
            InputNorm::None => Normed { shift: 0.0, scale: 1.0, divisor: 1.0 },
            InputNorm::Fixed { scale, .. } => Normed { shift: 0.0, scale: scale.into(), divisor: scale.into() },
            InputNorm::LayerNorm { eps } => {
                let shift = x.iter().map(|x| x.wide()).sum::<f64>() / d;
                let std = root(shift, d - 1.0);
                Normed { shift, scale: std, divisor: std + eps }
            }
            InputNorm::UnitNorm => Normed { shift: 0.0, scale: root(0.0, d), divisor: root(0.0, d) },
        }
    }

    fn x(&self, n: usize) -> &[T] {
        &self.case.x[n * self.case.weights.width..][..self.case.weights.width]
    }

    /// A latent's row of the encoder or decoder, without signs.
    fn row<'b>(&self, matrix: &'b [f32], latent: u32) -> impl Iterator<Item = f64> + 'b {
        let d = self.case.weights.width;
        matrix[latent as usize * d..][..d].iter().map(|w| f64::from(w.abs()))
    }

    /// The slots of a row: the latent, and what `of` makes of z, edited, slope and edit_slope there, without its sign.
    fn each(&self, n: usize, of: impl Fn([f64; 4]) -> f64) -> Vec<(u32, f64)> {
        let at = |slot: usize| self.values.slots.each_ref().map(|values| values[n * self.slots + slot]);
        self.values.index[n].iter().enumerate().map(|(slot, &latent)| (latent, of(at(slot)).abs())).collect()
    }

    /// y (D) of row `n`.
    fn y(&self, n: usize) -> Vec<f64> {
        let Normed { shift, scale, .. } = self.normed(self.x(n));
        let bias = self.case.weights.decoder_bias.iter();
        // A mean of the norm is 2 at most.
        let mut y: Vec<f64> = bias.map(|b| f64::from(b.abs()) * scale + 2.0 + shift.abs()).collect();
        y.iter_mut().zip(self.x(n)).for_each(|(y, x)| *y += x.wide().abs());
        for (latent, value) in self.each(n, |[z, edited, ..]| z.abs() + edited.abs()) {
            let weight = value / self.row_norms[latent as usize] * scale;
            y.iter_mut().zip(self.row(&self.case.weights.decoder, latent)).for_each(|(y, w)| *y += weight * w);
        }
        y
    }

    /// dz of row `n`'s slots for the gradient `dy` (D).
    fn dz(&self, n: usize, dy: &[T]) -> Vec<f64> {
        let scale = self.normed(self.x(n)).scale;
        let dot = |latent| {
            self.row(&self.case.weights.decoder, latent).zip(dy).map(|(w, dy)| w * dy.wide().abs()).sum::<f64>()
        };
        self.values.index[n].iter().map(|&latent| dot(latent) / self.row_norms[latent as usize] * scale).collect()
    }

    /// dx (D) of row `n` through the norm's reverse, for du = sum of weight times encoder row, and dscale.
    fn through_norm(&self, n: usize, weights: &[(u32, f64)], dscale: f64) -> Vec<f64> {
        let (x, d) = (self.x(n), self.case.weights.width as f64);
        let Normed { shift, scale, divisor } = self.normed(x);
        let mut du = vec![0.0; x.len()];
        for &(latent, weight) in weights {
            du.iter_mut().zip(self.row(&self.case.weights.encoder, latent)).for_each(|(du, w)| *du += weight * w);
        }
        let from_shift: Vec<f64> = x.iter().map(|x| x.wide().abs() + shift.abs()).collect();
        let along: f64 = du.iter().zip(&from_shift).map(|(du, x)| du * x).sum();
        let (mean, pull) = match self.case.weights.norm {
            InputNorm::None | InputNorm::Fixed { .. } => (0.0, 0.0),
            InputNorm::LayerNorm { .. } => {
                (du.iter().sum::<f64>() / d, (dscale / scale + along / divisor.powi(2)) / ((d - 1.0) * scale))
            }
            InputNorm::UnitNorm => (0.0, (dscale + along / scale) / (scale.powi(2) * d)),
        };
        du.iter().zip(&from_shift).map(|(du, x)| (du + mean) / divisor + pull * x).collect()
    }

    /// dx (D) of row `n` for the gradient `dy` (D).
    fn dx(&self, n: usize, dy: &[T], has_error: bool) -> Vec<f64> {
        let dz = self.dz(n, dy);
        let own = f64::from(has_error);
        let weights: Vec<(u32, f64)> = self.each(n, |[.., slope, edit_slope]| (edit_slope.abs() + own) * slope);
        let weights: Vec<(u32, f64)> = weights.iter().zip(&dz).map(|(&(latent, w), dz)| (latent, w * dz)).collect();
        let values = self.each(n, |[z, edited, ..]| edited.abs() + own * z.abs());
        let total: f64 = dy.iter().map(|dy| dy.wide().abs()).sum();
        // No entry of the decoder's bias exceeds 1.
        let dscale = values.iter().zip(&dz).map(|((_, value), dz)| value * dz).sum::<f64>()
            + total * self.normed(self.x(n)).scale;
        let width = dy.len() as f64;
        let mut dx = self.through_norm(n, &weights, dscale);
        dx.iter_mut().zip(dy).for_each(|(dx, dy)| *dx += dy.wide().abs() + total / width);
        dx
    }
}

const SPLICES: [Splice; 2] = [Splice::Replace, Splice::KeepError];

fn check<T: Storage>(emulator: &Emulator, rung: u32, case: &Case<T>, splices: &[Splice]) {
    let (n, d, s) = (case.n, case.weights.width, case.weights.latents);
    let g = 2 * n;
    // Three images where the rows are of three.
    let batch = if n % 3 == 0 { 3 } else { 1 };
    let tokens = n / batch;
    let slots = X.sae_slots(&X.sae(&case.weights).unwrap(), &case.edits);
    let specs = [("y", n * d), ("dx", g * d), ("dz", g * slots), ("dy", g * d), ("score", batch), ("dlatent", n * d)];
    let mut truth = Truth::new(case, &specs);
    let [y, dx, dz, dy, score, dlatent] = specs.map(|(name, len)| truth.m.tensor(name, &[len]).unwrap());
    let values_dy: Vec<T> = random(g * d, 1.0, 0.0, 20);
    truth.m.constant(dy, &values_dy.iter().map(|v| v.wide()).collect::<Vec<_>>()).unwrap();

    // Both sides read the same code: the CPU's, rounded to f32.
    let values = truth.values();
    let code = truth.code;
    let rounded = values.slots.each_ref().map(|slots| slots.iter().map(|&v| v as f32).collect::<Vec<_>>());
    for (tensor, values) in [code.z, code.edited, code.slope, code.edit_slope].into_iter().zip(&rounded) {
        truth.m.constant(tensor, &values.iter().map(|&v| v.into()).collect::<Vec<_>>()).unwrap();
    }
    let device = OnDevice::new(emulator, case);
    let index = emulator.upload(&truth.m.read_indices(code.index).unwrap()).unwrap();
    let buffers = rounded.each_ref().map(|values| emulator.upload(values).unwrap());
    let [z, edited, slope, edit_slope] = buffers.each_ref().map(|buffer| buffer.address());
    let on_device = sae::Code { index: index.address(), z, edited, slope, edit_slope, slots };
    let dev_dy = emulator.upload(&values_dy).unwrap();

    let row_norms = match case.weights.rescale_by_decoder_norm {
        true => case.weights.decoder_norms().into_iter().map(f64::from).collect(),
        false => vec![1.0; s],
    };
    let sizes = Magnitudes { case, values: &values, slots, row_norms };
    // A value goes through a product of D terms, a sum over slots, and sums over D of the norm and its reverse.
    let steps = f32_steps(4 * d + 2 * slots + 64);
    let y_sizes: Vec<f64> = (0..n).flat_map(|n| sizes.y(n)).collect();
    let rows = || values_dy.chunks(d).enumerate().map(|(row, dy)| (row % n, dy));
    let mut dz_sizes = vec![0.0; g * slots];
    for ((row, dy), to) in rows().zip(dz_sizes.chunks_mut(slots)) {
        to.iter_mut().zip(sizes.dz(row, dy)).for_each(|(to, size)| *to = size);
    }

    for &splice in splices {
        let what = format!("{n} x {d} of {s}, {:?} {splice}", case.weights.norm);
        X.sae_splice(&mut truth.m, y, truth.x, code, &truth.sae, splice, &case.mask, n).unwrap();
        let dev_y = emulator.unwritten::<T>(n * d).unwrap();
        let pass = sae_decode::Forward {
            y: dev_y.address(),
            x: device.x.address(),
            code: on_device,
            sae: device.sae,
            splice,
            mask: device.mask,
            n,
        };
        run(emulator, &pass, rung, T::STORAGE).unwrap();
        assert_close(&what, &dev_y.download().unwrap(), &truth.m.read(y).unwrap(), |i| steps * y_sizes[i]);

        for through in [Through::Exact, Through::Detached, Through::Straight] {
            let what = format!("{what} {through}");
            let has_error = splice == Splice::KeepError && through == Through::Exact;
            let dx_sizes: Vec<f64> = rows().flat_map(|(row, dy)| sizes.dx(row, dy, has_error)).collect();
            let Truth { m, sae, x, .. } = &mut truth;
            X.sae_splice_reverse(m, dx, dz, dy, *x, code, sae, splice, through, &case.mask, n, g).unwrap();
            let (dev_dx, dev_dz) =
                (emulator.unwritten::<T>(g * d).unwrap(), emulator.unwritten::<f32>(g * slots).unwrap());
            let pass = sae_decode::Reverse {
                dx: dev_dx.address(),
                dz: dev_dz.address(),
                dy: dev_dy.address(),
                x: device.x.address(),
                code: on_device,
                sae: device.sae,
                splice,
                through,
                mask: device.mask,
                n,
                g,
            };
            run(emulator, &pass, rung, T::STORAGE).unwrap();
            assert_close(&what, &dev_dz.download().unwrap(), &m.read(dz).unwrap(), |i| steps * dz_sizes[i]);
            assert_close(&what, &dev_dx.download().unwrap(), &m.read(dx).unwrap(), |i| steps * dx_sizes[i]);
        }
    }

    // A latent that fires somewhere, and one that need not.
    for id in [values.index.iter().flatten().next().map_or(0, |&id| id as usize), s - 1] {
        let what = format!("latent {id} of {s}, {:?}", case.weights.norm);
        X.sae_latent(&mut truth.m, score, code, id, batch, tokens).unwrap();
        X.sae_latent_reverse(&mut truth.m, dlatent, truth.x, code, &truth.sae, id, n).unwrap();
        let (dev_score, dev_dx) = (emulator.unwritten::<f32>(batch).unwrap(), emulator.unwritten::<T>(n * d).unwrap());
        let pass = sae_decode::Latent { score: dev_score.address(), code: on_device, id, batch, tokens };
        run(emulator, &pass, rung, T::STORAGE).unwrap();
        assert_close(&what, &dev_score.download().unwrap(), &truth.m.read(score).unwrap(), |image| {
            f32_steps(tokens)
                * (image * tokens..(image + 1) * tokens)
                    .flat_map(|row| sizes.each(row, |[z, ..]| z))
                    .map(|(_, z)| z)
                    .sum::<f64>()
        });
        let pass = sae_decode::LatentReverse {
            dx: dev_dx.address(),
            x: device.x.address(),
            code: on_device,
            sae: device.sae,
            id,
            n,
        };
        run(emulator, &pass, rung, T::STORAGE).unwrap();
        let slope_of = |row: usize| {
            let slopes = sizes.each(row, |[.., slope, _]| slope).into_iter();
            slopes.filter(|&(latent, _)| latent as usize == id).collect::<Vec<_>>()
        };
        let dx_sizes: Vec<f64> = (0..n).flat_map(|row| sizes.through_norm(row, &slope_of(row), 0.0)).collect();
        assert_close(&what, &dev_dx.download().unwrap(), &truth.m.read(dlatent).unwrap(), |i| steps * dx_sizes[i]);
    }
}

fn every_norm<T: Storage>(emulator: &Emulator, rung: u32, (n, d, s): (usize, usize, usize)) {
    for (norm, rescale) in norms(d).into_iter().zip([true, false, true, false]) {
        let mut case = case::<T>((n, d, s), SaeActivation::TopK { k: s / 2, relu: false }, norm, rescale, false);
        check(emulator, rung, &case, &SPLICES);
        case.edits = edits(&["scale:0,1=-1.5", "add:2,5=0.75", "set:3=1.25", "zero:4"]);
        case.mask = vec![true, true, false];
        check(emulator, rung, &case, &SPLICES);
    }
}

/// One shape in every order, the others in one.
fn check_rung(rung: u32, shapes: [(usize, usize, usize); 3]) {
    for (emulator, shape) in checked().zip(shapes) {
        every_norm::<f32>(&emulator, rung, shape);
        every_norm::<f16>(&emulator, rung, shape);
        every_norm::<bf16>(&emulator, rung, shapes[0]);
    }
}

/// `n` rows of `k` latents of `s`, a width of 16.
fn keep_error<T: Storage>(emulator: &Emulator, rung: u32, n: usize, k: usize, s: usize) {
    let activation = SaeActivation::TopK { k, relu: false };
    let case = case::<T>((n, 16, s), activation, InputNorm::LayerNorm { eps: 1e-5 }, true, false);
    check(emulator, rung, &case, &[Splice::KeepError]);
}

/// Every kernel over a small shape.
pub fn every_kernel(emulator: &Emulator) {
    for rung in 1..=sae_decode::Forward::TOP {
        keep_error::<f32>(emulator, rung, 3, 4, 10);
        keep_error::<f16>(emulator, rung, 3, 4, 10);
        keep_error::<bf16>(emulator, rung, 3, 4, 10);
    }
}

#[test]
fn every_rung_sums_every_k() {
    let [_, one, other] = &orders();
    for rung in 1..=sae_decode::Forward::TOP {
        for k in [1, 31, 32, 64, 256] {
            keep_error::<f32>(one, rung, 3, k, 260);
            keep_error::<f16>(one, rung, 3, k, 260);
            keep_error::<bf16>(other, rung, 3, k, 260);
        }
    }
}

#[test]
fn every_rung_splices_the_sequences_of_real_models() {
    for (emulator, tokens) in checked().chain(checked()).zip([1, 3 * 17, 50, 197, 257, 577]) {
        for rung in 1..=sae_decode::Forward::TOP {
            keep_error::<f32>(&emulator, rung, tokens, 3, 10);
            keep_error::<f16>(&emulator, rung, tokens, 3, 10);
            keep_error::<bf16>(&emulator, rung, tokens, 3, 10);
        }
    }
}

#[test]
fn rung_1_is_the_cpus() {
    check_rung(1, [(3, 6, 10), (7, 5, 12), (4, 8, 36)]);
}

#[test]
fn rung_2_is_the_cpus() {
    // Less than a warp, more latents than threads, several warps with one that is not full.
    check_rung(2, [(3, 16, 10), (4, 8, 76), (2, 328, 20)]);
}
