//! Every rung of every ladder at a model's sizes: first its result beside rung 1's on the same random data, or beside the
//! processor's where no pass that is verified runs the ladder; then its time. A wrong rung is not timed.
//!
//! `data` makes inputs and keeps outputs, `bound` judges, `card` knows what GPUs can do; the ladders with their data
//! and costs are in `tower`, `ends` and `sae`.

mod bound;
mod card;
mod data;
mod ends;
mod sae;
mod tower;

pub use bound::Bound;
pub use card::Card;
pub use data::{Case, Data};

use std::sync::Arc;

use super::{
    device::{Buffer, Gpu},
    emulator::Counters,
    launch::{Launch, Storage},
    registry::Forced,
    stand_in,
};
use crate::{
    Error, Result,
    backend::{AttentionShape, PatchGrid},
    weights::Activation,
};

/// The sizes that ladders are run at.
#[derive(Debug, Clone, Copy)]
pub struct Sizes {
    /// `B`; the reverse carries one target.
    pub batch: usize,
    /// The picture and its patches.
    pub grid: PatchGrid,
    /// `D`.
    pub width: usize,
    /// `H`.
    pub heads: usize,
    /// `F`.
    pub mlp_width: usize,
    /// The MLP's activation.
    pub activation: Activation,
    /// `E`.
    pub embed: usize,
    /// `Q`, the texts.
    pub texts: usize,
    /// `S` of the SAE.
    pub latents: usize,
    /// `K` of the SAE.
    pub active: usize,
}

impl Sizes {
    /// `N`, rows of a stream.
    fn rows(&self) -> usize {
        self.batch * self.grid.tokens()
    }

    fn attention(&self, queries: usize) -> AttentionShape {
        let (batch, tokens, heads) = (self.batch, self.grid.tokens(), self.heads);
        AttentionShape { batch, tokens, queries, heads, head_dim: self.width / heads, causal: false }
    }
}

/// What a ladder must move and compute, whatever the rung: each input once, each output once.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Cost {
    /// Bytes read and written.
    pub bytes: usize,
    /// Floating-point operations, a multiply-add as two.
    pub flops: usize,
    /// Whether tensor cores can do them.
    pub is_product: bool,
}

impl Cost {
    /// Of what moves bytes, with few operations.
    fn moves(bytes: usize, flops: usize) -> Cost {
        Cost { bytes, flops, is_product: false }
    }

    /// Of products.
    fn product(bytes: usize, flops: usize) -> Cost {
        Cost { bytes, flops, is_product: true }
    }

    /// Seconds that a card needs at least.
    pub fn floor(&self, card: Card, storage: Storage) -> f64 {
        let flops = self.flops as f64 / (card.tflops(storage, self.is_product) * 1e12);
        flops.max(self.bytes as f64 / (card.memory_gbs * 1e9))
    }
}

/// Makes a case.
type Make = fn(&mut Data, &Sizes) -> Result<Case>;

/// All ladders, some at several of the model's operations, by the names that `--kernel` knows them by.
pub fn cases() -> impl Iterator<Item = (&'static str, Make)> {
    tower::CASES.into_iter().chain(ends::CASES).chain(sae::CASES)
}

/// What is measured of a rung that is right.
pub enum Meter {
    /// Time, on a GPU.
    Time {
        /// Timed repetitions.
        repeat: usize,
        /// Repetitions before those.
        warm: usize,
        /// Larger than the L2 cache: written before each repetition.
        flush: Buffer,
        /// Its bytes.
        flush_bytes: usize,
    },
    /// What the emulator counts.
    Counters,
}

impl Meter {
    /// Of times.
    ///
    /// # Errors
    /// [`Error::Device`] when the device has no room for twice its cache.
    pub fn time(gpu: &Arc<Gpu>, warm: usize, repeat: usize) -> Result<Self> {
        let flush_bytes = 2 * gpu.cache_bytes()?;
        Ok(Meter::Time { repeat, warm, flush: gpu.allocate(flush_bytes)?, flush_bytes })
    }
}

/// What came of a rung.
#[derive(Debug, Clone)]
pub struct Measured {
    /// As `--kernel` names it.
    pub ladder: String,
    /// Which of the model's operations it is, and its sizes.
    pub sizes: String,
    /// The rung.
    pub rung: u32,
    /// Relative difference from the result that it is compared with; the worst of several outputs.
    pub error: f64,
    /// Whether that is within the rounding bound.
    pub is_right: bool,
    /// Whether it is compared with the processor's result, instead of rung 1's.
    pub has_truth: bool,
    /// Seconds of each repetition; empty where it is wrong, or not timed.
    pub seconds: Vec<f64>,
    /// What the emulator counted.
    pub counters: Option<Counters>,
    /// What the ladder must move and compute.
    pub cost: Cost,
}

impl Measured {
    /// The median time in seconds.
    pub fn median(&self) -> Option<f64> {
        let mut sorted = self.seconds.clone();
        sorted.sort_by(f64::total_cmp);
        sorted.get(sorted.len() / 2).copied()
    }
}

/// Runs every rung of a case that serves and that `forced` does not rule out: first all results, then, by turns, times.
///
/// # Errors
/// [`Error::Device`] when the driver refuses or a kernel fails; [`Error::Verification`] when rung 1 itself gives something
/// that is no number.
pub fn measure(gpu: &Gpu, case: &Case, forced: &Forced, meter: &Meter) -> Result<Vec<Measured>> {
    let wanted = forced.rung(&case.ladder);
    let serves = |rung: u32| Some((rung, case.launches(rung, gpu)?));
    let missing = || Error::Device { device: gpu.name.clone(), reason: format!("{}: no rung 1", case.ladder) };
    let (_, obvious) = serves(1).ok_or_else(missing)?;
    let first = case.results(gpu, &obvious)?;
    if !first.iter().flatten().all(|v| v.is_finite()) {
        let what = format!("{} {}: rung 1 gives something that is no number", case.ladder, case.sizes);
        return Err(Error::Verification(what));
    }
    let reference = case.truth.as_ref().unwrap_or(&first);
    let mut measured = Vec::new();
    let mut right: Vec<(usize, Vec<Launch>)> = Vec::new();
    for (rung, launches) in (1..=case.top).filter(|&rung| wanted.is_none_or(|w| w == rung)).filter_map(serves) {
        let storage = gpu.target.storage;
        let results = if rung == 1 { first.clone() } else { case.results(gpu, &launches)? };
        let judged = case.bounds().zip(results.iter().zip(reference));
        let judged: Vec<_> = judged.map(|(bound, (ours, theirs))| bound.judge(ours, theirs, storage)).collect();
        let is_right = judged.iter().all(|(_, is_right)| *is_right);
        if is_right {
            right.push((measured.len(), launches));
        }
        measured.push(Measured {
            ladder: case.ladder.clone(),
            sizes: case.sizes.clone(),
            rung,
            error: judged.iter().map(|(error, _)| *error).fold(0.0, f64::max),
            is_right,
            has_truth: case.truth.is_some(),
            seconds: Vec::new(),
            counters: None,
            cost: case.cost,
        });
    }
    match meter {
        Meter::Counters => {
            for (at, launches) in right {
                // What was counted before goes.
                stand_in::counters();
                case.results(gpu, &launches)?;
                measured[at].counters = stand_in::counters().map(|(_, counters)| counters);
            }
        }
        Meter::Time { repeat, warm, flush, flush_bytes } => {
            for round in 0..warm + repeat {
                for (at, launches) in &right {
                    let seconds = gpu.time(launches, flush.address(), *flush_bytes)?;
                    if round >= *warm {
                        measured[*at].seconds.push(seconds);
                    }
                }
            }
        }
    }
    Ok(measured)
}
