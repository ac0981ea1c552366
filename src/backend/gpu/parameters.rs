//! What a model brings to the device once: weight matrices, parameters, SAEs.

use std::sync::Arc;

use rayon::prelude::*;

use super::{
    device::{Buffer, Gpu},
    launch::Pointer,
    memory::encode,
    sae::{Sae, SaeArrays},
};
use crate::{Result, weights::SaeWeights};

/// A weight matrix (rows,cols) in the storage type.
pub struct GpuMatrix {
    /// Its values, row by row.
    pub values: Buffer,
    /// Rows.
    pub rows: usize,
    /// Columns.
    pub cols: usize,
}

impl GpuMatrix {
    /// A matrix from row-major values.
    ///
    /// # Errors
    /// [`crate::Error::Device`] when there is no room.
    pub fn new(gpu: &Arc<Gpu>, rows: usize, cols: usize, values: &[f32]) -> Result<Self> {
        Ok(GpuMatrix { values: stored(gpu, values)?, rows, cols })
    }
}

/// Parameters in f32.
pub struct GpuVector {
    /// Their values.
    pub values: Buffer,
    /// How many there are.
    pub len: usize,
}

impl GpuVector {
    /// Parameters in f32.
    ///
    /// # Errors
    /// [`crate::Error::Device`] when there is no room.
    pub fn new(gpu: &Arc<Gpu>, values: &[f32]) -> Result<Self> {
        Ok(GpuVector { values: gpu.upload(bytemuck::cast_slice(values))?, len: values.len() })
    }
}

/// An SAE's arrays on the device.
pub struct GpuSae {
    /// Their addresses, and the SAE's rules.
    pub sae: Sae,
    _arrays: Vec<Buffer>,
}

impl GpuSae {
    /// An SAE's arrays: matrices in the storage type, the rest in f32.
    ///
    /// # Errors
    /// [`crate::Error::Device`] when there is no room.
    pub fn new(gpu: &Arc<Gpu>, weights: &SaeWeights) -> Result<Self> {
        let arrays = SaeArrays::new(weights, gpu.target.storage);
        let mut kept = vec![stored(gpu, arrays.encoder)?, stored(gpu, arrays.decoder)?];
        let [encoder, decoder] = [kept[0].address(), kept[1].address()];
        // Null where there are none.
        let mut floats = |values: &[f32]| -> Result<Pointer> {
            if values.is_empty() {
                return Ok(0);
            }
            let buffer = gpu.upload(bytemuck::cast_slice(values))?;
            let address = buffer.address();
            kept.push(buffer);
            Ok(address)
        };
        let sae = Sae {
            rule: arrays.rule,
            encoder,
            decoder,
            bias: floats(arrays.bias)?,
            decoder_bias: floats(arrays.decoder_bias)?,
            input_bias: floats(arrays.input_bias)?,
            mean: floats(arrays.mean)?,
            row_norms: floats(&arrays.row_norms)?,
            parameters: floats(&arrays.parameters)?,
            folded_bias: floats(&arrays.folded_bias)?,
            row_sums: floats(&arrays.row_sums)?,
        };
        Ok(GpuSae { sae, _arrays: kept })
    }
}

/// Values on the device, in the storage type.
fn stored(gpu: &Arc<Gpu>, values: &[f32]) -> Result<Buffer> {
    gpu.upload(&encode(values.par_iter().map(|&v| f64::from(v)), gpu.target.storage))
}
