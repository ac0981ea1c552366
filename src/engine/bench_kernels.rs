//! Every rung of the GPU's kernels at a model's sizes.

use super::{Options, device, open_source};
use crate::{
    Error, Result,
    backend::{
        PatchGrid,
        gpu::{
            bench::{self, Card, Data, Measured, Meter, Sizes},
            launch::Storage,
        },
    },
    weights::Source,
};

/// What is measured.
#[derive(Debug, Clone)]
pub struct KernelBench {
    /// Images a pass, each in turn.
    pub batches: Vec<usize>,
    /// Texts.
    pub texts: usize,
    /// Latents of the SAE.
    pub latents: usize,
    /// Latents that fire in a token.
    pub active: usize,
    /// Ladders or operations; all when there are none.
    pub only: Vec<String>,
    /// Timed repetitions.
    pub repeat: usize,
    /// Repetitions before those.
    pub warm: usize,
}

impl KernelBench {
    fn wants(&self, ladder: &str) -> bool {
        let of =
            |name: &String| ladder == name || ladder.strip_prefix(name.as_str()).is_some_and(|l| l.starts_with('_'));
        self.only.is_empty() || self.only.iter().any(of)
    }
}

/// What came of all rungs.
#[derive(Debug, Clone)]
pub struct KernelReport {
    /// The model.
    pub model: String,
    /// As the user names it.
    pub device: String,
    /// The card's own name.
    pub card: String,
    /// Whether it is the emulator: then there are no times.
    pub is_emulated: bool,
    /// What the card can do at most, if that is known.
    pub limits: Option<Card>,
    /// The storage type.
    pub storage: Storage,
    /// Batch size and rung, in the order of the ladders.
    pub rungs: Vec<(usize, Measured)>,
}

/// Checks and times every rung at the sizes of a model, of which only the configuration is read. `said` hears of each case
/// before it runs.
///
/// # Errors
/// [`Error::Usage`] for a device without kernels and for names that no ladder has; [`Error::Device`] for one that is not
/// there; [`Error::Verification`] when a rung 1 gives something that is no number.
pub fn bench_kernels(
    source: &Source,
    options: &Options,
    asked: &KernelBench,
    mut said: impl FnMut(&str),
) -> Result<KernelReport> {
    for name in &asked.only {
        let alone = KernelBench { only: vec![name.clone()], ..asked.clone() };
        if !bench::cases().any(|(ladder, _)| alone.wants(ladder)) {
            return Err(Error::usage(format!("--only {name}: no kernels of this name")));
        }
    }
    if asked.active == 0 || asked.active > asked.latents || asked.texts == 0 {
        return Err(Error::usage(
            "an SAE has at least one active latent, and not more than latents; texts are at least 1",
        ));
    }
    let checkpoint = open_source(source, options.seed)?;
    let (device, _) = options.device.choose(options.dtype);
    let dtype = options.dtype.on(device)?;
    let gpu = device::open_gpu(device, dtype, options, true)?;
    let is_emulated = device.is_emulated();
    let meter = if is_emulated { Meter::Counters } else { Meter::time(&gpu, asked.warm, asked.repeat.max(1))? };
    let (vision, card) = (&checkpoint.config.vision, gpu.card()?);
    let tower = &vision.tower;
    let mut data = Data::new(gpu.clone(), options.seed);
    let mut rungs = Vec::new();
    for &batch in &asked.batches {
        let sizes = Sizes {
            batch: batch.max(1),
            grid: PatchGrid::of(vision.image_size, vision.image_size, vision.patch),
            width: tower.width,
            heads: tower.heads,
            mlp_width: tower.mlp_width,
            activation: tower.activation,
            embed: checkpoint.config.embed,
            texts: asked.texts,
            latents: asked.latents,
            active: asked.active,
        };
        let is_wanted = |ladder: &str| {
            asked.wants(ladder) && (options.kernels.is_empty() || options.kernels.rung(ladder).is_some())
        };
        for (ladder, make) in bench::cases().filter(|(ladder, _)| is_wanted(ladder)) {
            let case = make(&mut data, &sizes)?;
            said(&format!("{ladder} {}", case.sizes));
            let measured = bench::measure(&gpu, &case, &options.kernels, &meter)?;
            rungs.extend(measured.into_iter().map(|measured| (batch, measured)));
        }
    }
    Ok(KernelReport {
        model: checkpoint.label,
        device: device.to_string(),
        limits: Card::of(&card),
        card,
        is_emulated,
        storage: gpu.target.storage,
        rungs,
    })
}
