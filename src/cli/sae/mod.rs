//! `vitscope sae`: training, what an SAE is and how well it fits, other formats, and its codes of images.

mod harvest;
mod recipe;
mod train;

mod eval;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::{Args, Subcommand, ValueEnum};
use serde_json::json;
use vitscope::{
    Error,
    engine::ImageLatents,
    image::Prepared,
    model::{Score, Splice, Through, Tokens},
    sae_eval::{Firing, Reconstruction, ReconstructionReport},
    text::Template,
    weights::{Data, Stored, write},
};

use super::{
    args::{ModelArgs, PreprocessArgs, SaeArgs},
    console::{Console, number},
    inputs::{self, Input},
    inspect::{fields, listing},
    pictures::read_one,
    setup::{self, Asked},
};

/// Sparse autoencoders: training, what they are, how well they fit, other formats, codes of images
#[derive(Subcommand)]
pub enum SaeCommand {
    Inspect(Box<OnImages>),
    Convert(ConvertArgs),
    Apply(Box<ApplyArgs>),
    Train(Box<train::TrainArgs>),
    Eval(Box<eval::EvalArgs>),
}

/// Say what an SAE is and, given images, how well it rebuilds the model's residual stream
#[derive(Args)]
pub struct OnImages {
    /// A folder or file of SAELens or EleutherAI's sparsify
    sae: PathBuf,
    /// Pictures, folders and patterns
    images: Vec<PathBuf>,
    #[command(flatten)]
    model: ModelArgs,
    /// Block whose output is hooked, from 0, or from the end as -1 [default: as the SAE's file says]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    layer: Option<isize>,
    /// Tokens that the SAE reads: all, cls, patches or patches:I,J,...
    #[arg(long, default_value = "all")]
    tokens: Tokens,
    #[command(flatten)]
    preprocess: PreprocessArgs,
}

/// Write an SAE in another format
#[derive(Args)]
pub struct ConvertArgs {
    /// A folder or file of SAELens or EleutherAI's sparsify
    sae: PathBuf,
    /// The format to write
    #[arg(long, value_enum)]
    to: Format,
    /// The numbers' type: f32, or f16 (half the size, rounded)
    #[arg(long, value_enum, default_value = "f32")]
    dtype: StoredDtype,
    /// The folder to write; for sparsify its name says the hook, such as layers.22
    #[arg(short, long, value_name = "DIR")]
    output: PathBuf,
}

/// A format that can be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// cfg.json and sae_weights.safetensors.
    Saelens,
    /// cfg.json and sae.safetensors.
    Sparsify,
}

/// The type of stored numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum StoredDtype {
    /// As they are.
    F32,
    /// Rounded to 16 bits.
    F16,
}

/// Write the sparse codes of images to a safetensors file
///
/// Rows are tokens, CLS first, image after image, as a compressed sparse matrix: `indptr` (rows + 1), `indices`,
/// `values`, and `tokens` (images), the rows of each image.
#[derive(Args)]
pub struct ApplyArgs {
    #[command(flatten)]
    on: OnImages,
    /// The file to write
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
}

/// Runs one of the commands.
pub fn run(command: &SaeCommand, console: &Console) -> anyhow::Result<ExitCode> {
    match command {
        SaeCommand::Inspect(args) => inspect(args, console),
        SaeCommand::Convert(args) => convert(args, console),
        SaeCommand::Apply(args) => apply(args, console),
        SaeCommand::Train(args) => train::run(args, console),
        SaeCommand::Eval(args) => eval::run(args, console),
    }
}

fn convert(args: &ConvertArgs, console: &Console) -> anyhow::Result<ExitCode> {
    let weights = setup::load_sae(&args.sae)?;
    weights.notes.iter().for_each(|note| console.warn(&format!("{}: {note}", args.sae.display())));
    let stored = match args.dtype {
        StoredDtype::F32 => Stored::F32,
        StoredDtype::F16 => Stored::F16,
    };
    match args.to {
        Format::Saelens => weights.save_sae_lens(&args.output, stored)?,
        Format::Sparsify => weights.save_sparsify(&args.output, stored)?,
    }
    console.say(&format!("written: {}", args.output.display()));
    Ok(ExitCode::SUCCESS)
}

fn inspect(args: &OnImages, console: &Console) -> anyhow::Result<ExitCode> {
    let weights = setup::load_sae(&args.sae)?;
    let mut rows = weights.describe();
    let mut code = ExitCode::SUCCESS;
    if !args.images.is_empty() {
        let (mut fit, mut firing) = (Reconstruction::default(), Firing::new(weights.latents));
        let mut asked = args.ask(console)?;
        let failed = args.each(&inputs::collect(&args.images, None), &mut asked, console, |asked, _, prepared| {
            let streams = asked.engine.hook_streams(&[prepared], &asked.question)?;
            let latents = codes(asked, prepared)?;
            for (stream, latents) in streams.iter().zip(&latents) {
                let rows = stream.before.chunks(stream.width).zip(stream.after.chunks(stream.width));
                let active = |t: usize| latents.tokens[t].iter().filter(|l| l.z != 0.0).map(|l| l.id);
                let in_scope = || (0..stream.scope.len()).filter(|&t| stream.scope[t]);
                for (t, (x, y)) in rows.enumerate().filter(|(t, _)| stream.scope[*t]) {
                    fit.add(x, y, active(t).count(), t == 0);
                }
                firing.add(in_scope().map(active));
            }
            Ok(())
        })?;
        rows.extend(fit_rows(&fit.report(), firing.report(0.0).fired));
        code = ExitCode::from(u8::from(failed > 0));
    }
    let path = args.sae.display().to_string();
    console.result(|| listing(&rows), || vec![json!({ "path": path, "is": fields(&rows) })])?;
    Ok(code)
}

fn apply(args: &ApplyArgs, console: &Console) -> anyhow::Result<ExitCode> {
    let inputs = inputs::collect(&args.on.images, None);
    let mut asked = args.on.ask(console)?;
    let mut codes_of = Codes { indptr: vec![0], ..Codes::default() };
    let failed = args.on.each(&inputs, &mut asked, console, |asked, name, prepared| {
        codes(asked, prepared)?.iter().for_each(|latents| codes_of.add(name, latents));
        Ok(())
    })?;
    let preprocess = setup::preprocess(&args.on.preprocess, &asked.engine);
    let options = setup::options(&asked, &preprocess, args.on.preprocess.exif)?.to_string();
    codes_of.write(&args.output, asked.request.sae.as_ref().map_or(0, |sae| sae.weights.latents), &options)?;
    console.say(&format!(
        "{} images, {} values: {}",
        codes_of.images.len(),
        codes_of.values.len(),
        args.output.display()
    ));
    Ok(ExitCode::from(u8::from(failed > 0)))
}

impl OnImages {
    fn ask(&self, console: &Console) -> anyhow::Result<Asked> {
        let sae = SaeArgs {
            sae: Some(self.sae.clone()),
            layer: self.layer,
            tokens: self.tokens.clone(),
            splice: Splice::Replace,
            through: Through::Exact,
        };
        let sae = setup::needed_sae(&self.model, &sae, Vec::new(), console)?;
        let request = setup::latents_request(sae, Vec::new(), &Template::default(), Score::Latent(0), self.model.seed);
        setup::ask(setup::open(&self.model, console)?, request, console)
    }

    /// Calls `use_image` with every picture that can be read, and names the others; how many those are.
    fn each(
        &self,
        inputs: &[Input],
        asked: &mut Asked,
        console: &Console,
        mut use_image: impl FnMut(&mut Asked, &str, &Prepared) -> vitscope::Result<()>,
    ) -> anyhow::Result<usize> {
        let preprocess = setup::preprocess(&self.preprocess, &asked.engine);
        let console = console.with_bar(inputs.len());
        let mut failed = 0;
        for input in inputs {
            match read_one(input, &preprocess, &setup::decode(&self.preprocess)) {
                Ok(ready) => use_image(asked, &input.name, &ready.prepared)?,
                Err(error) => {
                    failed += 1;
                    console.error(&error.to_string());
                }
            }
            console.advance(1);
        }
        console.finish();
        setup::say_kernels(asked.engine.kernels_used(), &console);
        Ok(failed)
    }
}

fn codes(asked: &mut Asked, prepared: &Prepared) -> vitscope::Result<Vec<ImageLatents>> {
    let explanations = asked.engine.explain(&[prepared], &asked.question)?;
    let missing = || Error::Plan { tensor: "latents".into(), planned: None };
    explanations.into_iter().map(|e| e.result.latents.ok_or_else(missing)).collect()
}

/// What [`Reconstruction`] and [`Firing`] say, as names and values.
fn fit_rows(reconstruction: &ReconstructionReport, fired: usize) -> Vec<(String, String)> {
    let rows = [
        ("tokens", reconstruction.tokens.to_string()),
        ("L0", format!("{:.2}", reconstruction.l0)),
        ("latents that fired", fired.to_string()),
        ("FVU", number(reconstruction.fvu)),
        ("explained variance, centred", number(reconstruction.explained_variance)),
        ("explained variance, uncentred", number(reconstruction.explained_variance_uncentred)),
        ("mean cosine to the stream", number(reconstruction.cosine)),
        ("norm relative to the stream", number(reconstruction.relative_norm)),
    ];
    rows.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

/// Codes as a compressed sparse matrix.
#[derive(Default)]
struct Codes {
    images: Vec<String>,
    /// (images): rows of each.
    tokens: Vec<i64>,
    /// (rows + 1).
    indptr: Vec<i64>,
    indices: Vec<u32>,
    values: Vec<f32>,
}

impl Codes {
    fn add(&mut self, image: &str, latents: &ImageLatents) {
        self.images.push(image.to_owned());
        self.tokens.push(latents.tokens.len() as i64);
        for code in &latents.tokens {
            for latent in code.iter().filter(|latent| latent.z != 0.0) {
                self.indices.push(latent.id);
                self.values.push(latent.z as f32);
            }
            self.indptr.push(self.indices.len() as i64);
        }
    }

    fn write(&self, path: &Path, latents: usize, options: &str) -> vitscope::Result<()> {
        let images = json!(self.images).to_string();
        let tensors: [(&str, &[usize], Data<'_>); 4] = [
            ("tokens", &[self.tokens.len()], Data::I64(&self.tokens)),
            ("indptr", &[self.indptr.len()], Data::I64(&self.indptr)),
            ("indices", &[self.indices.len()], Data::U32(&self.indices)),
            ("values", &[self.values.len()], Data::F32(&self.values)),
        ];
        write(path, &tensors, &[("images", &images), ("latents", &latents.to_string()), ("options", options)])
    }
}
