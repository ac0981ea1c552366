//! A device by its name: the driver that is loaded and the compiler that makes images for it.

use std::fs;

use cudarc::driver::CudaContext;

use super::{
    backend::GpuBackend,
    device::{Gpu, Setup},
    emulator::Settings,
    jit::{self, HostCxx},
    launch::Storage,
    registry::{Forced, Rungs},
    stand_in,
};
use crate::{Error, Result};

/// The number of GPUs that the driver knows.
///
/// # Errors
/// [`Error::Device`] when there is no driver or no GPU.
pub fn cuda_devices() -> Result<usize> {
    let none = |reason: String| Error::Device { device: "cuda".into(), reason };
    // SAFETY: loads the driver's library and unloads it again; nothing in it is called.
    if !unsafe { cudarc::driver::sys::is_culib_present() } {
        return Err(none("there is no NVIDIA driver: libcuda.so.1 was not found; --device cpu needs none".into()));
    }
    match CudaContext::device_count() {
        Ok(count) if count > 0 => Ok(count as usize),
        Ok(_) => Err(none("the NVIDIA driver knows no GPU".into())),
        Err(error) => Err(none(format!("the NVIDIA driver fails: {error}"))),
    }
}

/// The emulated GPU, behind the driver's interface.
///
/// # Errors
/// [`Error::Device`] without a C++ compiler, or when this process has a real driver already.
pub fn open_emulated(settings: Settings, name: String, storage: Storage, forced: Forced) -> Result<GpuBackend> {
    let cxx = HostCxx::find(&jit::cache_folder()?)?;
    stand_in::load(&cxx, settings)?;
    let compile = move |source: &jit::Source| {
        let path = cxx.kernels(source, settings.mode, &[])?;
        fs::read(&path).map_err(|error| Error::io(&path, error))
    };
    let (rungs, findings) = (Rungs::new(forced), stand_in::findings);
    let gpu = Gpu::open(0, Setup { name, storage, rungs, compile: Box::new(compile), findings })?;
    Ok(GpuBackend::new(gpu))
}
