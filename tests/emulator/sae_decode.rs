//! Splices, latent scores and their reverse against the CPU backend in f64, on the same code.

use half::{bf16, f16};
use vitscope::{
    backend::{
        Backend, Memory,
        gpu::{emulator::Emulator, sae, sae_decode},
    },
    model::{Splice, Through},
    weights::{InputNorm, SaeActivation},
};

use crate::{
    checked,
    numbers::{Storage, assert_close, f32_steps, random},
    run,
    sae::{Case, OnDevice, Truth, X, case, edits, norms},
};

fn largest(values: impl IntoIterator<Item = f64>) -> f64 {
    values.into_iter().fold(0.0, |most, v| most.max(v.abs()))
}

/// The least divisor and the largest scale of a case's rows.
fn scales<T: Storage>(case: &Case<T>) -> (f64, f64) {
    let d = case.weights.width as f64;
    let of_row = |row: &[T]| {
        let mean = row.iter().map(|x| x.wide()).sum::<f64>() / d;
        match case.weights.norm {
            InputNorm::None => 1.0,
            InputNorm::Fixed { scale, .. } => scale.into(),
            InputNorm::LayerNorm { .. } => {
                (row.iter().map(|x| (x.wide() - mean).powi(2)).sum::<f64>() / (d - 1.0)).sqrt()
            }
            InputNorm::UnitNorm => (row.iter().map(|x| x.wide().powi(2)).sum::<f64>() / d).sqrt(),
        }
    };
    let rows: Vec<f64> = case.x.chunks(case.weights.width).map(of_row).collect();
    (rows.iter().copied().fold(f64::INFINITY, f64::min), largest(rows))
}

fn check<T: Storage>(emulator: &Emulator, rung: u32, case: &Case<T>) {
    let (n, d, s) = (case.n, case.weights.width, case.weights.latents);
    let g = 2 * n;
    let slots = X.sae_slots(&X.sae(&case.weights).unwrap(), &case.edits);
    let specs = [("y", n * d), ("dx", g * d), ("dz", g * slots), ("dy", g * d), ("score", 1), ("dlatent", n * d)];
    let mut truth = Truth::new(case, &specs);
    let [y, dx, dz, dy, score, dlatent] = specs.map(|(name, len)| truth.m.tensor(name, &[len]).unwrap());
    let values_dy: Vec<T> = random(g * d, 1.0, 0.0, 20);
    truth.m.upload(dy, &values_dy.iter().map(|v| v.wide()).collect::<Vec<_>>()).unwrap();

    // Both sides read the same code: the CPU's, rounded to f32.
    let values = truth.values();
    let code = truth.code;
    let rounded = values.slots.each_ref().map(|slots| slots.iter().map(|&v| v as f32).collect::<Vec<_>>());
    for (tensor, values) in [code.z, code.edited, code.slope, code.edit_slope].into_iter().zip(&rounded) {
        truth.m.upload(tensor, &values.iter().map(|&v| v.into()).collect::<Vec<_>>()).unwrap();
    }
    let device = OnDevice::new(emulator, case);
    let index = emulator.upload(&truth.m.download_indices(code.index).unwrap()).unwrap();
    let buffers = rounded.each_ref().map(|values| emulator.upload(values).unwrap());
    let [z, edited, slope, edit_slope] = buffers.each_ref().map(|buffer| buffer.address());
    let on_device = sae::Code { index: index.address(), z, edited, slope, edit_slope, slots };
    let dev_dy = emulator.upload(&values_dy).unwrap();

    // Magnitudes, for the bounds.
    let used = |which: usize| {
        let rows = values.index.iter().enumerate();
        largest(rows.flat_map(|(row, latents)| values.slots[which][row * slots..][..latents.len()].to_vec()))
    };
    let count = largest(values.index.iter().map(|latents| latents.len() as f64));
    let (least, most) = scales(case);
    let norms = case.weights.decoder_norms();
    let r = match case.weights.rescale_by_decoder_norm {
        true => norms.iter().fold(f64::INFINITY, |least, &r| least.min(r.into())),
        false => 1.0,
    };
    let weight = largest(case.weights.decoder.iter().chain(&case.weights.encoder).map(|&w| w.into()));
    let x = largest(case.x.iter().map(|x| x.wide())) + 2.0;
    let steps = f32_steps(4 * d + 2 * slots + 64);
    let width = d as f64;
    let y_size = ((used(0) + used(1)) * count * weight / r + 1.0) * most + x;
    let dz_size = width * weight / r * most;
    let du = (used(3) + 1.0) * used(2) * dz_size * count * weight;
    let dscale = (used(0) + used(1)) * dz_size * count + width * most;
    let dx_of = |du: f64, dscale: f64| {
        du / least * (2.0 + 2.0 * x * x / (least * least)) + 2.0 * dscale * x / (width * least * least) + 1.0
    };

    for splice in [Splice::Replace, Splice::KeepError] {
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
        assert_close(&what, &dev_y.download().unwrap(), &truth.m.download(y).unwrap(), |_| steps * y_size);

        for through in [Through::Exact, Through::Detached, Through::Straight] {
            let what = format!("{what} {through}");
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
            assert_close(&what, &dev_dz.download().unwrap(), &m.download(dz).unwrap(), |_| steps * dz_size);
            assert_close(&what, &dev_dx.download().unwrap(), &m.download(dx).unwrap(), |_| steps * dx_of(du, dscale));
        }
    }

    // A latent that fires somewhere, and one that need not.
    for id in [values.index.iter().flatten().next().map_or(0, |&id| id as usize), s - 1] {
        let what = format!("latent {id} of {s}, {:?}", case.weights.norm);
        X.sae_latent(&mut truth.m, score, code, id, 1, n).unwrap();
        X.sae_latent_reverse(&mut truth.m, dlatent, truth.x, code, &truth.sae, id, n).unwrap();
        let (dev_score, dev_dx) = (emulator.unwritten::<f32>(1).unwrap(), emulator.unwritten::<T>(n * d).unwrap());
        let pass = sae_decode::Latent { score: dev_score.address(), code: on_device, id, batch: 1, tokens: n };
        run(emulator, &pass, rung, T::STORAGE).unwrap();
        assert_close(&what, &dev_score.download().unwrap(), &truth.m.download(score).unwrap(), |_| {
            f32_steps(n) * n as f64 * used(0)
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
        let size = dx_of(used(2) * weight, 0.0);
        assert_close(&what, &dev_dx.download().unwrap(), &truth.m.download(dlatent).unwrap(), |_| steps * size);
    }
}

fn every_norm<T: Storage>(emulator: &Emulator, rung: u32, (n, d, s): (usize, usize, usize)) {
    for (norm, rescale) in norms(d).into_iter().zip([true, false, true, false]) {
        let mut case = case::<T>((n, d, s), SaeActivation::TopK { k: s / 2, relu: false }, norm, rescale, false);
        check(emulator, rung, &case);
        case.edits = edits(&["scale:0,1=-1.5", "add:2,5=0.75", "set:3=1.25", "zero:4"]);
        case.mask = vec![true, true, false];
        check(emulator, rung, &case);
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

#[test]
fn rung_1_is_the_cpus() {
    check_rung(1, [(3, 6, 10), (7, 5, 12), (4, 8, 36)]);
}

#[test]
fn rung_2_is_the_cpus() {
    // Less than a warp, more latents than threads, several warps with one that is not full.
    check_rung(2, [(3, 16, 10), (4, 8, 76), (2, 328, 20)]);
}
