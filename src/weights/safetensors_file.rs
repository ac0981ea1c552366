//! Safetensors files: a checked, memory-mapped reader over one file or many shards, and a writer.

use crate::error::{Error, Result};
use crate::files::write_with;
use bytemuck::cast_slice;
use half::{bf16, f16};
use memmap2::Mmap;
use rayon::prelude::*;
pub use safetensors::Dtype;
use safetensors::{SafeTensorError, SafeTensors};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Read;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// The largest index or configuration file that is read.
const MAX_JSON: u64 = 100 << 20;

/// Tensors on disk. Opening reads and checks the headers only; each tensor is converted when it is read.
pub struct TensorFile {
    path: PathBuf,
    shards: Vec<Shard>,
    tensors: BTreeMap<String, Entry>,
    metadata: BTreeMap<String, String>,
}

struct Shard {
    path: PathBuf,
    bytes: Bytes,
    /// Where the tensors' data begin: 8 bytes of length and the header lie before.
    data_start: usize,
}

enum Bytes {
    Mapped(Mmap),
    Held(Cow<'static, [u8]>),
}

impl Shard {
    fn bytes(&self) -> &[u8] {
        match &self.bytes {
            Bytes::Mapped(map) => map,
            Bytes::Held(held) => held,
        }
    }
}

struct Entry {
    shard: usize,
    dtype: Dtype,
    shape: Vec<usize>,
    /// Within its shard.
    range: Range<usize>,
}

impl TensorFile {
    /// Opens a `.safetensors` file, or all shards of a `.safetensors.index.json`.
    ///
    /// # Errors
    /// [`Error::File`] for a damaged header (truncated, oversized, overlapping or missing ranges, sizes that do not
    /// agree), an index that points outside its folder, or a tensor that is in no shard or in two.
    pub fn open(path: &Path) -> Result<Self> {
        let mut file = TensorFile::empty(path);
        if path.extension().is_some_and(|e| e.eq_ignore_ascii_case("json")) {
            file.open_index()?;
        } else {
            file.add_shard(path, map(path)?)?;
        }
        Ok(file)
    }

    /// Reads a file that is already in memory, such as one embedded in the program. `path` names it in messages.
    ///
    /// # Errors
    /// As [`TensorFile::open`].
    pub fn from_bytes(path: impl Into<PathBuf>, bytes: impl Into<Cow<'static, [u8]>>) -> Result<Self> {
        let path = path.into();
        let mut file = TensorFile::empty(&path);
        file.add_shard(&path, Bytes::Held(bytes.into()))?;
        Ok(file)
    }

    fn empty(path: &Path) -> Self {
        let (shards, tensors, metadata) = Default::default();
        TensorFile { path: path.to_path_buf(), shards, tensors, metadata }
    }

    /// An index names the shard of every tensor: `{"weight_map": {"name": "model-00001-of-00002.safetensors"}}`.
    fn open_index(&mut self) -> Result<()> {
        let index = read_json(&self.path)?;
        let bad = |reason: String| Error::file(&self.path, reason);
        let Some(weight_map) = index.get("weight_map").and_then(Value::as_object) else {
            return Err(bad("not an index of safetensors shards: `weight_map` is missing".into()));
        };
        let folder = self.path.parent().unwrap_or(Path::new("")).to_path_buf();
        let mut shards = BTreeSet::new();
        for (tensor, shard) in weight_map {
            let shard = shard.as_str().unwrap_or_default();
            // A name with a folder in it could lead out of the checkpoint.
            if shard.is_empty() || Path::new(shard).file_name().is_none_or(|name| name != shard) {
                return Err(bad(format!("tensor `{tensor}`: `{shard}` is not the name of a shard")));
            }
            shards.insert(shard);
        }
        for shard in &shards {
            let path = folder.join(shard);
            self.add_shard(&path, map(&path)?)?;
        }
        match weight_map.keys().find(|name| !self.tensors.contains_key(*name)) {
            Some(lost) => Err(Error::file(&self.path, format!("tensor `{lost}` is in none of the shards"))),
            None => Ok(()),
        }
    }

    fn add_shard(&mut self, path: &Path, bytes: Bytes) -> Result<()> {
        let mut shard = Shard { path: path.to_path_buf(), bytes, data_start: 0 };
        let (header, metadata) =
            SafeTensors::read_metadata(shard.bytes()).map_err(|e| damaged(path, shard.bytes(), e))?;
        shard.data_start = header + 8;
        for (name, info) in metadata.tensors() {
            let range = shard.data_start + info.data_offsets.0..shard.data_start + info.data_offsets.1;
            let entry = Entry { shard: self.shards.len(), dtype: info.dtype, shape: info.shape.clone(), range };
            if let Some(twice) = self.tensors.insert(name.clone(), entry) {
                let other = self.shards.get(twice.shard).map(|s| s.path.display().to_string()).unwrap_or_default();
                return Err(Error::file(path, format!("tensor `{name}` is also in {other}")));
            }
        }
        self.metadata.extend(metadata.metadata().iter().flatten().map(|(k, v)| (k.clone(), v.clone())));
        self.shards.push(shard);
        Ok(())
    }

    /// The file, or the index of its shards.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// All tensor names, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// Whether the file holds a tensor of that name.
    pub fn contains(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// Shape of a tensor.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        self.tensors.get(name).map(|t| t.shape.as_slice())
    }

    /// Element type of a tensor.
    pub fn dtype(&self, name: &str) -> Option<Dtype> {
        self.tensors.get(name).map(|t| t.dtype)
    }

    /// The free text of the header.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    /// Bytes on disk, all shards together.
    pub fn size(&self) -> u64 {
        self.shards.iter().map(|s| s.bytes().len() as u64).sum()
    }

    /// Checks that a tensor is there, is a weight (F32, F16 or BF16) and has this shape. Nothing is read.
    ///
    /// # Errors
    /// [`Error::Tensor`].
    pub fn expect(&self, name: &str, shape: &[usize]) -> Result<()> {
        let entry = self.entry(name, || format!("shape {shape:?}"))?;
        self.weight_type(name, entry)?;
        if entry.shape != shape {
            let (expected, found) = (format!("shape {shape:?}"), format!("{:?}", entry.shape));
            return Err(Error::tensor(self.shard_path(entry), name, expected, found));
        }
        Ok(())
    }

    /// Reads a weight, all of it finite.
    ///
    /// # Errors
    /// [`Error::Tensor`] if it is missing, is not F32, F16 or BF16 (F64 would be rounded in silence), or holds a NaN
    /// or an infinity.
    pub fn read_f32(&self, name: &str) -> Result<Vec<f32>> {
        let rows = self.shape(name).and_then(|s| s.first().copied()).unwrap_or(1);
        self.read_f32_rows(name, 0..rows)
    }

    /// Reads the rows `rows` (of the first dimension) of a weight. As [`TensorFile::read_f32`].
    ///
    /// # Errors
    /// As [`TensorFile::read_f32`]; rows out of range.
    pub fn read_f32_rows(&self, name: &str, rows: Range<usize>) -> Result<Vec<f32>> {
        let entry = self.entry(name, || "a weight".into())?;
        let dtype = self.weight_type(name, entry)?;
        let bytes = self.data(entry);
        let all_rows = entry.shape.first().copied().unwrap_or(1);
        if rows.start > rows.end || rows.end > all_rows {
            let (expected, found) = (format!("at least {} rows", rows.end), all_rows.to_string());
            return Err(Error::tensor(self.shard_path(entry), name, expected, found));
        }
        let row_bytes = bytes.len().checked_div(all_rows).unwrap_or(0);
        let part = bytes.get(rows.start * row_bytes..rows.end * row_bytes).unwrap_or_default();
        let before = rows.start * entry.shape.iter().skip(1).product::<usize>();
        self.weight_values(name, entry, dtype, part, |at| before + at)
    }

    /// Reads every `step`-th row (of the first dimension) of a weight, from row `first` on. As [`TensorFile::read_f32`].
    ///
    /// # Errors
    /// As [`TensorFile::read_f32`].
    pub fn read_f32_every(&self, name: &str, first: usize, step: usize) -> Result<Vec<f32>> {
        let entry = self.entry(name, || "a weight".into())?;
        let dtype = self.weight_type(name, entry)?;
        let bytes = self.data(entry);
        let row_bytes = bytes.len().checked_div(entry.shape.first().copied().unwrap_or(1)).unwrap_or(0).max(1);
        let rows = bytes.chunks_exact(row_bytes).skip(first).step_by(step.max(1));
        let width = entry.shape.iter().skip(1).product::<usize>().max(1);
        self.weight_values(name, entry, dtype, &rows.collect::<Vec<_>>().concat(), |at| {
            (first + at / width * step) * width + at % width
        })
    }

    /// The values of a part of a weight; `place` tells where in the whole the value stands that is not finite.
    fn weight_values(
        &self,
        name: &str,
        entry: &Entry,
        dtype: Dtype,
        bytes: &[u8],
        place: impl Fn(usize) -> usize,
    ) -> Result<Vec<f32>> {
        let values = match dtype {
            Dtype::F32 => convert(bytes, |b: [u8; 4]| f32::from_le_bytes(b)),
            Dtype::F16 => convert(bytes, |b: [u8; 2]| f16::from_le_bytes(b).to_f32()),
            _ => convert(bytes, |b: [u8; 2]| bf16::from_le_bytes(b).to_f32()),
        };
        if let Some(at) = first_not_finite(&values) {
            let found = format!("{} at index {}", values.get(at).copied().unwrap_or(f32::NAN), place(at));
            return Err(Error::tensor(self.shard_path(entry), name, "finite values", found));
        }
        Ok(values)
    }

    /// Reads any floating tensor in full precision, infinities and NaN included: for fixtures and reports.
    ///
    /// # Errors
    /// [`Error::Tensor`] if it is missing or holds no F64, F32, F16 or BF16.
    pub fn read_f64(&self, name: &str) -> Result<Vec<f64>> {
        let entry = self.entry(name, || "a floating tensor".into())?;
        let bytes = self.data(entry);
        Ok(match entry.dtype {
            Dtype::F64 => convert(bytes, |b: [u8; 8]| f64::from_le_bytes(b)),
            Dtype::F32 => convert(bytes, |b: [u8; 4]| f64::from(f32::from_le_bytes(b))),
            Dtype::F16 => convert(bytes, |b: [u8; 2]| f16::from_le_bytes(b).to_f64()),
            Dtype::BF16 => convert(bytes, |b: [u8; 2]| bf16::from_le_bytes(b).to_f64()),
            other => return Err(self.wrong_type(name, entry, "F64, F32, F16 or BF16", other)),
        })
    }

    /// Reads any integer tensor.
    ///
    /// # Errors
    /// [`Error::Tensor`] if it is missing, holds no integers, or holds one past the range of i64.
    pub fn read_i64(&self, name: &str) -> Result<Vec<i64>> {
        let entry = self.entry(name, || "an integer tensor".into())?;
        let bytes = self.data(entry);
        Ok(match entry.dtype {
            Dtype::I64 => convert(bytes, |b: [u8; 8]| i64::from_le_bytes(b)),
            Dtype::I32 => convert(bytes, |b: [u8; 4]| i64::from(i32::from_le_bytes(b))),
            Dtype::I16 => convert(bytes, |b: [u8; 2]| i64::from(i16::from_le_bytes(b))),
            Dtype::I8 => convert(bytes, |b: [u8; 1]| i64::from(i8::from_le_bytes(b))),
            Dtype::U32 => convert(bytes, |b: [u8; 4]| i64::from(u32::from_le_bytes(b))),
            Dtype::U16 => convert(bytes, |b: [u8; 2]| i64::from(u16::from_le_bytes(b))),
            Dtype::U8 | Dtype::BOOL => convert(bytes, |b: [u8; 1]| i64::from(b[0])),
            Dtype::U64 => {
                let values = convert(bytes, |b: [u8; 8]| u64::from_le_bytes(b));
                let narrow: std::result::Result<Vec<i64>, _> = values.into_iter().map(i64::try_from).collect();
                narrow.map_err(|_| {
                    let found = "a larger one";
                    Error::tensor(self.shard_path(entry), name, "integers of 63 bits", found)
                })?
            }
            other => return Err(self.wrong_type(name, entry, "an integer type", other)),
        })
    }

    /// A short fingerprint: the first 16 hexadecimal digits of the SHA-256 of every shard's length, header and 64
    /// samples of 4 KiB spread evenly over its data. It tells checkpoints apart at once; it is no proof of integrity.
    pub fn hash(&self) -> String {
        const SAMPLES: usize = 64;
        const SAMPLE: usize = 4096;
        let mut sha = Sha256::new();
        for shard in &self.shards {
            let bytes = shard.bytes();
            sha.update((bytes.len() as u64).to_le_bytes());
            let (header, data) = bytes.split_at(shard.data_start.min(bytes.len()));
            sha.update(header);
            if data.len() <= SAMPLES * SAMPLE {
                sha.update(data);
            } else {
                for i in 0..SAMPLES {
                    let start = (data.len() - SAMPLE) / (SAMPLES - 1) * i;
                    sha.update(data.get(start..start + SAMPLE).unwrap_or_default());
                }
            }
        }
        sha.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect()
    }

    fn entry(&self, name: &str, expected: impl Fn() -> String) -> Result<&Entry> {
        self.tensors.get(name).ok_or_else(|| Error::tensor(&self.path, name, expected(), "no such tensor"))
    }

    fn weight_type(&self, name: &str, entry: &Entry) -> Result<Dtype> {
        match entry.dtype {
            dtype @ (Dtype::F32 | Dtype::F16 | Dtype::BF16) => Ok(dtype),
            other => Err(self.wrong_type(name, entry, "F32, F16 or BF16", other)),
        }
    }

    fn wrong_type(&self, name: &str, entry: &Entry, expected: &str, found: Dtype) -> Error {
        Error::tensor(self.shard_path(entry), name, expected, format!("{found:?}"))
    }

    fn shard_path(&self, entry: &Entry) -> &Path {
        self.shards.get(entry.shard).map_or(&self.path, |s| &s.path)
    }

    fn data(&self, entry: &Entry) -> &[u8] {
        self.shards.get(entry.shard).and_then(|s| s.bytes().get(entry.range.clone())).unwrap_or_default()
    }
}

/// Little-endian elements of `N` bytes, converted on all cores.
fn convert<const N: usize, T: Send>(bytes: &[u8], read: impl Fn([u8; N]) -> T + Sync) -> Vec<T> {
    const LEAST: usize = 1 << 14;
    let (elements, _) = bytes.as_chunks::<N>();
    elements.par_iter().with_min_len(LEAST).map(|&element| read(element)).collect()
}

/// Where the first value stands that is not finite. A chunk is looked through without a way out, which makes it fast.
fn first_not_finite(values: &[f32]) -> Option<usize> {
    const CHUNK: usize = 1 << 14;
    let suspect = |chunk: &[f32]| chunk.iter().fold(false, |found, v| found | !v.is_finite());
    let first = values.par_chunks(CHUNK).position_first(suspect)? * CHUNK;
    Some(first + values[first..].iter().position(|v| !v.is_finite())?)
}

fn map(path: &Path) -> Result<Bytes> {
    let file = File::open(path).map_err(|e| missing_or_io(path, e))?;
    let length = file.metadata().map_err(|e| Error::io(path, e))?.len();
    if length < 8 {
        return Err(Error::file(path, format!("truncated: {length} bytes, too short for a safetensors file")));
    }
    // SAFETY: the mapping is read-only and private to this process. As with every mapped file, another process that
    // truncates it meanwhile would fault ours; checkpoints are replaced by renaming, which leaves the mapping whole.
    let map = unsafe { Mmap::map(&file) }.map_err(|e| Error::io(path, e))?;
    Ok(Bytes::Mapped(map))
}

/// A model file that is not there is an invalid model, not a failed input.
fn missing_or_io(path: &Path, error: std::io::Error) -> Error {
    match error.kind() {
        std::io::ErrorKind::NotFound => Error::file(path, "no such file"),
        _ => Error::file(path, error.to_string()),
    }
}

/// What is wrong with a header, in words, naming the tensor where one is to blame.
fn damaged(path: &Path, bytes: &[u8], error: SafeTensorError) -> Error {
    let length = bytes.first_chunk::<8>().map_or(0, |n| u64::from_le_bytes(*n));
    let reason = match error {
        SafeTensorError::HeaderTooSmall => "truncated: too short for a safetensors file".into(),
        SafeTensorError::HeaderTooLarge => format!("the header says that it is {length} bytes long: not safetensors"),
        SafeTensorError::InvalidHeaderLength => {
            format!("truncated: the header is {length} bytes long, the file {}", bytes.len())
        }
        SafeTensorError::InvalidHeader(e) => format!("the header is not UTF-8: {e}"),
        SafeTensorError::InvalidHeaderDeserialization(e) => format!("the header is not valid: {e}"),
        SafeTensorError::InvalidOffset(name) => {
            format!("tensor `{name}`: its data overlap another tensor's, or leave a hole before it")
        }
        SafeTensorError::MetadataIncompleteBuffer => {
            "truncated or padded: the tensors do not end where the file ends".into()
        }
        SafeTensorError::TensorInvalidInfo | SafeTensorError::ValidationOverflow | SafeTensorError::MisalignedSlice => {
            let culprit = mismatched(bytes).map_or(String::new(), |name| format!("tensor `{name}`: "));
            format!("{culprit}shape times element size is not the length of its data")
        }
        other => other.to_string(),
    };
    Error::file(path, reason)
}

/// The first tensor of a header whose shape does not fit its range.
fn mismatched(bytes: &[u8]) -> Option<String> {
    let length = usize::try_from(u64::from_le_bytes(*bytes.first_chunk::<8>()?)).ok()?;
    let header: Map<String, Value> = serde_json::from_slice(bytes.get(8..8usize.checked_add(length)?)?).ok()?;
    let fits = |info: &Value| -> Option<bool> {
        let dtype: Dtype = serde_json::from_value(info.get("dtype")?.clone()).ok()?;
        let shape: Vec<usize> = serde_json::from_value(info.get("shape")?.clone()).ok()?;
        let (start, end): (usize, usize) = serde_json::from_value(info.get("data_offsets")?.clone()).ok()?;
        let bits = shape.iter().try_fold(dtype.bitsize(), |n, &d| n.checked_mul(d))?;
        Some(end.checked_sub(start)?.checked_mul(8)? == bits)
    };
    header.iter().find(|(name, info)| *name != "__metadata__" && fits(info) != Some(true)).map(|(name, _)| name.clone())
}

/// Reads a JSON file of bounded size.
pub(super) fn read_json(path: &Path) -> Result<Value> {
    let file = File::open(path).map_err(|e| missing_or_io(path, e))?;
    let mut text = Vec::new();
    file.take(MAX_JSON + 1).read_to_end(&mut text).map_err(|e| missing_or_io(path, e))?;
    if text.len() as u64 > MAX_JSON {
        return Err(Error::file(path, "larger than 100 MiB: not a configuration"));
    }
    serde_json::from_slice(&text).map_err(|e| Error::file(path, format!("not valid JSON: {e}")))
}

/// The values of a tensor to write.
#[derive(Clone, Copy, Debug)]
pub enum Data<'a> {
    /// 32-bit floats.
    F32(&'a [f32]),
    /// 64-bit floats.
    F64(&'a [f64]),
    /// 16-bit floats.
    F16(&'a [f16]),
    /// Unsigned 32-bit integers.
    U32(&'a [u32]),
    /// Signed 64-bit integers.
    I64(&'a [i64]),
}

impl Data<'_> {
    fn dtype(self) -> (Dtype, &'static str) {
        match self {
            Data::F32(_) => (Dtype::F32, "F32"),
            Data::F64(_) => (Dtype::F64, "F64"),
            Data::F16(_) => (Dtype::F16, "F16"),
            Data::U32(_) => (Dtype::U32, "U32"),
            Data::I64(_) => (Dtype::I64, "I64"),
        }
    }

    /// The values as they are written.
    pub(crate) fn bytes(&self) -> &[u8] {
        match self {
            Data::F32(v) => cast_slice(v),
            Data::F64(v) => cast_slice(v),
            Data::F16(v) => cast_slice(v),
            Data::U32(v) => cast_slice(v),
            Data::I64(v) => cast_slice(v),
        }
    }
}

// Tensors are written as they lie in memory, and the format is little-endian.
#[cfg(target_endian = "big")]
compile_error!("vitscope writes safetensors on little-endian machines only");

/// Writes tensors to a safetensors file, through a temporary name in the same folder. The bytes depend on the
/// arguments alone.
///
/// # Errors
/// [`Error::File`] if a shape does not fit its values or a name comes twice; [`Error::Io`].
pub fn write(path: &Path, tensors: &[(&str, &[usize], Data<'_>)], metadata: &[(&str, &str)]) -> Result<()> {
    let mut order: Vec<_> = tensors.iter().collect();
    // Widest elements first, so that every tensor is aligned to its element.
    order.sort_by(|a, b| b.2.dtype().0.bitsize().cmp(&a.2.dtype().0.bitsize()).then(a.0.cmp(b.0)));
    let mut header = Map::new();
    if !metadata.is_empty() {
        let text: Map<_, _> = metadata.iter().map(|(k, v)| (k.to_string(), json!(v))).collect();
        header.insert("__metadata__".into(), Value::Object(text));
    }
    let mut end = 0;
    for (name, shape, data) in &order {
        let (dtype, dtype_name) = data.dtype();
        let length = data.bytes().len();
        let fits = shape.iter().try_fold(dtype.bitsize() / 8, |n, &d| n.checked_mul(d)) == Some(length);
        let info = json!({"dtype": dtype_name, "shape": shape, "data_offsets": [end, end + length]});
        if !fits || header.insert(name.to_string(), info).is_some() {
            let reason = format!("cannot write tensor `{name}`: shape {shape:?} for {length} bytes, or a second one");
            return Err(Error::file(path, reason));
        }
        end += length;
    }
    let mut header = Value::Object(header).to_string().into_bytes();
    header.resize(header.len().next_multiple_of(8), b' ');
    write_with(path, |out| {
        out.write_all(&(header.len() as u64).to_le_bytes())?;
        out.write_all(&header)?;
        order.iter().try_for_each(|(_, _, data)| out.write_all(data.bytes()))
    })
}
