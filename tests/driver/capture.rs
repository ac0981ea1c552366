//! Streams captured into graphs.

use cudarc::driver::{
    CudaFunction, CudaSlice, CudaStream, PushKernelArg,
    sys::{CUgraphInstantiate_flags, CUresult, CUstreamCaptureMode, CUstreamCaptureStatus},
};
use vitscope::backend::gpu::{emulator::Settings, stand_in};

use crate::{N, add, code, shape, with_device, with_devices};

const MODE: CUstreamCaptureMode = CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
const NO_FLAGS: CUgraphInstantiate_flags = CUgraphInstantiate_flags(0);

/// `y += 1`.
fn increment(stream: &CudaStream, add: &CudaFunction, y: &CudaSlice<f32>) {
    // SAFETY: the arguments are those of `add`; each thread reads its value before it writes it.
    unsafe { stream.launch_builder(add).arg(y).arg(y).arg(&1.0f32).arg(&(N as i32)).launch(shape()) }.unwrap();
}

#[test]
fn a_graph_runs_as_often_as_it_is_launched() {
    with_devices(|device| {
        let stream = device.stream();
        let plus = device.function("add");
        let y = stream.alloc_zeros::<f32>(N).unwrap();
        stream.begin_capture(MODE).unwrap();
        assert_eq!(stream.capture_status().unwrap(), CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_ACTIVE);
        increment(&stream, &plus, &y);
        increment(&stream, &plus, &y);
        let graph = stream.end_capture(NO_FLAGS).unwrap().unwrap();
        assert_eq!(stream.clone_dtoh(&y).unwrap(), [0.0; N]);
        graph.upload().unwrap();
        graph.launch().unwrap();
        graph.launch().unwrap();
        assert_eq!(stream.clone_dtoh(&y).unwrap(), [4.0; N]);
        assert_eq!(stand_in::counters().unwrap().0, 4);
        graph.launch().unwrap();
        // A graph that was launched runs to its end.
        drop(graph);
        assert_eq!(stream.clone_dtoh(&y).unwrap(), [6.0; N]);
    });
}

#[test]
fn the_null_stream_cannot_be_captured() {
    with_device(Settings::fast(), |device| {
        let begun = device.context.default_stream().begin_capture(MODE);
        assert_eq!(code(begun), CUresult::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
    });
}

/// A second stream that joins the capture by an event, and whose work the first one waits for, or does not.
fn fork(joins: bool, is_ordered: bool) {
    with_device(Settings::fast(), |device| {
        let (stream, side) = (device.stream(), device.stream());
        let plus = device.function("add");
        let (x, mut y, mut z) = (stream.alloc_zeros(N).unwrap(), device.unwritten(&stream), device.unwritten(&stream));
        stream.synchronize().unwrap();
        stream.begin_capture(MODE).unwrap();
        let fork = stream.record_event(None).unwrap();
        add(&stream, &plus, &mut y, &x, 1.0);
        side.wait(&if is_ordered { stream.record_event(None).unwrap() } else { fork }).unwrap();
        add(&side, &plus, &mut z, &y, 1.0);
        if joins {
            stream.wait(&side.record_event(None).unwrap()).unwrap();
        }
        let graph = stream.end_capture(NO_FLAGS);
        if !joins {
            assert_eq!(code(graph), CUresult::CUDA_ERROR_STREAM_CAPTURE_UNJOINED);
            return;
        }
        graph.unwrap().unwrap().launch().unwrap();
        let z = stream.clone_dtoh(&z).unwrap();
        assert!(z.iter().all(|z| if is_ordered { *z == 2.0 } else { z.is_nan() }));
    });
}

#[test]
fn a_graph_keeps_the_order_between_streams() {
    fork(true, true);
}

#[test]
fn a_graph_without_an_order_between_streams_runs_in_the_wrong_one() {
    fork(true, false);
}

#[test]
fn work_that_is_not_joined_is_refused() {
    fork(false, true);
}

#[test]
fn what_would_wait_is_refused_during_a_capture() {
    with_device(Settings::fast(), |device| {
        let (stream, other) = (device.stream(), device.stream());
        let before = stream.record_event(None).unwrap();
        let lost = |spoil: &dyn Fn() -> CUresult, expected| {
            stream.begin_capture(MODE).unwrap();
            assert_eq!(spoil(), expected);
            let ended = code(stream.end_capture(NO_FLAGS));
            assert_eq!(ended, CUresult::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
        };
        let unsupported = CUresult::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
        lost(&|| code(stream.synchronize()), unsupported);
        lost(&|| code(device.context.synchronize()), unsupported);
        // SAFETY: nothing is allocated.
        lost(&|| code(unsafe { cudarc::driver::result::malloc_sync(16) }), unsupported);
        lost(&|| code(stream.wait(&before)), CUresult::CUDA_ERROR_STREAM_CAPTURE_ISOLATION);
        // Another stream is free to work.
        stream.begin_capture(MODE).unwrap();
        other.synchronize().unwrap();
        assert!(stream.end_capture(NO_FLAGS).is_ok());
        assert_eq!(code(stream.end_capture(NO_FLAGS)), CUresult::CUDA_ERROR_ILLEGAL_STATE);
    });
}
