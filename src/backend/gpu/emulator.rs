//! The emulated GPU: kernels on host buffers, thread by thread, with what went wrong as values.
//!
//! A thin layer over the runtime's C interface (`kernels/emulator/api.h`).

use std::{
    ffi::{CStr, CString, c_char, c_int, c_void},
    fmt,
    marker::PhantomData,
    path::Path,
    ptr,
    sync::Arc,
};

use bytemuck::Pod;
use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};

use super::{
    emulated,
    jit::{HostCxx, Mode, Source},
    launch::{Arg, Parameter, Pointer, Shape, Storage, Swizzle, TileMap},
};
use crate::Result;

/// What an emulated device does beside computing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// Whether single accesses are checked.
    pub mode: Mode,
    /// 0 runs threads and blocks in order; any other value seeds an order of its own.
    pub seed: u64,
    /// Whether a checked launch counts memory sectors and bank conflicts.
    pub counts: bool,
    /// Threads of the host that a launch in [`Mode::Fast`] may use.
    pub threads: u32,
    /// The device's memory.
    pub memory_bytes: u64,
}

impl Settings {
    /// Everything checked, threads in the order of `seed`.
    pub fn checked(seed: u64) -> Self {
        Settings { mode: Mode::Checked, seed, counts: false, threads: 1, memory_bytes: 1 << 30 }
    }

    /// Full speed on one thread.
    pub fn fast() -> Self {
        Settings { mode: Mode::Fast, ..Self::checked(0) }
    }
}

/// Something a launch did that a GPU does not allow, or does not promise anything about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// `race`, `bounds`, `alignment`, `uninitialised`, `copy`, `divergence`, `deadlock`, `mbarrier`, `proxy`,
    /// `tile`, `wgmma`, `launch` or `limit`.
    pub kind: String,
    /// What happened.
    pub message: String,
    /// File and line in the kernel; empty when it is about the launch as a whole.
    pub place: String,
    /// File and line of the other side of a race or a divergence; may be empty.
    pub other: String,
    /// The block it was seen in first.
    pub block: [u32; 3],
    /// The thread it was seen in first.
    pub thread: [u32; 3],
    /// How often it was seen.
    pub count: u64,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = if self.place.is_empty() { "launch" } else { &self.place };
        write!(f, "{place}: {}: {}", self.kind, self.message)?;
        if !self.other.is_empty() {
            write!(f, " at {}", self.other)?;
        }
        write!(f, "; block {:?} thread {:?}, {} times", self.block, self.thread, self.count)
    }
}

/// What a launch cost, in a GPU's terms. Sectors are 32 bytes; a pass serves 32 banks of 4 bytes.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Switches from one thread to another.
    pub switches: u64,
    /// Meetings of a warp: shuffles, votes, matrix instructions.
    pub collectives: u64,
    /// `mma.sync` instructions of a warp.
    pub matrix_products: u64,
    /// Warp accesses to global memory.
    pub global_accesses: u64,
    /// Sectors they touched.
    pub global_sectors: u64,
    /// Sectors that would have held their bytes.
    pub global_sectors_needed: u64,
    /// Warp accesses to shared memory; each matrix of an `ldmatrix` is one.
    pub shared_accesses: u64,
    /// Passes they took.
    pub shared_passes: u64,
    /// Passes without bank conflicts.
    pub shared_passes_needed: u64,
}

/// The outcome of a launch.
#[derive(Debug)]
#[must_use]
pub struct Launched {
    /// The kernel.
    pub kernel: String,
    /// In the order they were found.
    pub findings: Vec<Finding>,
    /// Accesses are counted only where the settings say so.
    pub counters: Counters,
}

impl Launched {
    /// The counters of a launch without findings.
    ///
    /// # Errors
    /// [`crate::Error::Device`] with the findings.
    pub fn passed(self) -> Result<Counters> {
        if self.findings.is_empty() {
            return Ok(self.counters);
        }
        let list: Vec<_> = self.findings.iter().map(Finding::to_string).collect();
        Err(emulated(format!("kernel {}:\n{}", self.kernel, list.join("\n"))))
    }
}

/// Declares the runtime's functions and how they are found.
macro_rules! runtime {
    ($($name:ident: fn($($argument:ty),*) $(-> $result:ty)?;)*) => {
        struct Runtime {
            $($name: unsafe extern "C" fn($($argument),*) $(-> $result)?,)*
            _library: Library,
        }

        impl Runtime {
            fn open(path: &Path) -> Result<Self> {
                // Kernel modules find the runtime's instructions through the process's global symbols.
                // SAFETY: the library is the runtime that this program's sources were compiled to; it has no initialisers
                // of its own beyond the C++ library's.
                let library = unsafe { Library::open(Some(path), RTLD_NOW | RTLD_GLOBAL) };
                let library = library.map_err(|error| emulated(error.to_string()))?;
                Ok(Runtime {
                    // SAFETY: the signatures are those of kernels/emulator/api.h.
                    $($name: *unsafe { library.get(concat!("emu_", stringify!($name)).as_bytes()) }
                        .map_err(|error| emulated(error.to_string()))?,)*
                    _library: library,
                })
            }
        }
    };
}

runtime! {
    device_open: fn(*const RawSettings) -> *mut c_void;
    device_close: fn(*mut c_void);
    allocate: fn(*mut c_void, u64) -> u64;
    release: fn(*mut c_void, u64) -> c_int;
    upload: fn(*mut c_void, u64, *const c_void, u64) -> c_int;
    download: fn(*mut c_void, *mut c_void, u64, u64) -> c_int;
    module_open: fn(*const c_char, *mut c_char, u64) -> *mut c_void;
    module_close: fn(*mut c_void);
    tile_map_encode: fn(*mut c_void, u32, u32, u64, *const u64, *const u64, *const u32, *const u32, u32, u32, u32) -> c_int;
    kernel_parameters: fn(*mut c_void, *const c_char, *mut u32, u32) -> i32;
    launch: fn(*mut c_void, *mut c_void, *const c_char, *const u32, *const u32, u32, *const *const c_void) -> *mut c_void;
    report_count: fn(*const c_void) -> u64;
    report_finding: fn(*const c_void, u64, *mut RawFinding);
    report_counters: fn(*const c_void, *mut Counters);
    report_close: fn(*mut c_void);
}

/// Settings as the runtime takes them.
#[repr(C)]
pub(super) struct RawSettings {
    memory_bytes: u64,
    seed: u64,
    is_checked: u32,
    counts: u32,
    threads: u32,
}

impl From<Settings> for RawSettings {
    fn from(settings: Settings) -> Self {
        RawSettings {
            memory_bytes: settings.memory_bytes,
            seed: settings.seed,
            is_checked: (settings.mode == Mode::Checked).into(),
            counts: settings.counts.into(),
            threads: settings.threads,
        }
    }
}

#[repr(C)]
struct RawFinding {
    kind: *const c_char,
    message: *const c_char,
    place: *const c_char,
    other: *const c_char,
    block: [u32; 3],
    thread: [u32; 3],
    count: u64,
}

/// An emulated device. It belongs to one thread of the host.
pub struct Emulator {
    runtime: Arc<Runtime>,
    device: *mut c_void,
    mode: Mode,
}

impl Emulator {
    /// A device with empty memory. The runtime is compiled when `cxx` has not kept it.
    ///
    /// # Errors
    /// As [`HostCxx::runtime`], or [`crate::Error::Device`] when the result cannot be loaded.
    pub fn new(cxx: &HostCxx, settings: Settings) -> Result<Self> {
        let runtime = Arc::new(Runtime::open(&cxx.runtime()?)?);
        // SAFETY: the settings are read during the call.
        let device = unsafe { (runtime.device_open)(&settings.into()) };
        Ok(Emulator { runtime, device, mode: settings.mode })
    }

    /// What is checked of a launch.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// The kernels of a source file, with `NAME=VALUE` options.
    ///
    /// # Errors
    /// As [`HostCxx::kernels`].
    pub fn module(&self, cxx: &HostCxx, source: &Source, defines: &[&str]) -> Result<Module> {
        let path = cxx.kernels(source, self.mode, defines)?;
        let name = CString::new(path.as_os_str().as_encoded_bytes()).map_err(|error| emulated(error.to_string()))?;
        let mut reason: [c_char; 512] = [0; 512];
        // SAFETY: the name ends in 0; the reason is written within its size and ends in 0.
        let (handle, reason) = unsafe {
            let handle = (self.runtime.module_open)(name.as_ptr(), reason.as_mut_ptr(), reason.len() as u64);
            (handle, CStr::from_ptr(reason.as_ptr()).to_string_lossy())
        };
        if handle.is_null() {
            return Err(emulated(reason.into_owned()));
        }
        Ok(Module { runtime: self.runtime.clone(), handle })
    }

    /// `n` values that must be written before they are read.
    ///
    /// # Errors
    /// [`crate::Error::Device`] when the memory is used up.
    pub fn unwritten<T: Pod>(&self, n: usize) -> Result<Buffer<'_, T>> {
        // SAFETY: the device is open.
        let address = unsafe { (self.runtime.allocate)(self.device, (n * size_of::<T>()) as u64) };
        if address == 0 {
            return Err(emulated(format!("no room for {n} values of {} bytes", size_of::<T>())));
        }
        Ok(Buffer { emulator: self, address, n, of: PhantomData })
    }

    /// A copy of the host's values.
    ///
    /// # Errors
    /// As [`Emulator::unwritten`].
    pub fn upload<T: Pod>(&self, values: &[T]) -> Result<Buffer<'_, T>> {
        let buffer = self.unwritten(values.len())?;
        // SAFETY: both ranges are of the same size and the runtime checks its own.
        let status = unsafe {
            (self.runtime.upload)(self.device, buffer.address, values.as_ptr().cast(), size_of_val(values) as u64)
        };
        if status == 0 { Ok(buffer) } else { Err(emulated("an upload outside of its allocation".into())) }
    }

    /// Runs a kernel to its end, or to the first finding that it cannot go on from.
    ///
    /// # Errors
    /// [`crate::Error::Device`] when there is no such kernel or the arguments are not of its parameters' sizes.
    pub fn launch(&self, module: &Module, kernel: &str, shape: Shape, args: &[Arg]) -> Result<Launched> {
        let name = CString::new(kernel).map_err(|error| emulated(error.to_string()))?;
        let mut sizes = [0u32; 64];
        // SAFETY: at most as many sizes are written as there is room for.
        let count = unsafe {
            (self.runtime.kernel_parameters)(module.handle, name.as_ptr(), sizes.as_mut_ptr(), sizes.len() as u32)
        };
        let values = args.iter().map(|arg| arg.parameter(|map| self.encode(map)));
        let values = values.collect::<Result<Vec<_>>>()?;
        let Ok(count) = usize::try_from(count) else {
            return Err(emulated(format!("the module has no kernel `{kernel}`")));
        };
        let given: Vec<u32> = values.iter().map(Parameter::size).collect();
        if sizes.get(..count) != Some(given.as_slice()) {
            return Err(emulated(format!(
                "kernel {kernel} takes parameters of {:?} bytes, not {given:?}",
                &sizes[..count.min(64)]
            )));
        }
        let pointers: Vec<*const c_void> = values.iter().map(Parameter::as_ptr).collect();
        // SAFETY: module and device are open and used by this thread alone; the parameters have the kernel's number and
        // sizes. The kernel is native code of ours: what it may touch is checked in `Mode::Checked`, which is run first.
        unsafe {
            let report = (self.runtime.launch)(
                self.device,
                module.handle,
                name.as_ptr(),
                shape.grid.as_ptr(),
                shape.block.as_ptr(),
                shape.shared,
                pointers.as_ptr(),
            );
            let findings = (0..(self.runtime.report_count)(report)).map(|i| self.finding(report, i)).collect();
            let mut counters = Counters::default();
            (self.runtime.report_counters)(report, &mut counters);
            (self.runtime.report_close)(report);
            Ok(Launched { kernel: kernel.into(), findings, counters })
        }
    }

    /// A tensor map as the emulator's driver would encode it.
    ///
    /// # Errors
    /// [`crate::Error::Device`] when `cuTensorMapEncodeTiled` would refuse it.
    fn encode(&self, map: TileMap) -> Result<[u64; 16]> {
        #[repr(align(64))]
        struct Aligned([u64; 16]);
        // As the driver numbers them.
        let data_type = match map.storage {
            Storage::F16 => 6,
            Storage::F32 => 7,
            Storage::Bf16 => 9,
        };
        let swizzle = match map.swizzle {
            Swizzle::None => 0,
            Swizzle::Bytes32 => 1,
            Swizzle::Bytes64 => 2,
            Swizzle::Bytes128 => 3,
        };
        let mut out = Aligned([0; 16]);
        let (interleave, element_strides, fill) = (0, [1; 3], 0);
        // SAFETY: the map has 128 bytes and the arrays have a value for each of at most 3 dimensions.
        let status = unsafe {
            (self.runtime.tile_map_encode)(
                out.0.as_mut_ptr().cast(),
                data_type,
                map.rank.min(3),
                map.base,
                map.dims.as_ptr(),
                map.strides.as_ptr(),
                map.area.as_ptr(),
                element_strides.as_ptr(),
                interleave,
                swizzle,
                fill,
            )
        };
        if status == 0 { Ok(out.0) } else { Err(emulated(format!("no tensor map can be made of {map:?}"))) }
    }

    /// # Safety
    /// `report` is open and has a finding `i`.
    unsafe fn finding(&self, report: *const c_void, i: u64) -> Finding {
        let null = ptr::null();
        let mut raw =
            RawFinding { kind: null, message: null, place: null, other: null, block: [0; 3], thread: [0; 3], count: 0 };
        // SAFETY: the runtime fills every field; its texts end in 0 and live as long as the report.
        unsafe {
            (self.runtime.report_finding)(report, i, &mut raw);
            let text = |p: *const c_char| CStr::from_ptr(p).to_string_lossy().into_owned();
            Finding {
                kind: text(raw.kind),
                message: text(raw.message),
                place: text(raw.place),
                other: text(raw.other),
                block: raw.block,
                thread: raw.thread,
                count: raw.count,
            }
        }
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        // SAFETY: opened by this value and closed once; buffers borrow it and are gone.
        unsafe { (self.runtime.device_close)(self.device) }
    }
}

/// Kernels that were compiled and loaded.
pub struct Module {
    runtime: Arc<Runtime>,
    handle: *mut c_void,
}

impl Drop for Module {
    fn drop(&mut self) {
        // SAFETY: opened by this value and closed once.
        unsafe { (self.runtime.module_close)(self.handle) }
    }
}

/// `n` values in the device's memory.
pub struct Buffer<'a, T> {
    emulator: &'a Emulator,
    address: u64,
    n: usize,
    of: PhantomData<T>,
}

impl<T: Pod> Buffer<'_, T> {
    /// Its address.
    pub fn address(&self) -> Pointer {
        self.address
    }

    /// Its address as an argument.
    pub fn arg(&self) -> Arg {
        Arg::Pointer(self.address)
    }

    /// A copy of the device's values. What no kernel wrote is NaN (all bits 1).
    ///
    /// # Errors
    /// None for a buffer of this device.
    pub fn download(&self) -> Result<Vec<T>> {
        let mut values = vec![T::zeroed(); self.n];
        let Emulator { runtime, device, .. } = self.emulator;
        // SAFETY: both ranges are of the same size and the runtime checks its own.
        let status = unsafe {
            (runtime.download)(*device, values.as_mut_ptr().cast(), self.address, (self.n * size_of::<T>()) as u64)
        };
        if status == 0 { Ok(values) } else { Err(emulated("a download outside of its allocation".into())) }
    }
}

impl<T> Drop for Buffer<'_, T> {
    fn drop(&mut self) {
        // The address is this device's own, so there is nothing to report.
        // SAFETY: allocated by this value and released once.
        let _ = unsafe { (self.emulator.runtime.release)(self.emulator.device, self.address) };
    }
}
