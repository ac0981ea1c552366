//! The stand-in driver through cudarc, as the GPU backend uses a real one.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod bench;
mod capture;
mod faults;
mod ladders;
mod lanes;
mod streams;

use std::{
    path::Path,
    sync::{Arc, LazyLock, Mutex, PoisonError},
};

use cudarc::{
    driver::{
        CudaContext, CudaFunction, CudaModule, CudaSlice, CudaStream, LaunchConfig, PushKernelArg, sys::CUresult,
    },
    nvrtc::Ptx,
};
use vitscope::backend::gpu::{
    device::{Gpu, Setup},
    emulator::Settings,
    jit::{HostCxx, Mode, Source},
    launch::Storage,
    registry::{Forced, Rungs},
    stand_in,
};

static CXX: LazyLock<HostCxx> = LazyLock::new(|| {
    HostCxx::find(&Path::new(env!("CARGO_TARGET_TMPDIR")).join("emulator"))
        .expect("the driver's tests need a C++ compiler")
});

const KERNELS: Source = Source { name: "tests/driver/kernels.cu", text: include_str!("kernels.cu") };
/// Values that most tests work on.
const N: usize = 1000;

/// A context of its own for a test. The process has one device, so tests take turns.
struct Device {
    context: Arc<CudaContext>,
    mode: Mode,
}

static TURN: Mutex<()> = Mutex::new(());

fn with_device(settings: Settings, test: impl FnOnce(&Device)) {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    stand_in::load(&CXX, settings).unwrap();
    let (_, _) = (stand_in::findings(), stand_in::counters());
    let context = CudaContext::new(0).unwrap();
    // SAFETY: the tests order their streams themselves; that is what they are about.
    unsafe { context.disable_event_tracking() };
    test(&Device { context, mode: settings.mode });
}

/// Both ways of running kernels, over and over the same expectations.
fn with_devices(test: impl Fn(&Device)) {
    for settings in [Settings::fast(), Settings::checked(1)] {
        with_device(settings, &test);
    }
}

/// The backend's device, with the driver that is loaded.
fn gpu(settings: Settings, storage: Storage) -> Arc<Gpu> {
    let setup = Setup {
        name: "emulated".into(),
        storage,
        rungs: Rungs::new(Forced::default()),
        compile: Box::new(
            move |source, _| Ok(std::fs::read(CXX.kernels(source, settings.mode, &[]).unwrap()).unwrap()),
        ),
        findings: stand_in::findings,
    };
    Gpu::open(0, setup).unwrap()
}

impl Device {
    fn stream(&self) -> Arc<CudaStream> {
        self.context.new_stream().unwrap()
    }

    fn load(&self, source: &Source) -> Arc<CudaModule> {
        let image = std::fs::read(CXX.kernels(source, self.mode, &[]).unwrap()).unwrap();
        self.context.load_module(Ptx::from_binary(image)).unwrap()
    }

    fn function(&self, name: &str) -> CudaFunction {
        self.load(&KERNELS).load_function(name).unwrap()
    }

    /// `N` values that nothing wrote.
    fn unwritten(&self, stream: &Arc<CudaStream>) -> CudaSlice<f32> {
        // SAFETY: that they are not initialised is what is tested.
        unsafe { stream.alloc(N) }.unwrap()
    }
}

/// Threads for `N` values.
fn shape() -> LaunchConfig {
    LaunchConfig { grid_dim: (N.div_ceil(128) as u32, 1, 1), block_dim: (128, 1, 1), shared_mem_bytes: 0 }
}

/// `y = x + value`, at the stream's turn.
fn add(stream: &CudaStream, add: &CudaFunction, y: &mut CudaSlice<f32>, x: &CudaSlice<f32>, value: f32) {
    // SAFETY: the arguments are those of `add` in kernels.cu.
    unsafe { stream.launch_builder(add).arg(y).arg(x).arg(&value).arg(&(N as i32)).launch(shape()) }.unwrap();
}

fn code<T>(result: Result<T, cudarc::driver::DriverError>) -> CUresult {
    result.err().map_or(CUresult::CUDA_SUCCESS, |error| error.0)
}

#[test]
fn the_device_says_what_it_is() {
    use cudarc::driver::sys::CUdevice_attribute::*;
    with_device(Settings::fast(), |device| {
        let context = &device.context;
        assert_eq!(CudaContext::device_count().unwrap(), 1);
        assert_eq!(context.name().unwrap(), "vitscope emulated GPU");
        assert_eq!(context.compute_capability().unwrap(), (9, 0));
        for (attribute, value) in [
            (CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, 132),
            (CU_DEVICE_ATTRIBUTE_WARP_SIZE, 32),
            (CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK, 48 * 1024),
            (CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN, 227 * 1024),
        ] {
            assert_eq!(context.attribute(attribute).unwrap(), value);
        }
        let total = context.total_mem().unwrap();
        assert_eq!(total as u64, Settings::fast().memory_bytes);
        let x = context.default_stream().alloc_zeros::<u8>(1 << 20).unwrap();
        assert_eq!(context.mem_get_info().unwrap(), (total - (1 << 20), total));
        let too_much = context.default_stream().alloc_zeros::<u8>(total);
        assert_eq!(code(too_much), CUresult::CUDA_ERROR_OUT_OF_MEMORY);
        drop(x);
    });
}

#[test]
fn a_machine_without_a_device() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    stand_in::load(&CXX, Settings { memory_bytes: 0, ..Settings::fast() }).unwrap();
    assert_eq!(code(CudaContext::device_count()), CUresult::CUDA_ERROR_NO_DEVICE);
    assert_eq!(code(CudaContext::new(0)), CUresult::CUDA_ERROR_NO_DEVICE);
}

#[test]
fn settings_change_between_contexts_only() {
    with_device(Settings::fast(), |_| {
        assert!(stand_in::load(&CXX, Settings::fast()).is_ok());
        let error = stand_in::load(&CXX, Settings::checked(0)).unwrap_err();
        assert_eq!(error.exit_code(), 4);
    });
}

#[test]
fn errors_have_the_drivers_names_and_texts() {
    with_device(Settings::fast(), |device| {
        let error = device.load(&KERNELS).load_function("missing").unwrap_err();
        assert_eq!(error.0, CUresult::CUDA_ERROR_NOT_FOUND);
        assert_eq!(error.error_name().unwrap(), c"CUDA_ERROR_NOT_FOUND");
        assert_eq!(error.error_string().unwrap(), c"named symbol not found");
    });
}

#[test]
fn what_is_no_module_is_refused() {
    with_device(Settings::fast(), |device| {
        let load = |image: Vec<u8>| code(device.context.load_module(Ptx::from_binary(image)));
        assert_eq!(load(vec![0; 64]), CUresult::CUDA_ERROR_INVALID_IMAGE);
        let mut image = std::fs::read(CXX.kernels(&KERNELS, Mode::Fast, &[]).unwrap()).unwrap();
        // The machine in the file's head: 190 is CUDA.
        image[18] = 190;
        assert_eq!(load(image), CUresult::CUDA_ERROR_NO_BINARY_FOR_GPU);
    });
}
