//! What a pass hands to the host, as promises while it is issued and as values when it is done.

use std::collections::BTreeMap;

use super::methods::MapKey;
use crate::{
    Result,
    backend::{Code, Fetch, FetchIndices, Fetched, Memory, Tensor},
};

/// Maps (targets, B, cells) by key, target-major.
pub type Maps = BTreeMap<MapKey, Vec<f64>>;

/// Maps of some targets, to come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MapFetch {
    fetch: Fetch,
    /// `T`, where the rows are those of all tokens and CLS is to be dropped.
    tokens: Option<usize>,
    /// How many targets share them.
    targets: usize,
}

impl MapFetch {
    /// Maps (targets,B,cells).
    ///
    /// # Errors
    /// Those of the device.
    pub fn cells<M: Memory>(m: &mut M, map: Tensor) -> Result<Self> {
        Ok(MapFetch { fetch: m.fetch(map)?, tokens: None, targets: 1 })
    }

    /// Rows (B,T) over all tokens, the same for each of `targets`.
    ///
    /// # Errors
    /// Those of the device.
    pub fn rows<M: Memory>(m: &mut M, rows: Tensor, tokens: usize, targets: usize) -> Result<Self> {
        Ok(MapFetch { fetch: m.fetch(rows)?, tokens: Some(tokens), targets })
    }

    fn values(self, fetched: &mut Fetched) -> Vec<f64> {
        let values = fetched.take(self.fetch);
        match self.tokens {
            None => values,
            Some(tokens) => {
                let patches = values.chunks(tokens).flat_map(|row| row[1..].iter().copied());
                patches.collect::<Vec<_>>().repeat(self.targets)
            }
        }
    }
}

/// Maps to come, by key, the groups of targets in order.
pub type MapFetches = BTreeMap<MapKey, Vec<MapFetch>>;

/// A sparse code to come.
#[derive(Debug, Clone)]
pub struct LatentsFetch {
    slots: usize,
    index: FetchIndices,
    z: Fetch,
    edited: Fetch,
    /// One for each group of targets.
    pub dz: Vec<Fetch>,
}

impl LatentsFetch {
    /// A code, its gradients yet to be added.
    ///
    /// # Errors
    /// Those of the device.
    pub fn new<M: Memory>(m: &mut M, code: Code) -> Result<Self> {
        let (index, z, edited) = (m.fetch_indices(code.index)?, m.fetch(code.z)?, m.fetch(code.edited)?);
        Ok(LatentsFetch { slots: code.slots, index, z, edited, dz: Vec::new() })
    }

    /// The code.
    pub fn values(&self, fetched: &mut Fetched) -> Latents {
        Latents {
            slots: self.slots,
            index: fetched.take_indices(self.index),
            z: fetched.take(self.z),
            edited: fetched.take(self.edited),
            dz: self.dz.iter().flat_map(|&dz| fetched.take(dz)).collect(),
        }
    }
}

/// The sparse code of a variant, as it comes from the device.
#[derive(Debug, Clone, Default)]
pub struct Latents {
    /// `C`.
    pub slots: usize,
    /// (B,tokens, C + 1): count, then latents.
    pub index: Vec<u32>,
    /// (B,tokens,C).
    pub z: Vec<f64>,
    /// (B,tokens,C).
    pub edited: Vec<f64>,
    /// (targets,B,tokens,C): gradient of the edited latents.
    pub dz: Vec<f64>,
}

impl Latents {
    /// The latents that fire at row `row`.
    pub fn firing(&self, row: usize) -> impl Iterator<Item = u32> + '_ {
        let index = &self.index[row * (self.slots + 1)..][..self.slots + 1];
        let used = index[0] as usize;
        let z = &self.z[row * self.slots..][..used];
        index[1..][..used].iter().zip(z).filter(|(_, z)| **z != 0.0).map(|(&id, _)| id)
    }
}

/// What a variant will give.
#[derive(Debug, Clone)]
pub struct VariantFetch {
    /// Cosines (B,Q), or the latent's sums (B).
    pub values: Fetch,
    /// The same of the forward that `grad-eclip:heads=single` explains.
    pub single_values: Option<Fetch>,
    /// (Q,B,cells).
    pub maps: MapFetches,
    /// The code, if asked for.
    pub latents: Option<LatentsFetch>,
}

impl VariantFetch {
    /// What the variant gave.
    pub fn values(&self, fetched: &mut Fetched) -> VariantOutput {
        let mut maps = Maps::new();
        for (&key, groups) in &self.maps {
            maps.insert(key, groups.iter().flat_map(|group| group.values(fetched)).collect());
        }
        VariantOutput {
            values: fetched.take(self.values),
            single_values: self.single_values.map(|values| fetched.take(values)).unwrap_or_default(),
            maps,
            latents: self.latents.as_ref().map(|latents| latents.values(fetched)),
        }
    }
}

/// What a variant gave.
#[derive(Debug, Clone, Default)]
pub struct VariantOutput {
    /// Cosines (B,Q), or the latent's sums (B).
    pub values: Vec<f64>,
    /// The same of the forward that `grad-eclip:heads=single` explains.
    pub single_values: Vec<f64>,
    /// (Q,B,cells).
    pub maps: Maps,
    /// The code, if asked for.
    pub latents: Option<Latents>,
}
