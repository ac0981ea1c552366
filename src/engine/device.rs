//! Which device computes, in which type.

use std::{fmt, str::FromStr, sync::Arc, thread};

use super::{
    Options,
    runner::{DeviceRunner, Runner},
};
use crate::{
    Error, Result,
    backend::{
        cpu::Cpu,
        gpu::{
            backend::GpuBackend,
            device::Gpu,
            emulator::Settings,
            jit::{HostCxx, Mode, cache_folder},
            launch::Storage,
            open,
        },
    },
};

/// The device that computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Device {
    /// A GPU if there is one, else the processor.
    #[default]
    Auto,
    /// The processor.
    Cpu,
    /// An NVIDIA GPU by number.
    Cuda(usize),
    /// The GPU's kernels on the emulated driver. `checked` looks at every single access.
    Emulated {
        /// Whether races, bounds and unwritten reads are findings.
        checked: bool,
    },
}

impl FromStr for Device {
    type Err = Error;

    fn from_str(s: &str) -> Result<Self> {
        match s {
            "auto" => Ok(Device::Auto),
            "cpu" => Ok(Device::Cpu),
            "cuda" => Ok(Device::Cuda(0)),
            "emulated" => Ok(Device::Emulated { checked: false }),
            "emulated:checked" => Ok(Device::Emulated { checked: true }),
            _ => match s.strip_prefix("cuda:").map(str::parse) {
                Some(Ok(n)) => Ok(Device::Cuda(n)),
                _ => Err(Error::usage(format!(
                    "unknown device `{s}`: expected auto, cpu, cuda, cuda:N, emulated or emulated:checked"
                ))),
            },
        }
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Device::Auto => f.write_str("auto"),
            Device::Cpu => f.write_str("cpu"),
            Device::Cuda(n) => write!(f, "cuda:{n}"),
            Device::Emulated { checked: false } => f.write_str("emulated"),
            Device::Emulated { checked: true } => f.write_str("emulated:checked"),
        }
    }
}

impl Device {
    /// The device that is meant, and why it was chosen.
    pub fn choose(self, dtype: AskedDtype) -> (Device, String) {
        // Only `auto` looks for a driver: the emulated device must be the first that this process loads.
        if self != Device::Auto {
            return (self, "as asked for".into());
        }
        if dtype.0 == Some(Dtype::F64) {
            return (Device::Cpu, "auto: f64 is computed on the CPU only".into());
        }
        match open::cuda_devices() {
            Ok(1) => (Device::Cuda(0), "auto: there is a GPU".into()),
            Ok(count) => (Device::Cuda(0), format!("auto: the first of {count} GPUs")),
            Err(why) => (Device::Cpu, format!("auto: {why}")),
        }
    }
}

impl Device {
    /// Whether it is an emulated GPU.
    pub fn is_emulated(self) -> bool {
        matches!(self, Device::Emulated { .. })
    }

    /// Whether the device is there.
    ///
    /// # Errors
    /// [`Error::Device`] when it is not, with what to install.
    pub fn find(self) -> Result<()> {
        let missing = |reason: String| Error::Device { device: self.to_string(), reason };
        match self {
            Device::Auto | Device::Cpu => Ok(()),
            Device::Cuda(number) => match open::cuda_devices()? {
                count if number < count => Ok(()),
                count => Err(missing(format!("there are {count} GPUs, numbered from 0"))),
            },
            Device::Emulated { .. } => HostCxx::find(&cache_folder()?).map(|_| ()),
        }
    }
}

/// The type that a device computes in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dtype {
    /// 32-bit floats.
    F32,
    /// 64-bit floats in plain loops: the judge. CPU only.
    F64,
    /// Activations and weights in half floats, sums in f32. GPU only.
    F16,
    /// Activations and weights in brain floats, sums in f32. GPU only.
    Bf16,
}

impl Dtype {
    /// Bytes of one stored value.
    pub fn size(self) -> usize {
        match self {
            Dtype::F16 | Dtype::Bf16 => 2,
            Dtype::F32 => 4,
            Dtype::F64 => 8,
        }
    }

    fn storage(self) -> Result<Storage> {
        match self {
            Dtype::F32 => Ok(Storage::F32),
            Dtype::F16 => Ok(Storage::F16),
            Dtype::Bf16 => Ok(Storage::Bf16),
            Dtype::F64 => Err(Error::usage("dtype `f64` needs the CPU; a GPU computes in f32, f16 or bf16")),
        }
    }
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Dtype::F32 => "f32",
            Dtype::F64 => "f64",
            Dtype::F16 => "f16",
            Dtype::Bf16 => "bf16",
        })
    }
}

/// A type that is asked for; nothing leaves the choice to the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct AskedDtype(pub Option<Dtype>);

impl FromStr for AskedDtype {
    type Err = Error;

    fn from_str(s: &str) -> Result<Self> {
        match s {
            "auto" => Ok(AskedDtype(None)),
            "f32" => Ok(AskedDtype(Some(Dtype::F32))),
            "f64" => Ok(AskedDtype(Some(Dtype::F64))),
            "f16" => Ok(AskedDtype(Some(Dtype::F16))),
            "bf16" => Ok(AskedDtype(Some(Dtype::Bf16))),
            _ => Err(Error::usage(format!("unknown dtype `{s}`: expected auto, f32, f64, bf16 or f16"))),
        }
    }
}

impl AskedDtype {
    /// The type on this device: f32 on the processor, bf16 on a GPU where nothing is asked for.
    ///
    /// # Errors
    /// [`Error::Usage`] for a type that the device does not compute in.
    pub fn on(self, device: Device) -> Result<Dtype> {
        match (device, self.0) {
            (Device::Cpu | Device::Auto, None) => Ok(Dtype::F32),
            (Device::Cuda(_) | Device::Emulated { .. }, None) => Ok(Dtype::Bf16),
            (Device::Cpu | Device::Auto, Some(dtype @ (Dtype::F16 | Dtype::Bf16))) => {
                Err(Error::usage(format!("dtype `{dtype}` needs a GPU; the CPU computes in f32 or f64")))
            }
            (_, Some(dtype)) => Ok(dtype),
        }
    }
}

/// Opens a device.
///
/// # Errors
/// [`Error::Device`] when it is not there, [`Error::Usage`] for a type or rungs that it does not have.
pub fn open(device: Device, dtype: Dtype, options: &Options) -> Result<Box<dyn Runner>> {
    if let (Device::Cpu | Device::Auto, false) = (device, options.kernels.is_empty()) {
        return Err(Error::usage("--kernel chooses among GPU kernels, but the device is the CPU"));
    }
    Ok(match (device, dtype) {
        (Device::Cpu | Device::Auto, Dtype::F64) => Box::new(DeviceRunner::new(Cpu::<f64>::new())),
        (Device::Cpu | Device::Auto, _) => Box::new(DeviceRunner::new(Cpu::<f32>::new())),
        (Device::Cuda(_) | Device::Emulated { .. }, _) => {
            let gpu = open_gpu(device, dtype, options, false)?;
            Box::new(DeviceRunner::new(GpuBackend::new(gpu)))
        }
    })
}

/// Opens a GPU, real or emulated. With `counts` the emulated one checks, and counts what accesses cost.
///
/// # Errors
/// As [`open`]; [`Error::Usage`] for the processor, which has no kernels.
pub fn open_gpu(device: Device, dtype: Dtype, options: &Options, counts: bool) -> Result<Arc<Gpu>> {
    let opening = || {
        let cache = options.kernel_cache.clone().map_or_else(cache_folder, Ok)?;
        let (name, forced, progress) = (device.to_string(), options.kernels.clone(), options.progress.clone());
        Ok(open::Opening { name, storage: dtype.storage()?, forced, cache, progress })
    };
    match device {
        Device::Cpu | Device::Auto => Err(Error::usage(
            "there are kernels on a GPU only: give --device cuda, or --device emulated to count what they do",
        )),
        Device::Cuda(number) => open::cuda(number, opening()?),
        Device::Emulated { checked } => {
            let settings = Settings {
                mode: if checked || counts { Mode::Checked } else { Mode::Fast },
                counts,
                threads: thread::available_parallelism().map_or(1, |n| n.get() as u32),
                ..Settings::fast()
            };
            open::emulated(settings, opening()?)
        }
    }
}
