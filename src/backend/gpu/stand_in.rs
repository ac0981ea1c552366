//! The emulated GPU behind the driver's own interface: cudarc finds it in the driver's place and notices no difference.
//!
//! The stand-in (`kernels/emulator/driver/`) is part of the emulator's runtime. Its streams are lazy: a wait that the
//! host forgets gives wrong data every time. What the emulator finds breaks the context, as a fault does on a GPU, and
//! can be fetched as text.

use std::{
    ffi::{CStr, c_char, c_int},
    sync::{Mutex, PoisonError},
};

use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};

use super::{
    emulated,
    emulator::{Counters, RawSettings, Settings},
    jit::HostCxx,
};
use crate::Result;

type Configure = unsafe extern "C" fn(*const RawSettings) -> c_int;

/// The loaded stand-in. It is never unloaded: cudarc keeps addresses into it.
struct StandIn {
    configure: Configure,
    findings: unsafe extern "C" fn() -> *const c_char,
    counters: unsafe extern "C" fn(*mut Counters) -> u64,
    settings: Option<Settings>,
}

static STAND_IN: Mutex<Option<StandIn>> = Mutex::new(None);

/// Puts the stand-in in the driver's place, compiling it when `cxx` has not kept it. To be called before cudarc's
/// first call. Called again it changes the settings, which it cannot while a context is alive.
///
/// Modules must be compiled in the settings' mode. Without memory the machine has no device.
///
/// # Errors
/// As [`HostCxx::runtime`]; [`crate::Error::Device`] when it cannot be loaded, when cudarc has a real driver already,
/// or when a context with other settings is alive.
pub fn load(cxx: &HostCxx, settings: Settings) -> Result<()> {
    let mut slot = STAND_IN.lock().unwrap_or_else(PoisonError::into_inner);
    let stand_in = match &mut *slot {
        Some(stand_in) => stand_in,
        empty => empty.insert(StandIn::open(cxx)?),
    };
    if stand_in.settings == Some(settings) {
        return Ok(());
    }
    // SAFETY: the settings are read during the call.
    if unsafe { (stand_in.configure)(&settings.into()) } != 0 {
        return Err(emulated("the device is in use with other settings".into()));
    }
    stand_in.settings = Some(settings);
    Ok(())
}

/// What the emulator found since the last call, a line each: whatever made a call fail. Nothing when nothing was found.
pub fn findings() -> Option<String> {
    let slot = STAND_IN.lock().unwrap_or_else(PoisonError::into_inner);
    // SAFETY: the text ends in 0 and is this thread's until its next call.
    let text = unsafe { CStr::from_ptr((slot.as_ref()?.findings)()) };
    Some(text.to_string_lossy().into_owned()).filter(|text| !text.is_empty())
}

/// Launches since the last call and the sum of their counters; nothing when the stand-in is not loaded.
pub fn counters() -> Option<(u64, Counters)> {
    let slot = STAND_IN.lock().unwrap_or_else(PoisonError::into_inner);
    let mut counters = Counters::default();
    // SAFETY: the counters are written during the call.
    let launches = unsafe { (slot.as_ref()?.counters)(&mut counters) };
    Some((launches, counters))
}

impl StandIn {
    fn open(cxx: &HostCxx) -> Result<Self> {
        let path = cxx.runtime()?;
        let failed = |error: libloading::Error| emulated(error.to_string());
        // SAFETY: the runtime has no initialisers beyond the C++ library's. The signatures are those of
        // kernels/emulator/api.h. Kernel modules find the runtime through the process's global symbols.
        let (library, stand_in) = unsafe {
            let library = Library::open(Some(&path), RTLD_NOW | RTLD_GLOBAL).map_err(failed)?;
            let stand_in = StandIn {
                configure: *library.get(b"emu_driver_configure").map_err(failed)?,
                findings: *library.get(b"emu_driver_findings").map_err(failed)?,
                counters: *library.get(b"emu_driver_counters").map_err(failed)?,
                settings: None,
            };
            (library, stand_in)
        };
        // cudarc asks the loader for `libcuda.so`, which is the name that the loaded runtime bears.
        // SAFETY: there is a library of this name, so there is no panic.
        let theirs = unsafe { cudarc::driver::sys::culib().get::<Configure>(b"emu_driver_configure") };
        if !theirs.is_ok_and(|theirs| *theirs as usize == stand_in.configure as usize) {
            return Err(emulated("a CUDA driver was loaded before: one process has one of them".into()));
        }
        std::mem::forget(library);
        Ok(stand_in)
    }
}
