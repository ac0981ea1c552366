//! Ctrl-C: the batch at hand is finished, what is done stays on disk.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use anyhow::Context;

/// Whether the user asked to stop.
#[derive(Clone, Default)]
pub struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// Listens for Ctrl-C from here on. Where it is ignored, as in jobs that a shell script starts in the background, it
    /// stays so.
    ///
    /// # Errors
    /// When the system does not let the program listen.
    pub fn listen() -> anyhow::Result<Self> {
        let flag = Interrupt::default();
        let shared = flag.clone();
        match ctrlc::try_set_handler(move || shared.0.store(true, Ordering::Relaxed)) {
            Ok(()) | Err(ctrlc::Error::MultipleHandlers) => Ok(flag),
            Err(error) => Err(error).context("cannot listen for Ctrl-C"),
        }
    }

    /// Whether Ctrl-C was pressed.
    pub fn requested(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}
