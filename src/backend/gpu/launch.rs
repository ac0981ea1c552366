//! What an operation asks of a device: which kernel, over which grid, with which arguments.
//!
//! The operations' files turn shapes into launches and touch no device. Whoever has a device runs them: the backend
//! through the driver, the tests through the emulator's own interface.

use super::jit::{self, Source};
use crate::{Error, Result};

/// A device address; 0 is null.
pub type Pointer = u64;

/// The type that activations and weight matrices are stored in. Statistics, scores, maps, codes and vectors of
/// parameters are f32 always.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Storage {
    /// 32-bit floats.
    F32,
    /// IEEE half floats.
    F16,
    /// Brain floats.
    Bf16,
}

impl Storage {
    /// As entry names end.
    pub fn name(self) -> &'static str {
        match self {
            Storage::F32 => "f32",
            Storage::F16 => "f16",
            Storage::Bf16 => "bf16",
        }
    }

    /// Bytes of one value.
    pub fn bytes(self) -> usize {
        match self {
            Storage::F32 => 4,
            Storage::F16 | Storage::Bf16 => 2,
        }
    }

    /// Values in 16 bytes.
    pub fn run(self) -> usize {
        16 / self.bytes()
    }
}

/// What a launch is made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Target {
    /// The storage type.
    pub storage: Storage,
    /// Compute capability, major times ten plus minor: 80, 90.
    pub architecture: u32,
}

/// The shape of a launch.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    /// Blocks in x, y, z.
    pub grid: [u32; 3],
    /// Threads of a block in x, y, z.
    pub block: [u32; 3],
    /// Bytes of dynamic shared memory.
    pub shared: u32,
}

impl Shape {
    /// Blocks of `threads` in x, as many as cover `n` items of `per_block` each.
    pub fn line(n: usize, per_block: usize, threads: u32) -> Shape {
        Shape { grid: [n.div_ceil(per_block) as u32, 1, 1], block: [threads, 1, 1], shared: 0 }
    }

    /// Blocks of 256 threads that make `n` values each on its own: one a thread in rung 1, `run` neighbours a thread in
    /// rung 2 where rows are whole runs.
    pub fn values(rung: u32, n: usize, run: usize, is_whole: bool) -> Option<Shape> {
        match rung {
            1 => Some(Shape::line(n, 256, 256)),
            2 if is_whole => Some(Shape::line(n, 256 * run, 256)),
            _ => None,
        }
    }
}

/// A kernel's argument.
#[derive(Debug, Clone, Copy)]
pub enum Arg {
    /// A device address, or 0 for null.
    Pointer(Pointer),
    /// `int`.
    I32(i32),
    /// `i64`.
    I64(i64),
    /// `float`.
    F32(f32),
}

impl Arg {
    /// A size as `int`: a backend refuses models and batches whose sizes do not fit.
    pub fn size(n: usize) -> Arg {
        Arg::I32(n as i32)
    }

    /// A distance in values as `i64`.
    pub fn stride(n: usize) -> Arg {
        Arg::I64(n as i64)
    }

    /// The argument's bytes and their number.
    pub fn bytes(self) -> ([u8; 8], u32) {
        let wide = |value: u32| u64::from(value).to_le_bytes();
        match self {
            Arg::Pointer(address) => (address.to_le_bytes(), 8),
            Arg::I64(value) => (value.to_le_bytes(), 8),
            Arg::I32(value) => (wide(value as u32), 4),
            Arg::F32(value) => (wide(value.to_bits()), 4),
        }
    }
}

/// One kernel launch.
#[derive(Debug, Clone)]
pub struct Launch {
    /// The operation: a folder of `kernels/`.
    pub operation: &'static str,
    /// `forward`, `reverse` or another of the operation's.
    pub direction: &'static str,
    /// What tells several kernels of a rung apart, such as `_keys`; else empty.
    pub part: &'static str,
    /// The rung.
    pub rung: u32,
    /// The storage type in the entry's name.
    pub storage: Storage,
    /// Grid, block, shared memory.
    pub shape: Shape,
    /// In the order of the kernel's parameters.
    pub args: Vec<Arg>,
}

impl Launch {
    /// The kernel's name in its module.
    pub fn entry(&self) -> String {
        let Launch { operation, direction, part, rung, storage, .. } = self;
        format!("{operation}_{direction}{part}__{rung}__{}", storage.name())
    }

    /// The file that holds it.
    ///
    /// # Errors
    /// [`Error::Device`] when there is no such rung.
    pub fn source(&self) -> Result<&'static Source> {
        let rung = format!("{}_{}", self.direction, self.rung);
        jit::kernel(self.operation, &rung).ok_or_else(|| Error::Device {
            device: "gpu".into(),
            reason: format!("there is no kernel {}/{rung}", self.operation),
        })
    }
}

/// An operation in one direction with its pointers and sizes: a ladder of rungs.
pub trait Ladder {
    /// The operation: a folder of `kernels/`.
    const OPERATION: &'static str;
    /// The direction.
    const DIRECTION: &'static str;
    /// The highest rung. Rung 1 runs everywhere.
    const TOP: u32;

    /// What `rung` launches, in order; nothing when it does not serve these sizes or this target.
    fn launches(&self, rung: u32, target: Target) -> Option<Vec<Launch>>;

    /// A launch of this ladder.
    fn launch(&self, part: &'static str, rung: u32, storage: Storage, shape: Shape, args: Vec<Arg>) -> Launch {
        Launch { operation: Self::OPERATION, direction: Self::DIRECTION, part, rung, storage, shape, args }
    }
}
