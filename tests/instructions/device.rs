//! The device that probes run on: the one that `VITSCOPE_DEVICE` names, through the driver; emulated by default.

use std::{
    cell::RefCell,
    collections::HashMap,
    path::Path,
    sync::{Arc, LazyLock, Mutex, PoisonError},
    time::{Duration, Instant},
};

use bytemuck::Pod;
use cudarc::{
    driver::{
        CudaContext, CudaModule, CudaSlice, CudaStream, DevicePtr, DriverError, result,
        sys::{CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, CUresult},
    },
    nvrtc::Ptx,
};
use vitscope::backend::gpu::{
    architecture::Architecture,
    emulator::Settings,
    jit::{HostCxx, Nvrtc, Source, Wanted, cache_folder},
    launch::{Arg, Parameter, Pointer, Shape},
    open::cuda_devices,
    stand_in, tiles,
};

use crate::probes::tell;

/// A kernel that takes longer waits for something that never comes.
const PATIENCE: Duration = Duration::from_secs(20);

static CXX: LazyLock<HostCxx> = LazyLock::new(|| {
    HostCxx::find(&Path::new(env!("CARGO_TARGET_TMPDIR")).join("emulator"))
        .expect("the emulated device needs a C++ compiler")
});

/// Makes images.
enum Compiler {
    Host(Settings),
    Nvrtc(Box<Nvrtc>),
}

/// An open device. The process has one, so probes take turns.
pub struct Device {
    /// As the environment names it.
    pub name: String,
    /// Compute capability, major times ten plus minor.
    pub architecture: u32,
    context: Arc<CudaContext>,
    stream: Arc<CudaStream>,
    compiler: Compiler,
    modules: RefCell<HashMap<&'static str, Arc<CudaModule>>>,
}

/// Values in the device's memory.
pub struct Buffer {
    slice: CudaSlice<u8>,
    address: Pointer,
}

impl Buffer {
    pub fn address(&self) -> Pointer {
        self.address
    }

    pub fn arg(&self) -> Arg {
        Arg::Pointer(self.address)
    }
}

static TURN: Mutex<()> = Mutex::new(());

/// The device's name.
pub fn name() -> String {
    std::env::var("VITSCOPE_DEVICE").unwrap_or_else(|_| "emulated".into())
}

/// The compiler for GPUs, which keeps what it made where the program does.
pub fn nvrtc() -> vitscope::Result<Nvrtc> {
    Nvrtc::find(&cache_folder()?)
}

/// Runs `probe` on the device: emulated in three orders of threads with every access checked, real once.
pub fn with_device(mut probe: impl FnMut(&Device)) {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let name = name();
    if name == "emulated" {
        for seed in [0, 1, 2] {
            let settings = Settings::checked(seed);
            stand_in::load(&CXX, settings).unwrap();
            let _ = stand_in::findings();
            probe(&Device::open(&name, 0, Compiler::Host(settings)));
        }
        return;
    }
    let number =
        name.strip_prefix("cuda").map(|rest| rest.strip_prefix(':').unwrap_or(if rest.is_empty() { "0" } else { "" }));
    let number = number.and_then(|number| number.parse().ok());
    let number: usize =
        number.unwrap_or_else(|| panic!("VITSCOPE_DEVICE={name}: probes run on emulated, cuda or cuda:N"));
    let count = cuda_devices().unwrap();
    assert!(number < count, "VITSCOPE_DEVICE={name}: there are {count} GPUs, numbered from 0");
    probe(&Device::open(&name, number, Compiler::Nvrtc(Box::new(nvrtc().unwrap()))));
}

impl Device {
    fn open(name: &str, number: usize, compiler: Compiler) -> Self {
        let context = CudaContext::new(number).unwrap();
        // SAFETY: there is one stream.
        unsafe { context.disable_event_tracking() };
        let stream = context.new_stream().unwrap();
        let (major, minor) = context.compute_capability().unwrap();
        let architecture = (major * 10 + minor) as u32;
        Device { name: name.into(), architecture, context, stream, compiler, modules: RefCell::default() }
    }

    /// Whether it is emulated in another order of threads than the first.
    pub fn is_repetition(&self) -> bool {
        matches!(self.compiler, Compiler::Host(settings) if settings.seed > 0)
    }

    pub fn upload<T: Pod>(&self, values: &[T]) -> Buffer {
        self.buffer(self.stream.clone_htod(bytemuck::cast_slice::<T, u8>(values)).unwrap())
    }

    /// Room for `n` values. The emulator knows that nothing wrote them; a GPU gets a pattern.
    pub fn unwritten<T: Pod>(&self, n: usize) -> Buffer {
        let bytes = n * size_of::<T>();
        match self.compiler {
            // SAFETY: that reads see what was written is what is probed.
            Compiler::Host(_) => self.buffer(unsafe { self.stream.alloc(bytes) }.unwrap()),
            Compiler::Nvrtc(_) => self.upload(&vec![0xa5u8; bytes]),
        }
    }

    fn buffer(&self, slice: CudaSlice<u8>) -> Buffer {
        let address = slice.device_ptr(&self.stream).0;
        Buffer { slice, address }
    }

    /// The values, when all that was launched is done.
    pub fn download<T: Pod>(&self, buffer: &Buffer) -> Result<Vec<T>, String> {
        let bytes = self.stream.clone_dtoh(&buffer.slice).map_err(said)?;
        Ok(bytemuck::pod_collect_to_vec(&bytes))
    }

    /// Runs a kernel to its end.
    pub fn launch(&self, source: &'static Source, kernel: &str, shape: Shape, args: &[Arg]) -> Result<(), String> {
        let function = self.module(source)?.load_function(kernel).map_err(said)?;
        let shared = shape.shared as i32;
        function.set_attribute(CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, shared).map_err(said)?;
        let parameters = args.iter().map(|arg| arg.parameter(|map| Ok(tiles::encode(map).unwrap())).unwrap());
        let parameters: Vec<Parameter> = parameters.collect();
        let mut pointers: Vec<_> = parameters.iter().map(|parameter| parameter.as_ptr().cast_mut()).collect();
        let ([x, y, z], [bx, by, bz]) = (shape.grid, shape.block);
        let (function, stream) = (function.cu_function(), self.stream.cu_stream());
        // SAFETY: the probe gives the kernel's arguments; the parameters are copied during the call.
        unsafe { result::launch_kernel(function, (x, y, z), (bx, by, bz), shape.shared, stream, &mut pointers) }
            .map_err(said)?;
        self.finish(kernel)
    }

    fn finish(&self, kernel: &str) -> Result<(), String> {
        if let Compiler::Host(_) = self.compiler {
            // The emulator finds a deadlock itself.
            return self.stream.synchronize().map_err(said);
        }
        let event = self.stream.record_event(None).map_err(said)?;
        let start = Instant::now();
        loop {
            // SAFETY: the event was recorded above.
            match unsafe { result::event::query(event.cu_event()) } {
                Ok(()) => return Ok(()),
                Err(error) if error.0 != CUresult::CUDA_ERROR_NOT_READY => return Err(said(error)),
                Err(_) if start.elapsed() > PATIENCE => {
                    // Every call from here on would wait for the kernel as well.
                    tell(&format!("probe {kernel} hangs: no end after {PATIENCE:?}"));
                    std::process::abort();
                }
                Err(_) => std::thread::yield_now(),
            }
        }
    }

    fn module(&self, source: &'static Source) -> Result<Arc<CudaModule>, String> {
        if let Some(module) = self.modules.borrow().get(source.name) {
            return Ok(module.clone());
        }
        let image = match &self.compiler {
            Compiler::Host(settings) => std::fs::read(CXX.kernels(source, settings.mode, &[]).map_err(text)?).unwrap(),
            Compiler::Nvrtc(nvrtc) => {
                let wanted = Wanted { source, architecture: Architecture::of(self.architecture), defines: &[] };
                nvrtc.cubin(wanted).and_then(|cubin| cubin.image()).map_err(text)?
            }
        };
        let module = self.context.load_module(Ptx::from_binary(image)).map_err(said)?;
        self.modules.borrow_mut().insert(source.name, module.clone());
        Ok(module)
    }
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

/// The driver's error, with what the emulator found.
fn said(error: DriverError) -> String {
    format!("{error}\n{}", stand_in::findings().unwrap_or_default())
}
