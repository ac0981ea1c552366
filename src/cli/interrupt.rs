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
    /// Listens for Ctrl-C from here on.
    ///
    /// # Errors
    /// When the system does not let the program listen.
    pub fn listen() -> anyhow::Result<Self> {
        let flag = Interrupt::default();
        let shared = flag.clone();
        ctrlc::try_set_handler(move || shared.0.store(true, Ordering::Relaxed)).context("cannot listen for Ctrl-C")?;
        Ok(flag)
    }

    /// Whether Ctrl-C was pressed.
    pub fn requested(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}
