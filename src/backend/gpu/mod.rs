//! The GPU: kernels of our own, compiled at run time, on a device or in the emulator.
//!
//! Files named like an operation turn its shapes into launches ([`launch`]) and touch no device. [`device`] drives a GPU
//! through its driver, [`memory`] is the arena on it, with a lane for each run that is out, [`backend`] puts them together.
//! [`emulator`] is the emulated GPU's own interface, with which the kernels are tested one by one; [`stand_in`] puts it
//! behind the driver's.
//! `kernels/README.md` lists the kernels.

pub mod architecture;
pub mod attention;
pub mod backend;
pub mod bench;
pub mod check;
pub mod device;
pub mod emulator;
pub mod gemm;
pub mod head;
pub mod heatmap;
pub mod jit;
mod lane;
pub mod launch;
pub mod layer_norm;
pub mod memory;
pub mod open;
mod parameters;
pub mod patch_embed;
pub mod preprocess;
pub mod registry;
pub mod rows;
pub mod sae;
pub mod sae_decode;
pub mod sae_encode;
pub mod stand_in;
pub mod tiles;

use crate::Error;

/// An error about the emulated device.
fn emulated(reason: String) -> Error {
    Error::Device { device: "emulated".into(), reason }
}
