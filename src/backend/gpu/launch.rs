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

/// How the copy engine exchanges chunks of 16 bytes in the rows of a tile in shared memory, so that neither rows nor
/// columns of chunks fall on the same banks. A box's rows are as wide as its swizzle.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Swizzle {
    /// Rows of any width, as they are.
    None,
    /// Rows of 32 bytes.
    Bytes32,
    /// Rows of 64 bytes.
    Bytes64,
    /// Rows of 128 bytes.
    Bytes128,
}

/// A tensor that the copy engine (sm_90) reads or writes box by box. A plain value: whoever has the device encodes it, as
/// `cuTensorMapEncodeTiled` does, without interleave and with zeros outside of the tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TileMap {
    /// The tensor's first byte, a multiple of 16.
    pub base: Pointer,
    /// Its values.
    pub storage: Storage,
    /// Its dimensions in values, the innermost first: 2 or 3; the last is 1 in a matrix.
    pub dims: [u64; 3],
    /// Bytes from one row to the next and from one matrix to the next: multiples of 16.
    pub strides: [u64; 2],
    /// Values of a box in each dimension, at most 256.
    pub area: [u32; 3],
    /// How the box lies in shared memory.
    pub swizzle: Swizzle,
    /// 2 or 3.
    pub rank: u32,
}

impl TileMap {
    /// Boxes of `area` (columns, rows) of a matrix (rows,columns) whose rows lie one after another.
    pub fn matrix(
        base: Pointer,
        storage: Storage,
        [rows, columns]: [usize; 2],
        area: [u32; 2],
        swizzle: Swizzle,
    ) -> Self {
        let stride = (columns * storage.bytes()) as u64;
        TileMap {
            base,
            storage,
            dims: [columns as u64, rows as u64, 1],
            strides: [stride, stride * rows as u64],
            area: [area[0], area[1], 1],
            swizzle,
            rank: 2,
        }
    }
}

/// The bytes of a kernel's parameter, aligned as the driver wants a tensor map.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
pub struct Parameter {
    words: [u64; 16],
    size: u32,
}

impl Parameter {
    /// Where the bytes are.
    pub fn as_ptr(&self) -> *const std::ffi::c_void {
        self.words.as_ptr().cast()
    }

    /// How many they are.
    pub fn size(&self) -> u32 {
        self.size
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
    /// `const __grid_constant__ TileMap`.
    Tiles(TileMap),
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

    /// The argument's bytes; `encode` makes those of a tensor map.
    ///
    /// # Errors
    /// Those of `encode`.
    pub fn parameter(self, encode: impl FnOnce(TileMap) -> Result<[u64; 16]>) -> Result<Parameter> {
        let small = |word: u64, size| {
            let mut words = [0; 16];
            words[0] = word.to_le();
            Parameter { words, size }
        };
        Ok(match self {
            Arg::Pointer(address) => small(address, 8),
            Arg::I64(value) => small(value as u64, 8),
            Arg::I32(value) => small(u64::from(value as u32), 4),
            Arg::F32(value) => small(u64::from(value.to_bits()), 4),
            Arg::Tiles(map) => Parameter { words: encode(map)?, size: 128 },
        })
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
