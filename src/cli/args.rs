//! Groups of arguments that several commands share.

use std::{fmt, path::PathBuf, str::FromStr};

use clap::{ArgAction, Args, ValueEnum};
use vitscope::{
    backend::gpu::registry::{Force, Forced},
    engine::{AskedDtype, Device},
    image::{Colormap, Upsample},
    model::{Edit, Splice, Through, Tokens},
    text::Template,
};

/// How much is said, and in which form.
#[derive(Args)]
pub struct Verbosity {
    /// Say nothing but errors
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub quiet: bool,
    /// Say more: the device, the memory predicted and used, timings
    #[arg(short, long, global = true, action = ArgAction::Count)]
    pub verbose: u8,
    /// Print results to stdout as JSON
    #[arg(long, global = true)]
    pub json: bool,
}

/// The model and where it computes.
#[derive(Args)]
#[command(next_help_heading = "Model and device")]
pub struct ModelArgs {
    /// demo, random:NAME (such as random:ViT-L-14), a folder, a safetensors file, or a Hugging Face id
    #[arg(long, default_value = "demo", env = "VITSCOPE_MODEL")]
    pub model: String,
    /// auto, cpu, cuda, cuda:N or emulated
    #[arg(long, default_value = "auto", env = "VITSCOPE_DEVICE")]
    pub device: Device,
    /// auto, f32 or f64; bf16 and f16 on a GPU
    #[arg(long, default_value = "auto")]
    pub dtype: AskedDtype,
    /// Seed of random weights and of methods that draw noise
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    #[command(flatten)]
    pub kernels: KernelArgs,
}

/// Which kernels compute on a GPU.
#[derive(Args)]
pub struct KernelArgs {
    /// A rung instead of the highest that serves, such as gemm_forward=1, or gemm=1 for all directions; may be repeated
    /// (`vitscope kernels list` knows them; on a GPU only)
    #[arg(long, value_name = "KERNEL=RUNG", env = "VITSCOPE_KERNEL", value_delimiter = ',')]
    pub kernel: Vec<Force>,
}

impl KernelArgs {
    /// Those that are asked for.
    pub fn forced(&self) -> Forced {
        self.kernel.iter().cloned().collect()
    }
}

/// How many images share a pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BatchSize {
    /// As many as fit in memory, up to [`BatchSize::MOST`].
    Auto,
    /// So many.
    Of(usize),
}

impl BatchSize {
    /// The largest batch that `auto` picks: a larger one is not faster on a CPU.
    pub const MOST: usize = 16;
}

impl FromStr for BatchSize {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        match (s, s.parse()) {
            ("auto", _) => Ok(BatchSize::Auto),
            (_, Ok(n)) if n > 0 => Ok(BatchSize::Of(n)),
            _ => Err("expected auto or a number from 1".into()),
        }
    }
}

/// How pictures become the model's input.
#[derive(Args)]
#[command(next_help_heading = "Preprocessing")]
pub struct PreprocessArgs {
    /// native: the model's own size; keep: the whole picture, each side rounded to patches
    #[arg(long, value_enum, default_value = "native")]
    pub size: Size,
    /// Whose centre crop to follow where the margin is odd [default: as the model's files say]
    #[arg(long, value_enum)]
    pub crop: Option<Crop>,
    /// Whose order of resampling passes to follow: Pillow up to 12, or from 13 on
    #[arg(long, value_parser = ["12", "13"], default_value = "13")]
    pub pillow: String,
    /// Turn pictures as their EXIF orientation says; CLIP's pipelines do not
    #[arg(long)]
    pub exif: bool,
}

/// The size of the model's input.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Size {
    /// The model's own size.
    Native,
    /// The whole picture.
    Keep,
}

/// Rounding of the centre crop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Crop {
    /// Hugging Face.
    Hf,
    /// torchvision and open_clip.
    Torchvision,
}

/// Texts and how they are phrased.
#[derive(Args)]
#[command(next_help_heading = "Texts")]
pub struct TextArgs {
    /// A text to explain; may be repeated
    #[arg(long, value_name = "TEXT")]
    pub text: Vec<String>,
    /// A file with one text per line
    #[arg(long, value_name = "FILE")]
    pub texts_file: Option<PathBuf>,
    /// none, openai80 (mean of 80 prompts), or a prompt with one {}, such as "a photo of a {}"
    #[arg(long, default_value = "none")]
    pub template: Template,
}

/// An SAE, where it goes, and how it is put back.
#[derive(Args, Clone)]
#[command(next_help_heading = "Sparse autoencoder")]
pub struct SaeArgs {
    /// The SAE: a folder or file of SAELens or EleutherAI's sparsify
    #[arg(long, value_name = "FILE|DIR")]
    pub sae: Option<PathBuf>,
    /// Block whose output is hooked, from 0, or from the end as -1 [default: as the SAE's file says]
    #[arg(long, value_name = "N", allow_negative_numbers = true, requires = "sae")]
    pub layer: Option<isize>,
    /// Tokens that the SAE reads and writes: all, cls, patches or patches:I,J,...
    #[arg(long, default_value = "all", requires = "sae")]
    pub tokens: Tokens,
    /// What is put back: replace (the reconstruction) or keep-error (what the SAE misses stays)
    #[arg(long, default_value = "replace", requires = "sae")]
    pub splice: Splice,
    /// How the gradient passes the SAE: exact, detached or straight
    #[arg(long, default_value = "exact", requires = "sae")]
    pub through: Through,
}

/// Edits of latents.
#[derive(Args)]
#[command(next_help_heading = "Sparse autoencoder")]
pub struct EditArgs {
    /// zero:ID,... scale:ID,...=FACTOR set:ID,...=VALUE add:ID,...=DELTA keep:ID,...; may be repeated
    #[arg(long, value_name = "EDIT", requires = "sae")]
    pub edit: Vec<Edit>,
}

/// How overlays look.
#[derive(Args)]
#[command(next_help_heading = "Overlays")]
pub struct DrawArgs {
    /// turbo, viridis, inferno, magma, rdbu or jet [default: rdbu for signed methods, turbo for the others]
    #[arg(long)]
    pub colormap: Option<Colormap>,
    /// Share of the heatmap's colour, 0 to 1
    #[arg(long, default_value = "0.5", value_parser = share)]
    pub alpha: f32,
    /// Between patch centres: bilinear, nearest or bicubic
    #[arg(long, value_enum, default_value = "bilinear")]
    pub upsample: UpsampleName,
    /// own: each map its own colour scale; shared: one for all texts of an image and method
    #[arg(long, value_enum, default_value = "shared")]
    pub scale: ScaleRule,
    /// What the opacity of the heat says. presence: whether any patch shows what the text names, 50 % and "found" where
    /// the text gets a share of 95 % of a patch when the texts, "a background" and, with the bundled model, all that it
    /// knows compete for it; it costs four more forwards, and means something for models whose patches were trained on
    /// texts. After an edit it is less by as much as the score. score: the score over the best one on the same colour
    /// scale (0 below zero); a map alone on its scale is drawn in full, and so are all where no score is above zero;
    /// logit fades as cosine does, softmax leaves little but the best. none: all in full. Raw maps stay as they are
    /// [default: presence for the bundled model, score for others and for latents]
    #[arg(long, value_enum)]
    pub fade: Option<FadeRule>,
    /// Percent of the largest values that may leave the colour scale [default: 1 for maps of pixels, 0 for maps of
    /// patches]
    #[arg(long, value_name = "PERCENT", value_parser = percent)]
    pub outliers: Option<f64>,
    /// Draw on the original picture, or on the model's crop
    #[arg(long, value_enum, default_value = "original")]
    pub overlay_size: OverlaySize,
}

/// Names of [`Upsample`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum UpsampleName {
    /// Straight lines between patch centres.
    Bilinear,
    /// The patches themselves.
    Nearest,
    /// Smooth curves between patch centres.
    Bicubic,
}

impl From<UpsampleName> for Upsample {
    fn from(name: UpsampleName) -> Upsample {
        match name {
            UpsampleName::Bilinear => Upsample::Bilinear,
            UpsampleName::Nearest => Upsample::Nearest,
            UpsampleName::Bicubic => Upsample::Bicubic,
        }
    }
}

/// Which maps share a colour scale.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ScaleRule {
    /// None; before and after an edit still do.
    Own,
    /// All texts of one image and method.
    Shared,
}

/// What decides the opacity of a map's heat.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum FadeRule {
    /// Whether any patch shows what the text names.
    Presence,
    /// The score beside the best one.
    Score,
    /// Nothing: all heat is drawn in full.
    None,
}

/// What an overlay is drawn on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum OverlaySize {
    /// The original picture.
    Original,
    /// The model's input.
    Crop,
}

/// The command-line name of a value, for records.
pub fn name_of(value: impl ValueEnum) -> String {
    value.to_possible_value().map(|v| v.get_name().to_owned()).unwrap_or_default()
}

fn share(text: &str) -> Result<f32, String> {
    match text.parse::<f32>() {
        Ok(v) if (0.0..=1.0).contains(&v) => Ok(v),
        _ => Err("expected a number from 0 to 1".into()),
    }
}

fn percent(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(v) if (0.0..=50.0).contains(&v) => Ok(v),
        _ => Err("expected a number from 0 to 50".into()),
    }
}

impl fmt::Display for BatchSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BatchSize::Auto => f.write_str("auto"),
            BatchSize::Of(n) => write!(f, "{n}"),
        }
    }
}
