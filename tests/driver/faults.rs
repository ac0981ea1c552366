//! What goes wrong comes back as an error, and says where.

use cudarc::driver::{
    CudaFunction, CudaSlice, CudaStream, DriverError, LaunchConfig, PushKernelArg, result, sys,
    sys::{CUfunction_attribute, CUresult},
};
use vitscope::backend::gpu::{emulator::Settings, stand_in};

use crate::{KERNELS, N, add, code, shape, with_device};

fn past_the_end(stream: &CudaStream, function: &CudaFunction, y: &mut CudaSlice<f32>) {
    // SAFETY: the arguments are the kernel's; that it writes too far is seen by the emulator.
    unsafe { stream.launch_builder(function).arg(y).arg(&(N as i32)).launch(shape()) }.unwrap();
}

#[test]
fn a_kernel_that_leaves_its_memory_breaks_the_context_and_names_its_line() {
    let line = 1 + KERNELS.text.lines().position(|line| line.contains("HERE")).unwrap();
    with_device(Settings::checked(0), |device| {
        let stream = device.stream();
        let mut y = device.unwritten(&stream);
        past_the_end(&stream, &device.function("past_the_end"), &mut y);
        assert_eq!(stand_in::findings(), None);
        assert_eq!(code(stream.synchronize()), CUresult::CUDA_ERROR_LAUNCH_FAILED);
        let findings = stand_in::findings().unwrap();
        assert!(findings.starts_with("kernel past_the_end:\n"), "{findings}");
        assert!(findings.contains(&format!("{}:{line}: bounds: ", KERNELS.name)), "{findings}");
        // The error stays, its text is given once.
        assert_eq!(code(stream.synchronize()), CUresult::CUDA_ERROR_LAUNCH_FAILED);
        assert_eq!(code(stream.alloc_zeros::<u8>(1)), CUresult::CUDA_ERROR_LAUNCH_FAILED);
        assert_eq!(stand_in::findings(), None);
    });
    // A new context knows nothing of it.
    with_device(Settings::checked(0), |device| assert!(device.context.synchronize().is_ok()));
}

#[test]
fn the_fast_mode_sees_a_damaged_guard_band() {
    with_device(Settings::fast(), |device| {
        let stream = device.stream();
        let mut y = device.unwritten(&stream);
        past_the_end(&stream, &device.function("past_the_end"), &mut y);
        assert_eq!(code(stream.synchronize()), CUresult::CUDA_ERROR_LAUNCH_FAILED);
        let findings = stand_in::findings().unwrap();
        assert!(findings.contains("0 bytes past the end of an allocation of 4000 bytes"), "{findings}");
    });
}

#[test]
fn memory_that_was_freed_is_not_used() {
    with_device(Settings::checked(0), |device| {
        let (stream, other) = (device.stream(), device.stream());
        let x = stream.clone_htod(&vec![1.0f32; N]).unwrap();
        stream.synchronize().unwrap();
        let mut y = device.unwritten(&other);
        add(&other, &device.function("add"), &mut y, &x, 1.0);
        // The other stream's kernel has not run, and nobody waits for it.
        drop(x);
        stream.synchronize().unwrap();
        assert_eq!(code(other.synchronize()), CUresult::CUDA_ERROR_LAUNCH_FAILED);
        let findings = stand_in::findings().unwrap();
        assert!(findings.contains("bounds") && findings.contains("freed"), "{findings}");
    });
}

#[test]
fn a_copy_of_memory_that_was_freed_is_an_error() {
    with_device(Settings::fast(), |device| {
        let (stream, other) = (device.stream(), device.stream());
        let x = stream.clone_htod(&vec![1.0f32; N]).unwrap();
        let mut y = device.unwritten(&other);
        other.memcpy_dtod(&x, &mut y).unwrap();
        drop(x);
        stream.synchronize().unwrap();
        assert_eq!(code(other.synchronize()), CUresult::CUDA_ERROR_ILLEGAL_ADDRESS);
        assert!(stand_in::findings().unwrap().contains("freed before"));
    });
}

#[test]
fn a_copy_out_of_range_is_refused() {
    with_device(Settings::fast(), |device| {
        let stream = device.stream();
        let x: CudaSlice<f32> = stream.alloc_zeros(N).unwrap();
        let long = vec![0.0f32; N + 1];
        let (at, raw) = (cudarc::driver::DevicePtr::device_ptr(&x, &stream).0, stream.cu_stream());
        // SAFETY: the driver checks the device's ranges.
        let copies = unsafe {
            [
                result::memcpy_htod_async(at, &long, raw),
                result::memcpy_htod_async(at + 4, &long[1..], raw),
                result::memcpy_dtoh_async(&mut long.clone(), at, raw),
                result::memset_d8_async(at, 0, 4 * N + 1, raw),
                result::memcpy_dtod_async(at, at + 4, 4 * N, raw),
            ]
        };
        for copy in copies {
            assert_eq!(code(copy), CUresult::CUDA_ERROR_INVALID_VALUE);
        }
        // Such an error leaves the context as it was.
        assert!(stream.synchronize().is_ok());
    });
}

#[test]
fn shared_memory_beyond_48_kib_needs_the_functions_consent() {
    with_device(Settings::checked(0), |device| {
        let stream = device.stream();
        let function = device.function("last_of_shared");
        let mut y = device.unwritten(&stream);
        let n = 64 * 1024 / 4;
        let mut launch = || -> Result<(), DriverError> {
            let config = LaunchConfig { grid_dim: (1, 1, 1), block_dim: (32, 1, 1), shared_mem_bytes: n as u32 * 4 };
            // SAFETY: the arguments are the kernel's.
            unsafe { stream.launch_builder(&function).arg(&mut y).arg(&n).launch(config) }.map(drop)
        };
        assert_eq!(code(launch()), CUresult::CUDA_ERROR_INVALID_VALUE);
        let attribute = CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        assert_eq!(code(function.set_attribute(attribute, 228 * 1024)), CUresult::CUDA_ERROR_INVALID_VALUE);
        function.set_attribute(attribute, n * 4).unwrap();
        launch().unwrap();
        assert_eq!(stream.clone_dtoh(&y.slice(0..1)).unwrap(), [n as f32]);
        let fitting = |shared| function.occupancy_max_active_blocks_per_multiprocessor(128, shared, None).unwrap();
        assert_eq!((fitting(0), fitting(64 * 1024), fitting(200 * 1024)), (16, 3, 1));
    });
}

#[test]
fn shapes_that_no_gpu_takes_are_refused_at_the_call() {
    with_device(Settings::fast(), |device| {
        let stream = device.stream();
        let function = device.function("past_the_end");
        let mut y = device.unwritten(&stream);
        for (grid, block) in
            [((0, 1, 1), (1, 1, 1)), ((1, 65536, 1), (1, 1, 1)), ((1, 1, 1), (1025, 1, 1)), ((1, 1, 1), (1, 1, 65))]
        {
            let config = LaunchConfig { grid_dim: grid, block_dim: block, shared_mem_bytes: 0 };
            // SAFETY: the launch is refused.
            let launched = unsafe { stream.launch_builder(&function).arg(&mut y).arg(&0).launch(config) };
            assert_eq!(code(launched), CUresult::CUDA_ERROR_INVALID_VALUE, "{config:?}");
        }
    });
}

#[test]
fn a_handle_of_something_destroyed_is_refused() {
    with_device(Settings::fast(), |device| {
        let event = {
            let event = device.context.new_event(None).unwrap();
            event.cu_event()
        };
        // SAFETY: the driver knows its live events.
        assert_eq!(unsafe { sys::cuEventSynchronize(event) }, CUresult::CUDA_ERROR_INVALID_HANDLE);
    });
}
