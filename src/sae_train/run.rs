//! A training run: several SAEs on one feed, with log, checkpoints and results in a folder.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    time::Instant,
};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{
    Recipe, StepReport, Trainer, checkpoint,
    difference::first_difference,
    feed::{Feed, FeedState},
    result::{self, Finished},
    source::Source,
};
use crate::{
    Error, Result,
    files::write_file,
    report::{JsonLines, read_lines},
    weights::TokenScopeHint,
};

/// The most tokens from which a trainer takes scale and decoder bias.
const SAMPLE: usize = 64 * 1024;
const STATE: &str = "state.json";
const BUFFER: &str = "buffer.safetensors";
pub(super) const LOG: &str = "log.jsonl";

/// One of the SAEs that are trained.
#[derive(Debug, Clone, PartialEq)]
pub struct SaeSpec {
    /// Its folder below the run's.
    pub name: String,
    /// Which of the run's layers it reads.
    pub layer: usize,
    /// How it is trained. Steps, batch and seed are those of the run.
    pub recipe: Recipe,
}

/// What is trained.
#[derive(Debug, Clone, PartialEq)]
pub struct RunSpec {
    /// Where everything is written.
    pub folder: PathBuf,
    /// The blocks whose outputs the source gives, in its order.
    pub layers: Vec<usize>,
    /// Which tokens it gives.
    pub tokens: TokenScopeHint,
    /// The SAEs.
    pub saes: Vec<SaeSpec>,
    /// Tokens that the buffer holds.
    pub buffer: usize,
    /// Steps from one line of the log to the next.
    pub log_every: usize,
    /// Steps from one checkpoint to the next.
    pub checkpoint_every: usize,
    /// What else decides the result: model, images, preprocessing.
    pub origin: Value,
}

/// What a run's folder holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Nothing to go on with.
    New,
    /// A checkpoint.
    Stopped,
    /// The results of this very run.
    Finished,
}

/// What an advance did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// The buffer took in more tokens.
    Filled,
    /// All SAEs made a step.
    Stepped,
    /// There is nothing left to do but [`Run::finish`].
    Done,
}

/// What a checkpoint says beside its tensors.
#[derive(Serialize, Deserialize)]
struct State {
    vitscope: String,
    step: usize,
    seconds: f64,
    request: Value,
    feed: FeedState,
}

/// A run under way.
pub struct Run<S> {
    spec: RunSpec,
    feed: Feed<S>,
    /// Made at the first step: they need a sample.
    trainers: Vec<Trainer>,
    logs: Vec<JsonLines>,
    reports: Vec<StepReport>,
    step: usize,
    started: Instant,
    /// Of the parts before this one.
    seconds: f64,
}

impl RunSpec {
    /// What decides the result of SAE `i`.
    pub(super) fn request(&self, sae: &SaeSpec) -> Value {
        json!({
            "sae": sae.name,
            "layer": self.layers.get(sae.layer),
            "tokens": result::scope_name(self.tokens),
            "recipe": sae.recipe,
            "buffer": self.buffer,
            "origin": self.origin,
        })
    }

    fn requests(&self) -> Value {
        self.saes.iter().map(|sae| self.request(sae)).collect()
    }

    /// What the folder holds.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn standing(&self) -> Result<Standing> {
        if checkpoint::latest(&self.folder)?.is_some() {
            return Ok(Standing::Stopped);
        }
        let finished = |sae: &SaeSpec| result::is_of(&self.folder.join(&sae.name), &self.request(sae));
        Ok(if self.saes.iter().all(finished) { Standing::Finished } else { Standing::New })
    }

    /// The recipe's part that all SAEs share: steps, batch and seed.
    fn shared(&self) -> Result<(usize, usize, u64)> {
        let shared = |sae: &SaeSpec| (sae.recipe.steps, sae.recipe.batch, sae.recipe.seed);
        let first = self.saes.first().map(shared).ok_or_else(|| Error::usage("no SAE to train"))?;
        let names: BTreeSet<&String> = self.saes.iter().map(|sae| &sae.name).collect();
        if self.saes.iter().any(|sae| shared(sae) != first || sae.layer >= self.layers.len())
            || names.len() < self.saes.len()
        {
            return Err(Error::usage("the SAEs of a run share steps, batch and seed, and differ in layer or size"));
        }
        Ok(first)
    }
}

impl<S: Source> Run<S> {
    /// Starts a run; logs that are there are replaced.
    ///
    /// # Errors
    /// [`Error::Usage`] for recipes that cannot be, or a buffer that is too small; [`Error::Io`].
    pub fn new(spec: RunSpec, source: S) -> Result<Self> {
        let (_, batch, seed) = spec.shared()?;
        spec.saes.iter().try_for_each(|sae| sae.recipe.validate(source.width()))?;
        let feed = Feed::new(source, spec.buffer, batch, seed)?;
        spec.saes.iter().try_for_each(|sae| result::forget(&spec.folder.join(&sae.name)))?;
        Run::with(spec, feed, Vec::new(), 0, 0.0)
    }

    /// Goes on from the latest checkpoint. Lines that the log got after it are dropped.
    ///
    /// # Errors
    /// [`Error::Usage`] if there is none, or it is of a run with other options; [`Error::File`] and [`Error::Tensor`]
    /// if it is damaged.
    pub fn resume(spec: RunSpec, source: S) -> Result<Self> {
        let (steps, batch, seed) = spec.shared()?;
        let nothing = || Error::usage(format!("{}: no checkpoint to resume from", spec.folder.display()));
        let folder = checkpoint::latest(&spec.folder)?.ok_or_else(nothing)?;
        let path = folder.join(STATE);
        let bytes = std::fs::read(&path).map_err(|e| Error::io(&path, e))?;
        let damaged = |reason: String| Error::file(&path, format!("not the state of a training run: {reason}"));
        let state: State = serde_json::from_slice(&bytes).map_err(|e| damaged(e.to_string()))?;
        if let Some(difference) = first_difference(&state.request, &spec.requests()) {
            let reason = format!("--resume: the run in {} had other options", spec.folder.display());
            return Err(Error::usage(format!("{reason}: {difference}")));
        }
        if state.step == 0 || state.step > steps {
            return Err(damaged(format!("step {} of {steps}", state.step)));
        }
        let width = source.width();
        let trainer = |sae: &SaeSpec| Trainer::load(&sae.recipe, width, &trainer_file(&folder, &sae.name));
        let trainers = spec.saes.iter().map(trainer).collect::<Result<Vec<_>>>()?;
        if trainers.iter().any(|trainer| trainer.steps_done() != state.step) {
            return Err(damaged("its trainers are at another step".into()));
        }
        let feed = Feed::resume(source, spec.buffer, batch, seed, state.feed, &folder.join(BUFFER))?;
        Run::with(spec, feed, trainers, state.step, state.seconds)
    }

    fn with(spec: RunSpec, feed: Feed<S>, trainers: Vec<Trainer>, step: usize, seconds: f64) -> Result<Self> {
        let log = |sae: &SaeSpec| {
            let folder = spec.folder.join(&sae.name);
            std::fs::create_dir_all(&folder).map_err(|e| Error::io(&folder, e))?;
            let path = folder.join(LOG);
            let before = |line: &Value| line["step"].as_u64().is_some_and(|s| s < step as u64);
            let lines = if step > 0 { read_lines(&path)? } else { Vec::new() };
            let kept: Vec<String> = lines.into_iter().filter(|(_, line)| before(line)).map(|(text, _)| text).collect();
            JsonLines::with_lines(&path, &kept)
        };
        let logs = spec.saes.iter().map(log).collect::<Result<Vec<_>>>()?;
        let reports = Vec::new();
        Ok(Run { spec, feed, trainers, logs, reports, step, started: Instant::now(), seconds })
    }

    /// One piece into the buffer, or one step of every SAE.
    ///
    /// # Errors
    /// Those of the source, the trainers and the disk.
    pub fn advance(&mut self) -> Result<Event> {
        let (steps, batch, _) = self.spec.shared()?;
        if self.step >= steps {
            return Ok(Event::Done);
        }
        let left = (steps - self.step).saturating_mul(batch);
        if self.feed.needs_tokens(left) {
            self.feed.fill()?;
            return Ok(Event::Filled);
        }
        if self.trainers.is_empty() {
            let (buffer, width) = (self.feed.buffer(), self.feed.source().width());
            let trainer = |sae: &SaeSpec| Trainer::new(&sae.recipe, width, buffer.first(sae.layer, SAMPLE));
            self.trainers = self.spec.saes.iter().map(trainer).collect::<Result<Vec<_>>>()?;
        }
        // (layers) of (batch,D).
        let batches = self.feed.draw()?;
        let trained = self.trainers.iter_mut().zip(&self.spec.saes);
        self.reports = trained.map(|(trainer, sae)| trainer.step(&batches[sae.layer])).collect::<Result<Vec<_>>>()?;
        self.step += 1;
        if self.step == 1 || self.step == steps || self.step.is_multiple_of(self.spec.log_every.max(1)) {
            self.log()?;
        }
        if self.step < steps && self.step.is_multiple_of(self.spec.checkpoint_every.max(1)) {
            self.checkpoint()?;
        }
        Ok(Event::Stepped)
    }

    fn log(&mut self) -> Result<()> {
        let (seconds, tokens) = (self.seconds(), self.tokens_seen());
        for ((log, report), sae) in self.logs.iter_mut().zip(&self.reports).zip(&self.spec.saes) {
            let path = self.spec.folder.join(&sae.name).join(LOG);
            let mut line = serde_json::to_value(report).map_err(|e| Error::file(&path, e.to_string()))?;
            line["tokens"] = tokens.into();
            line["seconds"] = ((seconds * 1e3).round() / 1e3).into();
            log.append(&[line])?;
        }
        Ok(())
    }

    /// Writes a checkpoint, from which [`Run::resume`] goes on bit by bit. Before the first step there is nothing worth
    /// one.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn checkpoint(&self) -> Result<()> {
        if self.trainers.is_empty() {
            return Ok(());
        }
        checkpoint::write(&self.spec.folder, self.step, |folder| {
            for (trainer, sae) in self.trainers.iter().zip(&self.spec.saes) {
                trainer.save(&trainer_file(folder, &sae.name))?;
            }
            let state = State {
                vitscope: env!("CARGO_PKG_VERSION").into(),
                step: self.step,
                seconds: self.seconds(),
                request: self.spec.requests(),
                feed: self.feed.save(&folder.join(BUFFER))?,
            };
            let path = folder.join(STATE);
            let text = serde_json::to_string_pretty(&state).map_err(|e| Error::file(&path, e.to_string()))?;
            write_file(&path, text.as_bytes())
        })
    }

    /// Writes the SAEs, their curves and records, and removes the checkpoints.
    ///
    /// # Errors
    /// [`Error::Usage`] before the last step; [`Error::Io`].
    pub fn finish(self) -> Result<Vec<Finished>> {
        let (steps, ..) = self.spec.shared()?;
        if self.step < steps {
            return Err(Error::usage(format!("step {} of {steps}: the training is not finished", self.step)));
        }
        let seen = result::Seen { tokens: self.tokens_seen(), epoch: self.feed.epoch_size(), seconds: self.seconds() };
        let trained = self.trainers.iter().zip(&self.spec.saes);
        let finished = trained.map(|(trainer, sae)| result::write(&self.spec, sae, trainer, seen));
        let finished = finished.collect::<Result<Vec<_>>>()?;
        checkpoint::clear(&self.spec.folder)?;
        Ok(finished)
    }

    /// What the last step did, for each SAE; empty before the first.
    pub fn reports(&self) -> &[StepReport] {
        &self.reports
    }

    /// Steps that were done.
    pub fn steps_done(&self) -> usize {
        self.step
    }

    /// Tokens that each SAE has seen.
    pub fn tokens_seen(&self) -> usize {
        self.step * self.spec.saes.first().map_or(0, |sae| sae.recipe.batch)
    }

    /// Tokens in the buffer.
    pub fn tokens_held(&self) -> usize {
        self.feed.buffer().len()
    }

    /// What the tokens come from.
    pub fn source(&self) -> &S {
        self.feed.source()
    }

    fn seconds(&self) -> f64 {
        self.seconds + self.started.elapsed().as_secs_f64()
    }
}

fn trainer_file(folder: &Path, name: &str) -> PathBuf {
    folder.join(format!("{name}.safetensors"))
}
