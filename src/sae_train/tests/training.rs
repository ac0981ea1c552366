//! Whole trainings on small made-up streams.

use std::path::Path;

use super::super::{Algorithm, Center, Recipe, StepReport, Trainer};
use super::{algorithms, sparse_stream, unit_rows};
use crate::{Error, weights::SaeActivation};

const D: usize = 20;
const BATCH: usize = 64;

fn recipe(algorithm: Algorithm) -> Recipe {
    Recipe {
        latents: 48,
        algorithm,
        steps: 12,
        batch: BATCH,
        learning_rate: 3e-3,
        warm_up: 3,
        decay: 0.3,
        center: Center::GeometricMedian,
        dead_after: 2 * BATCH,
        seed: 5,
    }
}

fn stream(batches: usize) -> Vec<f32> {
    sparse_stream(&unit_rows(40, D, 1), D, batches * BATCH, 2)
}

fn run(trainer: &mut Trainer, x: &[f32]) -> Vec<StepReport> {
    x.chunks(BATCH * D).map(|x| trainer.step(x).unwrap()).collect()
}

/// All that a trainer is, as text: equal if and only if all bits are.
fn bits(trainer: &Trainer) -> String {
    format!("{:?}", trainer.state())
}

#[test]
fn a_loaded_training_goes_on_bit_by_bit() {
    let folder = tempfile::tempdir().unwrap();
    let x = stream(12);
    for algorithm in algorithms() {
        let recipe = recipe(algorithm);
        let mut whole = Trainer::new(&recipe, D, &x).unwrap();
        whole.parameters.encoder_bias[..8].fill(-3.0);
        let first = run(&mut whole, &x[..5 * BATCH * D]);
        let file = folder.path().join("state.safetensors");
        whole.save(&file).unwrap();
        let mut loaded = Trainer::load(&recipe, D, &file).unwrap();
        assert_eq!(bits(&loaded), bits(&whole));
        let (a, b) = (run(&mut whole, &x[5 * BATCH * D..]), run(&mut loaded, &x[5 * BATCH * D..]));
        assert_eq!((a.len(), whole.steps_done()), (7, 12));
        assert_eq!(a, b);
        assert_eq!(bits(&loaded), bits(&whole));
        assert!(a[6].fvu < first[0].fvu, "{recipe:?}: {first:?} {a:?}");
        // Dead latents, and what is done about them, were part of it.
        assert!(first.iter().any(|report| report.dead > 0), "{first:?}");
        assert_eq!(loaded.weights(), whole.weights());
        assert!(matches!(loaded.step(&x[..BATCH * D]), Err(Error::Usage(_))));
    }
}

#[test]
fn the_number_of_threads_changes_no_bit() {
    let x = stream(6);
    for algorithm in algorithms() {
        let on = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| {
                let mut trainer = Trainer::new(&recipe(algorithm.clone()), D, &x).unwrap();
                trainer.parameters.encoder_bias[..8].fill(-3.0);
                (run(&mut trainer, &x), bits(&trainer))
            })
        };
        assert!(on(1) == on(2), "{algorithm:?}");
    }
}

#[test]
fn decoder_rows_keep_length_1() {
    let x = stream(12);
    for algorithm in algorithms() {
        let mut trainer = Trainer::new(&recipe(algorithm), D, &x).unwrap();
        for x in x.chunks(BATCH * D) {
            trainer.step(x).unwrap();
            assert!(trainer.weights().decoder_norms().iter().all(|norm| (norm - 1.0).abs() < 1e-6));
        }
    }
}

/// The exported SAE, applied densely in f64 to a batch, explains what the next step reports for it.
#[test]
fn the_exported_sae_is_the_trained_one() {
    // Far from scale 1.
    let x: Vec<f32> = stream(12).iter().map(|v| 37.0 * v).collect();
    for algorithm in algorithms() {
        let mut trainer = Trainer::new(&recipe(algorithm), D, &x).unwrap();
        run(&mut trainer, &x[..11 * BATCH * D]);
        if let Algorithm::BatchTopK { .. } = trainer.recipe.algorithm {
            // As if the next batch were the first: its own smallest value, which then still passes.
            let mut other = Trainer::new(&trainer.recipe, D, &x).unwrap();
            run(&mut other, &x[..11 * BATCH * D]);
            other.threshold = None;
            other.step(&x[11 * BATCH * D..]).unwrap();
            trainer.threshold = other.threshold.map(|threshold| threshold * (1.0 - 1e-6));
        }
        let sae = trainer.weights();
        sae.validate().unwrap();
        let x = &x[11 * BATCH * D..];
        let report = trainer.step(x).unwrap();
        let wide = |v: &f32| f64::from(*v);
        let (mut errors, mut spread, mut active) = (0.0, 0.0, 0);
        let mean: Vec<f64> =
            (0..D).map(|j| x.iter().skip(j).step_by(D).map(wide).sum::<f64>() / BATCH as f64).collect();
        for x in x.chunks(D) {
            let mut y: Vec<f64> = sae.decoder_bias.iter().map(wide).collect();
            let p = sae.input_bias.as_ref().unwrap();
            let h: Vec<f64> = (0..sae.latents)
                .map(|i| {
                    let row = &sae.encoder[i * D..][..D];
                    let dot: f64 = row.iter().zip(x).zip(p).map(|((w, x), p)| wide(w) * (wide(x) - wide(p))).sum();
                    dot + wide(&sae.encoder_bias[i])
                })
                .collect();
            let mut order: Vec<usize> = (0..sae.latents).collect();
            order.sort_by(|&a, &b| h[b].total_cmp(&h[a]));
            for (rank, &i) in order.iter().enumerate() {
                let fires = h[i] > 0.0
                    && match &sae.activation {
                        SaeActivation::Relu => true,
                        SaeActivation::TopK { k, .. } => rank < *k,
                        SaeActivation::Threshold { theta } => h[i] > wide(theta),
                        SaeActivation::JumpRelu { theta } => h[i] > wide(&theta[i]),
                        other => panic!("{other:?}"),
                    };
                if fires {
                    active += 1;
                    y.iter_mut().zip(&sae.decoder[i * D..]).for_each(|(y, w)| *y += h[i] * wide(w));
                }
            }
            errors += x.iter().zip(&y).map(|(x, y)| (wide(x) - y).powi(2)).sum::<f64>();
            spread += x.iter().zip(&mean).map(|(x, m)| (wide(x) - m).powi(2)).sum::<f64>();
        }
        let (fvu, l0) = (errors / spread, active as f64 / BATCH as f64);
        assert!((fvu / report.fvu - 1.0).abs() < 1e-5, "{:?}: {fvu}, reported {}", sae.activation, report.fvu);
        assert!((l0 / report.l0 - 1.0).abs() < 1e-5, "{:?}: {l0}, reported {}", sae.activation, report.l0);
    }
}

/// 24 directions, three at a time: TopK finds them all.
#[test]
fn a_sparse_dictionary_is_recovered() {
    let (d, features, batch, steps) = (16, 24, 256, 600);
    let truth = unit_rows(features, d, 1);
    let x = sparse_stream(&truth, d, 40 * batch, 2);
    let recipe = Recipe {
        latents: 32,
        algorithm: Algorithm::TopK { k: 3, aux: 1.0 / 32.0, k_aux: 8 },
        steps,
        batch,
        learning_rate: 1e-2,
        dead_after: 20 * batch,
        ..recipe(Algorithm::TopK { k: 3, aux: 0.0, k_aux: 0 })
    };
    let mut trainer = Trainer::new(&recipe, d, &x).unwrap();
    let last = x.chunks(batch * d).cycle().take(steps).map(|x| trainer.step(x).unwrap()).last().unwrap();
    let decoder = trainer.weights().decoder;
    let cosine = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
    let found: Vec<f32> =
        truth.chunks(d).map(|truth| decoder.chunks(d).map(|row| cosine(truth, row)).fold(-1.0, f32::max)).collect();
    let mean = found.iter().sum::<f32>() / features as f32;
    println!("FVU {}, mean cosine {mean}, least {:?}", last.fvu, found.iter().copied().reduce(f32::min));
    assert!(last.fvu < 0.05 && mean > 0.98, "FVU {}, mean cosine {mean}: {found:?}", last.fvu);
}

/// A third of the latents start with a bias that keeps them out of every token's top 3.
#[test]
fn the_auxiliary_loss_revives_dead_latents() {
    let x = stream(10);
    let dead_in_the_end = |aux: f64| {
        let algorithm = Algorithm::TopK { k: 3, aux, k_aux: 8 };
        let recipe = Recipe { steps: 200, decay: 0.0, learning_rate: 1e-2, dead_after: 2 * BATCH, ..recipe(algorithm) };
        let mut trainer = Trainer::new(&recipe, D, &x).unwrap();
        trainer.parameters.encoder_bias[..16].fill(-2.0);
        let reports: Vec<StepReport> =
            x.chunks(BATCH * D).cycle().take(200).map(|x| trainer.step(x).unwrap()).collect();
        assert!(reports[3].dead >= 16, "{} dead at first", reports[3].dead);
        assert_eq!(reports.iter().any(|report| report.aux > 0.0), aux > 0.0);
        reports[199].dead
    };
    let (without, with) = (dead_in_the_end(0.0), dead_in_the_end(1.0 / 32.0));
    println!("dead: {without} without, {with} with");
    assert!(without >= 12 && with <= 3, "dead: {without} without the auxiliary loss, {with} with it");
}

#[test]
fn resampling_points_dead_latents_at_errors() {
    let x = stream(12);
    let recipe = recipe(Algorithm::Relu { l1: 0.01, warm_up: 0, resample_every: 6 });
    let mut trainer = Trainer::new(&recipe, D, &x).unwrap();
    trainer.parameters.encoder_bias[..10].fill(-100.0);
    let reports = run(&mut trainer, &x[..5 * BATCH * D]);
    assert!(reports[4].dead >= 10, "{reports:?}");
    let before = trainer.parameters.clone();
    let report = trainer.step(&x[5 * BATCH * D..6 * BATCH * D]).unwrap();
    assert_eq!(report.dead, reports[4].dead);
    let (p, norm) = (&trainer.parameters, |row: &[f32]| row.iter().map(|v| v * v).sum::<f32>().sqrt());
    for i in 0..10 {
        let row = i * D..(i + 1) * D;
        assert_ne!(p.decoder[row.clone()], before.decoder[row.clone()]);
        assert!((norm(&p.decoder[row.clone()]) - 1.0).abs() < 1e-6);
        let length = norm(&p.encoder[row.clone()]);
        assert!((0.1..0.4).contains(&length), "encoder row of length {length}");
        let ratios = p.encoder[row.clone()].iter().zip(&p.decoder[row.clone()]).map(|(e, d)| e - length * d);
        assert!(ratios.map(f32::abs).fold(0.0, f32::max) < 1e-6);
        assert!(
            p.encoder_bias[i] == 0.0
                && trainer.moments.iter().all(|m| m.decoder[row.clone()].iter().all(|v| *v == 0.0))
        );
    }
    let reports = run(&mut trainer, &x[6 * BATCH * D..8 * BATCH * D]);
    assert!(reports[1].dead < report.dead, "{} dead, {} before", reports[1].dead, report.dead);
}

#[test]
fn a_wrong_or_damaged_state_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("state.safetensors");
    let x = stream(1);
    let recipe = recipe(Algorithm::TopK { k: 3, aux: 0.5, k_aux: 4 });
    Trainer::new(&recipe, D, &x).unwrap().save(&file).unwrap();
    let refusal = |recipe: &Recipe, width: usize, file: &Path| {
        let error = Trainer::load(recipe, width, file).err().expect("was loaded");
        assert_eq!(error.exit_code(), 3);
        error.to_string()
    };
    let refused = |recipe: &Recipe, width: usize, file: &Path, why: &str| {
        let message = refusal(recipe, width, file);
        assert!(message.contains(why) && message.contains("safetensors"), "{message}");
    };
    let other_k = Recipe { algorithm: Algorithm::TopK { k: 4, aux: 0.5, k_aux: 4 }, ..recipe.clone() };
    refused(&other_k, D, &file, "algorithm.k was 3, now 4");
    refused(&Recipe { learning_rate: 1e-4, ..recipe.clone() }, D, &file, "learning_rate was 0.003, now 0.0001");
    refused(&recipe, D + 1, &file, "width 20, not 21");
    refused(&recipe, D, &folder.path().join("none.safetensors"), "no such file");

    let bytes = std::fs::read(&file).unwrap();
    let damaged = folder.path().join("damaged.safetensors");
    std::fs::write(&damaged, &bytes[..bytes.len() - 9]).unwrap();
    refused(&recipe, D, &damaged, "truncated");
    let mut flipped = bytes.clone();
    *flipped.last_mut().unwrap() ^= 1;
    std::fs::write(&damaged, &flipped).unwrap();
    refused(&recipe, D, &damaged, "damaged");
    crate::weights::write(&damaged, &[], &[]).unwrap();
    refused(&recipe, D, &damaged, "not the state of a training");
}

#[test]
fn what_cannot_be_trained_is_refused() {
    let x = stream(1);
    let good = recipe(Algorithm::TopK { k: 3, aux: 0.5, k_aux: 4 });
    let refused = |recipe: Recipe, x: &[f32], why: &str| {
        let message = Trainer::new(&recipe, D, x).err().expect("was accepted").to_string();
        assert!(message.contains(why), "{message}");
    };
    refused(Recipe { latents: 0, ..good.clone() }, &x, "latents is 0");
    refused(Recipe { latents: usize::MAX / 2, ..good.clone() }, &x, "too large");
    refused(Recipe { algorithm: Algorithm::TopK { k: 49, aux: 0.0, k_aux: 0 }, ..good.clone() }, &x, "k cannot be 49");
    refused(Recipe { learning_rate: f64::NAN, ..good.clone() }, &x, "learning rate cannot be NaN");
    let narrow = Algorithm::JumpRelu { l0: 1.0, target: None, bandwidth: 0.5, threshold_init: 0.1, resample_every: 0 };
    refused(Recipe { algorithm: narrow, ..good.clone() }, &x, "threshold");
    refused(good.clone(), &x[1..], "a sample of");
    refused(good.clone(), &[1.0; 3 * D], "deviation is 0");

    let mut trainer = Trainer::new(&good, D, &x).unwrap();
    let before = bits(&trainer);
    assert!(trainer.step(&x[D..]).is_err());
    let mut broken = x.clone();
    broken[77] = f32::NAN;
    let message = trainer.step(&broken).unwrap_err().to_string();
    assert!(message.contains("loss of step 0"), "{message}");
    assert_eq!(bits(&trainer), before, "a refused step changes nothing");
}

#[test]
fn the_learning_rate_rises_stays_and_falls() {
    let recipe = Recipe { steps: 100, warm_up: 4, decay: 0.2, learning_rate: 1.0, ..recipe(algorithms().remove(0)) };
    let rates: Vec<f64> = [0, 3, 50, 80, 90, 99, 100].map(|step| recipe.learning_rate(step)).to_vec();
    let want = [0.25, 1.0, 1.0, 1.0, 0.5, 0.05, 0.0];
    assert!(rates.iter().zip(want).all(|(a, b)| (a - b).abs() < 1e-12), "{rates:?}");
    assert_eq!(Recipe { decay: 0.0, ..recipe }.learning_rate(99), 1.0);
}
