//! Lazy streams: what waits is right, and what forgets to wait is wrong every time.

use cudarc::driver::{CudaSlice, sys::CUevent_flags, sys::CUresult};
use vitscope::backend::gpu::emulator::Settings;

use crate::{Device, N, add, code, with_device, with_devices};

/// `x` uploaded in one stream and worked on in another, which waits or does not.
fn across_streams(device: &Device, waits: bool) -> Result<Vec<f32>, cudarc::driver::DriverError> {
    let (first, second) = (device.stream(), device.stream());
    let plus = device.function("add");
    let (mut x, mut y) = (device.unwritten(&first), device.unwritten(&second));
    first.memcpy_htod(&vec![1.0; N], &mut x).unwrap();
    if waits {
        second.wait(&first.record_event(None).unwrap()).unwrap();
    }
    add(&second, &plus, &mut y, &x, 2.0);
    second.clone_dtoh(&y)
}

#[test]
fn a_stream_that_waits_for_an_event_sees_what_came_before_it() {
    with_devices(|device| assert_eq!(across_streams(device, true).unwrap(), [3.0; N]));
}

#[test]
fn a_forgotten_wait_reads_nothing() {
    with_device(Settings::fast(), |device| {
        assert!(across_streams(device, false).unwrap().iter().all(|y| y.is_nan()));
    });
    with_device(Settings::checked(0), |device| {
        assert_eq!(code(across_streams(device, false)), CUresult::CUDA_ERROR_LAUNCH_FAILED);
        let findings = vitscope::backend::gpu::stand_in::findings().unwrap();
        assert!(findings.contains("uninitialised"), "{findings}");
    });
}

#[test]
fn a_wait_is_for_what_was_recorded_before_it() {
    with_devices(|device| {
        let (first, second) = (device.stream(), device.stream());
        let (mut x, mut y) = (first.alloc_zeros::<f32>(N).unwrap(), device.unwritten(&second));
        let event = first.record_event(None).unwrap();
        second.wait(&event).unwrap();
        first.memcpy_htod(&vec![1.0; N], &mut x).unwrap();
        // Recorded again: not what the second stream waits for.
        event.record(&first).unwrap();
        add(&second, &device.function("add"), &mut y, &x, 2.0);
        assert_eq!(second.clone_dtoh(&y).unwrap(), [2.0; N]);
    });
}

#[test]
fn a_pinned_source_is_read_at_its_turn_and_a_plain_one_at_the_call() {
    with_device(Settings::fast(), |device| {
        let stream = device.stream();
        let mut x: CudaSlice<f32> = device.unwritten(&stream);
        // SAFETY: a float has no invalid value.
        let mut pinned = unsafe { device.context.alloc_pinned_with_flags::<f32>(N, 0) }.unwrap();
        pinned.as_mut_slice().unwrap().fill(1.0);
        stream.memcpy_htod(&pinned, &mut x).unwrap();
        pinned.as_mut_slice().unwrap().fill(2.0);
        assert_eq!(stream.clone_dtoh(&x).unwrap(), [2.0; N]);

        let mut plain = vec![1.0; N];
        stream.memcpy_htod(&plain, &mut x).unwrap();
        plain.fill(2.0);
        assert_eq!(stream.clone_dtoh(&x).unwrap(), [1.0; N]);
    });
}

#[test]
fn a_pinned_target_is_written_at_its_turn() {
    with_device(Settings::fast(), |device| {
        let stream = device.stream();
        let x = stream.clone_htod(&vec![1.0f32; N]).unwrap();
        // SAFETY: as above.
        let mut pinned = unsafe { device.context.alloc_pinned_with_flags::<f32>(N, 0) }.unwrap();
        stream.memcpy_dtoh(&x, &mut pinned).unwrap();
        assert!(pinned.as_slice().unwrap().iter().all(|x| x.is_nan()));
        stream.synchronize().unwrap();
        assert_eq!(pinned.as_slice().unwrap(), [1.0; N]);
    });
}

#[test]
fn copies_and_fills_on_the_device() {
    with_devices(|device| {
        let stream = device.stream();
        let x = stream.clone_htod(&(0..N as i32).collect::<Vec<_>>()).unwrap();
        let mut y = stream.clone_dtod(&x).unwrap();
        stream.memset_zeros(&mut y.slice_mut(10..20)).unwrap();
        let y = stream.clone_dtoh(&y).unwrap();
        assert!((0..N).all(|i| y[i] == if (10..20).contains(&i) { 0 } else { i as i32 }));
    });
}

#[test]
fn the_null_stream_has_its_own_turn_but_orders_blocking_streams() {
    use cudarc::driver::{DevicePtr, DevicePtrMut, result, sys};
    with_device(Settings::fast(), |device| {
        let null = device.context.default_stream();
        let mut x = null.alloc_zeros::<f32>(N).unwrap();
        // A stream that is not "non-blocking" comes after the null stream's work, without an event.
        let blocking = result::stream::create(result::stream::StreamKind::Default).unwrap();
        let mut out = vec![1.0f32; N];
        let bytes = N * size_of::<f32>();
        // SAFETY: both ranges have so many bytes.
        let status =
            unsafe { sys::cuMemcpyDtoHAsync_v2(out.as_mut_ptr().cast(), x.device_ptr(&null).0, bytes, blocking) };
        assert_eq!((status, &out), (CUresult::CUDA_SUCCESS, &vec![0.0; N]));
        let ones = vec![1.0f32; N];
        let target = x.device_ptr_mut(&null).0;
        // SAFETY: as above; a plain source is read during the call.
        let status = unsafe { sys::cuMemcpyHtoDAsync_v2(target, ones.as_ptr().cast(), bytes, blocking) };
        assert_eq!(status, CUresult::CUDA_SUCCESS);
        assert_eq!(null.clone_dtoh(&x).unwrap(), ones);
        // SAFETY: made above and not used again.
        unsafe { result::stream::destroy(blocking) }.unwrap();
    });
}

#[test]
fn events_are_done_when_their_stream_came_to_them_and_tell_time() {
    with_devices(|device| {
        let stream = device.stream();
        let plus = device.function("add");
        let x = stream.alloc_zeros::<f32>(N).unwrap();
        let mut y = device.unwritten(&stream);
        let start = stream.record_event(Some(CUevent_flags::CU_EVENT_DEFAULT)).unwrap();
        add(&stream, &plus, &mut y, &x, 1.0);
        let end = stream.record_event(Some(CUevent_flags::CU_EVENT_DEFAULT)).unwrap();
        assert!(!end.is_complete());
        let ms = start.elapsed_ms(&end).unwrap();
        assert!(ms > 0.0 && ms < 10_000.0, "{ms}");
        assert!(end.is_complete());
        let untimed = stream.record_event(None).unwrap();
        assert_eq!(code(start.elapsed_ms(&untimed)), CUresult::CUDA_ERROR_INVALID_HANDLE);
        // Whoever polls comes to an end.
        add(&stream, &plus, &mut y, &x, 1.0);
        let last = stream.record_event(None).unwrap();
        assert!((0..10).any(|_| last.is_complete()));
    });
}

#[test]
fn a_destroyed_streams_work_is_still_done() {
    with_device(Settings::fast(), |device| {
        let (first, second) = (device.stream(), device.stream());
        let mut x = device.unwritten(&second);
        first.memcpy_htod(&vec![1.0; N], &mut x).unwrap();
        second.wait(&first.record_event(None).unwrap()).unwrap();
        drop(first);
        assert_eq!(second.clone_dtoh(&x).unwrap(), [1.0; N]);
    });
}

#[test]
fn several_threads_may_call() {
    with_devices(|device| {
        std::thread::scope(|scope| {
            for value in [1.0, 2.0, 3.0] {
                scope.spawn(move || {
                    let stream = device.stream();
                    let plus = device.function("add");
                    let mut y = device.unwritten(&stream);
                    let x = stream.alloc_zeros::<f32>(N).unwrap();
                    for _ in 0..20 {
                        add(&stream, &plus, &mut y, &x, value);
                    }
                    assert_eq!(stream.clone_dtoh(&y).unwrap(), [value; N]);
                });
            }
        });
    });
}
