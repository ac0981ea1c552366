//! Every committed fixture, in f32 and f64: all tensors within a multiple of PyTorch's own error.

#![allow(clippy::unwrap_used)] // helpers of tests are tests

#[path = "common/fixtures.rs"]
mod fixtures;

use vitscope::engine::{AskedDtype, Device, Dtype, Options};

fn verify_all(dtype: Dtype) {
    let (device, dtype) = (Device::Cpu, AskedDtype(Some(dtype)));
    fixtures::verify_all(&Options { device, dtype, ..Options::default() });
}

#[test]
fn f64_equals_torch() {
    verify_all(Dtype::F64);
}

#[test]
fn f32_is_within_twice_torch() {
    verify_all(Dtype::F32);
}
