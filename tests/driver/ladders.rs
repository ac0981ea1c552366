//! The kernels' own launches through the driver.

use std::sync::Arc;

use cudarc::driver::{
    CudaSlice, CudaStream, DevicePtr, DevicePtrMut, result,
    sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES,
};
use half::bf16;
use vitscope::backend::gpu::{
    emulator::{Emulator, Settings},
    gemm,
    launch::{Ladder, Launch, Parameter, Pointer, Storage, Target},
    layer_norm, tiles,
};

use crate::{CXX, Device, with_device, with_devices};

fn run<L: Ladder>(device: &Device, stream: &CudaStream, ladder: &L, rung: u32, storage: Storage) {
    for launch in ladder.launches(rung, Target { storage, architecture: 90 }).unwrap() {
        let function = device.load(launch.source().unwrap()).load_function(&launch.entry()).unwrap();
        let shared = launch.shape.shared;
        function.set_attribute(CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, shared as i32).unwrap();
        let args = launch.args.iter().map(|arg| arg.parameter(|map| Ok(tiles::encode(map).unwrap())).unwrap());
        let args: Vec<Parameter> = args.collect();
        let mut pointers: Vec<_> = args.iter().map(|arg| arg.as_ptr().cast_mut()).collect();
        let ([x, y, z], [bx, by, bz]) = (launch.shape.grid, launch.shape.block);
        let (function, stream) = (function.cu_function(), stream.cu_stream());
        // SAFETY: the launch is the ladder's own.
        unsafe { result::launch_kernel(function, (x, y, z), (bx, by, bz), shared, stream, &mut pointers) }.unwrap();
    }
}

/// Without event tracking an address needs no guard.
fn at<T>(slice: &CudaSlice<T>, stream: &CudaStream) -> Pointer {
    slice.device_ptr(stream).0
}

#[test]
fn a_gemm_of_integers_is_exact() {
    let (m, n, k) = (130, 136, 72);
    let values = |count: usize, step: usize| -> Vec<bf16> {
        (0..count).map(|i| bf16::from_f32((i * step % 5) as f32 - 2.0)).collect()
    };
    let (x, w) = (values(m * k, 3), values(n * k, 7));
    let mut exact = Vec::new();
    for i in 0..m * n {
        let (row, column) = (&x[i / n * k..][..k], &w[i % n * k..][..k]);
        exact.push(bf16::from_f32(row.iter().zip(column).map(|(x, w)| x.to_f32() * w.to_f32()).sum()));
    }
    with_devices(|device| {
        let stream = device.stream();
        let (x, w) = (stream.clone_htod(&x).unwrap(), stream.clone_htod(&w).unwrap());
        for rung in 1..=gemm::Forward::TOP {
            // SAFETY: the kernel writes all of it.
            let y = unsafe { stream.alloc::<bf16>(m * n) }.unwrap();
            let pass = gemm::Forward {
                y: at(&y, &stream),
                u: 0,
                x: at(&x, &stream),
                w: at(&w, &stream),
                bias: 0,
                residual: 0,
                residual_stride: 0,
                activation: 0,
                m,
                n,
                k,
            };
            run(device, &stream, &pass, rung, Storage::Bf16);
            assert_eq!(stream.clone_dtoh(&y).unwrap(), exact, "rung {rung}");
        }
    });
}

/// The driver and the direct interface are one runtime: they agree bit for bit, and may be used side by side.
#[test]
fn the_driver_gives_what_the_direct_interface_gives() {
    let (n, width) = (50, 96);
    let x: Vec<f32> = (0..n * width).map(|i| (i * i % 97) as f32 / 7.0).collect();
    let (gain, bias) = (vec![1.5f32; width], vec![-0.25f32; width]);
    let pass =
        |y, stats, x, gain, bias| layer_norm::Forward { y, stats, x, stride: width, gain, bias, eps: 1e-5, n, width };
    let emulator = Emulator::new(&CXX, Settings::checked(1)).unwrap();
    let direct: Vec<f32> = {
        let (y, stats) = (emulator.unwritten(n * width).unwrap(), emulator.unwritten::<f32>(n * 2).unwrap());
        let (x, gain, bias) =
            (emulator.upload(&x).unwrap(), emulator.upload(&gain).unwrap(), emulator.upload(&bias).unwrap());
        let pass = pass(y.address(), stats.address(), x.address(), gain.address(), bias.address());
        let target = Target { storage: Storage::F32, architecture: 90 };
        let launches: Vec<Launch> = pass.launches(2, target).unwrap();
        for launch in launches {
            let module = emulator.module(&CXX, launch.source().unwrap(), &[]).unwrap();
            emulator.launch(&module, &launch.entry(), launch.shape, &launch.args).unwrap().passed().unwrap();
        }
        y.download().unwrap()
    };
    with_device(Settings::checked(2), |device| {
        let stream: Arc<CudaStream> = device.stream();
        let [x, gain, bias] = [&x, &gain, &bias].map(|values| stream.clone_htod(values).unwrap());
        let (mut y, stats) = (stream.alloc_zeros::<f32>(n * width).unwrap(), stream.alloc_zeros::<f32>(n * 2).unwrap());
        let out = y.device_ptr_mut(&stream).0;
        let pass = pass(out, at(&stats, &stream), at(&x, &stream), at(&gain, &stream), at(&bias, &stream));
        run(device, &stream, &pass, 2, Storage::F32);
        assert_eq!(stream.clone_dtoh(&y).unwrap(), direct);
    });
}
