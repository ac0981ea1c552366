//! The GPU: kernels of our own, compiled at run time, on a device or in the emulator.
//!
//! What stands: the kernel sources and their compilation by the host's C++ compiler ([`jit`]), and the emulator that
//! runs them thread by thread ([`emulator`]). `kernels/README.md` lists the kernels.

pub mod architecture;
pub mod check;
pub mod emulator;
pub mod gemm;
pub mod jit;
pub mod launch;
pub mod layer_norm;
pub mod registry;

use crate::Error;

/// An error about the emulated device.
fn emulated(reason: String) -> Error {
    Error::Device { device: "emulated".into(), reason }
}
