//! Whole passes on random pictures, timed.

use std::{collections::VecDeque, sync::Arc, time::Instant};

use rand::{RngCore, SeedableRng};
use rand_distr::{Distribution, StandardNormal};

use super::{Engine, Question, Request};
use crate::{
    Error, Result,
    image::{Prepared, Rect, Rgb8},
    model::NamedMethod,
    text::Template,
};

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

    /// Times `repeat` passes over the same random pictures, after `warm` untimed ones. The next pass is on the device while
    /// the host takes the results of the last, as in a run over many images.
    ///
    /// # Errors
    /// Those of the device; [`Error::Verification`] if a pass gives something that is no number.
    pub fn bench(&mut self, pass: &BenchPass, batch: usize, warm: usize, repeat: usize, seed: u64) -> Result<Timed> {
        let methods = match pass {
            BenchPass::Forward => Vec::new(),
            BenchPass::Method(method) => vec![method.clone()],
        };
        let question = self.ask_random(methods, 1, seed)?;
        let images = self.random_pictures(batch, seed);
        let images: Vec<&Prepared> = images.iter().collect();
        let mut seconds = Vec::with_capacity(repeat);
        let mut out = VecDeque::from([self.submit(&images, &question)?]);
        let mut last = Instant::now();
        for round in 0..warm + repeat {
            out.push_back(self.submit(&images, &question)?);
            let Some(oldest) = out.pop_front() else { break };
            let explanations = self.collect(oldest, &question)?;
            if round >= warm {
                seconds.push(last.elapsed().as_secs_f64());
            }
            last = Instant::now();
            let scores = explanations.iter().flat_map(|e| &e.result.scores);
            let maps = explanations.iter().flat_map(|e| &e.result.maps).flat_map(|map| &map.exact);
            if !scores.chain(maps).all(|v| v.is_finite()) {
                return Err(Error::Verification(format!("{pass}: not a number among the results")));
            }
        }
        for rest in out {
            self.collect(rest, &question)?;
        }
        Ok(Timed { seconds, batch })
    }

    /// Prepared pictures of random bytes.
    fn random_pictures(&self, count: usize, seed: u64) -> Vec<Prepared> {
        let side = self.checkpoint.config.vision.image_size;
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
        let values = Arc::new(self.preprocess.values());
        let region = Rect { left: 0.0, top: 0.0, width: side as f64, height: side as f64 };
        let mut picture = || {
            let mut cropped = Rgb8::filled(side, side, [0; 3]);
            rng.fill_bytes(&mut cropped.data);
            Prepared { width: side, height: side, cropped, values: values.clone(), region }
        };
        (0..count).map(|_| picture()).collect()
    }
}
