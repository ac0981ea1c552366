//! The CPU's arena.

use std::collections::BTreeMap;

use rayon::prelude::*;

use super::{Real, pages::Pages};
use crate::{
    Error, Result,
    backend::{
        Arena, Fetch, FetchIndices, Fetched, Indices, Input, Memory, Plan, Started, Tensor,
        plan::{Cursor, PlannedInput},
    },
};

/// Elements that are worth a thread's while.
const PIECE: usize = 64 * 1024;

/// One arena of reals, one of indices, what comes in and goes out, and a watcher's copies.
#[derive(Debug)]
pub struct CpuMemory<T> {
    cursor: Cursor,
    real: Pages<T>,
    index: Vec<u32>,
    /// The run's input, values or bytes.
    values: Vec<T>,
    bytes: Vec<u8>,
    fetched: Fetched,
    watched: Option<BTreeMap<String, Vec<f64>>>,
}

impl<T: Real> CpuMemory<T> {
    /// The arena of `plan`. With `watched`, every observed tensor is copied.
    pub fn new(plan: Plan, watched: bool) -> Self {
        let mut real = Pages::zeroed(plan.len);
        // A pass that reads what it never wrote gives NaN.
        real.fill(T::NAN);
        CpuMemory {
            real,
            index: vec![0; plan.index_len],
            cursor: Cursor::new(plan),
            values: Vec::new(),
            bytes: Vec::new(),
            fetched: Fetched::default(),
            watched: watched.then(BTreeMap::new),
        }
    }

    /// The plan it was cut from.
    pub fn plan(&self) -> &Plan {
        self.cursor.plan()
    }

    /// The values of several tensors at once.
    ///
    /// # Errors
    /// When two of them are the same.
    pub fn real<const N: usize>(&mut self, tensors: [Tensor; N]) -> Result<[&mut [T]; N]> {
        split(&mut self.real, self.cursor.plan(), tensors)
    }

    /// The values of several tensors and of one tensor of indices.
    ///
    /// # Errors
    /// When two of them are the same.
    pub fn real_and_index<const N: usize>(
        &mut self,
        tensors: [Tensor; N],
        index: Indices,
    ) -> Result<([&mut [T]; N], &mut [u32])> {
        let range = self.cursor.plan().indices[index.id()].range();
        Ok((split(&mut self.real, self.cursor.plan(), tensors)?, &mut self.index[range]))
    }
}

fn split<'a, T, const N: usize>(real: &'a mut [T], plan: &Plan, tensors: [Tensor; N]) -> Result<[&'a mut [T]; N]> {
    real.get_disjoint_mut(tensors.map(|t| plan.tensors[t.id()].range())).map_err(|_| {
        let names: Vec<&str> = tensors.iter().map(|t| plan.tensors[t.id()].name.as_str()).collect();
        Error::Plan { tensor: names.join(", "), planned: None }
    })
}

fn values<T: Real>(x: &[T]) -> Vec<f64> {
    x.par_iter().with_min_len(PIECE).map(|x| x.to_f64()).collect()
}

fn same_length(found: usize, planned: usize) -> Result<()> {
    if found == planned { Ok(()) } else { Err(Error::usage(format!("{found} values for a tensor of {planned}"))) }
}

impl<T: Real> Arena for CpuMemory<T> {
    fn start(&mut self, input: Input<'_>) -> Result<Started> {
        self.cursor.rewind();
        self.fetched = Fetched::default();
        match input {
            Input::Values(values) => {
                self.values.clear();
                self.values.par_extend(values.par_iter().with_min_len(PIECE).map(|&v| T::of(v)));
            }
            Input::Bytes(bytes) => bytes.clone_into(&mut self.bytes),
        }
        Ok(Started::Issue)
    }

    fn issued(&mut self) -> Result<()> {
        Ok(())
    }

    fn collect(&mut self) -> Result<Fetched> {
        Ok(std::mem::take(&mut self.fetched))
    }

    /// A pass is done when it was issued.
    fn lanes(&self) -> usize {
        1
    }

    fn take_watched(&mut self) -> BTreeMap<String, Vec<f64>> {
        self.watched.as_mut().map(std::mem::take).unwrap_or_default()
    }

    fn read(&mut self, tensor: Tensor) -> Result<Vec<f64>> {
        let [x] = self.real([tensor])?;
        Ok(values(x))
    }

    fn read_indices(&mut self, tensor: Indices) -> Result<Vec<u32>> {
        let range = self.cursor.plan().indices[tensor.id()].range();
        Ok(self.index[range].to_vec())
    }
}

impl<T: Real> Memory for CpuMemory<T> {
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
        let [x] = split(&mut self.real, self.cursor.plan(), [tensor])?;
        same_length(self.values.len(), x.len())?;
        x.copy_from_slice(&self.values);
        Ok(())
    }

    fn input_bytes(&mut self, bytes: Indices) -> Result<()> {
        self.cursor.input(PlannedInput::Bytes(bytes))?;
        let range = self.cursor.plan().indices[bytes.id()].range();
        same_length(self.bytes.len().div_ceil(size_of::<u32>()), range.len())?;
        let words: &mut [u8] = bytemuck::cast_slice_mut(&mut self.index[range]);
        words[..self.bytes.len()].copy_from_slice(&self.bytes);
        Ok(())
    }

    fn constant(&mut self, tensor: Tensor, values: &[f64]) -> Result<()> {
        let [x] = self.real([tensor])?;
        same_length(values.len(), x.len())?;
        x.par_iter_mut().with_min_len(PIECE).zip(values).for_each(|(x, &v)| *x = T::of(v));
        Ok(())
    }

    fn fetch(&mut self, tensor: Tensor) -> Result<Fetch> {
        let fetch = self.cursor.fetch(tensor)?;
        let values = self.read(tensor)?;
        self.fetched.reals.push(values);
        Ok(fetch)
    }

    fn fetch_indices(&mut self, tensor: Indices) -> Result<FetchIndices> {
        let fetch = self.cursor.fetch_indices(tensor)?;
        let values = self.read_indices(tensor)?;
        self.fetched.indices.push(values);
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
