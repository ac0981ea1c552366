//! The probes of one file: run on the device, compared with what the host computes from the definition, and hashed.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::{Debug, Display},
    io::Write,
};

use bytemuck::Pod;
use sha2::{Digest, Sha256};
use vitscope::backend::gpu::{
    jit::Source,
    launch::{Arg, Shape},
};

use crate::device::{Buffer, Device, with_device};

/// Blocks of 128 threads.
pub const BLOCK: Shape = Shape { grid: [1, 1, 1], block: [128, 1, 1], shared: 0 };

/// A source file of probes: `file!("threads.cu")`.
macro_rules! file {
    ($name:literal) => {
        vitscope::backend::gpu::jit::Source { name: concat!("tests/instructions/", $name), text: include_str!($name) }
    };
}
pub(crate) use file;

/// What the probes of a file have shown so far.
pub struct Probes<'a> {
    pub device: &'a Device,
    source: &'static Source,
    launched: BTreeSet<String>,
    hashes: BTreeMap<String, Sha256>,
    wrong: Vec<String>,
}

/// Why a probe could not go on: the device's error.
pub type Outcome = Result<(), String>;

impl Probes<'_> {
    /// Runs a kernel whose first argument is room for `n` values, and returns them.
    pub fn run<T: Pod>(&mut self, kernel: &str, shape: Shape, n: usize, args: &[Arg]) -> Result<Vec<T>, String> {
        let y = self.device.unwritten::<T>(n);
        self.launch(kernel, shape, &[&[y.arg()], args].concat())?;
        self.device.download(&y)
    }

    /// Runs a kernel.
    pub fn launch(&mut self, kernel: &str, shape: Shape, args: &[Arg]) -> Outcome {
        self.launched.insert(kernel.to_owned());
        self.device.launch(self.source, kernel, shape, args).map_err(|error| format!("{kernel}: {error}"))
    }

    pub fn upload<T: Pod>(&self, values: &[T]) -> Buffer {
        self.device.upload(values)
    }

    /// Both must be the same bits.
    pub fn same<T: Pod + Debug>(&mut self, probe: &str, case: impl Display, found: &[T], expected: &[T]) {
        self.hash(probe, found);
        let bytes = |x: &T| bytemuck::bytes_of(x).to_vec();
        let differ: Vec<usize> = (0..found.len()).filter(|&i| bytes(&found[i]) != bytes(&expected[i])).collect();
        if found.len() != expected.len() || !differ.is_empty() {
            let first = differ.first().map(|&i| format!("at {i} {:x?}, expected {:x?}", found[i], expected[i]));
            let (count, all) = (differ.len(), expected.len());
            self.wrong.push(format!("{probe} {case}: {count} of {all} differ, {}", first.unwrap_or_default()));
        }
    }

    /// The same, where every NaN is one: IEEE 754 leaves its sign and payload open.
    pub fn same_numbers(&mut self, probe: &str, case: impl Display, found: &[u32], expected: &[u32]) {
        let one_nan = |bits: &[u32]| -> Vec<u32> {
            bits.iter().map(|&bits| if f32::from_bits(bits).is_nan() { 0x7fff_ffff } else { bits }).collect()
        };
        self.same(probe, case, &one_nan(found), &one_nan(expected));
    }

    /// Values within `bound(exact)` of the exact ones.
    pub fn near(&mut self, probe: &str, found: &[f32], exact: impl Fn(usize) -> f64, bound: impl Fn(f64) -> f64) {
        self.hash(&format!("{probe} (approximate)"), found);
        for (i, &found) in found.iter().enumerate() {
            let exact = exact(i);
            let error = (f64::from(found) - exact).abs();
            if error.is_nan() || error > bound(exact) {
                self.wrong
                    .push(format!("{probe}: at {i} {found:e}, exact {exact:e}, at most {:e} apart", bound(exact)));
                return;
            }
        }
    }

    fn hash<T: Pod>(&mut self, probe: &str, found: &[T]) {
        self.hashes.entry(probe.to_owned()).or_default().update(bytemuck::cast_slice::<T, u8>(found));
    }
}

/// A line on standard error. Not by `eprintln`: the tests' harness keeps what a test that passes prints.
pub fn tell(line: &str) {
    // Where nobody listens nothing is lost.
    let _ = std::io::stderr().write_all(format!("{line}\n").as_bytes());
}

/// Runs a file's probes. Their results are told on standard error, a line each: two devices' can be laid side by side.
/// Fails with all that differ, and when a kernel of the file was not launched.
pub fn probe(source: &'static Source, probes: impl Fn(&mut Probes) -> Outcome) {
    let file = source.name.trim_start_matches("tests/instructions/");
    let mut wrong = Vec::new();
    with_device(|device| {
        if source.text.contains("\n#ifdef HAS_SM_90A\n") && device.architecture != 90 {
            tell(&format!("probe {file} skipped: it needs sm_90a, and {} is sm_{}", device.name, device.architecture));
            return;
        }
        let (launched, hashes) = Default::default();
        let mut seen = Probes { device, source, launched, hashes, wrong: Vec::new() };
        let outcome = probes(&mut seen);
        let all = source.text.lines().filter_map(|line| line.strip_prefix("REGISTER_KERNEL(")?.strip_suffix(')'));
        match outcome {
            Err(error) => seen.wrong.push(error),
            Ok(()) if device.is_repetition() => {}
            Ok(()) => seen.wrong.extend(
                all.filter(|&kernel| !seen.launched.contains(kernel))
                    .map(|kernel| format!("{kernel}: no probe launches it")),
            ),
        }
        if !device.is_repetition() {
            for (name, hash) in seen.hashes {
                let hash: String = hash.finalize()[..8].iter().map(|byte| format!("{byte:02x}")).collect();
                tell(&format!("probe {file} {name}: {hash}"));
            }
        }
        wrong.extend(seen.wrong);
    });
    assert!(wrong.is_empty(), "{file}:\n{}", wrong.join("\n"));
}
