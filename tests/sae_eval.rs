//! SAEs on the bundled model and its scenes: what must come out where it is known.

#![allow(clippy::unwrap_used)] // helpers of tests are tests

use std::path::PathBuf;

use vitscope::{
    demo,
    engine::{Engine, Options, Request, SaeRequest},
    image::{DecodeOptions, Prepared, decode_bytes},
    model::{Score, Splice, Through, Tokens},
    sae_eval::{Candidate, Evaluator, Example, Probes, Report},
    text::Template,
    weights::{Hook, InputNorm, SaeActivation, SaeWeights, Source, TokenScopeHint},
};

mod common;
use common::Rng;

fn engine() -> Engine {
    Engine::open(&Source::Demo, &Options::default()).unwrap()
}

fn scenes(engine: &Engine) -> Vec<Prepared> {
    let prepared = |scene: &demo::Scene| {
        let picture = decode_bytes(scene.name, scene.png, &DecodeOptions::default()).unwrap();
        engine.preprocess.apply(&picture).unwrap()
    };
    demo::SCENES.iter().map(prepared).collect()
}

/// An SAE with a ReLU over rows that encode and decode.
fn sae(width: usize, rows: Vec<f32>, decoder_scale: f32) -> SaeWeights {
    let latents = rows.len() / width;
    SaeWeights {
        width,
        latents,
        decoder: rows.iter().map(|v| v * decoder_scale).collect(),
        encoder: rows,
        encoder_bias: vec![0.0; latents],
        decoder_bias: vec![0.0; width],
        input_bias: None,
        activation: SaeActivation::Relu,
        rescale_by_decoder_norm: false,
        norm: InputNorm::None,
        hook: None,
        format: "SAELens 6",
        notes: Vec::new(),
        path: PathBuf::from("test"),
    }
}

/// Every dimension once as it is and once negated: `x = relu(x) - relu(-x)` to the last bit.
fn identity(width: usize) -> Vec<f32> {
    (0..2 * width * width)
        .map(|i| if i / width % width == i % width { [1.0, -1.0][i / width / width] } else { 0.0 })
        .collect()
}

fn random(width: usize, latents: usize) -> SaeWeights {
    let rows = Rng::new(5).normal(latents * width).iter().map(|v| (v / (width as f64).sqrt()) as f32).collect();
    let mut sae = sae(width, rows, 1.0);
    sae.activation = SaeActivation::TopK { k: 16, relu: true };
    sae
}

/// Evaluates SAEs on the scenes, cut into batches of `batch`.
fn evaluate(saes: &[(SaeWeights, usize, Tokens)], batch: usize, contrastive_batch: usize) -> Vec<Report> {
    let mut engine = engine();
    let scenes = scenes(&engine);
    let candidates = saes.iter().map(|(sae, layer, tokens)| {
        Candidate::new(sae.clone(), &engine, Some(*layer), Some(tokens.clone())).unwrap().0
    });
    let candidates = candidates.collect();
    let words = |list: &[&str]| list.iter().map(|text| text.to_string()).collect::<Vec<_>>();
    let probes = Probes {
        texts: words(&["a photo of a cat", "a photo of a tractor"]),
        classes: words(&["cat", "car", "rocket", "strawberry"]),
        template: "a photo of a {}".parse().unwrap(),
        contrastive_batch,
    };
    let mut evaluator = Evaluator::new(&mut engine, candidates, probes).unwrap();
    let examples: Vec<Example<'_>> = scenes
        .iter()
        .zip(demo::SCENES)
        .enumerate()
        .map(|(i, (prepared, scene))| Example { prepared, class: Some(i), caption: Some(scene.prompts[0]) })
        .collect();
    examples.chunks(batch).for_each(|batch| evaluator.add(&mut engine, batch).unwrap());
    let (reports, warnings) = evaluator.finish(&mut engine, 1e-3).unwrap();
    assert!(warnings.is_empty());
    reports
}

fn width() -> usize {
    engine().checkpoint.config.vision.tower.width
}

fn last() -> usize {
    engine().layers() - 1
}

#[test]
fn a_perfect_sae_changes_nothing_and_an_empty_one_is_zero_ablation() {
    let (d, last) = (width(), last());
    let perfect = sae(d, identity(d), 1.0);
    let empty = sae(d, identity(d), 0.0);
    let reports = evaluate(&[(perfect.clone(), 2, Tokens::All), (empty, 2, Tokens::All)], 4, 4);
    let at_the_end = &evaluate(&[(perfect, last, Tokens::Cls)], 4, 4)[0];
    for report in [&reports[0], at_the_end] {
        let of = &report.reconstruction;
        assert_eq!((of.fvu, of.mse, of.relative_norm, of.explained_variance_uncentred), (0.0, 0.0, 1.0, 1.0));
        assert!((of.cosine - 1.0).abs() < 1e-12);
        let alignment = &report.alignment;
        assert!((alignment.least_cosine - 1.0).abs() < 1e-12, "{alignment:?}");
        assert_eq!((alignment.mean_shift, alignment.mean_absolute_shift), (Some(0.0), Some(0.0)));
        let (zero_shot, contrastive) = (report.zero_shot.as_ref().unwrap(), report.contrastive.as_ref().unwrap());
        assert_eq!(zero_shot.accuracy.original, zero_shot.accuracy.spliced);
        assert_eq!((zero_shot.recovered, contrastive.recovered), (1.0, 1.0));
        // Something was there to lose.
        assert!(zero_shot.accuracy.original >= 0.75);
        assert!(contrastive.loss.zero_ablated > contrastive.loss.original + 0.5, "{contrastive:?}");
        assert!(alignment.zero_ablated_cosine < 0.9);
    }
    // Each dimension is on one side or the other of zero.
    assert_eq!(reports[0].reconstruction.l0, d as f64);
    assert_eq!((reports[0].reconstruction.tokens, at_the_end.reconstruction.tokens), (4 * 197, 4));
    assert!(at_the_end.reconstruction.l0_patches.is_nan());

    let empty = &reports[1];
    let (zero_shot, contrastive) = (empty.zero_shot.as_ref().unwrap(), empty.contrastive.as_ref().unwrap());
    assert_eq!((zero_shot.recovered, contrastive.recovered), (0.0, 0.0));
    assert_eq!(contrastive.loss.spliced, contrastive.loss.zero_ablated);
    assert_eq!(empty.alignment.cosine, empty.alignment.zero_ablated_cosine);
    assert!(empty.reconstruction.fvu > 1.0 && empty.reconstruction.explained_variance_uncentred == 0.0);
}

#[test]
fn the_cut_into_batches_and_the_company_change_nothing() {
    let d = width();
    let saes = [(random(d, 96), 2, Tokens::Patches), (random(d, 64), 1, Tokens::All), (random(d, 96), 2, Tokens::All)];
    let whole = evaluate(&saes, 4, 3);
    // NaN does not equal itself; it is written as null.
    let written = |reports: &[Report]| serde_json::to_string(reports).unwrap();
    assert_eq!(written(&whole), written(&evaluate(&saes, 1, 3)));
    assert_eq!(written(&whole[1..2]), written(&evaluate(&saes[1..2], 3, 3)));
    // Every measure has something to say.
    assert!(whole[0].reconstruction.fvu > 0.1 && whole[0].alignment.cosine < 0.999);
    assert!(whole[0].reconstruction.l0_cls.is_nan() && whole[0].reconstruction.l0_patches <= 16.0);
    assert_ne!(whole[0].alignment, whole[2].alignment);
    assert_eq!(whole[0].contrastive.as_ref().unwrap().pairs, 4);
    assert_ne!(whole[0].contrastive, evaluate(&saes[..1], 4, 4)[0].contrastive);
}

/// The same splice through the pass that draws heatmaps.
#[test]
fn shifts_are_those_of_the_explained_scores() {
    let mut engine = engine();
    let (scenes, d) = (scenes(&engine), width());
    let weights = random(d, 64);
    let report = &evaluate(&[(weights.clone(), 1, Tokens::All)], 4, 4)[0];
    let text = "a photo of a cat".to_owned();
    let template: Template = "a photo of a {}".parse().unwrap();
    let mut scores = |sae: Option<SaeRequest>| -> Vec<f64> {
        let request = Request {
            texts: vec![text.clone()],
            template: template.clone(),
            score: Score::Cosine,
            methods: Vec::new(),
            sae,
            latents: false,
            seed: 0,
        };
        let question = engine.ask(&request).unwrap();
        let explained = engine.explain(&scenes.iter().collect::<Vec<_>>(), &question).unwrap();
        explained.into_iter().map(|explanation| explanation.result.scores[0]).collect()
    };
    let plain = scores(None);
    let spliced = scores(Some(SaeRequest {
        weights,
        layer: Some(1),
        tokens: Tokens::All,
        edits: Vec::new(),
        splice: Splice::Replace,
        through: Through::Exact,
    }));
    let shift = spliced.iter().zip(&plain).map(|(a, b)| a - b).sum::<f64>() / 4.0;
    let found = &report.alignment.texts[0];
    assert_eq!(found.text, text);
    assert!(shift.abs() > 1e-3 && (found.mean_shift - shift).abs() < 1e-6, "{} {shift}", found.mean_shift);
}

#[test]
fn the_file_says_where_an_sae_goes_unless_the_user_does() {
    let engine = engine();
    let mut weights = random(width(), 64);
    weights.hook = Some(Hook { layer: Some(1), name: "blocks.1".into(), tokens: Some(TokenScopeHint::Cls) });
    let scope = |layer, tokens| Candidate::new(weights.clone(), &engine, layer, tokens).unwrap().0.scope;
    assert_eq!((scope(None, None).layer, scope(None, None).tokens), (1, Tokens::Cls));
    assert_eq!((scope(Some(2), Some(Tokens::All)).layer, scope(None, Some(Tokens::All)).tokens), (2, Tokens::All));
    assert!(Candidate::new(weights.clone(), &engine, Some(2), None).unwrap().1.is_some());
    weights.hook = None;
    assert!(Candidate::new(weights.clone(), &engine, None, None).is_err());
    assert_eq!(Candidate::new(weights, &engine, Some(0), None).unwrap().0.scope.tokens, Tokens::All);
}
