//! The public API: an [`Engine`] holds a model on a device, a [`Request`] says what is asked,
//! an [`Explanation`] is the answer for one image.

mod bench;
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
pub use embed::EmbeddedImages;
pub use explain::{Explanation, MapValues, Pictured};
pub use hook::HookStreams;
pub use latents::{ImageLatents, LatentUse, TokenLatent, latent_uses};
pub use request::{Device, Dtype, Options, Question, Request, SaeRequest};
pub use verify::{Compared, verify};

use crate::{
    Error, Result,
    backend::cpu::Cpu,
    demo,
    image::Preprocess,
    text::Tokenizer,
    weights::{ClipCheckpoint, HubCache, PreprocessSource, Source},
};
use runner::{DeviceRunner, Runner};

/// A model on a device.
pub struct Engine {
    /// The checkpoint it came from.
    pub checkpoint: ClipCheckpoint,
    /// How pictures become pixels.
    pub preprocess: Preprocess,
    /// How texts become token ids.
    pub tokenizer: Tokenizer,
    /// The device that was chosen, and why.
    pub device: String,
    /// The type that it computes in.
    pub dtype: Dtype,
    runner: Box<dyn Runner>,
    /// Whether the image tower is on the device yet.
    vision_loaded: bool,
}

impl Engine {
    /// Opens a model. Weights are read when they are first needed.
    ///
    /// # Errors
    /// [`Error::File`] or [`Error::Tensor`] for a damaged model, [`Error::Device`] for a device that is not there.
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
        let dtype = options.dtype;
        let runner: Box<dyn Runner> = match (options.device.resolve()?, dtype) {
            (Device::Cpu, Dtype::F32) => Box::new(DeviceRunner::new(Cpu::<f32>::new())),
            (Device::Cpu, Dtype::F64) => Box::new(DeviceRunner::new(Cpu::<f64>::new())),
            (device, _) => {
                return Err(Error::Device { device: device.to_string(), reason: "no backend computes there".into() });
            }
        };
        Ok(Engine { checkpoint, preprocess, tokenizer, device: "cpu".into(), dtype, runner, vision_loaded: false })
    }

    /// Number of blocks of the image tower.
    pub fn layers(&self) -> usize {
        self.checkpoint.config.vision.tower.layers
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
