//! Memory: what there is, what a question will take, what was taken.

use std::collections::BTreeMap;

use vitscope::{
    Result,
    backend::PatchGrid,
    engine::{Engine, PassBytes, Question, Request},
};

use super::{
    args::BatchSize,
    console::{Console, bytes},
};

/// Taken for available where the system does not say.
const ASSUMED: usize = 4 << 30;

/// Memory that can be had without swapping, in bytes, where the system says.
pub fn available() -> Option<usize> {
    field("/proc/meminfo", "MemAvailable:")
}

/// All memory, in bytes, where the system says.
pub fn total() -> Option<usize> {
    field("/proc/meminfo", "MemTotal:")
}

/// The most memory that this process had so far, in bytes, where the system says.
pub fn peak() -> Option<usize> {
    field("/proc/self/status", "VmHWM:")
}

fn field(path: &str, name: &str) -> Option<usize> {
    let text = std::fs::read_to_string(path).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    let kib: usize = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

/// Memory that a pass may take.
struct Room {
    host: usize,
    /// Where the device has memory of its own.
    device: Option<usize>,
}

impl Room {
    /// What a pass takes of it, at most 1 where it fits.
    fn share(&self, pass: PassBytes) -> f64 {
        let share = |taken: usize, room: usize| taken as f64 / room.max(1) as f64;
        match self.device {
            None => share(pass.arena + pass.host, self.host),
            Some(device) => share(pass.arena, device).max(share(pass.host, self.host)),
        }
    }
}

/// The largest batch for each grid.
pub struct Batches {
    asked: BatchSize,
    most: usize,
    known: BTreeMap<(usize, usize), usize>,
}

impl Batches {
    /// As the user asked; there are never more than `most` images.
    pub fn new(asked: BatchSize, most: usize) -> Self {
        Batches { asked, most, known: BTreeMap::new() }
    }

    /// The largest batch on `grid`: for `auto` one that takes at most half of the memory that is there.
    ///
    /// # Errors
    /// Those of the recorded pass.
    pub fn limit(
        &mut self,
        engine: &mut Engine,
        question: &Question,
        request: &Request,
        grid: PatchGrid,
        console: &Console,
    ) -> Result<usize> {
        if let Some(&limit) = self.known.get(&(grid.rows, grid.cols)) {
            return Ok(limit);
        }
        let mut limit = match self.asked {
            BatchSize::Of(n) => n.min(self.most.max(1)),
            BatchSize::Auto => BatchSize::MOST.min(self.most.max(1)),
        };
        let mut pass = engine.pass_bytes(limit, grid, question)?;
        // Asked when the weights are on the device.
        let room = Room { host: available().unwrap_or(ASSUMED), device: engine.free_bytes()? };
        while self.asked == BatchSize::Auto && limit > 1 && room.share(pass) > 0.5 {
            limit /= 2;
            pass = engine.pass_bytes(limit, grid, question)?;
        }
        let weights =
            engine.weight_bytes(question) + request.sae.as_ref().map_or(0, |sae| engine.sae_bytes(&sae.weights));
        let device = room.device.map_or(String::new(), |free| format!(", {} free on the device", bytes(free)));
        console.detail(&format!(
            "{}x{} patches, batch {limit}: {} of weights, {} of arena and {} of pictures predicted, {} available{device}",
            grid.rows,
            grid.cols,
            bytes(weights),
            bytes(pass.arena),
            bytes(pass.host),
            available().map_or("an unknown amount".into(), bytes),
        ));
        if room.share(pass) > 1.0 {
            console.warn(&format!("a pass needs {} of arena, more than there is", bytes(pass.arena)));
        }
        self.known.insert((grid.rows, grid.cols), limit);
        Ok(limit)
    }
}
