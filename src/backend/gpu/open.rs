//! A device by its name: the driver that is loaded and the compiler that makes images for it.

use std::{fmt, fs, path::PathBuf, sync::Arc};

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
    /// Who is told while kernels are compiled.
    pub progress: Progress,
}

/// Is told while kernels are compiled: how many of how many are done.
#[derive(Clone, Default)]
pub struct Progress(Option<Arc<dyn Fn(usize, usize) + Send + Sync>>);

impl Progress {
    /// Calls `told`, from several threads.
    pub fn new(told: impl Fn(usize, usize) + Send + Sync + 'static) -> Self {
        Progress(Some(Arc::new(told)))
    }
}

impl fmt::Debug for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "told" } else { "silent" })
    }
}

/// Compiles the files that a pass will want and that the cache does not have.
fn compile(gpu: &Gpu, progress: &Progress, has: impl Fn(&Source) -> bool) -> Result<()> {
    let missing: Vec<&'static Source> =
        gpu.rungs.likely(gpu.target).into_iter().filter(|source| !has(source)).collect();
    gpu.compile(&missing, &|done| {
        if let Some(told) = &progress.0 {
            told(done, missing.len());
        }
    })
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

/// The newest CUDA that the driver serves, major and minor.
///
/// # Errors
/// [`Error::Device`] when there is no driver, or it fails.
pub fn driver_version() -> Result<(u32, u32)> {
    let failed = |reason: String| Error::Device { device: "cuda".into(), reason };
    // SAFETY: loads the driver's library and unloads it again; nothing in it is called.
    if !unsafe { cudarc::driver::sys::is_culib_present() } {
        return Err(failed("there is no NVIDIA driver".into()));
    }
    let mut version = 0;
    // SAFETY: the number is written; every driver has this function, and it needs no initialisation.
    let status = unsafe { cudarc::driver::sys::cuDriverGetVersion(&mut version) };
    status.result().map_err(|error| failed(format!("the NVIDIA driver fails: {error}")))?;
    let version = version.unsigned_abs();
    Ok((version / 1000, version % 1000 / 10))
}

/// Refuses a compiler whose images the driver does not load: a driver serves toolkits of its own major version and of older
/// ones (NVIDIA's "CUDA Compatibility"). CUDA 13 changed even the kind of file that an image is.
fn check_versions(nvrtc: (u32, u32), driver: (u32, u32)) -> std::result::Result<(), String> {
    if nvrtc.0 <= driver.0 {
        return Ok(());
    }
    let ((major, minor), (most, most_minor)) = (nvrtc, driver);
    Err(format!(
        "the driver is of CUDA {most}.{most_minor} and does not load what NVRTC {major}.{minor} compiles: name an NVRTC of \
         CUDA {most} or older in VITSCOPE_NVRTC, or install a newer driver"
    ))
}

/// GPU `number` of the NVIDIA driver.
///
/// # Errors
/// [`Error::Device`] without a driver, without this GPU, or without a run-time compiler that suits the driver.
pub fn cuda(number: usize, opening: Opening) -> Result<Arc<Gpu>> {
    let Opening { name, storage, forced, cache, progress } = opening;
    let count = cuda_devices()?;
    if number >= count {
        return Err(Error::Device { device: name, reason: format!("there are {count} GPUs, numbered from 0") });
    }
    let nvrtc = Arc::new(Nvrtc::find(&cache)?);
    check_versions(nvrtc.version(), driver_version()?)
        .map_err(|reason| Error::Device { device: name.clone(), reason })?;
    let compiler = nvrtc.clone();
    let image = move |source: &Source, architecture: u32| {
        compiler.cubin(Wanted { source, architecture: Architecture::of(architecture), defines: &[] })?.image()
    };
    let setup = Setup { name, storage, rungs: Rungs::new(forced), compile: Box::new(image), findings: || None };
    let gpu = Gpu::open(number, setup)?;
    let architecture = Architecture::of(gpu.target.architecture);
    compile(&gpu, &progress, |source| nvrtc.has(Wanted { source, architecture, defines: &[] }))?;
    Ok(gpu)
}

/// The emulated GPU, behind the driver's interface.
///
/// # Errors
/// [`Error::Device`] without a C++ compiler, or when this process has a real driver already.
pub fn emulated(settings: Settings, opening: Opening) -> Result<Arc<Gpu>> {
    let Opening { name, storage, forced, cache, progress } = opening;
    let cxx = Arc::new(HostCxx::find(&cache)?);
    stand_in::load(&cxx, settings)?;
    let compiler = cxx.clone();
    let image = move |source: &Source, _| {
        let path = compiler.kernels(source, settings.mode, &[])?;
        fs::read(&path).map_err(|error| Error::io(&path, error))
    };
    let (rungs, findings) = (Rungs::new(forced), stand_in::findings);
    let setup = Setup { name, storage, rungs, compile: Box::new(image), findings };
    let gpu = Gpu::open(0, setup)?;
    compile(&gpu, &progress, |source| cxx.has(source, settings.mode, &[]))?;
    Ok(gpu)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_compiler_newer_than_the_driver_is_refused_with_both_versions() {
        for (nvrtc, driver) in [((13, 0), (13, 0)), ((12, 9), (12, 4)), ((13, 1), (13, 0)), ((12, 4), (13, 0))] {
            assert_eq!(check_versions(nvrtc, driver), Ok(()), "{nvrtc:?} {driver:?}");
        }
        let refused = check_versions((13, 0), (12, 8)).unwrap_err();
        for said in ["CUDA 12.8", "NVRTC 13.0", "VITSCOPE_NVRTC"] {
            assert!(refused.contains(said), "{refused}");
        }
    }
}
