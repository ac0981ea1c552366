//! What a pass sees of memory: handles to tensors, what the host gives it, and what the host gets when it is done.
//!
//! A pass neither reads what the host does with its results nor waits for it, so a device may remember the pass as a whole
//! and run it again on another input.

use std::collections::BTreeMap;

use crate::Result;

/// A tensor of reals in the arena.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tensor {
    id: u32,
}

/// A tensor of 32-bit indices in the arena.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Indices {
    id: u32,
}

/// A tensor whose values the host gets when the pass is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fetch {
    id: u32,
}

/// A tensor of indices that the host gets when the pass is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FetchIndices {
    id: u32,
}

macro_rules! handle {
    ($($name:ident: $list:literal),*) => {$(
        impl $name {
            /// The handle with this number.
            pub(super) fn new(id: usize) -> Self {
                $name { id: id as u32 }
            }

            #[doc = concat!("Position in the ", $list, ".")]
            pub fn id(self) -> usize {
                self.id as usize
            }
        }
    )*};
}

handle!(Tensor: "plan's list", Indices: "plan's list", Fetch: "list of what the pass hands over",
    FetchIndices: "list of what the pass hands over");

impl Tensor {
    /// Its rows, `width` values each.
    pub fn rows(self, width: usize) -> Rows {
        Rows { tensor: self, stride: width }
    }
}

/// Rows of a tensor, `stride` values apart: with a stride of `T D` the CLS rows of (B,T,D).
#[derive(Debug, Clone, Copy)]
pub struct Rows {
    /// The tensor.
    pub tensor: Tensor,
    /// Values from one row's start to the next.
    pub stride: usize,
}

/// What one run of a pass starts from.
#[derive(Debug, Clone, Copy)]
pub enum Input<'a> {
    /// Values of the tensor that the pass names as its input.
    Values(&'a [f64]),
    /// Bytes of it.
    Bytes(&'a [u8]),
}

/// What a run handed to the host.
#[derive(Debug, Default)]
pub struct Fetched {
    /// By [`Fetch::id`].
    pub reals: Vec<Vec<f64>>,
    /// By [`FetchIndices::id`].
    pub indices: Vec<Vec<u32>>,
}

impl Fetched {
    /// The values, once.
    pub fn take(&mut self, fetch: Fetch) -> Vec<f64> {
        self.reals.get_mut(fetch.id()).map(std::mem::take).unwrap_or_default()
    }

    /// The indices, once.
    pub fn take_indices(&mut self, fetch: FetchIndices) -> Vec<u32> {
        self.indices.get_mut(fetch.id()).map(std::mem::take).unwrap_or_default()
    }
}

/// An arena, or the recording of one.
pub trait Memory {
    /// The next tensor of the pass, in the backend's storage type.
    ///
    /// # Errors
    /// When the plan was made for another pass.
    fn tensor(&mut self, name: &str, shape: &[usize]) -> Result<Tensor>;

    /// The next tensor of the pass, never of less than 32 bits a value: statistics, scores, maps, codes, pixels.
    ///
    /// # Errors
    /// When the plan was made for another pass.
    fn wide(&mut self, name: &str, shape: &[usize]) -> Result<Tensor>;

    /// The next tensor of indices of the pass.
    ///
    /// # Errors
    /// When the plan was made for another pass.
    fn indices(&mut self, name: &str, shape: &[usize]) -> Result<Indices>;

    /// `tensor` receives the run's [`Input::Values`].
    ///
    /// # Errors
    /// When the length differs.
    fn input(&mut self, tensor: Tensor) -> Result<()>;

    /// `bytes` receives the run's [`Input::Bytes`], four to an index.
    ///
    /// # Errors
    /// When the length differs.
    fn input_bytes(&mut self, bytes: Indices) -> Result<()>;

    /// `tensor` receives values that are the same in every run.
    ///
    /// # Errors
    /// When the length differs.
    fn constant(&mut self, tensor: Tensor, values: &[f64]) -> Result<()>;

    /// Hands the values that `tensor` has now to the host.
    ///
    /// # Errors
    /// When the device fails.
    fn fetch(&mut self, tensor: Tensor) -> Result<Fetch>;

    /// As [`Memory::fetch`].
    ///
    /// # Errors
    /// When the device fails.
    fn fetch_indices(&mut self, tensor: Indices) -> Result<FetchIndices>;

    /// Hands a tensor to whoever watches the pass (`verify`); nothing otherwise.
    ///
    /// # Errors
    /// When the device fails.
    fn observe(&mut self, name: &str, tensor: Tensor) -> Result<()>;

    /// Whether anybody watches.
    fn watched(&self) -> bool;
}

/// What an arena wants after a run was started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Started {
    /// The operations, one by one, and [`Arena::issued`] after them.
    Issue,
    /// Nothing: the arena remembers the pass and runs it as a whole.
    Replayed,
}

/// An arena that passes run in.
pub trait Arena: Memory + Send {
    /// Starts a run on `input`. No more than [`Arena::lanes`] runs may be started and not collected.
    ///
    /// # Errors
    /// When the input is not what the plan says, or the device fails.
    fn start(&mut self, input: Input<'_>) -> Result<Started>;

    /// The pass has been issued.
    ///
    /// # Errors
    /// When the device fails.
    fn issued(&mut self) -> Result<()>;

    /// What the oldest run that is still out handed over, when it is done.
    ///
    /// # Errors
    /// When the device fails.
    fn collect(&mut self) -> Result<Fetched>;

    /// How many runs may be out at a time.
    fn lanes(&self) -> usize;

    /// What was observed since the last call, by name.
    fn take_watched(&mut self) -> BTreeMap<String, Vec<f64>>;

    /// The values that a tensor has now.
    ///
    /// # Errors
    /// When the device fails.
    fn read(&mut self, tensor: Tensor) -> Result<Vec<f64>>;

    /// As [`Arena::read`].
    ///
    /// # Errors
    /// When the device fails.
    fn read_indices(&mut self, tensor: Indices) -> Result<Vec<u32>>;
}
