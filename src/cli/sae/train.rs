//! `vitscope sae train`: SAEs on the residual stream of any model, at any layers, in one pass over the images.

use std::{
    collections::HashSet,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
};

use clap::{Args, ValueEnum};
use serde_json::{Value, json};
use vitscope::{
    Error,
    engine::Engine,
    model::Tokens,
    report::short_hash,
    sae_train::{
        Event, Finished, Index, Run, RunSpec, ShardDtype, ShardSource, ShardWriter, Source, Standing, StepReport,
    },
    weights::TokenScopeHint,
};

use super::{
    harvest::{Failures, Harvester, ImageSource},
    recipe::RecipeArgs,
};
use crate::cli::{
    args::{ModelArgs, PreprocessArgs},
    console::{Console, number, table},
    inputs::{self, Input},
    interrupt::Interrupt,
    pictures::Reading,
    setup,
};

/// Train sparse autoencoders on the residual stream of a model
///
/// Images are read again in every epoch, or harvested once with --cache. Each SAE gets a folder below the output
/// folder, such as layer22-x8: cfg.json and sae_weights.safetensors (SAELens), log.jsonl, curves.svg, curves.png and
/// train.json. Everything random comes from --seed. A run that was stopped goes on with --resume and ends as if it had
/// not been.
#[derive(Args)]
pub struct TrainArgs {
    /// Pictures, folders (searched through) and patterns; not needed for a finished --cache
    paths: Vec<PathBuf>,
    /// Block whose output is read, from 0, or from the end as -1; may be repeated
    #[arg(long, value_name = "N", allow_negative_numbers = true, required = true, value_delimiter = ',')]
    layer: Vec<isize>,
    /// Tokens to train on: all, cls or patches
    #[arg(long, default_value = "all")]
    tokens: Tokens,
    /// The folder for results
    #[arg(short, long, default_value = "sae", value_name = "DIR")]
    output: PathBuf,
    #[command(flatten)]
    recipe: RecipeArgs,
    /// Tokens in the buffer that batches are drawn from. Tokens of a --cache come in already mixed, those of images one
    /// image after the other: then a larger buffer mixes better
    #[arg(long, default_value_t = 65536, value_name = "TOKENS", help_heading = "Activations")]
    buffer: usize,
    /// Images that share a pass of the model
    #[arg(long, default_value_t = 16, value_name = "N", value_parser = from_1, help_heading = "Activations")]
    batch_size: usize,
    /// Harvest all images into this folder first (or use what is there), and train from it
    #[arg(long, value_name = "DIR", help_heading = "Activations")]
    cache: Option<PathBuf>,
    /// Type of the cached values [default: f32]
    #[arg(long, value_enum, requires = "cache", help_heading = "Activations")]
    cache_dtype: Option<CacheDtype>,
    /// Tokens from which on a file of the cache is full
    #[arg(long, default_value_t = 32768, value_name = "TOKENS", requires = "cache", help_heading = "Activations")]
    shard_tokens: usize,
    /// Steps from one checkpoint to the next
    #[arg(long, default_value_t = 1000, value_name = "STEPS", value_parser = from_1)]
    checkpoint_every: usize,
    /// Steps from one line of the log to the next
    #[arg(long, default_value_t = 10, value_name = "STEPS", value_parser = from_1)]
    log_every: usize,
    /// Go on from the checkpoint in the output folder, if there is one
    #[arg(long)]
    resume: bool,
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    preprocess: PreprocessArgs,
}

/// Names of [`ShardDtype`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum CacheDtype {
    /// 32-bit floats.
    F32,
    /// 16-bit floats: half the space.
    F16,
}

impl From<CacheDtype> for ShardDtype {
    fn from(name: CacheDtype) -> ShardDtype {
        match name {
            CacheDtype::F32 => ShardDtype::F32,
            CacheDtype::F16 => ShardDtype::F16,
        }
    }
}

fn from_1(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|n| *n > 0).ok_or_else(|| "expected a number from 1".into())
}

/// Trains.
pub fn run(args: &TrainArgs, console: &Console) -> anyhow::Result<ExitCode> {
    let interrupt = Interrupt::listen()?;
    args.recipe.check()?;
    let tokens = scope(&args.tokens)?;
    let cached = args.cache.as_deref().map(Index::read).transpose()?.flatten();
    let inputs = inputs(args, cached.as_ref())?;
    let engine = setup::open(&args.model, console)?;
    let layers = args.recipe.layers(&args.layer, engine.layers())?;
    let width = engine.checkpoint.config.vision.tower.width;
    let mut spec = RunSpec {
        folder: args.output.clone(),
        saes: args.recipe.saes(&layers, width, args.model.seed)?,
        layers: layers.clone(),
        tokens,
        buffer: args.buffer,
        log_every: args.log_every,
        checkpoint_every: args.checkpoint_every,
        origin: origin(args, &engine, &inputs)?,
    };
    let preprocess = setup::preprocess(&args.preprocess, &engine);
    let reading = Reading { preprocess, decode: setup::decode(&args.preprocess), done: HashSet::new() };
    let batch = args.batch_size;
    let harvester = |failures| {
        let images = Arc::new((inputs, reading));
        Harvester { engine, layers, tokens, batch, images, failures }
    };
    let Some(folder) = &args.cache else {
        spec.origin["batch_size"] = batch.into();
        let Some(goes_on) = goes_on(args, &spec, console)? else { return Ok(ExitCode::SUCCESS) };
        std::fs::create_dir_all(&args.output).map_err(|e| Error::io(&args.output, e))?;
        let harvester = harvester(Failures::open(&args.output, goes_on, console)?);
        let source = ImageSource::new(harvester, args.model.seed);
        return train(args, spec, source, goes_on, console, &interrupt, Some(&args.output));
    };
    // Where no images are given, they are those of the cache.
    let mut asked = spec.origin;
    if let (true, Some(index)) = (args.paths.is_empty(), &cached) {
        asked["images"] = index.origin["images"].clone();
    }
    let dtype = args.cache_dtype.map(ShardDtype::from).or(cached.as_ref().map(|index| index.dtype)).unwrap_or_default();
    spec.origin = asked.clone();
    spec.origin["cache"] = json!(dtype);
    let Some(goes_on) = goes_on(args, &spec, console)? else { return Ok(ExitCode::SUCCESS) };
    let index = match cached {
        Some(index) if index.complete => index,
        _ => {
            let (layers, shards) = (spec.layers.clone(), Vec::new());
            let empty = Index { origin: asked.clone(), layers, width, dtype, complete: false, shards };
            let writer = ShardWriter::open(folder, empty, args.shard_tokens)?;
            let harvester = harvester(Failures::open(folder, writer.images_done() > 0, console)?);
            match harvester.fill(writer, console, &interrupt) {
                Err(Error::Interrupted) => {
                    console.error(&format!("interrupted; the same command goes on with {}", folder.display()));
                    return Ok(ExitCode::from(Error::Interrupted.exit_code()));
                }
                filled => filled?,
            }
        }
    };
    index.check(folder, &asked, dtype)?;
    let source = ShardSource::open(folder, &index, &spec.layers, args.model.seed)?;
    let failures = (!args.paths.is_empty()).then_some(folder.as_path());
    train(args, spec, source, goes_on, console, &interrupt, failures)
}

/// The tokens as an SAE's file can name them.
fn scope(tokens: &Tokens) -> Result<TokenScopeHint, Error> {
    match tokens {
        Tokens::All => Ok(TokenScopeHint::All),
        Tokens::Cls => Ok(TokenScopeHint::Cls),
        Tokens::Patches => Ok(TokenScopeHint::Patches),
        Tokens::List(_) => Err(Error::usage(format!("--tokens {tokens}: SAEs are trained on all, cls or patches"))),
    }
}

fn inputs(args: &TrainArgs, cached: Option<&Index>) -> Result<Vec<Input>, Error> {
    match (args.paths.is_empty(), cached) {
        (false, _) => Ok(inputs::collect(&args.paths, Some(&args.output))),
        (true, Some(index)) if index.complete => Ok(Vec::new()),
        (true, _) => Err(Error::usage("no images: give pictures or folders, or --cache DIR with a finished cache")),
    }
}

/// Everything but the layers that decides activations.
fn origin(args: &TrainArgs, engine: &Engine, inputs: &[Input]) -> anyhow::Result<Value> {
    let preprocess = setup::preprocess(&args.preprocess, engine);
    let names: Vec<&[u8]> = inputs.iter().map(|input| input.name.as_bytes()).collect();
    Ok(json!({
        "model": setup::model_record(engine),
        "tokens": args.tokens.to_string(),
        "preprocess": setup::preprocess_record(&preprocess, args.preprocess.exif)?,
        "dtype": engine.dtype.to_string(),
        "device": engine.device,
        "images": { "count": inputs.len(), "hash": short_hash(&names, 16) },
    }))
}

/// Whether a checkpoint is there to go on from; `None` where everything is done already.
fn goes_on(args: &TrainArgs, spec: &RunSpec, console: &Console) -> anyhow::Result<Option<bool>> {
    let folder = args.output.display();
    match (spec.standing()?, args.resume) {
        (Standing::Finished, true) => {
            console.say(&format!("{folder}: finished already"));
            Ok(None)
        }
        (Standing::Stopped, false) => Err(Error::usage(format!(
            "-o {folder}: a stopped run is there: give --resume to go on with it, or another folder"
        ))
        .into()),
        (Standing::Stopped, true) => Ok(Some(true)),
        (Standing::New, _) | (Standing::Finished, false) => Ok(Some(false)),
    }
}

/// Trains from a source, to the end or to an interrupt. `failures` is the folder with the list of unusable images.
fn train(
    args: &TrainArgs,
    spec: RunSpec,
    source: impl Source,
    goes_on: bool,
    console: &Console,
    interrupt: &Interrupt,
    failures: Option<&Path>,
) -> anyhow::Result<ExitCode> {
    let (folder, names) = (&args.output, spec.saes.iter().map(|sae| sae.name.clone()).collect::<Vec<_>>());
    let steps = spec.saes.first().map_or(0, |sae| sae.recipe.steps);
    let mut run = if goes_on { Run::resume(spec, source)? } else { Run::new(spec, source)? };
    if goes_on {
        console.say(&format!("going on after step {}", run.steps_done()));
    }
    let bar = console.with_steps(steps, run.steps_done(), args.recipe.train_batch);
    loop {
        match run.advance()? {
            Event::Filled => bar.beside_bar(format!("buffer {} of {}", run.tokens_held(), args.buffer)),
            Event::Stepped => {
                bar.advance(1);
                bar.beside_bar(names.iter().zip(run.reports()).map(|(name, report)| state(name, report)).collect());
            }
            Event::Done => break,
        }
        if interrupt.requested() {
            run.checkpoint()?;
            bar.finish();
            let done = run.steps_done();
            let how = if done > 0 { "--resume goes on" } else { "nothing was trained yet" };
            console.error(&format!("interrupted after step {done} of {steps}; {how}"));
            return Ok(ExitCode::from(Error::Interrupted.exit_code()));
        }
    }
    let finished = run.finish()?;
    bar.finish();
    for sae in &finished {
        sae.warnings.iter().for_each(|warning| console.warn(&format!("{}: {warning}", sae.name)));
    }
    let line = |sae: &Finished| {
        json!({
            "sae": folder.join(&sae.name).display().to_string(),
            "layer": sae.layer,
            "latents": sae.latents,
            "end": sae.end,
            "warnings": sae.warnings,
        })
    };
    console.result(|| listing(&finished), || finished.iter().map(line).collect())?;
    console.say(&format!("written: {}", folder.display()));
    let failed = failures.map_or(Ok(0), Failures::count)?;
    if let (Some(folder), true) = (failures, failed > 0) {
        console.error(&format!("{failed} images could not be used; {}/failed.jsonl names them", folder.display()));
    }
    Ok(ExitCode::from(u8::from(failed > 0)))
}

/// An SAE in the progress bar.
fn state(name: &str, report: &StepReport) -> String {
    format!("[{name} FVU {:.3} L0 {:.1} dead {}] ", report.fvu, report.l0, report.dead)
}

/// A row for each SAE, with means of the log's last tenth.
fn listing(finished: &[Finished]) -> String {
    let row = |sae: &Finished| {
        let of = |name: &str| sae.end[name].as_f64().unwrap_or(f64::NAN);
        vec![
            sae.name.clone(),
            sae.latents.to_string(),
            number(of("fvu")),
            format!("{:.1}", of("l0")),
            format!("{:.0}", of("dead")),
        ]
    };
    table(&["SAE", "latents", "FVU", "L0", "dead"], &finished.iter().map(row).collect::<Vec<_>>())
}
