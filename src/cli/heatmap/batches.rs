//! The run: pictures to batches of one size, batches through the engine, results to the output folder.

use std::{
    process::ExitCode,
    time::{Duration, Instant},
};

use rayon::prelude::*;
use serde_json::{Value, json};
use vitscope::{
    Error, Result,
    backend::PatchGrid,
    demo,
    engine::{Explanation, Pending, Presence},
    image::{Prepared, Preprocess},
    report::{JsonLines, write_run_file},
};

use super::{
    Format, HeatmapArgs,
    record::{Record, human},
    resume::Earlier,
};
use crate::cli::{
    args::FadeRule,
    console::{Console, bytes},
    inputs::Input,
    interrupt::Interrupt,
    memory::{self, Batches},
    pictures::{Picture, Pictures, Reading, State},
    setup::{self, Asked},
};

/// A run over many images.
pub struct Run<'a> {
    asked: Asked,
    console: &'a Console,
    record: Record,
    /// What tells how surely a picture shows each text, where the fade looks at it.
    presence: Option<Presence>,
    pictures: Pictures,
    limits: Batches,
    index: JsonLines,
    earlier: Earlier,
    /// The batch that the device has, or has had.
    waiting: Option<Submitted>,
    end: End,
}

/// A batch that was given to the device, or why it was not.
struct Submitted {
    pictures: Vec<Picture>,
    /// Nothing where no picture of it needs a pass.
    pending: Result<Option<Pending>, String>,
    /// (Q) for each picture that needs a pass; nothing where the fade does not look at them.
    found: Vec<Vec<f64>>,
}

/// How a run ended.
#[derive(Default)]
pub struct End {
    interrupted: bool,
    inputs: usize,
    /// Images explained by this run.
    explained: usize,
    /// Images whose results were there.
    skipped: usize,
    failed: usize,
    elapsed: Duration,
    computing: Duration,
}

impl<'a> Run<'a> {
    /// Checks what can be checked before the first image, and opens the output folder.
    pub fn start(
        args: &HeatmapArgs,
        mut asked: Asked,
        console: &'a Console,
        inputs: Vec<Input>,
    ) -> anyhow::Result<Self> {
        let preprocess = setup::preprocess(&args.preprocess, &asked.engine);
        check_tokens(&mut asked, &preprocess)?;
        let (options, fade) = (super::options(args, &asked)?, super::fade(args)?);
        let folder = &args.output;
        for name in ["maps", "overlays"] {
            let path = folder.join(name);
            if name == "maps" || args.format.contains(&Format::Png) {
                std::fs::create_dir_all(&path).map_err(|e| Error::io(path, e))?;
            }
        }
        let path = folder.join("results.jsonl");
        let methods: Vec<String> = asked.question.methods.iter().map(|(m, _)| m.method.canonical()).collect();
        let targets = asked.question.targets();
        let earlier = if args.resume { Earlier::read(&path, &options, &methods, targets)? } else { Earlier::default() };
        let index = JsonLines::with_lines(&path, &earlier.kept())?;
        let limits = Batches::new(args.batch_size, inputs.len());
        let end = End { inputs: inputs.len(), ..End::default() };
        let reading = Reading { preprocess, decode: setup::decode(&args.preprocess), done: earlier.done() };
        let pictures = Pictures::read(inputs, reading);
        let presence = if fade == FadeRule::Presence { Some(presence(args, &mut asked)?) } else { None };
        let record = Record::new(args, &asked, fade, options);
        Ok(Run { asked, console, record, presence, pictures, limits, index, earlier, waiting: None, end })
    }

    /// Explains everything, or what comes before an interrupt.
    pub fn all(mut self, interrupt: &Interrupt) -> anyhow::Result<End> {
        let start = Instant::now();
        let mut batch: Vec<Picture> = Vec::new();
        let mut grid = None;
        let mut limit = 0;
        while !interrupt.requested() {
            let Some(picture) = self.pictures.next() else { break };
            let own = self.grid(&picture)?;
            if own.is_some() && own != grid {
                self.flush(&mut batch, grid)?;
                grid = own;
                limit = self.limit(own)?;
            }
            batch.push(picture);
            let ready = batch.iter().filter(|p| matches!(p.state, State::Ready(_))).count();
            // Pictures that need no pass wait for those before them, but not for ever.
            if ready >= limit.max(1) || batch.len() >= 4 * limit.max(16) {
                self.flush(&mut batch, grid)?;
            }
        }
        self.end.interrupted = interrupt.requested();
        if !self.end.interrupted {
            self.flush(&mut batch, grid)?;
        }
        if let Some(last) = self.waiting.take() {
            self.write(last)?;
        }
        self.earlier.drop_replaced(&self.record.folder.join("results.jsonl"))?;
        self.console.finish();
        setup::say_kernels(self.asked.engine.kernels_used(), self.console);
        self.end.elapsed = start.elapsed();
        Ok(self.end)
    }

    fn grid(&self, picture: &Picture) -> Result<Option<PatchGrid>> {
        match &picture.state {
            State::Ready(ready) => self.asked.engine.grid(ready.prepared.width, ready.prepared.height).map(Some),
            State::Done | State::Failed(_) => Ok(None),
        }
    }

    fn limit(&mut self, grid: Option<PatchGrid>) -> Result<usize> {
        let Some(grid) = grid else { return Ok(1) };
        let Asked { engine, question, request } = &mut self.asked;
        self.limits.limit(engine, question, request, grid, self.console)
    }

    /// Gives the device the pictures of one size that were gathered, and writes the results of those before them
    /// meanwhile.
    fn flush(&mut self, batch: &mut Vec<Picture>, grid: Option<PatchGrid>) -> anyhow::Result<()> {
        let pictures = std::mem::take(batch);
        let ready = pictures.iter().filter_map(|p| match &p.state {
            State::Ready(ready) => Some(&ready.prepared),
            State::Done | State::Failed(_) => None,
        });
        let ready: Vec<&Prepared> = ready.collect();
        let start = Instant::now();
        let found = match &self.presence {
            Some(presence) if !ready.is_empty() => self.asked.engine.found(&ready, presence)?,
            _ => vec![Vec::new(); ready.len()],
        };
        let pending = match (ready.is_empty(), grid) {
            (true, _) | (_, None) => Ok(None),
            _ => self.asked.engine.submit(&ready, &self.asked.question).map(Some),
        };
        self.end.computing += start.elapsed();
        if let Some(earlier) = self.waiting.take() {
            self.write(earlier)?;
        }
        self.waiting = Some(Submitted { pictures, pending: unless_usage(pending)?, found });
        Ok(())
    }

    /// Writes the results of a batch in order, when they are there.
    fn write(&mut self, submitted: Submitted) -> anyhow::Result<()> {
        let Submitted { pictures, pending, found } = submitted;
        let start = Instant::now();
        let explained = match pending {
            Err(reason) => Err(reason),
            Ok(None) => Ok(Vec::new()),
            Ok(Some(pending)) => unless_usage(self.asked.engine.collect(pending, &self.asked.question))?,
        };
        self.end.computing += start.elapsed();
        let mut explanations = explained.iter().flatten().zip(found.iter().map(Vec::as_slice));
        let paired: Vec<(&Picture, Explained<'_>)> = pictures
            .iter()
            .map(|picture| match (&picture.state, &explained) {
                (State::Ready(_), Err(reason)) => (picture, Err(reason.clone())),
                (State::Ready(_), Ok(_)) => (picture, Ok(explanations.next())),
                (State::Failed(reason), _) => (picture, Err(reason.clone())),
                (State::Done, _) => (picture, Ok(None)),
            })
            .collect();
        let record = &self.record;
        let written: Vec<Result<Lines>> = paired.into_par_iter().map(|(p, e)| lines(record, p, e)).collect();
        let written = written.into_iter().collect::<Result<Vec<_>>>()?;
        self.finish(&pictures, written)
    }

    /// Appends the lines of a batch to the index and tells the user.
    fn finish(&mut self, batch: &[Picture], written: Vec<Lines>) -> anyhow::Result<()> {
        let mut appended: Vec<Value> = Vec::new();
        for (picture, lines) in batch.iter().zip(&written) {
            match lines {
                Lines::None => self.end.skipped += 1,
                Lines::Results(lines) => {
                    self.end.explained += 1;
                    self.earlier.replaced(&picture.name);
                    appended.extend(lines.iter().cloned());
                }
                Lines::Failure(reason) => {
                    self.end.failed += 1;
                    self.console.error(&format!("{}: {reason}", picture.name));
                    if !self.earlier.failed_so(&picture.name, reason) {
                        self.earlier.replaced(&picture.name);
                        appended.push(json!({ "image": picture.name, "error": reason }));
                    }
                }
            }
        }
        if !appended.is_empty() {
            self.index.append(&appended)?;
        }
        for (picture, lines) in batch.iter().zip(written) {
            if let Lines::Results(lines) = lines {
                record_gaps(self.console, &lines);
                self.console.result(|| human(&picture.name, &lines), || lines.clone())?;
            }
        }
        self.console.advance(batch.len());
        Ok(())
    }
}

/// What the request cannot mean on pictures of one size is their failure, not the run's.
fn unless_usage<T>(result: Result<T>) -> Result<Result<T, String>> {
    match result {
        Err(error @ Error::Usage(_)) => Ok(Err(error.to_string())),
        other => other.map(Ok),
    }
}

/// What the engine said about a picture: an explanation and how surely each text (Q) is found, nothing because none was
/// wanted, or why there is none.
type Explained<'a> = Result<Option<(&'a Explanation, &'a [f64])>, String>;

/// What a picture adds to the index.
enum Lines {
    /// Nothing: it is there.
    None,
    /// One line per text and method.
    Results(Vec<Value>),
    /// Why there are none.
    Failure(String),
}

/// Writes a picture's files. Only what concerns the output folder is an error.
fn lines(record: &Record, picture: &Picture, explained: Explained<'_>) -> Result<Lines> {
    let (explanation, found) = match explained {
        Ok(Some(both)) => both,
        Ok(None) => return Ok(Lines::None),
        Err(reason) => return Ok(Lines::Failure(reason)),
    };
    match record.write(picture, explanation, found) {
        Ok(lines) => Ok(Lines::Results(lines)),
        Err(error @ Error::Io { .. }) => Err(error),
        Err(error) => Ok(Lines::Failure(error.to_string())),
    }
}

fn record_gaps(console: &Console, lines: &[Value]) {
    for line in lines {
        if let Some(gap) = line["completeness_gap"].as_f64() {
            let (image, text, method) = (&line["image"], &line["text"], &line["method"]);
            console.detail(&format!("{image} {text} {method}: completeness gap {gap:.2e}"));
        }
    }
}

/// What else may be in a picture is known for the bundled model alone.
fn presence(args: &HeatmapArgs, asked: &mut Asked) -> Result<Presence> {
    let known = (args.model.model == demo::LABEL).then(demo::vocabulary);
    let known: Vec<String> = known.into_iter().flatten().map(str::to_owned).collect();
    asked.engine.presence(&asked.question, &known)
}

/// Where all inputs have one size, a patch that is not there is known before the first image.
fn check_tokens(asked: &mut Asked, preprocess: &Preprocess) -> Result<()> {
    if let Some((height, width)) = preprocess.crop_size {
        let grid = asked.engine.grid(width, height)?;
        asked.question.job(1, grid, Vec::new(), false)?;
    }
    Ok(())
}

impl End {
    /// Tells the user how it went; the exit code.
    pub fn report(&self, args: &HeatmapArgs, console: &Console) -> anyhow::Result<ExitCode> {
        if args.format.contains(&Format::Safetensors) {
            write_run_file(&args.output)?;
        }
        let folder = args.output.display();
        let skipped = if self.skipped > 0 { format!(", {} were there", self.skipped) } else { String::new() };
        let images = if self.explained == 1 { "image" } else { "images" };
        console.say(&format!("{} {images} explained{skipped}: {folder}/results.jsonl", self.explained));
        let (all, computing) = (self.elapsed.as_secs_f64(), self.computing.as_secs_f64());
        console.detail(&format!(
            "{all:.2} s, {computing:.2} s of them computing; {:.2} images per second; peak memory {}",
            self.explained as f64 / all.max(1e-9),
            memory::peak().map_or("unknown".into(), bytes)
        ));
        if self.interrupted {
            let done = self.explained + self.skipped + self.failed;
            console.error(&format!("interrupted after {done} of {} images; --resume continues", self.inputs));
            return Ok(ExitCode::from(Error::Interrupted.exit_code()));
        }
        if self.failed > 0 {
            console
                .error(&format!("{} of {} images failed; {folder}/results.jsonl names them", self.failed, self.inputs));
            return Ok(ExitCode::from(1));
        }
        Ok(ExitCode::SUCCESS)
    }
}
