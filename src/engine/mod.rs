//! The public API: an [`Engine`] holds a model on a device, a [`Request`] says what is asked,
//! an [`Explanation`] is the answer for one image.

mod bench;
mod bench_kernels;
mod device;
mod embed;
mod explain;
mod hook;
mod latents;
mod memory;
mod pixels;
mod request;
pub mod runner;
mod texts;
mod verify;

pub use bench::{BenchPass, Timed};
pub use bench_kernels::{KernelBench, KernelReport, bench_kernels};
pub use device::{AskedDtype, Device, Dtype};
pub use embed::EmbeddedImages;
pub use explain::{Explanation, MapValues, Pending, Pictured};
pub use hook::HookStreams;
pub use latents::{ImageLatents, LatentUse, TokenLatent, latent_uses};
pub use memory::PassBytes;
pub use request::{Options, Question, Request, SaeRequest};
pub use verify::{Compared, Verified, verify};

pub use crate::backend::gpu::open::Progress;
use crate::{
    Result,
    backend::gpu::registry::Forced,
    demo,
    image::Preprocess,
    text::Tokenizer,
    weights::{ClipCheckpoint, HubCache, PreprocessSource, Source},
};
use runner::Runner;

/// A model on a device.
pub struct Engine {
    /// The checkpoint it came from.
    pub checkpoint: ClipCheckpoint,
    /// How pictures become pixels.
    pub preprocess: Preprocess,
    /// How texts become token ids.
    pub tokenizer: Tokenizer,
    /// The device that was chosen.
    pub device: String,
    /// Why it was.
    pub why_device: String,
    /// The type that it computes in.
    pub dtype: Dtype,
    /// The rungs that were asked for.
    pub forced: Forced,
    runner: Box<dyn Runner>,
    /// Whether the image tower is on the device yet.
    vision_loaded: bool,
}

impl Engine {
    /// Opens a model. Weights are read when they are first needed.
    ///
    /// # Errors
    /// [`File`](crate::Error::File) or [`Tensor`](crate::Error::Tensor) for a damaged model,
    /// [`Device`](crate::Error::Device) for a device that is not there, [`Usage`](crate::Error::Usage) for forced kernels
    /// on the CPU.
    pub fn open(source: &Source, options: &Options) -> Result<Engine> {
        let checkpoint = open_source(source, options.seed)?;
        let path = std::path::PathBuf::from(&checkpoint.label);
        let preprocess = match &checkpoint.preprocess {
            PreprocessSource::HfJson(json) => Preprocess::from_hf_json(&path, json)?,
            PreprocessSource::OpenClipJson(json) => Preprocess::from_open_clip_json(&path, json)?,
            PreprocessSource::None => Preprocess::clip(checkpoint.config.vision.image_size),
        };
        let tokenizer = match source {
            Source::Demo => demo::tokenizer()?,
            _ => texts::tokenizer(&checkpoint)?,
        };
        let (device, why_device) = options.device.choose(options.dtype);
        let dtype = options.dtype.on(device)?;
        let runner = device::open(device, dtype, options)?;
        let device = device.to_string();
        let vision_loaded = false;
        let forced = options.kernels.clone();
        Ok(Engine { checkpoint, preprocess, tokenizer, device, why_device, dtype, forced, runner, vision_loaded })
    }

    /// Number of blocks of the image tower.
    pub fn layers(&self) -> usize {
        self.checkpoint.config.vision.tower.layers
    }

    /// Whether a GPU is emulated: times are then not a GPU's.
    pub fn is_emulated(&self) -> bool {
        self.device.parse().is_ok_and(Device::is_emulated)
    }

    /// The GPU kernels that ran so far, such as `gemm_forward=3`; none on the CPU.
    pub fn kernels_used(&self) -> Vec<String> {
        self.runner.kernels_used()
    }

    /// The device's own interface, with the image tower loaded.
    ///
    /// # Errors
    /// Those of reading the weights.
    pub fn runner(&mut self) -> Result<&mut dyn Runner> {
        if !self.vision_loaded {
            self.runner.load_vision(&self.checkpoint)?;
            self.vision_loaded = true;
        }
        Ok(self.runner.as_mut())
    }
}

/// Opens the checkpoint that `source` names; `seed` is that of random weights.
fn open_source(source: &Source, seed: u64) -> Result<ClipCheckpoint> {
    match source {
        Source::Demo => demo::checkpoint(),
        Source::Random(name) => ClipCheckpoint::random(name, seed),
        Source::Path(path) => ClipCheckpoint::open(path),
        Source::Hub(id) => ClipCheckpoint::open(&HubCache::from_env()?.find(id)?),
    }
}
