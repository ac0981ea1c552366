//! The CPU's arena.

use std::collections::BTreeMap;

use rayon::prelude::*;

use super::{Real, pages::Pages};
use crate::{
    Error, Result,
    backend::{
        Arena,
        plan::{Cursor, Indices, Memory, Plan, Tensor},
    },
};

/// Elements that are worth a thread's while.
const PIECE: usize = 64 * 1024;

/// One arena of reals, one of indices, and a watcher's copies.
#[derive(Debug)]
pub struct CpuMemory<T> {
    cursor: Cursor,
    real: Pages<T>,
    index: Vec<u32>,
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

impl<T: Real> Arena for CpuMemory<T> {
    fn rewind(&mut self) {
        self.cursor.rewind();
    }

    fn take_watched(&mut self) -> BTreeMap<String, Vec<f64>> {
        self.watched.as_mut().map(std::mem::take).unwrap_or_default()
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

    fn upload(&mut self, tensor: Tensor, values: &[f64]) -> Result<()> {
        let [x] = self.real([tensor])?;
        if x.len() != values.len() {
            return Err(Error::usage(format!("{} values for a tensor of {}", values.len(), x.len())));
        }
        x.par_iter_mut().with_min_len(PIECE).zip(values).for_each(|(x, &v)| *x = T::of(v));
        Ok(())
    }

    fn download(&mut self, tensor: Tensor) -> Result<Vec<f64>> {
        let [x] = self.real([tensor])?;
        Ok(x.par_iter().with_min_len(PIECE).map(|x| x.to_f64()).collect())
    }

    fn download_indices(&mut self, tensor: Indices) -> Result<Vec<u32>> {
        let range = self.cursor.plan().indices[tensor.id()].range();
        Ok(self.index[range].to_vec())
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
