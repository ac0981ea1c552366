//! `vitscope heatmap`: where the model looks, for every image, text and method.

mod batches;
mod draw;
mod record;
mod resume;

use std::{path::PathBuf, process::ExitCode};

use clap::{Args, ValueEnum};
use vitscope::{
    Error, demo,
    engine::Request,
    model::{NamedMethod, Score},
};

use super::{
    args::{BatchSize, DrawArgs, EditArgs, FadeRule, ModelArgs, PreprocessArgs, SaeArgs, TextArgs},
    console::Console,
    inputs::{self, BUNDLED, Input},
    interrupt::Interrupt,
    setup::{self, Asked},
};

/// Draw where the model looks, for every image, text and method
///
/// With no path it explains a scene that ships with the program. Results go to the output folder:
/// results.jsonl (one line per image, text and method), maps/*.npy (raw float32 maps) and overlays/*.png.
#[derive(Args)]
pub struct HeatmapArgs {
    /// Pictures, folders (searched through) and patterns
    paths: Vec<PathBuf>,
    #[command(flatten)]
    texts: TextArgs,
    /// What is explained: cosine, logit, softmax (over the given texts) or latent:ID (of the SAE)
    #[arg(long, default_value = "cosine")]
    score: Score,
    /// NAME or NAME:key=value,...; may be repeated. grad-eclip attention rollout chefer legrad grad-cam gradient
    /// gradient-x-input integrated-gradients smoothgrad
    #[arg(long, default_value = "grad-eclip", value_name = "METHOD")]
    method: Vec<NamedMethod>,
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    sae: SaeArgs,
    #[command(flatten)]
    edits: EditArgs,
    #[command(flatten)]
    preprocess: PreprocessArgs,
    #[command(flatten)]
    draw: DrawArgs,
    /// The folder for results
    #[arg(short, long, default_value = "out", value_name = "DIR")]
    output: PathBuf,
    /// png: overlays; npy: raw maps alone; safetensors: all maps of the run in maps.safetensors. The raw maps are
    /// always written, since results.jsonl refers to them
    #[arg(long, value_enum, value_delimiter = ',', default_value = "png,npy")]
    format: Vec<Format>,
    /// Images that share a pass: auto (by memory) or a number
    #[arg(long, default_value_t = BatchSize::Auto)]
    batch_size: BatchSize,
    /// Explain the first N images only
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    /// Keep what is in the output folder, and skip images that it holds with the same options
    #[arg(long)]
    resume: bool,
}

/// A kind of output file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
enum Format {
    /// Overlays.
    Png,
    /// Raw maps, one per file.
    Npy,
    /// Raw maps, all in one file.
    Safetensors,
}

/// Explains all inputs.
pub fn run(args: &HeatmapArgs, console: &Console) -> anyhow::Result<ExitCode> {
    let interrupt = Interrupt::listen()?;
    let request = request(args, console)?;
    let engine = setup::open(&args.model, console)?;
    let asked = setup::ask(engine, request, console)?;
    let inputs = inputs(args);
    let console = console.with_bar(inputs.len());
    let end = batches::Run::start(args, asked, &console, inputs)?.all(&interrupt)?;
    end.report(args, &console)
}

fn inputs(args: &HeatmapArgs) -> Vec<Input> {
    let mut inputs = inputs::collect(&args.paths, Some(&args.output));
    inputs.truncate(args.limit.unwrap_or(usize::MAX));
    inputs
}

fn request(args: &HeatmapArgs, console: &Console) -> anyhow::Result<Request> {
    let mut texts = setup::texts(&args.texts)?;
    match (args.score, texts.is_empty()) {
        (Score::Latent(_), false) => console.warn("texts have no part in --score latent:ID"),
        (Score::Latent(_), true) | (_, false) => {}
        (_, true) if args.paths.is_empty() => texts = BUNDLED.prompts.iter().map(|&text| text.to_owned()).collect(),
        (_, true) => {}
    }
    let given = texts.len();
    let mut seen = std::collections::HashSet::new();
    texts.retain(|text| seen.insert(text.clone()));
    if texts.len() < given {
        console.warn(&format!("{} texts were given more than once", given - texts.len()));
    }
    for (i, method) in args.method.iter().enumerate() {
        if args.method[..i].iter().any(|earlier| earlier.method == method.method) {
            return Err(Error::usage(format!("method `{method}` is asked for twice")).into());
        }
    }
    Ok(Request {
        texts,
        template: args.texts.template.clone(),
        score: args.score,
        methods: args.method.clone(),
        sae: setup::sae(&args.sae, args.edits.edit.clone(), console)?,
        latents: false,
        seed: args.model.seed,
    })
}

/// What the opacity of the heat says.
fn fade(args: &HeatmapArgs) -> vitscope::Result<FadeRule> {
    match (args.draw.fade, args.score) {
        (Some(FadeRule::Presence), Score::Latent(_)) => {
            Err(Error::usage("--fade presence compares patches with texts: a latent has none"))
        }
        (Some(rule), _) => Ok(rule),
        (None, Score::Latent(_)) => Ok(FadeRule::Score),
        (None, _) if args.model.model == demo::LABEL => Ok(FadeRule::Presence),
        (None, _) => Ok(FadeRule::Score),
    }
}

/// What every line of this run's index says about how it came about, but for the method.
fn options(args: &HeatmapArgs, asked: &Asked) -> anyhow::Result<serde_json::Value> {
    let mut formats = args.format.clone();
    formats.sort();
    formats.dedup();
    let preprocess = setup::preprocess(&args.preprocess, &asked.engine);
    let mut options = setup::options(asked, &preprocess, args.preprocess.exif)?;
    options["format"] = formats.into_iter().map(super::args::name_of).collect();
    options["overlay"] = draw::options(&args.draw, fade(args)?);
    Ok(options)
}
