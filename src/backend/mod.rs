//! Where the model runs.

pub mod cpu;
