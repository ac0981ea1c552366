//! What a case reads and writes: random numbers on the device, outputs that are compared.

use std::sync::Arc;

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, StandardNormal};
use rayon::prelude::*;

use crate::{
    Error, Result,
    backend::gpu::{
        device::{Buffer, Gpu},
        launch::{Ladder, Launch, Pointer, Storage, Target},
        memory::{decode, encode},
    },
};

use super::{Cost, bound::Bound};

/// Random numbers that are repeated. A prime, so that no two rows of a tensor begin alike.
const PATTERN: usize = 1_000_003;
/// What nothing has written: no number in any type.
const POISON: u8 = 0xff;

/// The numbers in an output.
#[derive(Debug, Clone, Copy)]
pub enum Kind {
    /// Real numbers, within a bound of rung 1's.
    Real(Storage, Bound),
    /// Bytes that must be rung 1's.
    Bytes,
}

/// A tensor that a rung writes.
pub struct Output {
    at: Pointer,
    kind: Kind,
    /// What it holds before each rung.
    before: Vec<u8>,
}

/// A ladder at some sizes, with its data on the device.
pub struct Case {
    /// As `--kernel` names it.
    pub ladder: String,
    /// Which of the model's operations it is, and its sizes.
    pub sizes: String,
    /// What it moves and computes.
    pub cost: Cost,
    /// The highest rung.
    pub top: u32,
    operation: &'static str,
    direction: &'static str,
    launches: Box<dyn Fn(u32, Target) -> Option<Vec<Launch>>>,
    outputs: Vec<Output>,
    /// The outputs as the processor has them, where it was asked.
    pub truth: Option<Vec<Vec<f64>>>,
    _inputs: Vec<Buffer>,
}

impl Case {
    /// The same case with the outputs that the processor has: rung 1 too is compared with them.
    pub fn with_truth(self, outputs: Vec<Vec<f64>>) -> Case {
        Case { truth: Some(outputs), ..self }
    }

    /// What a rung launches; nothing when it does not serve.
    pub fn launches(&self, rung: u32, gpu: &Gpu) -> Option<Vec<Launch>> {
        let is_allowed = gpu.rungs.allows((self.operation, self.direction, rung), gpu.target);
        is_allowed.then(|| (self.launches)(rung, gpu.target)).flatten()
    }

    /// The outputs of these launches.
    ///
    /// # Errors
    /// [`Error::Device`] when the driver refuses or a kernel fails.
    pub fn results(&self, gpu: &Gpu, launches: &[Launch]) -> Result<Vec<Vec<f64>>> {
        self.outputs.iter().try_for_each(|output| gpu.write(output.at, &output.before))?;
        gpu.launch_all(launches)?;
        let read = |output: &Output| {
            let bytes = gpu.read(output.at, output.before.len())?;
            Ok(match output.kind {
                Kind::Real(storage, _) => decode(&bytes, storage),
                Kind::Bytes => bytes.iter().map(|&byte| byte.into()).collect(),
            })
        };
        self.outputs.iter().map(read).collect()
    }

    /// The bounds of the outputs.
    pub fn bounds(&self) -> impl Iterator<Item = Bound> {
        self.outputs.iter().map(|output| match output.kind {
            Kind::Real(_, bound) => bound,
            Kind::Bytes => Bound::Exact,
        })
    }
}

/// Makes cases.
pub struct Data {
    gpu: Arc<Gpu>,
    /// Values of a normal distribution, none of them 0.
    pattern: Vec<f64>,
    next: usize,
    inputs: Vec<Buffer>,
    outputs: Vec<Output>,
}

impl Data {
    /// On a device.
    pub fn new(gpu: Arc<Gpu>, seed: u64) -> Self {
        let rng = ChaCha8Rng::seed_from_u64(seed);
        let normal = StandardNormal.sample_iter(rng).filter(|&v: &f64| v != 0.0);
        Data { gpu, pattern: normal.take(PATTERN).collect(), next: 0, inputs: Vec::new(), outputs: Vec::new() }
    }

    /// The storage type of activations and weights.
    pub fn storage(&self) -> Storage {
        self.gpu.target.storage
    }

    /// `n` random numbers of a normal distribution, each through `change`.
    pub fn random(&mut self, n: usize, change: impl Fn(f64) -> f64 + Sync + Send) -> Vec<f64> {
        let (first, pattern) = (self.next, &self.pattern);
        self.next = (first + n) % PATTERN;
        (0..n).into_par_iter().map(|i| change(pattern[(first + i) % PATTERN])).collect()
    }

    /// Bytes on the device.
    pub fn bytes(&mut self, bytes: &[u8]) -> Result<Pointer> {
        let buffer = self.gpu.upload(bytes)?;
        let address = buffer.address();
        self.inputs.push(buffer);
        Ok(address)
    }

    /// `n` random numbers in f32, here and on the device.
    pub fn known_floats(&mut self, n: usize) -> Result<(Pointer, Vec<f32>)> {
        let values: Vec<f32> = self.random(n, |v| v).into_iter().map(|v| v as f32).collect();
        Ok((self.bytes(bytemuck::cast_slice(&values))?, values))
    }

    /// `n` random values of deviation `scale` in the storage type.
    pub fn values(&mut self, n: usize, scale: f64) -> Result<Pointer> {
        let values = self.random(n, |v| v * scale);
        self.bytes(&encode(values.into_par_iter(), self.storage()))
    }

    /// The same in f32.
    pub fn floats(&mut self, n: usize, scale: f64) -> Result<Pointer> {
        let values = self.random(n, |v| v * scale);
        self.bytes(&encode(values.into_par_iter(), Storage::F32))
    }

    /// `n` random whole multiples, up to 127 and none 0, of `unit`, a power of two: products of such numbers and their
    /// sums make no rounding error in f32.
    pub fn wholes(&mut self, n: usize, unit: f64, storage: Storage) -> Result<Pointer> {
        let values = self.random(n, |v| (v * 48.0 + 0.5f64.copysign(v)).round().clamp(-127.0, 127.0) * unit);
        self.bytes(&encode(values.into_par_iter(), storage))
    }

    /// Memory for what nobody compares.
    pub fn scratch(&mut self, bytes: usize) -> Result<Pointer> {
        let buffer = self.gpu.allocate(bytes)?;
        let address = buffer.address();
        self.inputs.push(buffer);
        Ok(address)
    }

    fn add_output(&mut self, kind: Kind, before: Vec<u8>) -> Result<Pointer> {
        let at = self.bytes(&before)?;
        self.outputs.push(Output { at, kind, before });
        Ok(at)
    }

    /// An output of `n` values in the storage type that the ladder writes.
    pub fn output(&mut self, n: usize, bound: Bound) -> Result<Pointer> {
        let storage = self.storage();
        self.add_output(Kind::Real(storage, bound), vec![POISON; n * storage.bytes()])
    }

    /// The same in f32.
    pub fn wide_output(&mut self, n: usize, bound: Bound) -> Result<Pointer> {
        self.add_output(Kind::Real(Storage::F32, bound), vec![POISON; n * size_of::<f32>()])
    }

    /// An output of `n` bytes.
    pub fn bytes_output(&mut self, n: usize) -> Result<Pointer> {
        self.add_output(Kind::Bytes, vec![POISON; n])
    }

    /// An output of `n` values in the storage type that the ladder adds to.
    pub fn sum(&mut self, n: usize, bound: Bound) -> Result<Pointer> {
        let (storage, values) = (self.storage(), self.random(n, |v| v));
        self.add_output(Kind::Real(storage, bound), encode(values.into_par_iter(), storage))
    }

    /// The same in f32.
    pub fn wide_sum(&mut self, n: usize, bound: Bound) -> Result<Pointer> {
        let values = self.random(n, |v| v);
        self.add_output(Kind::Real(Storage::F32, bound), encode(values.into_par_iter(), Storage::F32))
    }

    /// Runs rung 1 of a ladder that makes another one's input.
    ///
    /// # Errors
    /// [`Error::Device`] when the driver refuses.
    pub fn run<L: Ladder>(&self, ladder: &L) -> Result<()> {
        let none = || Error::Device { device: self.gpu.name.clone(), reason: "rung 1 does not serve".into() };
        self.gpu.launch_all(&ladder.launches(1, self.gpu.target).ok_or_else(none)?)
    }

    /// The case of `ladder` over all data that was made since the last one.
    pub fn case<L: Ladder + 'static>(&mut self, sizes: String, ladder: L, cost: Cost) -> Case {
        Case {
            ladder: format!("{}_{}", L::OPERATION, L::DIRECTION),
            sizes,
            cost,
            top: L::TOP,
            operation: L::OPERATION,
            direction: L::DIRECTION,
            launches: Box::new(move |rung, target| ladder.launches(rung, target)),
            outputs: std::mem::take(&mut self.outputs),
            truth: None,
            _inputs: std::mem::take(&mut self.inputs),
        }
    }
}
