//! A device by its name: the driver that is loaded and the compiler that makes images for it.

use std::{fs, sync::Arc};

use cudarc::driver::CudaContext;

use super::{
    architecture::Architecture,
    device::{Gpu, Setup},
    emulator::Settings,
    jit::{HostCxx, Nvrtc, Source, Wanted, cache_folder},
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

/// GPU `number` of the NVIDIA driver.
///
/// # Errors
/// [`Error::Device`] without a driver, without this GPU, or without the run-time compiler.
pub fn open_cuda(number: usize, name: String, storage: Storage, forced: Forced) -> Result<Arc<Gpu>> {
    let count = cuda_devices()?;
    if number >= count {
        return Err(Error::Device { device: name, reason: format!("there are {count} GPUs, numbered from 0") });
    }
    let nvrtc = Nvrtc::find(&cache_folder()?)?;
    let compile = move |source: &Source, architecture: u32| {
        nvrtc.cubin(Wanted { source, architecture: Architecture::of(architecture), defines: &[] })?.image()
    };
    let setup = Setup { name, storage, rungs: Rungs::new(forced), compile: Box::new(compile), findings: || None };
    Gpu::open(number, setup)
}

/// The emulated GPU, behind the driver's interface.
///
/// # Errors
/// [`Error::Device`] without a C++ compiler, or when this process has a real driver already.
pub fn open_emulated(settings: Settings, name: String, storage: Storage, forced: Forced) -> Result<Arc<Gpu>> {
    let cxx = HostCxx::find(&cache_folder()?)?;
    stand_in::load(&cxx, settings)?;
    let compile = move |source: &Source, _| {
        let path = cxx.kernels(source, settings.mode, &[])?;
        fs::read(&path).map_err(|error| Error::io(&path, error))
    };
    let (rungs, findings) = (Rungs::new(forced), stand_in::findings);
    let setup = Setup { name, storage, rungs, compile: Box::new(compile), findings };
    Gpu::open(0, setup)
}
