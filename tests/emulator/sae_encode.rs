//! The SAE's code against the CPU backend in f64: every activation, norm and edit; ties, signs, NaN and infinities.

use half::{bf16, f16};
use vitscope::{
    backend::gpu::{
        emulator::Emulator,
        launch::{Ladder, Target},
        sae, sae_encode,
    },
    weights::{InputNorm, SaeActivation},
};

use crate::{
    checked,
    numbers::{Storage, f32_steps},
    orders, run,
    sae::{Case, OnDevice, Truth, activations, case, edits, norms},
};

/// What z may be off by: a norm and a product of D terms in f32, of inputs up to `U` and weights up to 1, and what
/// follows it: the decoder's row norm up to sqrt(D), an edit.
fn slack<T: Storage>(case: &Case<T>) -> f64 {
    let d = case.weights.width as f64;
    let most_u = match case.weights.norm {
        InputNorm::None => 3.0,
        InputNorm::Fixed { .. } => 10.0,
        InputNorm::LayerNorm { .. } | InputNorm::UnitNorm => d.sqrt(),
    };
    f32_steps(4 * case.weights.width + 32) * ((most_u + 1.0) * d + 1.0) * d.sqrt() * 2.0
}

/// Requires the CPU's latents in the CPU's order, and values within `slack`.
fn check<T: Storage>(emulator: &Emulator, rung: u32, case: &Case<T>, pre_rows: usize, slack: f64) {
    let (n, s) = (case.n, case.weights.latents);
    let what = format!("rung {rung} {} {n} x {s} {:?} {:?}", T::NAME, case.weights.activation, case.weights.norm);
    let mut truth = Truth::new(case, &[]);
    let (exact, slots) = (truth.values(), truth.code.slots);
    let device = OnDevice::new(emulator, case);
    assert_eq!(device.sae.rule.slots(&case.edits), slots, "{what}");
    let values = [(); 4].map(|()| emulator.unwritten::<f32>(n * slots).unwrap());
    let index = emulator.unwritten::<u32>(n * (slots + 1)).unwrap();
    let pre = emulator.unwritten::<f32>(pre_rows * s).unwrap();
    let [z, edited, slope, edit_slope] = values.each_ref().map(|buffer| buffer.address());
    let pass = sae_encode::Forward {
        code: sae::Code { index: index.address(), z, edited, slope, edit_slope, slots },
        pre: pre.address(),
        pre_rows,
        x: device.x.address(),
        sae: device.sae,
        edits: device.edits,
        mask: device.mask,
        n,
    };
    run(emulator, &pass, rung, T::STORAGE).unwrap();
    let ours = index.download().unwrap();
    let ours: Vec<_> = ours.chunks(slots + 1).map(|row| &row[1..][..row[0] as usize]).collect();
    assert_eq!(ours, exact.index, "{what}");
    for (name, (ours, exact)) in ["z", "edited", "slope", "edit_slope"].iter().zip(values.iter().zip(&exact.slots)) {
        let values = ours.download().unwrap();
        for (row, latents) in truth.values().index.iter().enumerate() {
            for at in row * slots..row * slots + latents.len() {
                let (ours, exact) = (f64::from(values[at]), exact[at]);
                // Slopes are a row norm or an exp, rounded to f32.
                let close = (ours - exact).abs() <= slack + exact.abs() * f32::UNIT * 4.0 * f64::from(slack > 0.0);
                assert!(ours == exact || close, "{what} {name} row {row}: {ours} for {exact}");
            }
        }
    }
}

/// Whole numbers: f32 makes no error, so latents, order and values are the CPU's, however many are equal.
fn exact<T: Storage>(emulator: &Emulator, rung: u32, d: usize, s: usize) {
    for activation in activations(s) {
        for norm in &norms(d)[..2] {
            let mut case = case::<T>((5, d, s), activation.clone(), norm.clone(), true, true);
            check(emulator, rung, &case, 5, 0.0);
            case.edits = edits(&["scale:0,1=-1.5", "add:2,5=0.75", "set:3=1.25", "zero:4", "keep:0,2,3,4,5,6"]);
            case.mask = vec![true, false, true];
            check(emulator, rung, &case, 2, 0.0);
        }
    }
}

/// Whole numbers, of which many are equal: every k, over latents that fill no tile and rows with what is no number.
fn every_top_k<T: Storage>(emulator: &Emulator, rung: u32, s: usize) {
    for k in [1, 31, 32, 64, 256] {
        let pre_rows = if rung == 3 { room(6, k, s) } else { 3 };
        for relu in [true, false] {
            let mut case = case::<T>((3, 8, s), SaeActivation::TopK { k, relu }, InputNorm::None, false, true);
            case.x[8 + 1] = T::of(f64::NAN);
            case.edits = edits(&["set:7,11=2"]);
            // One row where nothing is positive but for the infinity, one where all is equal but for these four.
            for (latent, bias) in [(1, f32::NAN), (2, f32::INFINITY), (s - 1, f32::INFINITY), (5, f32::NEG_INFINITY)] {
                case.weights.encoder_bias[latent] = bias;
            }
            check(emulator, rung, &case, pre_rows, 0.0);
            case.weights.encoder.fill(0.0);
            case.weights.encoder_bias.iter_mut().for_each(|bias| *bias = if bias.is_finite() { -1.0 } else { *bias });
            check(emulator, rung, &case, pre_rows, 0.0);
            case.weights.encoder_bias.iter_mut().for_each(|bias| *bias = if *bias == -1.0 { 0.0 } else { *bias });
            check(emulator, rung, &case, pre_rows, 0.0);
        }
    }
}

/// Token norms: the values are within the bound, and no two latents lie so near that their order is in doubt.
fn close<T: Storage>(emulator: &Emulator, rung: u32, d: usize, s: usize) {
    for activation in activations(s) {
        for (norm, rescale) in norms(d).into_iter().zip([false, true, true, false]) {
            let mut case = case::<T>((3, d, s), activation.clone(), norm, rescale, false);
            case.edits = edits(&["scale:1=2", "add:2=0.5"]);
            check(emulator, rung, &case, 3, slack(&case));
        }
    }
}

fn all<T: Storage>(emulator: &Emulator, rung: u32, (d, s): (usize, usize)) {
    exact::<T>(emulator, rung, d, s);
    close::<T>(emulator, rung, d, s);
}

/// One shape in every order, the others in one.
fn check_rung(rung: u32, shapes: [(usize, usize); 3]) {
    for (emulator, shape) in checked().zip(shapes) {
        all::<f32>(&emulator, rung, shape);
        all::<f16>(&emulator, rung, shape);
        all::<bf16>(&emulator, rung, shapes[0]);
    }
}

/// Every kernel over a small shape.
pub fn every_kernel(emulator: &Emulator) {
    fn of_rung<T: Storage>(emulator: &Emulator, rung: u32, activations: Vec<SaeActivation>) {
        for activation in activations {
            let case = case::<T>((3, 8, 24), activation, InputNorm::LayerNorm { eps: 1e-5 }, true, false);
            check(emulator, rung, &case, if rung == 3 { room(3, 4, 24) } else { 3 }, slack(&case));
        }
    }
    for rung in 1..=2 {
        of_rung::<f32>(emulator, rung, activations(24));
        of_rung::<f16>(emulator, rung, activations(24));
        of_rung::<bf16>(emulator, rung, activations(24));
    }
    of_rung::<f16>(emulator, 3, vec![SaeActivation::TopK { k: 4, relu: true }]);
    of_rung::<bf16>(emulator, 3, vec![SaeActivation::TopK { k: 4, relu: false }]);
}

/// Rows past a tile of them, with a mask as long as the sequence.
#[test]
fn every_rung_codes_the_sequences_of_real_models() {
    fn of_rung<T: Storage>(emulator: &Emulator, rung: u32, tokens: usize, k: usize) {
        let activation = SaeActivation::TopK { k, relu: true };
        let mut case = case::<T>((tokens, 8, 24), activation, InputNorm::None, true, true);
        case.mask = (0..tokens).map(|token| token % 3 != 1).collect();
        // In pieces, the last of which is shorter.
        let most = tokens.div_ceil(2);
        check(emulator, rung, &case, if rung == 3 { room(most.max(128), k, 24) } else { most }, 0.0);
    }
    for (emulator, tokens) in checked().chain(checked()).zip([1, 17, 50, 197, 257, 577]) {
        for rung in 1..=sae_encode::Forward::TOP {
            of_rung::<f16>(&emulator, rung, tokens, 4);
            of_rung::<bf16>(&emulator, rung, tokens, 4);
            if rung < 3 {
                of_rung::<f32>(&emulator, rung, tokens, 4);
            }
        }
    }
}

#[test]
fn rung_1_is_the_cpus_code() {
    check_rung(1, [(6, 10), (8, 14), (5, 38)]);
}

#[test]
fn rung_1_selects_every_k() {
    let [in_order, one, other] = &orders();
    every_top_k::<f32>(in_order, 1, 300);
    every_top_k::<f16>(one, 1, 300);
    every_top_k::<bf16>(other, 1, 300);
}

#[test]
fn rung_2_is_the_cpus_code() {
    // Latents within a tile and past one, a width past a stage.
    check_rung(2, [(8, 24), (40, 136), (16, 40)]);
}

#[test]
fn rung_2_selects_every_k() {
    let [in_order, one, other] = &orders();
    every_top_k::<f32>(in_order, 2, 300);
    every_top_k::<f16>(one, 2, 304);
    every_top_k::<bf16>(other, 2, 1160);
}

#[test]
fn rung_2_narrows_until_few_candidates_are_left() {
    for emulator in checked().take(2) {
        // Whole numbers in 2500 latents: far more than the candidates that fit share one value.
        for k in [1, 64, 1000] {
            let activation = SaeActivation::TopK { k, relu: false };
            let mut case = case::<bf16>((1, 8, 2500), activation, InputNorm::None, false, true);
            check(&emulator, 2, &case, 1, 0.0);
            case.weights.encoder.fill(0.0);
            case.weights.encoder_bias.fill(-1.0);
            check(&emulator, 2, &case, 1, 0.0);
        }
    }
}

/// Rows of `pre` in which rung 3 has so many lists of so many latents.
fn room(lists: usize, k: usize, s: usize) -> usize {
    (lists * (((2 * k).clamp(64, 384) + 128) * 8 + 4)).div_ceil(4 * s)
}

#[test]
fn rung_3_selects_every_k() {
    let [_, one, other] = &orders();
    every_top_k::<f16>(one, 3, 1160);
    every_top_k::<bf16>(other, 3, 392);
}

#[test]
fn rung_3_shortens_its_lists_under_edits_masks_and_norms() {
    for (emulator, relu) in checked().zip([true, false, true]) {
        // Two shares of 5 tiles, of which lists overflow; the last tile is not whole.
        for k in [1, 31, 32, 64, 256] {
            let s = 1160;
            let norm = InputNorm::Fixed { mean: None, scale: 2.0 };
            let mut case = case::<bf16>((3, 8, s), SaeActivation::TopK { k, relu }, norm, true, true);
            case.edits = edits(&["set:7,11=2"]);
            case.mask = vec![true, true, false];
            for (latent, bias) in [(1, f32::NAN), (2, f32::INFINITY), (s - 1, f32::INFINITY), (5, f32::NEG_INFINITY)] {
                case.weights.encoder_bias[latent] = bias;
            }
            check(&emulator, 3, &case, room(6, k, s), 0.0);
        }
    }
}

#[test]
fn rung_3_drops_nothing_when_all_is_equal_or_ascends() {
    let emulator = checked().nth(1).unwrap();
    for k in [1, 64, 256] {
        let activation = SaeActivation::TopK { k, relu: false };
        let mut case = case::<f16>((2, 8, 1024), activation, InputNorm::None, false, true);
        case.weights.encoder.fill(0.0);
        for biases in [|_| -1.0, |i| i as f32, |i| -(i as f32)] {
            case.weights.encoder_bias = (0..1024).map(biases).collect();
            check(&emulator, 3, &case, room(4, k, 1024), 0.0);
        }
    }
}

#[test]
fn rung_3_takes_rows_in_pieces_and_norms() {
    let emulator = checked().next().unwrap();
    let activation = SaeActivation::TopK { k: 3, relu: true };
    // Room for 128 of 130 rows; a width past a stage.
    let case = case::<bf16>((130, 40, 264), activation, InputNorm::LayerNorm { eps: 1e-5 }, true, false);
    check(&emulator, 3, &case, room(129, 3, 264), slack(&case));
}

#[test]
fn a_rung_that_is_not_there_serves_nothing() {
    let emulator = checked().next().unwrap();
    let case = case::<f32>((1, 6, 10), SaeActivation::Relu, InputNorm::None, false, true);
    let device = OnDevice::new(&emulator, &case);
    let code = sae::Code { index: 0, z: 0, edited: 0, slope: 0, edit_slope: 0, slots: 10 };
    let pass = sae_encode::Forward {
        code,
        pre: 0,
        pre_rows: 1,
        x: 0,
        sae: device.sae,
        edits: device.edits,
        mask: device.mask,
        n: 3,
    };
    let target = Target { storage: f32::STORAGE, architecture: 80 };
    // Two launches for each row, as `pre` holds one at a time.
    assert_eq!(pass.launches(1, target).unwrap().len(), 6);
    assert!(pass.launches(sae_encode::Forward::TOP + 1, target).is_none());
    // Latents that are no multiple of 4, and nothing for tensor cores.
    assert!(pass.launches(2, target).is_none());
    assert!(pass.launches(3, target).is_none());
}
