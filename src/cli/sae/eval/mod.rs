//! `vitscope sae eval`: how good SAEs are, beside each other, and which one to take.

mod examples;
mod show;

use std::{path::PathBuf, process::ExitCode};

use clap::Args;
use serde_json::{Value, json};
use vitscope::{
    Error,
    engine::Engine,
    image::Preprocess,
    model::{Tokens, resolve_layer},
    sae_eval::{Candidate, Criterion, Evaluator, Example, Probes, Rule},
};

use self::{
    examples::{Examples, Labels},
    show::{Evaluated, Results},
};
use crate::cli::{
    args::{ModelArgs, PreprocessArgs, TextArgs},
    console::Console,
    pictures::{Picture, Pictures, Reading, Ready, State},
    setup,
};

/// Say how well SAEs rebuild the residual stream, how their latents fire and what their splice does to CLIP
///
/// The splice replaces the stream at the SAE's block by its reconstruction. FVU is the squared error over the squared
/// distance from the mean token; explained variance is 1 - FVU (centred), or 1 - squared error over squared norm
/// (uncentred). Zero ablation sets the same tokens to zero, and loss recovered is
/// (L_zero - L_spliced) / (L_zero - L), of CLIP's contrastive loss. Of several SAEs one is picked by a stated rule.
#[derive(Args)]
pub struct EvalArgs {
    /// Folders or files of SAELens or EleutherAI's sparsify
    #[arg(required = true, value_name = "SAE")]
    saes: Vec<PathBuf>,
    /// Pictures, folders and patterns [default: those that --captions or --labels names; the bundled scenes for the
    /// demo model]
    #[arg(long, num_args = 1.., value_name = "PATH")]
    images: Vec<PathBuf>,
    /// The zero-shot class of each picture: folders (its folder's name, underscores as spaces) or a FILE of picture and
    /// label, as CSV or JSON lines
    #[arg(long, value_name = "folders|FILE")]
    labels: Option<Labels>,
    /// What each picture shows, for the contrastive loss: a file of picture and caption, as CSV or JSON lines
    #[arg(long, value_name = "FILE")]
    captions: Option<PathBuf>,
    /// Image-caption pairs that share a contrastive loss
    #[arg(long, default_value_t = 256, value_name = "N", value_parser = count)]
    contrastive_batch: usize,
    #[command(flatten)]
    texts: TextArgs,
    #[command(flatten)]
    model: ModelArgs,
    /// Block whose output is hooked, for all SAEs [default: as each SAE's file says]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    layer: Option<isize>,
    /// Tokens that the SAEs read and write: all, cls, patches or patches:I,J,... [default: as each SAE's file says,
    /// else all]
    #[arg(long)]
    tokens: Option<Tokens>,
    /// A latent is rare if it fires on a smaller share of the tokens
    #[arg(long, default_value = "1e-5", value_name = "SHARE", value_parser = share)]
    rare: f64,
    /// What decides among the SAEs that qualify: fvu or l0 (lowest), cosine (of the image embedding), accuracy
    /// (zero-shot) or recovered (contrastive loss; highest)
    #[arg(long, default_value = "fvu")]
    pick: Criterion,
    /// An SAE with a larger share of dead latents does not qualify
    #[arg(long, default_value = "0.5", value_name = "SHARE", value_parser = share)]
    max_dead: f64,
    /// An SAE with a lower fidelity does not qualify: mean cosine of the image embedding with its own and, with captions,
    /// contrastive loss recovered
    #[arg(long, default_value = "0.9", value_name = "SHARE", value_parser = share)]
    min_fidelity: f64,
    #[command(flatten)]
    preprocess: PreprocessArgs,
    /// Images that share a pass; the result does not depend on it
    #[arg(long, default_value_t = 8, value_name = "N", value_parser = count)]
    batch_size: usize,
    /// Write eval.jsonl and the latents' frequencies as frequency.png and frequency.svg to this folder
    #[arg(short, long, value_name = "DIR")]
    output: Option<PathBuf>,
}

/// Evaluates, prints and writes.
pub fn run(args: &EvalArgs, console: &Console) -> anyhow::Result<ExitCode> {
    let mut engine = setup::open(&args.model, console)?;
    let candidates = args.candidates(&engine, console)?;
    let examples = Examples::of(args, setup::texts(&args.texts)?, console)?;
    if let Some(folder) = &args.output {
        std::fs::create_dir_all(folder).map_err(|e| Error::io(folder, e))?;
    }
    let probes = Probes {
        texts: examples.texts.clone(),
        classes: examples.classes.clone(),
        template: args.texts.template.clone(),
        contrastive_batch: args.contrastive_batch,
    };
    let saes: Vec<Evaluated> = args.saes.iter().zip(&candidates).map(|(path, c)| Evaluated::new(path, c)).collect();
    let preprocess = setup::preprocess(&args.preprocess, &engine);
    let options = args.options(&engine, &preprocess)?;
    let mut evaluator = Evaluator::new(&mut engine, candidates, probes)?;
    let (images, failed) = args.each(&mut engine, &mut evaluator, &examples, preprocess, console)?;
    if images == 0 {
        console.error("no picture could be evaluated");
        return Ok(ExitCode::from(1));
    }
    let (reports, warnings) = evaluator.finish(&mut engine, args.rare)?;
    if !warnings.is_empty() {
        console.warn(&format!("{} texts were too long and were cut; the first: {}", warnings.len(), warnings[0]));
    }
    let rule = Rule { by: args.pick, most_dead: args.max_dead, least_fidelity: args.min_fidelity };
    let results = Results { saes, choice: rule.choose(&reports), reports, rule, images, failed, options };
    if let Some(folder) = &args.output {
        results.write(folder)?;
    }
    console.result(|| results.human(), || results.lines())?;
    setup::say_kernels(engine.kernels_used(), console);
    Ok(ExitCode::from(u8::from(failed > 0)))
}

impl EvalArgs {
    fn candidates(&self, engine: &Engine, console: &Console) -> anyhow::Result<Vec<Candidate>> {
        let layer = self.layer.map(|layer| resolve_layer(layer, engine.layers(), "--layer")).transpose()?;
        let mut candidates = Vec::new();
        for path in &self.saes {
            let weights = setup::load_sae(path)?;
            weights.notes.iter().for_each(|note| console.warn(&format!("{}: {note}", path.display())));
            let (candidate, warning) = Candidate::new(weights, engine, layer, self.tokens.clone())?;
            warning.iter().for_each(|warning| console.warn(warning));
            candidates.push(candidate);
        }
        Ok(candidates)
    }

    /// Puts every picture that can be read through the evaluator, and names the others; how many of each there are.
    fn each(
        &self,
        engine: &mut Engine,
        evaluator: &mut Evaluator,
        examples: &Examples,
        preprocess: Preprocess,
        console: &Console,
    ) -> anyhow::Result<(usize, usize)> {
        let console = console.with_bar(examples.inputs.len());
        let reading = Reading { preprocess, decode: setup::decode(&self.preprocess), done: Default::default() };
        let (mut images, mut failed) = (0, 0);
        let mut batch: Vec<(String, Box<Ready>)> = Vec::new();
        let mut flush = |batch: &mut Vec<(String, Box<Ready>)>| -> vitscope::Result<()> {
            let given: Vec<Example<'_>> = batch
                .iter()
                .map(|(name, ready)| Example {
                    prepared: &ready.prepared,
                    class: examples.class_of.get(name).copied(),
                    caption: examples.caption_of.get(name).map(String::as_str),
                })
                .collect();
            evaluator.add(engine, &given)?;
            console.advance(batch.len());
            images += batch.len();
            batch.clear();
            Ok(())
        };
        for Picture { name, state, .. } in Pictures::read(examples.inputs.clone(), reading) {
            match state {
                State::Ready(ready) => {
                    let size = |ready: &Ready| (ready.prepared.width, ready.prepared.height);
                    if batch.len() >= self.batch_size
                        || batch.last().is_some_and(|(_, last)| size(last) != size(&ready))
                    {
                        flush(&mut batch)?;
                    }
                    batch.push((name, ready));
                }
                State::Failed(reason) => {
                    console.error(&format!("{name}: {reason}"));
                    console.advance(1);
                    failed += 1;
                }
                State::Done => {}
            }
        }
        flush(&mut batch)?;
        console.finish();
        Ok((images, failed))
    }

    /// Everything that decides the result, but the pictures and the SAEs.
    fn options(&self, engine: &Engine, preprocess: &Preprocess) -> anyhow::Result<Value> {
        let mut options = json!({
            "vitscope": env!("CARGO_PKG_VERSION"),
            "model": setup::model_record(engine),
            "preprocess": setup::preprocess_record(preprocess, self.preprocess.exif)?,
            "template": self.texts.template.to_string(),
            "labels": self.labels.as_ref().map(Labels::to_string),
            "captions": self.captions.as_ref().map(|path| path.display().to_string()),
            "contrastive_batch": self.contrastive_batch,
            "splice": "replace",
            "ablation": "zero",
            "seed": self.model.seed,
        });
        setup::device_record(engine, &mut options);
        Ok(options)
    }
}

fn count(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|&n| n > 0).ok_or_else(|| "expected a number from 1".into())
}

fn share(text: &str) -> Result<f64, String> {
    text.parse().ok().filter(|v| (0.0..=1.0).contains(v)).ok_or_else(|| "expected a number from 0 to 1".into())
}
