//! The arena in the device's memory.

use std::{
    collections::{BTreeMap, VecDeque},
    ops::Range,
    sync::Arc,
};

use half::{bf16, f16};
use rayon::prelude::*;

use super::{
    attention,
    device::{Buffer, Gpu},
    lane::Lane,
    launch::{Pointer, Storage},
    sae,
};
use crate::{
    Error, Result,
    backend::{
        Arena, Code, Fetch, FetchIndices, Fetched, Indices, Input, Memory, Plan, Relevance, Started, Tensor,
        plan::{Cursor, PlannedInput},
    },
};

/// Elements that are worth a thread's while.
const PIECE: usize = 64 * 1024;

/// Runs that may be out at a time: one that the device computes, and one that the host brings or takes.
const LANES: usize = 2;

/// Bytes by which what goes out is aligned.
const ALIGN: usize = 16;

/// One allocation of reals, one of indices, the lanes of its runs, and a watcher's copies.
pub struct GpuMemory {
    gpu: Arc<Gpu>,
    cursor: Cursor,
    real: Buffer,
    index: Buffer,
    lanes: [Lane; LANES],
    /// Bytes of each fetched tensor in what goes out, and of each one of indices.
    places: [Vec<Range<usize>>; 2],
    /// The lanes of runs that are out, the oldest first.
    out: VecDeque<usize>,
    /// The lane of the run that was started last.
    lane: usize,
    state: State,
    watched: Option<BTreeMap<String, Vec<f64>>>,
}

/// What is known of the pass.
#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// It has not run.
    New,
    /// It is being captured.
    Capturing,
    /// All that it needs is on the device.
    Warm,
}

impl GpuMemory {
    /// The arena of `plan`. With `watched`, every observed tensor is copied.
    ///
    /// # Errors
    /// [`Error::Device`] when the device has no room for it.
    pub fn new(gpu: Arc<Gpu>, plan: Plan, watched: bool) -> Result<Self> {
        let storage = gpu.target.storage;
        let real = gpu.allocate(plan.len * storage.bytes())?;
        let index = gpu.allocate(plan.index_len * size_of::<u32>())?;
        let mut outgoing = 0;
        let mut place = |bytes: usize| {
            let start = outgoing;
            outgoing += bytes.next_multiple_of(ALIGN);
            start..start + bytes
        };
        let cursor = Cursor::new(plan);
        let plan = cursor.plan();
        let bytes = |tensor: &Tensor| {
            let (len, storage) = stored(plan, *tensor, storage);
            len * storage.bytes()
        };
        let places = [
            plan.fetched.iter().map(|tensor| place(bytes(tensor))).collect(),
            plan.fetched_indices.iter().map(|t| place(plan.indices[t.id()].len() * size_of::<u32>())).collect(),
        ];
        let incoming = match plan.input {
            None => 0,
            Some(PlannedInput::Values(tensor)) => bytes(&tensor),
            Some(PlannedInput::Bytes(words)) => plan.indices[words.id()].len() * size_of::<u32>(),
        };
        let lanes = [Lane::new(&gpu, incoming, outgoing)?, Lane::new(&gpu, incoming, outgoing)?];
        let (out, watched) = (VecDeque::new(), watched.then(BTreeMap::new));
        Ok(GpuMemory { gpu, cursor, real, index, lanes, places, out, lane: 0, state: State::New, watched })
    }

    /// The address of a tensor.
    pub fn at(&self, tensor: Tensor) -> Pointer {
        let spec = &self.cursor.plan().tensors[tensor.id()];
        self.real.address() + (spec.offset * self.gpu.target.storage.bytes()) as u64
    }

    /// The address of a tensor of indices.
    pub fn index_at(&self, tensor: Indices) -> Pointer {
        let spec = &self.cursor.plan().indices[tensor.id()];
        self.index.address() + (spec.offset * size_of::<u32>()) as u64
    }

    /// A code's addresses.
    pub fn code(&self, code: Code) -> sae::Code {
        sae::Code {
            index: self.index_at(code.index),
            z: self.at(code.z),
            edited: self.at(code.edited),
            slope: self.at(code.slope),
            edit_slope: self.at(code.edit_slope),
            slots: code.slots,
        }
    }

    /// Where a relevance row enters and leaves.
    pub fn relevance(&self, relevance: Relevance) -> attention::Relevance {
        attention::Relevance {
            out: self.at(relevance.out),
            input: self.at(relevance.input),
            keep: relevance.keep as f32,
            gain: relevance.gain as f32,
        }
    }

    /// Number of elements, and the type they are stored in.
    pub fn stored(&self, tensor: Tensor) -> (usize, Storage) {
        stored(self.cursor.plan(), tensor, self.gpu.target.storage)
    }

    /// Elements of the first dimension.
    pub fn rows(&self, tensor: Tensor) -> usize {
        self.cursor.plan().tensors[tensor.id()].shape.first().copied().unwrap_or(0)
    }
}

/// Number of elements of a tensor, and the type they are stored in beside activations in `storage`.
fn stored(plan: &Plan, tensor: Tensor, storage: Storage) -> (usize, Storage) {
    let spec = &plan.tensors[tensor.id()];
    (spec.len(), if spec.wide { Storage::F32 } else { storage })
}

fn words(bytes: &[u8]) -> Vec<u32> {
    bytes.chunks_exact(size_of::<u32>()).map(bytemuck::pod_read_unaligned).collect()
}

/// Values in a storage type, as bytes.
pub fn encode(values: impl IndexedParallelIterator<Item = f64>, storage: Storage) -> Vec<u8> {
    let values = values.with_min_len(PIECE);
    match storage {
        Storage::F32 => bytemuck::cast_slice(&values.map(|v| v as f32).collect::<Vec<_>>()).to_vec(),
        Storage::F16 => bytemuck::cast_slice(&values.map(f16::from_f64).collect::<Vec<_>>()).to_vec(),
        Storage::Bf16 => bytemuck::cast_slice(&values.map(bf16::from_f64).collect::<Vec<_>>()).to_vec(),
    }
}

/// Values from their bytes in a storage type.
pub fn decode(bytes: &[u8], storage: Storage) -> Vec<f64> {
    match storage {
        Storage::F32 => bytes.par_chunks_exact(4).with_min_len(PIECE).map(|b| f64::from(word(b))).collect(),
        Storage::F16 => {
            bytes.par_chunks_exact(2).with_min_len(PIECE).map(|b| f16::from_bits(half(b)).to_f64()).collect()
        }
        Storage::Bf16 => {
            bytes.par_chunks_exact(2).with_min_len(PIECE).map(|b| bf16::from_bits(half(b)).to_f64()).collect()
        }
    }
}

fn word(bytes: &[u8]) -> f32 {
    bytemuck::pod_read_unaligned(bytes)
}

fn half(bytes: &[u8]) -> u16 {
    bytemuck::pod_read_unaligned(bytes)
}

impl Arena for GpuMemory {
    fn start(&mut self, input: Input<'_>) -> Result<Started> {
        if self.out.len() == LANES {
            return Err(Error::usage("every lane has a run that was not collected"));
        }
        self.cursor.rewind();
        let plan = self.cursor.plan();
        let encoded;
        let (bytes, fits) = match (input, plan.input) {
            (Input::Values(values), Some(PlannedInput::Values(tensor))) => {
                let (len, storage) = self.stored(tensor);
                encoded = encode(values.par_iter().copied(), storage);
                (&encoded[..], values.len() == len)
            }
            // The last index may be partly used.
            (Input::Bytes(bytes), Some(PlannedInput::Bytes(words))) => {
                (bytes, bytes.len().div_ceil(size_of::<u32>()) == plan.indices[words.id()].len())
            }
            _ => return Err(Error::Plan { tensor: "input".into(), planned: None }),
        };
        if !fits {
            return Err(Error::usage(format!("{} bytes do not fit the pass's input", bytes.len())));
        }
        self.lane = (self.lane + 1) % LANES;
        let lane = &mut self.lanes[self.lane];
        lane.send(&self.gpu, bytes)?;
        if lane.replay(&self.gpu)? {
            self.out.push_back(self.lane);
            return Ok(Started::Replayed);
        }
        // A watcher reads in between, which no graph can.
        if self.state == State::Warm && self.watched.is_none() {
            lane.capture(&self.gpu)?;
            self.state = State::Capturing;
        }
        Ok(Started::Issue)
    }

    fn issued(&mut self) -> Result<()> {
        let lane = &mut self.lanes[self.lane];
        if self.state == State::Capturing {
            lane.captured(&self.gpu)?;
            lane.replay(&self.gpu)?;
        } else {
            lane.launched(&self.gpu)?;
        }
        self.state = State::Warm;
        self.out.push_back(self.lane);
        Ok(())
    }

    fn collect(&mut self) -> Result<Fetched> {
        let Some(lane) = self.out.pop_front() else { return Err(Error::usage("no run is out")) };
        let bytes = self.lanes[lane].wait(&self.gpu)?;
        let plan = self.cursor.plan();
        let real = |(tensor, place): (&Tensor, &Range<usize>)| {
            decode(&bytes[place.clone()], stored(plan, *tensor, self.gpu.target.storage).1)
        };
        Ok(Fetched {
            reals: plan.fetched.iter().zip(&self.places[0]).map(real).collect(),
            indices: self.places[1].iter().map(|place| words(&bytes[place.clone()])).collect(),
        })
    }

    fn lanes(&self) -> usize {
        LANES
    }

    fn take_watched(&mut self) -> BTreeMap<String, Vec<f64>> {
        self.watched.as_mut().map(std::mem::take).unwrap_or_default()
    }

    fn read(&mut self, tensor: Tensor) -> Result<Vec<f64>> {
        let (len, storage) = self.stored(tensor);
        Ok(decode(&self.gpu.read(self.at(tensor), len * storage.bytes())?, storage))
    }

    fn read_indices(&mut self, tensor: Indices) -> Result<Vec<u32>> {
        let len = self.cursor.plan().indices[tensor.id()].len();
        Ok(words(&self.gpu.read(self.index_at(tensor), len * size_of::<u32>())?))
    }
}

impl Drop for GpuMemory {
    fn drop(&mut self) {
        // A pass that failed while it was captured; the failure itself has been told.
        if self.state == State::Capturing {
            let _ = self.lanes[self.lane].captured(&self.gpu);
        }
    }
}

impl Memory for GpuMemory {
    fn tensor(&mut self, name: &str, shape: &[usize]) -> Result<Tensor> {
        self.cursor.tensor(name, shape)
    }

    fn wide(&mut self, name: &str, shape: &[usize]) -> Result<Tensor> {
        self.cursor.tensor(name, shape)
    }

    fn indices(&mut self, name: &str, shape: &[usize]) -> Result<Indices> {
        self.cursor.indices(name, shape)
    }

    fn input(&mut self, tensor: Tensor) -> Result<()> {
        self.cursor.input(PlannedInput::Values(tensor))?;
        let (len, storage) = self.stored(tensor);
        self.gpu.copy(self.at(tensor), self.lanes[self.lane].staged(), len * storage.bytes())
    }

    fn input_bytes(&mut self, bytes: Indices) -> Result<()> {
        self.cursor.input(PlannedInput::Bytes(bytes))?;
        let len = self.cursor.plan().indices[bytes.id()].len() * size_of::<u32>();
        self.gpu.copy(self.index_at(bytes), self.lanes[self.lane].staged(), len)
    }

    fn constant(&mut self, tensor: Tensor, values: &[f64]) -> Result<()> {
        let (len, storage) = self.stored(tensor);
        if len != values.len() {
            return Err(Error::usage(format!("{} values for a tensor of {len}", values.len())));
        }
        let from = self.gpu.constant(&encode(values.par_iter().copied(), storage))?;
        self.gpu.copy(self.at(tensor), from, len * storage.bytes())
    }

    fn fetch(&mut self, tensor: Tensor) -> Result<Fetch> {
        let fetch = self.cursor.fetch(tensor)?;
        let (place, from) = (self.places[0][fetch.id()].clone(), self.at(tensor));
        self.lanes[self.lane].fetch(&self.gpu, place.start, from, place.len())?;
        Ok(fetch)
    }

    fn fetch_indices(&mut self, tensor: Indices) -> Result<FetchIndices> {
        let fetch = self.cursor.fetch_indices(tensor)?;
        let (place, from) = (self.places[1][fetch.id()].clone(), self.index_at(tensor));
        self.lanes[self.lane].fetch(&self.gpu, place.start, from, place.len())?;
        Ok(fetch)
    }

    fn observe(&mut self, name: &str, tensor: Tensor) -> Result<()> {
        if self.watched.is_some() {
            let values = self.read(tensor)?;
            if let Some(watched) = &mut self.watched {
                watched.insert(name.to_owned(), values);
            }
        }
        Ok(())
    }

    fn watched(&self) -> bool {
        self.watched.is_some()
    }
}
