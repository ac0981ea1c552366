//! A GPU through its driver: context, stream, memory, compiled kernels and their launches.
//!
//! The same code drives a real GPU and the emulated one: they differ in the driver library that is loaded and in the
//! compiler that makes a module's image.

use std::{
    collections::HashMap,
    ffi::c_void,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use cudarc::{
    driver::{
        CudaContext, CudaEvent, CudaFunction, CudaModule, CudaStream, DriverError, result,
        sys::{CUdevice_attribute, CUevent_flags, CUfunction_attribute},
    },
    nvrtc::Ptx,
};

use rayon::prelude::*;

use super::{
    jit::Source,
    launch::{Ladder, Launch, Pointer, Storage, Target},
    registry::Rungs,
    tiles,
};
use crate::{Error, Result};

/// Dynamic shared memory that a kernel may use without asking for more: 48 KiB, less what it may have declared itself.
const SHARED_BY_DEFAULT: u32 = 32 * 1024;

/// Makes a module's image from its source, for a compute capability.
pub type Compile = Box<dyn Fn(&Source, u32) -> Result<Vec<u8>> + Send + Sync>;

/// What an open device needs beside its number.
pub struct Setup {
    /// As the user named it.
    pub name: String,
    /// The type that activations and weights are stored in.
    pub storage: Storage,
    /// Which rungs run.
    pub rungs: Rungs,
    /// Makes images.
    pub compile: Compile,
    /// What the device has to say after a failed launch; only the emulated one has.
    pub findings: fn() -> Option<String>,
}

/// A kernel that was loaded, and how much dynamic shared memory it has been allowed.
struct Loaded {
    function: CudaFunction,
    shared: u32,
}

/// An open device.
pub struct Gpu {
    /// As the user named it.
    pub name: String,
    /// What its kernels are made for.
    pub target: Target,
    /// Which rungs run.
    pub rungs: Rungs,
    stream: Arc<CudaStream>,
    /// Brings what comes from the host while the other one computes.
    copies: Arc<CudaStream>,
    compile: Compile,
    findings: fn() -> Option<String>,
    modules: Mutex<HashMap<&'static str, Arc<CudaModule>>>,
    kernels: Mutex<HashMap<String, Loaded>>,
    /// Small arrays that kernels read, by content: masks, edits, row lists.
    constants: Mutex<HashMap<Vec<u8>, Buffer>>,
    /// What an operation needs for itself: one after the other, so they share it.
    scratch: Mutex<Option<(usize, Arc<Buffer>)>>,
}

impl Gpu {
    /// Opens device `number` of the driver library that is loaded.
    ///
    /// # Errors
    /// [`Error::Device`] when the driver refuses.
    pub fn open(number: usize, setup: Setup) -> Result<Arc<Gpu>> {
        let Setup { name, storage, rungs, compile, findings } = setup;
        let failed = |error: DriverError| Error::Device { device: name.clone(), reason: error.to_string() };
        let context = CudaContext::new(number).map_err(failed)?;
        // SAFETY: what one stream leaves to the other is ordered by the lanes' own events.
        unsafe { context.disable_event_tracking() };
        let [stream, copies] = [context.new_stream().map_err(failed)?, context.new_stream().map_err(failed)?];
        let capability = |attribute| context.attribute(attribute).map_err(failed);
        let major = capability(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?;
        let minor = capability(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?;
        let target = Target { storage, architecture: (major * 10 + minor) as u32 };
        let (modules, kernels, constants, scratch) = Default::default();
        let gpu = Gpu { name, target, rungs, stream, copies, compile, findings, modules, kernels, constants, scratch };
        Ok(Arc::new(gpu))
    }

    /// The stream that computes.
    pub(super) fn stream(&self) -> &Arc<CudaStream> {
        &self.stream
    }

    /// The stream that copies.
    pub(super) fn copies(&self) -> &CudaStream {
        &self.copies
    }

    /// An event that tells order and no time.
    pub(super) fn event(&self) -> Result<CudaEvent> {
        self.say(|| self.stream.context().new_event(None))
    }

    /// A call of the driver, its error told as this device's.
    pub(super) fn say<R>(&self, call: impl FnOnce() -> std::result::Result<R, DriverError>) -> Result<R> {
        call().map_err(|error| self.failed(error))
    }

    /// The driver's error with what the device has to say about it.
    fn failed(&self, error: DriverError) -> Error {
        let reason = match (self.findings)() {
            Some(findings) => format!("{error}\n{findings}"),
            None => error.to_string(),
        };
        Error::Device { device: self.name.clone(), reason }
    }

    /// Memory that must be written before it is read.
    ///
    /// # Errors
    /// [`Error::Device`] when there is no room.
    pub fn allocate(self: &Arc<Self>, bytes: usize) -> Result<Buffer> {
        let context = self.stream.context();
        context.bind_to_thread().map_err(|error| self.failed(error))?;
        // SAFETY: nothing reads the memory before a copy or a kernel wrote it.
        let allocated = unsafe { result::malloc_sync(bytes.max(1)) };
        let address = allocated.map_err(|error| match self.failed(error) {
            Error::Device { device, reason } => Error::Device { device, reason: format!("{bytes} bytes: {reason}") },
            other => other,
        })?;
        Ok(Buffer { context: context.clone(), stream: self.stream.clone(), address })
    }

    /// Memory with these bytes.
    ///
    /// # Errors
    /// As [`Gpu::allocate`].
    pub fn upload(self: &Arc<Self>, bytes: &[u8]) -> Result<Buffer> {
        let buffer = self.allocate(bytes.len())?;
        self.write(buffer.address(), bytes)?;
        Ok(buffer)
    }

    /// The address of these bytes, which stay on the device.
    ///
    /// # Errors
    /// As [`Gpu::allocate`].
    pub fn constant(self: &Arc<Self>, bytes: &[u8]) -> Result<Pointer> {
        let mut constants = lock(&self.constants);
        if let Some(buffer) = constants.get(bytes) {
            return Ok(buffer.address());
        }
        let buffer = self.upload(bytes)?;
        let address = buffer.address();
        constants.insert(bytes.to_vec(), buffer);
        Ok(address)
    }

    /// At least `bytes` of memory for the next operation, until the one after it.
    ///
    /// # Errors
    /// As [`Gpu::allocate`].
    pub fn scratch(self: &Arc<Self>, bytes: usize) -> Result<Pointer> {
        let mut scratch = lock(&self.scratch);
        match &*scratch {
            Some((size, buffer)) if *size >= bytes => Ok(buffer.address()),
            _ => {
                // The smaller one goes first, after what was launched on it is done.
                *scratch = None;
                let buffer = self.allocate(bytes)?;
                let address = buffer.address();
                *scratch = Some((bytes, Arc::new(buffer)));
                Ok(address)
            }
        }
    }

    /// The scratch as it is now, for whoever keeps its address.
    pub(super) fn held_scratch(&self) -> Option<Arc<Buffer>> {
        lock(&self.scratch).as_ref().map(|(_, buffer)| buffer.clone())
    }

    /// Copies bytes to the device, after what was launched before. The bytes may go when it returns.
    ///
    /// # Errors
    /// [`Error::Device`] when the range is not the device's.
    pub fn write(&self, to: Pointer, bytes: &[u8]) -> Result<()> {
        self.stream.context().bind_to_thread().map_err(|error| self.failed(error))?;
        // SAFETY: the bytes outlive the copy, which is waited for; the driver checks the device's range.
        unsafe { result::memcpy_htod_async(to, bytes, self.stream.cu_stream()) }
            .and_then(|()| self.stream.synchronize())
            .map_err(|error| self.failed(error))
    }

    /// Copies bytes on the device, after what was launched before.
    ///
    /// # Errors
    /// [`Error::Device`] when a range is not the device's.
    pub fn copy(&self, to: Pointer, from: Pointer, len: usize) -> Result<()> {
        self.stream.context().bind_to_thread().map_err(|error| self.failed(error))?;
        // SAFETY: the driver checks both ranges.
        unsafe { result::memcpy_dtod_async(to, from, len, self.stream.cu_stream()) }.map_err(|error| self.failed(error))
    }

    /// Bytes that could still be allocated.
    ///
    /// # Errors
    /// [`Error::Device`] when the driver refuses.
    pub fn free_bytes(&self) -> Result<usize> {
        self.stream.context().bind_to_thread().map_err(|error| self.failed(error))?;
        result::mem_get_info().map(|(free, _)| free).map_err(|error| self.failed(error))
    }

    /// Copies bytes to the host when all that was launched before is done.
    ///
    /// # Errors
    /// [`Error::Device`] when a kernel failed or the range is not the device's.
    pub fn read(&self, from: Pointer, len: usize) -> Result<Vec<u8>> {
        self.stream.context().bind_to_thread().map_err(|error| self.failed(error))?;
        let mut bytes = vec![0; len];
        // SAFETY: the bytes outlive the copy, which is waited for.
        unsafe { result::memcpy_dtoh_async(&mut bytes, from, self.stream.cu_stream()) }
            .and_then(|()| self.stream.synchronize())
            .map_err(|error| self.failed(error))?;
        Ok(bytes)
    }

    /// Runs an operation on the rung that is chosen for it.
    ///
    /// # Errors
    /// [`Error::Unserved`] for a forced rung that does not serve these sizes, [`Error::Device`] when the driver refuses.
    pub fn run<L: Ladder>(&self, ladder: &L) -> Result<()> {
        self.rungs.pick(ladder, self.target)?.iter().try_for_each(|launch| self.launch(launch))
    }

    /// Launches one after the other.
    ///
    /// # Errors
    /// [`Error::Device`] when the driver refuses.
    pub fn launch_all(&self, launches: &[Launch]) -> Result<()> {
        launches.iter().try_for_each(|launch| self.launch(launch))
    }

    /// Seconds that launches take by the device's clock. Before them `flush_bytes` at `flush` are written, which takes
    /// the caches' place, and long enough for the launches to be queued by then.
    ///
    /// # Errors
    /// [`Error::Device`] when the driver refuses or a kernel fails.
    pub fn time(&self, launches: &[Launch], flush: Pointer, flush_bytes: usize) -> Result<f64> {
        let event = || {
            let event = self.stream.record_event(Some(CUevent_flags::CU_EVENT_DEFAULT));
            event.map_err(|error| self.failed(error))
        };
        self.stream.context().bind_to_thread().map_err(|error| self.failed(error))?;
        // SAFETY: the driver checks the range.
        unsafe { result::memset_d8_async(flush, 1, flush_bytes, self.stream.cu_stream()) }
            .map_err(|error| self.failed(error))?;
        let start = event()?;
        self.launch_all(launches)?;
        let milliseconds = start.elapsed_ms(&event()?).map_err(|error| self.failed(error))?;
        Ok(f64::from(milliseconds) * 1e-3)
    }

    /// Bytes of the L2 cache.
    ///
    /// # Errors
    /// [`Error::Device`] when the driver refuses.
    pub fn cache_bytes(&self) -> Result<usize> {
        let bytes = self.stream.context().attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE);
        bytes.map(|bytes| bytes.max(0) as usize).map_err(|error| self.failed(error))
    }

    /// The card's name.
    ///
    /// # Errors
    /// [`Error::Device`] when the driver refuses.
    pub fn card(&self) -> Result<String> {
        self.stream.context().name().map_err(|error| self.failed(error))
    }

    fn launch(&self, launch: &Launch) -> Result<()> {
        let mut kernels = lock(&self.kernels);
        let loaded = match kernels.entry(launch.entry()) {
            std::collections::hash_map::Entry::Occupied(entry) => entry.into_mut(),
            std::collections::hash_map::Entry::Vacant(entry) => {
                let function = self.module(launch.source()?)?.load_function(entry.key());
                let function = function.map_err(|error| self.failed(error))?;
                entry.insert(Loaded { function, shared: SHARED_BY_DEFAULT })
            }
        };
        if launch.shape.shared > loaded.shared {
            let attribute = CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            let set = loaded.function.set_attribute(attribute, launch.shape.shared as i32);
            set.map_err(|error| self.failed(error))?;
            loaded.shared = launch.shape.shared;
        }
        let encode = |map| tiles::encode(map).map_err(|error| self.failed(error));
        let values: Vec<_> = launch.args.iter().map(|arg| arg.parameter(encode)).collect::<Result<_>>()?;
        let mut pointers: Vec<*mut c_void> = values.iter().map(|value| value.as_ptr().cast_mut()).collect();
        let ([gx, gy, gz], [bx, by, bz]) = (launch.shape.grid, launch.shape.block);
        // SAFETY: the ladder that made the launch lists the kernel's parameters in its order and types (the emulator's tests
        // compare their sizes for every rung); the driver copies them before it returns.
        unsafe {
            result::launch_kernel(
                loaded.function.cu_function(),
                (gx, gy, gz),
                (bx, by, bz),
                launch.shape.shared,
                self.stream.cu_stream(),
                &mut pointers,
            )
        }
        .map_err(|error| self.failed(error))
    }

    /// Compiles files in parallel, so that their images are at hand when a pass wants them. `progress` is told how many are
    /// done.
    ///
    /// # Errors
    /// The compiler's.
    pub fn compile(&self, sources: &[&'static Source], progress: &(dyn Fn(usize) + Sync)) -> Result<()> {
        let done = AtomicUsize::new(0);
        sources.par_iter().try_for_each(|source| {
            (self.compile)(source, self.target.architecture)?;
            progress(done.fetch_add(1, Ordering::Relaxed) + 1);
            Ok(())
        })
    }

    fn module(&self, source: &'static Source) -> Result<Arc<CudaModule>> {
        let mut modules = lock(&self.modules);
        if let Some(module) = modules.get(source.name) {
            return Ok(module.clone());
        }
        let image = (self.compile)(source, self.target.architecture)?;
        let module = self.stream.context().load_module(Ptx::from_binary(image)).map_err(|error| self.failed(error))?;
        modules.insert(source.name, module.clone());
        Ok(module)
    }
}

/// What a thread that panicked left behind is whole: every change is one insertion.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Bytes in the device's memory.
pub struct Buffer {
    context: Arc<CudaContext>,
    stream: Arc<CudaStream>,
    address: Pointer,
}

impl Buffer {
    /// Its address.
    pub fn address(&self) -> Pointer {
        self.address
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // What was launched may still use the memory. A driver that fails here has reported, or will report, the failure of
        // the launch itself.
        let _ = self.context.bind_to_thread().and_then(|()| self.stream.synchronize());
        // SAFETY: allocated by `Gpu::allocate` and freed once.
        let _ = unsafe { result::free_sync(self.address) };
    }
}
