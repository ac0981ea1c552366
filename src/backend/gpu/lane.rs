//! The way of one run to the device and back: pinned memory at both ends, and the pass as a graph once it is known.
//!
//! An arena has two lanes, so that the host fills one and reads the other while the device computes. Each has a graph of its
//! own, since a graph holds addresses. The first run of a pass is issued launch by launch: it loads modules, uploads
//! constants and sizes the scratch, which a capture may not do.

use std::{ffi::c_void, sync::Arc};

use cudarc::driver::{
    CudaContext, CudaEvent, CudaGraph, CudaStream, DriverError, result,
    sys::{CUgraphInstantiate_flags, CUstreamCaptureMode},
};

use super::{
    device::{Buffer, Gpu},
    launch::Pointer,
};
use crate::Result;

/// One lane.
pub struct Lane {
    incoming: Pinned,
    /// What came in, on the device.
    staging: Buffer,
    arrived: CudaEvent,
    outgoing: Pinned,
    done: CudaEvent,
    graph: Option<Graph>,
}

/// A pass as the driver keeps it, and the scratch whose address it holds.
struct Graph {
    graph: CudaGraph,
    _scratch: Option<Arc<Buffer>>,
}

// SAFETY: the driver wants one thread at a time at a graph. A graph belongs to a lane, which is lent mutably.
unsafe impl Send for Graph {}

impl Lane {
    /// Room for `incoming` bytes in and `outgoing` bytes out.
    ///
    /// # Errors
    /// [`crate::Error::Device`] when there is no room.
    pub fn new(gpu: &Arc<Gpu>, incoming: usize, outgoing: usize) -> Result<Self> {
        Ok(Lane {
            incoming: Pinned::new(gpu, incoming)?,
            staging: gpu.allocate(incoming)?,
            arrived: gpu.event()?,
            outgoing: Pinned::new(gpu, outgoing)?,
            done: gpu.event()?,
            graph: None,
        })
    }

    /// Sends bytes on their way; what is launched from now on finds them at [`Lane::staged`]. The lane's last run is done.
    ///
    /// # Errors
    /// [`crate::Error::Device`] when the driver refuses.
    pub fn send(&mut self, gpu: &Gpu, bytes: &[u8]) -> Result<()> {
        self.incoming.bytes_mut()[..bytes.len()].copy_from_slice(bytes);
        let (to, from, copies) = (self.staging.address(), self.incoming.start, gpu.copies());
        gpu.say(|| {
            gpu.stream().context().bind_to_thread()?;
            // SAFETY: both ends are as long as the plan's input, which is checked to be the bytes' length, and stay as they are
            // until the run is collected.
            unsafe {
                result::memcpy_htod_async(to, std::slice::from_raw_parts(from, bytes.len()), copies.cu_stream())
            }?;
            self.arrived.record(copies)?;
            gpu.stream().wait(&self.arrived)
        })
    }

    /// Where the run's input is.
    pub fn staged(&self) -> Pointer {
        self.staging.address()
    }

    /// Copies `len` bytes of the device to byte `at` of what goes out, after what was launched before.
    ///
    /// # Errors
    /// [`crate::Error::Device`] when the driver refuses.
    pub fn fetch(&mut self, gpu: &Gpu, at: usize, from: Pointer, len: usize) -> Result<()> {
        let to = &mut self.outgoing.bytes_mut()[at..][..len];
        gpu.say(|| {
            gpu.stream().context().bind_to_thread()?;
            // SAFETY: nobody reads the memory before `done`, and it outlives the stream's work.
            unsafe { result::memcpy_dtoh_async(to, from, gpu.stream().cu_stream()) }
        })
    }

    /// Launches the pass as a whole, where it is known.
    ///
    /// # Errors
    /// [`crate::Error::Device`] when the driver refuses.
    pub fn replay(&mut self, gpu: &Gpu) -> Result<bool> {
        let Some(graph) = &self.graph else { return Ok(false) };
        gpu.say(|| {
            graph.graph.launch()?;
            self.done.record(gpu.stream())
        })?;
        Ok(true)
    }

    /// What is launched from now on becomes the lane's graph instead of running.
    ///
    /// # Errors
    /// [`crate::Error::Device`] when the driver refuses.
    pub fn capture(&mut self, gpu: &Gpu) -> Result<()> {
        gpu.say(|| gpu.stream().begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL))
    }

    /// Ends [`Lane::capture`].
    ///
    /// # Errors
    /// [`crate::Error::Device`] when something was issued that cannot be part of a graph.
    pub fn captured(&mut self, gpu: &Gpu) -> Result<()> {
        let graph = gpu.say(|| gpu.stream().end_capture(CUgraphInstantiate_flags(0)))?;
        self.graph = graph.map(|graph| Graph { graph, _scratch: gpu.held_scratch() });
        Ok(())
    }

    /// Everything of the run is launched.
    ///
    /// # Errors
    /// [`crate::Error::Device`] when the driver refuses.
    pub fn launched(&mut self, gpu: &Gpu) -> Result<()> {
        gpu.say(|| self.done.record(gpu.stream()))
    }

    /// What came out, when the run is done.
    ///
    /// # Errors
    /// [`crate::Error::Device`] when a kernel failed.
    pub fn wait(&mut self, gpu: &Gpu) -> Result<&[u8]> {
        gpu.say(|| self.done.synchronize())?;
        Ok(self.outgoing.bytes())
    }
}

/// Memory of the host that the device copies from and to by itself.
struct Pinned {
    context: Arc<CudaContext>,
    /// Work that may still use the memory: the copies in are waited for by the computing stream.
    stream: Arc<CudaStream>,
    start: *mut u8,
    len: usize,
}

// SAFETY: it is plain memory of the process, owned by this value.
unsafe impl Send for Pinned {}

impl Pinned {
    fn new(gpu: &Gpu, len: usize) -> Result<Self> {
        let stream = gpu.stream().clone();
        let context = stream.context().clone();
        let start = gpu.say(|| {
            context.bind_to_thread()?;
            // SAFETY: the memory is filled below before anything reads it.
            unsafe { result::malloc_host(len.max(1), 0) }
        })?;
        let start: *mut u8 = start.cast();
        // SAFETY: `start` has room for `len` bytes.
        unsafe { start.write_bytes(0, len) };
        Ok(Pinned { context, stream, start, len })
    }

    fn bytes(&self) -> &[u8] {
        // SAFETY: `len` bytes that were written at least once; callers wait for the device's copies first.
        unsafe { std::slice::from_raw_parts(self.start, self.len) }
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `bytes`, and nobody else has them.
        unsafe { std::slice::from_raw_parts_mut(self.start, self.len) }
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        // A driver that fails here has reported, or will report, the failure of the work itself.
        let _ = self.context.bind_to_thread().and_then(|()| self.stream.synchronize());
        // SAFETY: allocated by `Pinned::new` and freed once.
        let _: std::result::Result<(), DriverError> = unsafe { result::free_host(self.start.cast::<c_void>()) };
    }
}
