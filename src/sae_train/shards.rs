//! Activations on the disk: one safetensors file per shard and layer, tensor `x` (n,D), and an `index.json`.
//!
//! `safetensors.torch.load_file("layer22-00000.safetensors")["x"]` reads one in PyTorch. Rows stand in the order of the
//! images, CLS first. The index names a shard only when all its files are there, so a harvest that was killed goes on
//! behind the last one.

use std::path::{Path, PathBuf};

use half::f16;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{
    difference::first_difference,
    source::{Piece, Position, Source, order},
};
use crate::{
    Error, Result,
    files::write_file,
    weights::{Data, Dtype, TensorFile, write},
};

/// Rows that are read at a time, in random order of all such parts. They lie far apart in their shard, so that the buffer
/// holds tokens of as many images as it can.
const ROWS: usize = 64;
const INDEX: &str = "index.json";

/// The type of stored activations.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ShardDtype {
    /// 32-bit floats: what the model computed.
    #[default]
    F32,
    /// 16-bit floats: half the space, three decimal digits.
    F16,
}

impl ShardDtype {
    /// Of a tensor.
    fn stored(self) -> Dtype {
        match self {
            ShardDtype::F32 => Dtype::F32,
            ShardDtype::F16 => Dtype::F16,
        }
    }
}

/// What a cache holds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Index {
    /// Everything that decides the activations: model, tokens, preprocessing, images.
    pub origin: Value,
    /// The blocks.
    pub layers: Vec<usize>,
    /// `D`.
    pub width: usize,
    /// Type of the values.
    pub dtype: ShardDtype,
    /// Whether all images are in it.
    pub complete: bool,
    /// The shards, in order.
    pub shards: Vec<Shard>,
}

/// One shard, in a file per layer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Shard {
    /// Rows of each file.
    pub tokens: usize,
    /// Images that are in this shard or in one before.
    pub images_end: usize,
    /// (layers): fingerprints of the files.
    pub hashes: Vec<String>,
}

impl Index {
    /// Reads the index of a cache; none where there is none.
    ///
    /// # Errors
    /// [`Error::File`] if it is damaged; [`Error::Io`].
    pub fn read(folder: &Path) -> Result<Option<Index>> {
        let path = folder.join(INDEX);
        let bytes = match std::fs::read(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            read => read.map_err(|e| Error::io(&path, e))?,
        };
        let index: Index = serde_json::from_slice(&bytes)
            .map_err(|e| Error::file(&path, format!("not the index of an activation cache: {e}")))?;
        let whole = |shard: &Shard| shard.hashes.len() == index.layers.len() && shard.tokens > 0;
        if index.width == 0 || !index.shards.iter().all(whole) {
            return Err(Error::file(&path, "a shard without tokens, or without a file for each layer"));
        }
        Ok(Some(index))
    }

    fn write(&self, folder: &Path) -> Result<()> {
        let path = folder.join(INDEX);
        let text = serde_json::to_string_pretty(self).map_err(|e| Error::file(&path, e.to_string()))?;
        write_file(&path, format!("{text}\n").as_bytes())
    }

    /// Checks that the cache is what is asked for.
    ///
    /// # Errors
    /// [`Error::Usage`] naming the first difference.
    pub fn check(&self, folder: &Path, origin: &Value, dtype: ShardDtype) -> Result<()> {
        let record = |origin: &Value, dtype: ShardDtype| json!({ "origin": origin, "dtype": dtype });
        match first_difference(&record(&self.origin, self.dtype), &record(origin, dtype)) {
            None => Ok(()),
            Some(difference) => Err(Error::usage(format!(
                "--cache {}: it was harvested with other options: {difference}; give another folder",
                folder.display()
            ))),
        }
    }

    /// Tokens of all shards.
    pub fn tokens(&self) -> usize {
        self.shards.iter().map(|shard| shard.tokens).sum()
    }
}

/// The file of a layer in a shard.
fn file(folder: &Path, layer: usize, shard: usize) -> PathBuf {
    folder.join(format!("layer{layer}-{shard:05}.safetensors"))
}

/// Writes a cache, shard by shard.
pub struct ShardWriter {
    folder: PathBuf,
    index: Index,
    /// Tokens from which on a shard is full.
    tokens: usize,
    /// What is not on the disk yet.
    pending: Piece,
}

impl ShardWriter {
    /// A cache in `folder`, which is created, or the one that is there to go on with. `empty` says what it shall hold.
    ///
    /// # Errors
    /// [`Error::Usage`] if the folder holds another cache; those of [`Index::read`].
    pub fn open(folder: &Path, empty: Index, tokens: usize) -> Result<Self> {
        std::fs::create_dir_all(folder).map_err(|e| Error::io(folder, e))?;
        let index = match Index::read(folder)? {
            None => empty,
            Some(index) => {
                index.check(folder, &empty.origin, empty.dtype)?;
                if (&index.layers, index.width) != (&empty.layers, empty.width) {
                    return Err(Error::usage(format!(
                        "--cache {}: it is being filled with layers {:?}, asked for are {:?}; give another folder",
                        folder.display(),
                        index.layers,
                        empty.layers
                    )));
                }
                index
            }
        };
        let layers = vec![Vec::new(); index.layers.len()];
        let pending = Piece { layers, ..Piece::default() };
        Ok(ShardWriter { folder: folder.to_path_buf(), index, tokens: tokens.max(1), pending })
    }

    /// Images before this one are on the disk.
    pub fn images_done(&self) -> usize {
        self.index.shards.last().map_or(0, |shard| shard.images_end)
    }

    /// Tokens on the disk and waiting for it.
    pub fn tokens(&self) -> usize {
        self.index.tokens() + self.pending.tokens
    }

    /// Adds the tokens of the images before `images_end`.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Usage`] for a value that is not finite in the cache's type.
    pub fn push(&mut self, piece: &Piece, images_end: usize) -> Result<()> {
        self.pending.tokens += piece.tokens;
        for (rows, more) in self.pending.layers.iter_mut().zip(&piece.layers) {
            rows.extend_from_slice(more);
        }
        if self.pending.tokens >= self.tokens { self.flush(images_end) } else { Ok(()) }
    }

    /// Writes what waits, and says that nothing follows.
    ///
    /// # Errors
    /// As [`ShardWriter::push`]; [`Error::Usage`] for a cache without a token.
    pub fn finish(mut self, images_end: usize) -> Result<Index> {
        if self.pending.tokens > 0 {
            self.flush(images_end)?;
        }
        if self.index.shards.is_empty() {
            return Err(Error::usage("no image could be read: there is nothing to cache"));
        }
        self.index.complete = true;
        self.index.write(&self.folder)?;
        Ok(self.index)
    }

    fn flush(&mut self, images_end: usize) -> Result<()> {
        let (number, tokens) = (self.index.shards.len(), self.pending.tokens);
        let shape = [tokens, self.index.width];
        let mut hashes = Vec::new();
        for (rows, &layer) in self.pending.layers.iter_mut().zip(&self.index.layers) {
            let path = file(&self.folder, layer, number);
            let metadata = [("format", "pt"), ("layer", &layer.to_string())];
            match self.index.dtype {
                ShardDtype::F32 => write(&path, &[("x", &shape, Data::F32(rows))], &metadata)?,
                ShardDtype::F16 => {
                    let narrow: Vec<f16> = rows.iter().map(|&v| f16::from_f32(v)).collect();
                    if let Some(at) = narrow.iter().position(|v| !v.is_finite()) {
                        let reason = format!("{} does not fit into a 16-bit float; use f32", rows[at]);
                        return Err(Error::usage(format!("--cache-dtype f16: layer {layer}: {reason}")));
                    }
                    write(&path, &[("x", &shape, Data::F16(&narrow))], &metadata)?;
                }
            }
            hashes.push(TensorFile::open(&path)?.hash());
            rows.clear();
        }
        self.pending.tokens = 0;
        self.index.shards.push(Shard { tokens, images_end, hashes });
        self.index.write(&self.folder)
    }
}

/// A part of a shard: every `step`-th row from `first` on.
#[derive(Debug, Clone, Copy)]
struct Part {
    shard: usize,
    first: usize,
    step: usize,
    /// Rows of the shard.
    of: usize,
}

/// Reads some layers of a finished cache in random order.
pub struct ShardSource {
    folder: PathBuf,
    width: usize,
    layers: Vec<usize>,
    parts: Vec<Part>,
    seed: u64,
    position: Position,
    order: Vec<usize>,
}

impl ShardSource {
    /// Checks every file of `layers`.
    ///
    /// # Errors
    /// [`Error::Usage`] for a cache that is not finished or lacks a layer; [`Error::File`] or [`Error::Tensor`] for a
    /// file that is missing or was changed.
    pub fn open(folder: &Path, index: &Index, layers: &[usize], seed: u64) -> Result<Self> {
        let name = folder.display();
        if !index.complete {
            return Err(Error::usage(format!("--cache {name}: it is not finished: give the images to go on")));
        }
        for layer in layers {
            let Some(at) = index.layers.iter().position(|l| l == layer) else {
                let have = &index.layers;
                return Err(Error::usage(format!("--cache {name}: it holds layers {have:?}, --layer {layer} is none")));
            };
            for (number, shard) in index.shards.iter().enumerate() {
                let path = self::file(folder, *layer, number);
                let file = TensorFile::open(&path)?;
                file.expect("x", &[shard.tokens, index.width])?;
                if file.dtype("x") != Some(index.dtype.stored()) || file.hash() != shard.hashes[at] {
                    return Err(Error::file(&path, "damaged: it is not the file that was written here"));
                }
            }
        }
        let parts = index.shards.iter().enumerate().flat_map(|(shard, Shard { tokens, .. })| {
            let (of, step) = (*tokens, tokens.div_ceil(ROWS));
            (0..step).map(move |first| Part { shard, first, step, of })
        });
        let parts: Vec<Part> = parts.collect();
        let order = order(parts.len(), seed, 0);
        let (folder, layers) = (folder.to_path_buf(), layers.to_vec());
        Ok(ShardSource { folder, width: index.width, layers, parts, seed, position: Position::default(), order })
    }
}

impl Source for ShardSource {
    fn width(&self) -> usize {
        self.width
    }

    fn layers(&self) -> usize {
        self.layers.len()
    }

    fn position(&self) -> Position {
        self.position
    }

    fn seek(&mut self, position: Position) -> Result<()> {
        if position.index >= self.parts.len() {
            return Err(Error::usage(format!("the cache has no part {}", position.index)));
        }
        self.order = order(self.parts.len(), self.seed, position.epoch);
        self.position = position;
        Ok(())
    }

    fn next(&mut self) -> Result<Piece> {
        let part = self.parts[self.order[self.position.index]];
        let rows = (part.first..part.of).step_by(part.step);
        let read = |&layer: &usize| {
            let file = TensorFile::open(&file(&self.folder, layer, part.shard))?;
            file.read_f32_every("x", part.first, part.step)
        };
        let layers = self.layers.iter().map(read).collect::<Result<Vec<_>>>()?;
        let mut next = Position { index: self.position.index + 1, ..self.position };
        let ends_epoch = next.index == self.parts.len();
        if ends_epoch {
            next = Position { epoch: next.epoch + 1, index: 0 };
            self.order = order(self.parts.len(), self.seed, next.epoch);
        }
        self.position = next;
        Ok(Piece { tokens: rows.len(), layers, ends_epoch })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn index(dtype: ShardDtype) -> Index {
        let origin = json!({ "model": { "name": "a" }, "tokens": "all" });
        Index { origin, layers: vec![3, 1], width: 2, dtype, complete: false, shards: Vec::new() }
    }

    /// Image `i`: 700 tokens.
    fn image(i: usize) -> Piece {
        let rows = |sign: f32| (0..700).flat_map(|t| [sign * (700 * i + t) as f32 / 4.0, 1.0]).collect();
        Piece { tokens: 700, layers: vec![rows(1.0), rows(-1.0)], ends_epoch: false }
    }

    fn fill(folder: &Path, dtype: ShardDtype, from: usize, to: usize) -> ShardWriter {
        let mut writer = ShardWriter::open(folder, index(dtype), 1500).unwrap();
        assert_eq!(writer.images_done(), from);
        (from..to).for_each(|i| writer.push(&image(i), i + 1).unwrap());
        writer
    }

    #[test]
    fn a_stopped_harvest_goes_on_and_ends_as_one_that_was_not_stopped() {
        let folder = tempfile::tempdir().unwrap();
        let (a, b) = (folder.path().join("a"), folder.path().join("b"));
        let whole = fill(&a, ShardDtype::F32, 0, 7).finish(7).unwrap();
        assert_eq!(whole.shards.iter().map(|s| s.tokens).collect::<Vec<_>>(), [2100, 2100, 700]);
        drop(fill(&b, ShardDtype::F32, 0, 5));
        assert!(matches!(
            ShardSource::open(&b, &Index::read(&b).unwrap().unwrap(), &[1], 0),
            Err(Error::Usage(reason)) if reason.contains("not finished")
        ));
        assert_eq!(fill(&b, ShardDtype::F32, 3, 7).finish(7).unwrap(), whole);
        for name in ["index.json", "layer1-00002.safetensors", "layer3-00001.safetensors"] {
            assert_eq!(std::fs::read(a.join(name)).unwrap(), std::fs::read(b.join(name)).unwrap(), "{name}");
        }
    }

    #[test]
    fn an_epoch_gives_every_token_once_and_a_place_is_found_again() {
        let folder = tempfile::tempdir().unwrap();
        let index = fill(folder.path(), ShardDtype::F16, 0, 7).finish(7).unwrap();
        let mut source = ShardSource::open(folder.path(), &index, &[1, 3], 5).unwrap();
        let epoch = |source: &mut ShardSource| {
            let mut pieces = vec![source.next().unwrap()];
            while !pieces[pieces.len() - 1].ends_epoch {
                pieces.push(source.next().unwrap());
            }
            pieces
        };
        let first = epoch(&mut source);
        let mut seen: Vec<f32> = first.iter().flat_map(|p| p.layers[1].chunks(2).map(|row| row[0])).collect();
        assert!(first.iter().all(|p| p.layers[0].iter().zip(&p.layers[1]).step_by(2).all(|(a, b)| *a == -b)));
        assert!(seen.windows(2).any(|w| w[0] > w[1]), "in order");
        seen.sort_by(f32::total_cmp);
        let stored: Vec<f32> = (0..4900).map(|t| f16::from_f32(t as f32 / 4.0).to_f32()).collect();
        assert_eq!(seen, stored);
        assert!(source.position() == Position { epoch: 1, index: 0 } && epoch(&mut source) != first);
        source.seek(Position { epoch: 0, index: 2 }).unwrap();
        assert_eq!(source.next().unwrap(), first[2]);
        assert!(source.seek(Position { epoch: 0, index: 99 }).is_err());
    }

    #[test]
    fn what_is_damaged_or_of_another_model_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let index = fill(folder.path(), ShardDtype::F32, 0, 3).finish(3).unwrap();
        let open = || ShardSource::open(folder.path(), &index, &[3], 0).map(|_| ());
        open().unwrap();
        let path = folder.path().join("layer3-00000.safetensors");
        let good = std::fs::read(&path).unwrap();
        let mut flipped = good.clone();
        flipped[good.len() - 3] ^= 1;
        for bad in [&good[..good.len() - 4], &flipped, b"no"] {
            std::fs::write(&path, bad).unwrap();
            assert!(matches!(open(), Err(Error::File { .. })));
        }
        std::fs::remove_file(&path).unwrap();
        assert!(open().unwrap_err().to_string().contains("layer3-00000"));
        assert!(ShardSource::open(folder.path(), &index, &[2], 0).is_err());
        let other = json!({ "model": { "name": "b" }, "tokens": "all" });
        let error = index.check(folder.path(), &other, ShardDtype::F32).unwrap_err().to_string();
        assert!(error.contains("model.name") && error.contains("\"a\"") && error.contains("\"b\""), "{error}");
        std::fs::write(folder.path().join(INDEX), "{}").unwrap();
        assert!(matches!(Index::read(folder.path()), Err(Error::File { .. })));
        let mut hot = ShardWriter::open(&folder.path().join("hot"), self::index(ShardDtype::F16), 1).unwrap();
        let piece = Piece { tokens: 1, layers: vec![vec![1e6, 0.0], vec![0.0, 0.0]], ends_epoch: false };
        assert!(hot.push(&piece, 1).unwrap_err().to_string().contains("use f32"));
    }
}
