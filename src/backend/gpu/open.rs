//! A device by its name: the driver that is loaded and the compiler that makes images for it.

use std::{fs, path::PathBuf, sync::Arc};

use cudarc::driver::CudaContext;

use super::{
    architecture::Architecture,
    device::{Gpu, Setup},
    emulator::Settings,
    jit::{HostCxx, Nvrtc, Source, Wanted},
    launch::Storage,
    registry::{Forced, Rungs},
    stand_in,
};
use crate::{Error, Result};

/// What every device is opened with.
pub struct Opening {
    /// As the user named it.
    pub name: String,
    /// The type that activations and weights are stored in.
    pub storage: Storage,
    /// The rungs that must run.
    pub forced: Forced,
    /// The folder that keeps compiled kernels.
    pub cache: PathBuf,
}

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
pub fn cuda(number: usize, opening: Opening) -> Result<Arc<Gpu>> {
    let Opening { name, storage, forced, cache } = opening;
    let count = cuda_devices()?;
    if number >= count {
        return Err(Error::Device { device: name, reason: format!("there are {count} GPUs, numbered from 0") });
    }
    let nvrtc = Nvrtc::find(&cache)?;
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
pub fn emulated(settings: Settings, opening: Opening) -> Result<Arc<Gpu>> {
    let Opening { name, storage, forced, cache } = opening;
    let cxx = HostCxx::find(&cache)?;
    stand_in::load(&cxx, settings)?;
    let compile = move |source: &Source, _| {
        let path = cxx.kernels(source, settings.mode, &[])?;
        fs::read(&path).map_err(|error| Error::io(&path, error))
    };
    let (rungs, findings) = (Rungs::new(forced), stand_in::findings);
    let setup = Setup { name, storage, rungs, compile: Box::new(compile), findings };
    Gpu::open(0, setup)
}
