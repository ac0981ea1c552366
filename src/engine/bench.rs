//! Whole passes on random pixels, timed.

use std::time::Instant;

use rand::SeedableRng;
use rand_distr::{Distribution, StandardNormal};

use super::{Engine, Question, Request};
use crate::{Error, Result, model::NamedMethod, text::Template};

/// What a benchmark times.
#[derive(Debug, Clone, PartialEq)]
pub enum BenchPass {
    /// The image tower, pixels to embedding.
    Forward,
    /// The forward, and the reverse down to the pixels: the `gradient` method.
    Method(NamedMethod),
}

impl std::str::FromStr for BenchPass {
    type Err = Error;

    fn from_str(s: &str) -> Result<Self> {
        if s == "forward" { Ok(BenchPass::Forward) } else { s.parse().map(BenchPass::Method) }
    }
}

impl std::fmt::Display for BenchPass {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            BenchPass::Forward => f.write_str("forward"),
            BenchPass::Method(method) => method.fmt(f),
        }
    }
}

/// The time of one kind of pass.
#[derive(Debug, Clone)]
pub struct Timed {
    /// Seconds of each repetition, in order, the warm-up left out.
    pub seconds: Vec<f64>,
    /// Images of a repetition.
    pub batch: usize,
}

impl Timed {
    /// The median time of a repetition.
    pub fn median(&self) -> f64 {
        let mut sorted = self.seconds.clone();
        sorted.sort_by(f64::total_cmp);
        sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
    }

    /// Images a second, by the median.
    pub fn images_per_second(&self) -> f64 {
        self.batch as f64 / self.median()
    }
}

impl Engine {
    /// A question about random texts, for benchmarks and memory estimates: no text tower is needed.
    ///
    /// # Errors
    /// As [`Engine::ask`].
    pub fn ask_random(&mut self, methods: Vec<NamedMethod>, texts: usize, seed: u64) -> Result<Question> {
        let width = self.checkpoint.config.embed;
        let rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
        let values: Vec<f64> = StandardNormal.sample_iter(rng).take(texts * width).collect();
        let request = Request {
            texts: (0..texts).map(|i| format!("random {i}")).collect(),
            template: Template::default(),
            score: crate::model::Score::Cosine,
            methods,
            sae: None,
            latents: false,
            seed,
        };
        self.ask_embedded(&request, Question::unit_rows(&values, width))
    }

    /// Times `repeat` passes over the same random pixels, after `warm` untimed ones.
    ///
    /// # Errors
    /// Those of the device; [`Error::Verification`] if a pass gives something that is no number.
    pub fn bench(&mut self, pass: &BenchPass, batch: usize, warm: usize, repeat: usize, seed: u64) -> Result<Timed> {
        let methods = match pass {
            BenchPass::Forward => Vec::new(),
            BenchPass::Method(method) => vec![method.clone()],
        };
        let question = self.ask_random(methods, 1, seed)?;
        let side = self.checkpoint.config.vision.image_size;
        let grid = self.grid(side, side)?;
        let (height, width) = (grid.height, grid.width);
        let rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
        let pixels: Vec<f64> = StandardNormal.sample_iter(rng).take(batch * 3 * height * width).collect();
        let mut seconds = Vec::with_capacity(repeat);
        for round in 0..warm + repeat {
            let start = Instant::now();
            let explanations = self.explain_pixels(&pixels, batch, grid, &question)?;
            if round >= warm {
                seconds.push(start.elapsed().as_secs_f64());
            }
            let scores = explanations.iter().flat_map(|e| &e.result.scores);
            let maps = explanations.iter().flat_map(|e| &e.result.maps).flat_map(|map| &map.exact);
            if !scores.chain(maps).all(|v| v.is_finite()) {
                return Err(Error::Verification(format!("{pass}: not a number among the results")));
            }
        }
        Ok(Timed { seconds, batch })
    }
}
