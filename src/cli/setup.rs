//! From arguments to an engine and a checked question: the same for every command that computes.

use std::path::{Path, PathBuf};

use anyhow::Context;
use serde_json::{Value, json};
use vitscope::{
    Error, demo,
    engine::{Engine, Options, Question, Request, SaeRequest},
    image::{CropRule, DecodeOptions, PassOrder, Preprocess},
    model::{Edit, Score},
    report::short_hash,
    text::{Template, read_texts},
    weights::{InputNorm, SaeActivation, SaeWeights, Source},
};

use super::{
    args::{Crop, ModelArgs, PreprocessArgs, SaeArgs, Size, TextArgs},
    console::Console,
};

/// An engine together with what is asked of it.
pub struct Asked {
    /// The engine.
    pub engine: Engine,
    /// The question, checked against the model.
    pub question: Question,
    /// What was asked.
    pub request: Request,
}

/// Opens the model and says what the user should know about it.
///
/// # Errors
/// Those of [`Engine::open`].
pub fn open(args: &ModelArgs, console: &Console) -> anyhow::Result<Engine> {
    let source = Source::parse(&args.model)?;
    #[cfg(feature = "hub")]
    if let Source::Hub(id) = &source {
        super::download::fetch(id, console)?;
    }
    let (kernels, seed, progress) = (args.kernels.forced(), args.seed, console.compiling());
    let options = Options { device: args.device, dtype: args.dtype, kernels, seed, progress, ..Options::default() };
    let engine = Engine::open(&source, &options)?;
    console.detail(&format!(
        "model {}, {} on {} ({})",
        engine.checkpoint.label, engine.dtype, engine.device, engine.why_device
    ));
    engine.checkpoint.notes.iter().for_each(|note| console.warn(&format!("{}: {note}", engine.checkpoint.label)));
    Ok(engine)
}

/// Says for `-v` which GPU kernels ran, as `--kernel` names them.
pub fn say_kernels(used: impl IntoIterator<Item = String>, console: &Console) {
    let used: Vec<String> = used.into_iter().collect();
    if !used.is_empty() {
        console.detail(&format!("kernels used: {}", used.join(" ")));
    }
}

/// Checks a request, and says what the user should know about it.
///
/// # Errors
/// Those of [`Engine::ask`].
pub fn ask(mut engine: Engine, request: Request, console: &Console) -> anyhow::Result<Asked> {
    let question = engine.ask(&request)?;
    question.warnings.iter().for_each(|warning| console.warn(warning));
    Ok(Asked { engine, question, request })
}

/// The texts of `--text` and `--texts-file`, in that order.
///
/// # Errors
/// [`Error::Usage`] for a file without texts or one that cannot be read.
pub fn texts(args: &TextArgs) -> anyhow::Result<Vec<String>> {
    let mut texts = args.text.clone();
    if let Some(path) = &args.texts_file {
        let read = read_texts(path).map_err(|error| match error {
            Error::Io { .. } => Error::usage(format!("--texts-file {error}")),
            other => other,
        })?;
        texts.extend(read);
    }
    Ok(texts)
}

/// The SAE of a file or folder, or a bundled one.
///
/// # Errors
/// Those of [`SaeWeights::load`]; [`Error::Usage`] for a bundled one that does not exist.
pub fn load_sae(path: &Path) -> vitscope::Result<SaeWeights> {
    match path.to_str() {
        Some(name) if name == demo::LABEL || name.starts_with("demo:") => demo::sae(name),
        _ => SaeWeights::load(path),
    }
}

/// Loads the SAE, and says what the user should know about it.
///
/// # Errors
/// Those of [`SaeWeights::load`].
pub fn sae(args: &SaeArgs, edits: Vec<Edit>, console: &Console) -> anyhow::Result<Option<SaeRequest>> {
    let Some(path) = &args.sae else { return Ok(None) };
    let weights = load_sae(path)?;
    weights.notes.iter().for_each(|note| console.warn(&format!("{}: {note}", path.display())));
    Ok(Some(SaeRequest {
        weights,
        layer: args.layer,
        tokens: args.tokens.clone(),
        edits,
        splice: args.splice,
        through: args.through,
    }))
}

/// The same for commands that cannot do without. The bundled model brings its own.
///
/// # Errors
/// [`Error::Usage`] without `--sae`.
pub fn needed_sae(
    model: &ModelArgs,
    args: &SaeArgs,
    edits: Vec<Edit>,
    console: &Console,
) -> anyhow::Result<SaeRequest> {
    let bundled = (model.model == demo::LABEL).then(|| PathBuf::from(demo::LABEL));
    let args = SaeArgs { sae: args.sae.clone().or(bundled), ..args.clone() };
    Ok(sae(&args, edits, console)?.ok_or_else(|| Error::usage("no SAE: give --sae FILE or DIR"))?)
}

/// A request for the latents alone. Without texts the score is a latent's, so that the pass ends at the hook.
pub fn latents_request(sae: SaeRequest, texts: Vec<String>, template: &Template, score: Score, seed: u64) -> Request {
    let score = if texts.is_empty() && !matches!(score, Score::Latent(_)) { Score::Latent(0) } else { score };
    Request { texts, template: template.clone(), score, methods: Vec::new(), sae: Some(sae), latents: true, seed }
}

/// The model's preprocessing with the user's changes.
pub fn preprocess(args: &PreprocessArgs, engine: &Engine) -> Preprocess {
    let own = engine.preprocess.clone();
    let mut preprocess = match args.size {
        Size::Native => own,
        Size::Keep => own.keep(engine.checkpoint.config.vision.patch),
    };
    match args.crop {
        Some(Crop::Hf) => preprocess.crop = CropRule::HfFloor,
        Some(Crop::Torchvision) => preprocess.crop = CropRule::TorchvisionRound,
        None => {}
    }
    preprocess.pass_order = if args.pillow == "12" { PassOrder::Pillow12 } else { PassOrder::Pillow13 };
    preprocess
}

/// How pictures are decoded.
pub fn decode(args: &PreprocessArgs) -> DecodeOptions {
    DecodeOptions { exif: args.exif, ..DecodeOptions::default() }
}

/// Which model it is.
pub fn model_record(engine: &Engine) -> Value {
    json!({
        "name": engine.checkpoint.label,
        "hash": engine.checkpoint.hash(),
        "activation": engine.checkpoint.config.vision.tower.activation.name(),
    })
}

/// How pictures become pixels.
///
/// # Errors
/// When it cannot be written down, which is a defect.
pub fn preprocess_record(preprocess: &Preprocess, exif: bool) -> anyhow::Result<Value> {
    let mut steps = serde_json::to_value(preprocess).context("preprocessing")?;
    steps["exif"] = exif.into();
    Ok(steps)
}

/// Everything but the image and the method that decides a result.
///
/// # Errors
/// When the preprocessing cannot be written down, which is a defect.
pub fn options(asked: &Asked, preprocess: &Preprocess, exif: bool) -> anyhow::Result<Value> {
    let Asked { engine, question, request } = asked;
    let texts: Vec<&[u8]> = question.texts.iter().map(|t| t.as_bytes()).collect();
    let mut options = json!({
        "vitscope": env!("CARGO_PKG_VERSION"),
        "model": model_record(engine),
        "preprocess": preprocess_record(preprocess, exif)?,
        "score": question.score.to_string(),
        "template": request.template.to_string(),
        "texts": { "count": texts.len(), "hash": short_hash(&texts, 16) },
        "sae": request.sae.as_ref().zip(question.splice.as_ref()).map(|(sae, splice)| json!({
            "path": sae.weights.path.display().to_string(),
            "hash": sae_hash(&sae.weights),
            "format": sae.weights.format,
            "activation": activation(&sae.weights.activation),
            "norm": norm(&sae.weights.norm),
            "subtracts_input_bias": sae.weights.input_bias.is_some(),
            "rescaled_by_decoder_norm": sae.weights.rescale_by_decoder_norm,
            "hook": sae.weights.hook.as_ref().map(|hook| hook.name.clone()),
            "layer": splice.layer,
            "tokens": splice.tokens.to_string(),
            "edits": splice.edits.iter().map(Edit::to_string).collect::<Vec<_>>(),
            "splice": splice.splice.to_string(),
            "through": splice.through.to_string(),
        })),
        "seed": question.seed,
    });
    device_record(engine, &mut options);
    Ok(options)
}

/// Adds where it was computed: the type, the device, and the rungs that were asked for.
pub fn device_record(engine: &Engine, options: &mut Value) {
    options["dtype"] = engine.dtype.to_string().into();
    options["device"] = engine.device.as_str().into();
    if !engine.forced.is_empty() {
        options["kernels"] = engine.forced.to_string().into();
    }
}

fn sae_hash(sae: &SaeWeights) -> String {
    let parts = [&sae.encoder, &sae.encoder_bias, &sae.decoder, &sae.decoder_bias];
    let mut bytes: Vec<&[u8]> = parts.iter().map(|values| bytemuck::cast_slice(values)).collect();
    let rest = format!("{:?} {:?} {:?} {}", sae.activation, sae.norm, sae.input_bias, sae.rescale_by_decoder_norm);
    bytes.push(rest.as_bytes());
    short_hash(&bytes, 16)
}

fn activation(activation: &SaeActivation) -> String {
    match activation {
        SaeActivation::Relu => "relu".into(),
        SaeActivation::TopK { k, relu: true } => format!("topk:k={k}"),
        SaeActivation::TopK { k, relu: false } => format!("topk:k={k},signed"),
        SaeActivation::GroupMax { k } => format!("groupmax:k={k}"),
        SaeActivation::Threshold { theta } => format!("threshold:theta={theta}"),
        SaeActivation::JumpRelu { .. } => "jumprelu".into(),
        SaeActivation::Gated { .. } => "gated".into(),
    }
}

fn norm(norm: &InputNorm) -> String {
    match norm {
        InputNorm::None => "none".into(),
        InputNorm::Fixed { mean: None, scale } => format!("fixed:scale={scale}"),
        InputNorm::Fixed { mean: Some(_), scale } => format!("fixed:mean,scale={scale}"),
        InputNorm::LayerNorm { eps } => format!("layer-norm:eps={eps}"),
        InputNorm::UnitNorm => "unit-norm".into(),
    }
}
