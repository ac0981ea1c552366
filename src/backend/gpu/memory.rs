//! The arena in the device's memory.

use std::{collections::BTreeMap, sync::Arc};

use half::{bf16, f16};
use rayon::prelude::*;

use super::{
    device::{Buffer, Gpu},
    launch::{Pointer, Storage},
};
use crate::{
    Error, Result,
    backend::{
        Arena,
        plan::{Cursor, Indices, Memory, Plan, Tensor},
    },
};

/// Elements that are worth a thread's while.
const PIECE: usize = 64 * 1024;

/// One allocation of reals, one of indices, and a watcher's copies.
pub struct GpuMemory {
    gpu: Arc<Gpu>,
    cursor: Cursor,
    real: Buffer,
    index: Buffer,
    watched: Option<BTreeMap<String, Vec<f64>>>,
}

impl GpuMemory {
    /// The arena of `plan`. With `watched`, every observed tensor is copied.
    ///
    /// # Errors
    /// [`Error::Device`] when the device has no room for it.
    pub fn new(gpu: Arc<Gpu>, plan: Plan, watched: bool) -> Result<Self> {
        let real = gpu.allocate(plan.len * gpu.target.storage.bytes())?;
        let index = gpu.allocate(plan.index_len * size_of::<u32>())?;
        Ok(GpuMemory { gpu, cursor: Cursor::new(plan), real, index, watched: watched.then(BTreeMap::new) })
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

    /// Number of elements, and the type they are stored in.
    pub fn stored(&self, tensor: Tensor) -> (usize, Storage) {
        let spec = &self.cursor.plan().tensors[tensor.id()];
        (spec.len(), if spec.wide { Storage::F32 } else { self.gpu.target.storage })
    }

    /// Elements of the first dimension.
    pub fn rows(&self, tensor: Tensor) -> usize {
        self.cursor.plan().tensors[tensor.id()].shape.first().copied().unwrap_or(0)
    }
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
    fn rewind(&mut self) {
        self.cursor.rewind();
    }

    fn take_watched(&mut self) -> BTreeMap<String, Vec<f64>> {
        self.watched.as_mut().map(std::mem::take).unwrap_or_default()
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

    fn upload(&mut self, tensor: Tensor, values: &[f64]) -> Result<()> {
        let (len, storage) = self.stored(tensor);
        if len != values.len() {
            return Err(Error::usage(format!("{} values for a tensor of {len}", values.len())));
        }
        self.gpu.write(self.at(tensor), &encode(values.par_iter().copied(), storage))
    }

    fn download(&mut self, tensor: Tensor) -> Result<Vec<f64>> {
        let (len, storage) = self.stored(tensor);
        Ok(decode(&self.gpu.read(self.at(tensor), len * storage.bytes())?, storage))
    }

    fn download_indices(&mut self, tensor: Indices) -> Result<Vec<u32>> {
        let len = self.cursor.plan().indices[tensor.id()].len();
        let bytes = self.gpu.read(self.index_at(tensor), len * size_of::<u32>())?;
        Ok(bytes.chunks_exact(4).map(bytemuck::pod_read_unaligned).collect())
    }

    fn observe(&mut self, name: &str, tensor: Tensor) -> Result<()> {
        if self.watched.is_some() {
            let values = self.download(tensor)?;
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
