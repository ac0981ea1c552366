//! The gradient of the pixels through the whole engine against finite differences, in f64: relative error under 1e-6.
//!
//! With `--through exact` it is the derivative of the score. The other two modes give by definition the derivative of
//! another function, a surrogate that agrees with the score at the picture and holds a part of the spliced stream x' at
//! its value there:
//!
//! ```text
//! exact                   x' = splice(x)                 nothing is held
//! detached, replace       x' = decode(z')                there is no error to hold
//! detached, keep-error    x' = decode(z') + constant     the error x - decode(z)
//! straight                x' = x + constant              all that the splice adds
//! ```

#![allow(clippy::unwrap_used)] // helpers of tests are tests

mod common;

use std::path::PathBuf;

use common::Rng;
use vitscope::{
    backend::{Input, PatchGrid},
    engine::{
        AskedDtype, Dtype, Engine, Options, Question, Request, SaeRequest,
        runner::{Job, JobOutput},
    },
    model::{Score, Splice, Through, Tokens, pass::MapKey},
    text::Template,
    weights::{Activation, SaeWeights, Source},
};

const TOLERANCE: f64 = 1e-6;
/// Of 4-point central differences along a direction of length 1. Small, so that no latent starts or stops firing.
const STEP: f64 = 2e-5;
const DIRECTIONS: usize = 2;
const SPLICES: [Splice; 2] = [Splice::Replace, Splice::KeepError];
const THROUGHS: [Through; 3] = [Through::Exact, Through::Detached, Through::Straight];

fn fixture(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/clip").join(name)
}

/// A model and the pictures that it sees.
struct Subject {
    engine: Engine,
    grid: PatchGrid,
    batch: usize,
    /// (B,3,R,R).
    pixels: Vec<f64>,
}

impl Subject {
    fn new(model: &str, batch: usize) -> Self {
        let options = Options { dtype: AskedDtype(Some(Dtype::F64)), ..Options::default() };
        let engine = Engine::open(&Source::Path(fixture(model)), &options).unwrap();
        let side = engine.checkpoint.config.vision.image_size;
        let grid = engine.grid(side, side).unwrap();
        Subject { engine, grid, batch, pixels: Rng::new(21).normal(batch * 3 * side * side) }
    }

    fn ask(&mut self, score: Score, sae: Option<SaeRequest>) -> Question {
        let request = Request {
            texts: vec!["a photo of a cat".into(), "two dogs".into()],
            template: Template::default(),
            score,
            methods: Vec::new(),
            sae,
            latents: false,
            seed: 0,
        };
        self.engine.ask(&request).unwrap()
    }

    /// The pass that was asked for, without its baseline.
    fn job(&self, question: &Question, keys: &[MapKey]) -> Job {
        let spliced = question.splice.is_some();
        let mut job = question.job(self.batch, self.grid, keys.to_vec(), spliced).unwrap();
        job.variants = job.variants.split_off(job.variants.len() - 1);
        job
    }

    fn run(&mut self, job: &Job, pixels: &[f64]) -> JobOutput {
        self.engine.runner().unwrap().run(job, Input::Values(pixels)).unwrap()
    }

    /// An SAE with edits of latents that fire in the pictures, and of one that does not: scale, zero, set, add.
    fn edited(&mut self, name: &str, layer: isize, splice: Splice, through: Through, tokens: Tokens) -> SaeRequest {
        let weights = SaeWeights::load(&fixture(name)).unwrap();
        let latents = weights.latents as u32;
        let mut sae = SaeRequest { weights, layer: Some(layer), tokens, edits: Vec::new(), splice, through };
        let question = self.ask(Score::Cosine, Some(sae.clone()));
        let job = self.job(&question, &[]);
        let pixels = self.pixels.clone();
        let fires: Vec<u32> = firing(&self.run(&job, &pixels)).concat();
        let count = |id: u32| fires.iter().filter(|&&other| other == id).count();
        let mut ids: Vec<u32> = (0..latents).collect();
        ids.sort_by_key(|&id| std::cmp::Reverse(count(id)));
        let (silent, p) = (ids[ids.len() - 1], &ids[..6]);
        assert!(count(p[5]) > 0, "{name}: too few latents fire");
        let edits = [
            format!("scale:{},{}=-1.5", p[0], p[1]),
            format!("zero:{}", p[2]),
            format!("set:{}=1.2", p[3]),
            format!("add:{},{silent}=0.7", p[4]),
            format!("scale:{}=3", p[5]),
        ];
        sae.edits = edits.iter().map(|edit| edit.parse().unwrap()).collect();
        sae
    }

    /// Compares the gradients of all scores with differences of the surrogate; returns the largest relative error, over
    /// images and texts, of the derivatives along a few random directions.
    fn check(&mut self, what: &str, question: &Question) -> f64 {
        let pixels = self.pixels.clone();
        let base = self.run(&self.job(question, &[MapKey::Pixels]), &pixels);
        let gradient = &base.variants[0].maps[&MapKey::Pixels]; // (Q,B,3,R,R)
        let surrogate = Surrogate::at(self, question, &base);
        let (batch, targets, len) = (self.batch, question.targets(), pixels.len() / self.batch);
        assert_eq!(gradient.len(), targets * pixels.len());
        let mut rng = Rng::new(22);
        let (mut errors, mut sizes) = (vec![0.0; batch * targets], vec![0.0; batch * targets]);
        for _ in 0..DIRECTIONS {
            let mut direction = rng.normal(pixels.len());
            direction.chunks_mut(len).for_each(|image| {
                let length = dot(image, image).sqrt();
                image.iter_mut().for_each(|v| *v /= length);
            });
            let mut at = |offset: f64| {
                let moved: Vec<f64> = pixels.iter().zip(&direction).map(|(p, v)| p + offset * v).collect();
                surrogate.scores(self, question, &moved, what)
            };
            let (near, far) = ([at(STEP), at(-STEP)], [at(2.0 * STEP), at(-2.0 * STEP)]);
            for i in 0..batch * targets {
                let (b, q) = (i / targets, i % targets);
                let numeric = (8.0 * (near[0][i] - near[1][i]) - (far[0][i] - far[1][i])) / (12.0 * STEP);
                let exact = dot(&gradient[(q * batch + b) * len..][..len], &direction[b * len..][..len]);
                errors[i] += (numeric - exact).powi(2);
                sizes[i] += exact.powi(2);
            }
        }
        let worst = errors.iter().zip(&sizes).map(|(e, s)| (e / s).sqrt()).fold(0.0, f64::max);
        assert!(worst < TOLERANCE, "{what}: relative error {worst:.1e}");
        worst
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// The latents that fire at each token, in order.
fn firing(output: &JobOutput) -> Vec<Vec<u32>> {
    let Some(latents) = &output.variants[0].latents else { return Vec::new() };
    let row = |row| {
        let mut ids: Vec<u32> = latents.firing(row).collect();
        ids.sort_unstable();
        ids
    };
    (0..latents.index.len() / (latents.slots + 1)).map(row).collect()
}

/// The function whose derivative the gradient is, around one batch of pictures.
struct Surrogate {
    /// The latents that fire there.
    firing: Vec<Vec<u32>>,
    held: Option<Held>,
}

/// x' = what `job` computes + a constant.
struct Held {
    /// The hooked block.
    layer: usize,
    /// A pass that ends in the moving part of x', and its name.
    job: Job,
    moving: String,
    /// (B,T,D).
    constant: Vec<f64>,
}

impl Surrogate {
    fn at(subject: &mut Subject, question: &Question, base: &JobOutput) -> Self {
        let firing = firing(base);
        let Some(splice) = &question.splice else { return Surrogate { firing, held: None } };
        let mut job = subject.job(question, &[]);
        job.watched = true;
        let pixels = subject.pixels.clone();
        let spliced = subject.run(&job, &pixels).watched["sae.x"].clone();
        let moving = match (splice.through, splice.splice) {
            (Through::Straight, _) => format!("block.{}.x", splice.layer),
            (Through::Detached, Splice::KeepError) => {
                job.splice.as_mut().unwrap().splice = Splice::Replace;
                "sae.x".to_owned()
            }
            _ => return Surrogate { firing, held: None },
        };
        let there = &subject.run(&job, &pixels).watched[&moving];
        let constant = spliced.iter().zip(there).map(|(a, b)| a - b).collect();
        Surrogate { firing, held: Some(Held { layer: splice.layer, job, moving, constant }) }
    }

    /// Its values (B,Q). The latents that fire must be those at the picture: else the differences mean nothing.
    fn scores(&self, subject: &mut Subject, question: &Question, pixels: &[f64], what: &str) -> Vec<f64> {
        let Some(held) = &self.held else {
            let output = subject.run(&subject.job(question, &[]), pixels);
            assert_eq!(firing(&output), self.firing, "{what}: the step crosses an edge");
            return question.scores(&output.variants[0].values);
        };
        let output = subject.run(&held.job, pixels);
        assert_eq!(firing(&output), self.firing, "{what}: the step crosses an edge");
        let moving = &output.watched[&held.moving];
        let stream: Vec<f64> = moving.iter().zip(&held.constant).map(|(a, b)| a + b).collect();
        let embeddings = subject.engine.embed_stream(&stream, subject.batch, subject.grid, held.layer).unwrap();
        let width = embeddings.len() / subject.batch;
        let cosines: Vec<f64> = Question::unit_rows(&embeddings, width)
            .chunks(width)
            .flat_map(|image| question.embeddings.chunks(width).map(|text| dot(image, text)).collect::<Vec<_>>())
            .collect();
        question.scores(&cosines)
    }
}

/// The SAEs of the tests and the blocks they belong to: first, middle and last, every kind of gradient.
const SAES: [(&str, isize); 6] = [
    ("sae_a0_sparsify", 0),
    ("sae_a1_sparsify", 1),
    ("sae_a1_jumprelu", 1),
    ("sae_a1_relu_constant_norm", 1),
    ("sae_a1_topk_layer_norm", 1),
    ("sae_a2_sparsify", 2),
];

fn every_through_mode(splice: Splice, tokens: &Tokens) {
    let mut subject = Subject::new("tiny_a", 2);
    for through in THROUGHS {
        let mut worst = 0.0f64;
        for (name, layer) in SAES {
            let sae = subject.edited(name, layer, splice, through, tokens.clone());
            let question = subject.ask(Score::Cosine, Some(sae));
            worst = worst.max(subject.check(&format!("{name}, {splice}, {through}, {tokens}"), &question));
        }
        eprintln!("{splice}, {through}, {tokens}: worst relative error {worst:.1e}");
    }
}

#[test]
fn replace_on_all_tokens() {
    every_through_mode(Splice::Replace, &Tokens::All);
}

#[test]
fn replace_on_patches() {
    every_through_mode(Splice::Replace, &Tokens::Patches);
}

#[test]
fn keep_error_on_all_tokens() {
    every_through_mode(Splice::KeepError, &Tokens::All);
}

#[test]
fn keep_error_on_patches() {
    every_through_mode(Splice::KeepError, &Tokens::Patches);
}

#[test]
fn every_score_through_a_splice() {
    let mut subject = Subject::new("tiny_a", 1);
    for splice in SPLICES {
        let sae = subject.edited("sae_a1_jumprelu", 1, splice, Through::Exact, Tokens::All);
        let fires = sae.edits[0].latents()[0];
        for score in [Score::Logit, Score::Softmax, Score::Latent(fires)] {
            let question = subject.ask(score, Some(sae.clone()));
            let worst = subject.check(&format!("{score}, {splice}"), &question);
            eprintln!("{score}, {splice}: relative error {worst:.1e}");
        }
    }
}

#[test]
fn every_activation_and_score_without_an_sae() {
    let models = [("tiny_a", Activation::QuickGelu), ("tiny_b", Activation::Gelu), ("tiny_c", Activation::GeluTanh)];
    for (model, activation) in models {
        let mut subject = Subject::new(model, 2);
        assert_eq!(subject.engine.checkpoint.config.vision.tower.activation, activation);
        for score in [Score::Cosine, Score::Logit, Score::Softmax] {
            let question = subject.ask(score, None);
            let worst = subject.check(&format!("{activation:?}, {score}"), &question);
            eprintln!("{activation:?}, {score}: relative error {worst:.1e}");
        }
    }
}
