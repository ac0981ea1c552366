//! Each instruction of the kernels' headers in the smallest kernel, on the emulated device or on a GPU.
//!
//! `VITSCOPE_DEVICE` names the device: `emulated` (the default), `cuda` or `cuda:N`. Each result is compared with what the
//! instruction is defined to give, computed here: bit for bit on small whole numbers, whose sums are exact in any order.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod coverage;
mod device;
mod numbers;
mod probes;
mod threads;
mod tiles;
mod warp;
mod wgmma;
