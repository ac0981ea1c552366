//! A CLIP pair on disk, embedded or random, read under one set of names.

use super::config::ClipConfig;
use super::names::{Layout, Location, Part, locate, parameters, tensor_names};
use super::safetensors_file::{TensorFile, read_json};
use super::{hf_config, open_clip_config, random};
use crate::error::{Error, Result};
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

/// What a checkpoint says about preprocessing: the raw JSON, for the image room to interpret.
#[derive(Clone, Debug, PartialEq)]
pub enum PreprocessSource {
    /// Hugging Face's `preprocessor_config.json`.
    HfJson(Value),
    /// open_clip's `preprocess_cfg` of `open_clip_config.json`.
    OpenClipJson(Value),
    /// Nothing.
    None,
}

/// A CLIP pair whose tensors are all known to be there, with the right shapes and types.
pub struct ClipCheckpoint {
    /// Its sizes.
    pub config: ClipConfig,
    /// What it says about preprocessing.
    pub preprocess: PreprocessSource,
    /// The folder that holds its `tokenizer.json`, or its `vocab.json` and `merges.txt`.
    pub tokenizer_dir: Option<PathBuf>,
    /// What the user called it.
    pub label: String,
    /// What was assumed, and what was left out.
    pub notes: Vec<String>,
    path: PathBuf,
    weights: Weights,
}

enum Weights {
    File { file: TensorFile, layout: Layout, locations: HashMap<String, (Vec<usize>, Location)> },
    Random { seed: u64, shapes: HashMap<String, Vec<usize>> },
}

impl std::fmt::Debug for ClipCheckpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClipCheckpoint")
            .field("label", &self.label)
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

/// The files that may hold a folder's weights, the likeliest first.
const WEIGHT_FILES: [&str; 4] = [
    "model.safetensors",
    "model.safetensors.index.json",
    "open_clip_model.safetensors",
    "open_clip_model.safetensors.index.json",
];

impl ClipCheckpoint {
    /// Opens a Hugging Face folder, an open_clip folder, or one safetensors file. Reads headers and configurations
    /// only. A file's neighbours count: `config.json` beside it is its configuration.
    ///
    /// # Errors
    /// [`Error::File`] if it is no CLIP pair or one that is not supported; [`Error::Tensor`] if a tensor is missing or
    /// has the wrong shape or type.
    pub fn open(path: &Path) -> Result<Self> {
        let (folder, candidates) = if path.is_dir() {
            (path, weight_files(path)?)
        } else if path.exists() {
            (path.parent().unwrap_or(Path::new("")), vec![path.to_path_buf()])
        } else {
            return Err(Error::file(path, "no such file or folder"));
        };
        let mut failure = None;
        for candidate in &candidates {
            let file = TensorFile::open(candidate)?;
            let Some(layout) = layout_of(&file) else {
                failure = failure.or_else(|| Some(not_clip(&file)));
                continue;
            };
            let mut checkpoint = Self::with_neighbours(file, layout, folder)?;
            checkpoint.label = path.display().to_string();
            let has = |name: &str| folder.join(name).is_file();
            if has("tokenizer.json") || has("vocab.json") && has("merges.txt") {
                checkpoint.tokenizer_dir = Some(folder.to_path_buf());
            }
            return Ok(checkpoint);
        }
        Err(failure.unwrap_or_else(|| Error::file(path, no_weights(folder))))
    }

    /// A Hugging Face checkpoint that is already in memory, such as the one embedded in the program.
    ///
    /// # Errors
    /// As [`ClipCheckpoint::open`].
    pub fn from_bytes(
        label: &str,
        config: &Value,
        preprocess: Option<Value>,
        weights: impl Into<Cow<'static, [u8]>>,
    ) -> Result<Self> {
        let config = hf_config::parse(Path::new(label), config)?;
        let file = TensorFile::from_bytes(label, weights)?;
        let preprocess = preprocess.map_or(PreprocessSource::None, PreprocessSource::HfJson);
        Self::checked(file, Layout::HuggingFace, config, preprocess, Vec::new())
    }

    /// Seeded random weights of a published size; see [`super::PRESETS`]. Tensors are generated when they are read.
    ///
    /// # Errors
    /// [`Error::Usage`] for an unknown name, listing the known ones.
    pub fn random(name: &str, seed: u64) -> Result<Self> {
        let Some(config) = random::preset(name) else {
            let known = random::PRESETS.join(", ");
            return Err(Error::usage(format!("random:{name} is not a known size; known are {known}")));
        };
        let shapes = tensor_names(&config).into_iter().collect();
        let label = format!("random:{name}");
        Ok(ClipCheckpoint {
            config,
            preprocess: PreprocessSource::None,
            tokenizer_dir: None,
            path: PathBuf::from(&label),
            label,
            notes: vec![format!("random weights, seed {seed}: for benchmarks, they mean nothing")],
            weights: Weights::Random { seed, shapes },
        })
    }

    fn with_neighbours(file: TensorFile, layout: Layout, folder: &Path) -> Result<Self> {
        let json = |name: &str| {
            let path = folder.join(name);
            if path.is_file() { read_json(&path).map(Some) } else { Ok(None) }
        };
        match layout {
            Layout::HuggingFace => {
                let Some(config) = json("config.json")? else {
                    return Err(Error::file(file.path(), "config.json is missing beside it"));
                };
                let config = hf_config::parse(&folder.join("config.json"), &config)?;
                let preprocess =
                    json("preprocessor_config.json")?.map_or(PreprocessSource::None, PreprocessSource::HfJson);
                Self::checked(file, layout, config, preprocess, Vec::new())
            }
            Layout::OpenClip { text_prefix } => match json("open_clip_config.json")? {
                Some(json) => {
                    let config = open_clip_config::parse(&folder.join("open_clip_config.json"), &json)?;
                    let preprocess = match json.get("preprocess_cfg") {
                        Some(section) => PreprocessSource::OpenClipJson(section.clone()),
                        None => PreprocessSource::None,
                    };
                    Self::checked(file, layout, config, preprocess, Vec::new())
                }
                None => {
                    let (config, notes) = open_clip_config::infer(&file, text_prefix)?;
                    Self::checked(file, layout, config, PreprocessSource::None, notes)
                }
            },
        }
    }

    /// Every tensor the model needs is located and checked here, before anything is read.
    fn checked(
        file: TensorFile,
        layout: Layout,
        config: ClipConfig,
        preprocess: PreprocessSource,
        mut notes: Vec<String>,
    ) -> Result<Self> {
        let mut locations = HashMap::new();
        for (name, shape) in tensor_names(&config) {
            let mut location = locate(layout, &name, &shape);
            if shape.is_empty() && file.shape(&location.name) == Some(&[1]) {
                location.shape = vec![1];
            }
            file.expect(&location.name, &location.shape)?;
            locations.insert(name, (shape, location));
        }
        let used: HashSet<&str> = locations.values().map(|(_, location)| location.name.as_str()).collect();
        let extra: Vec<&str> = file.names().filter(|name| !used.contains(name) && !is_buffer(name)).collect();
        if let Some(part) = extra.iter().find(|name| is_inside(layout, name)) {
            let (expected, found) = ("no such tensor in a model of this configuration", "one");
            return Err(Error::tensor(file.path(), *part, expected, found));
        }
        if let Some(first) = extra.first() {
            notes
                .push(format!("{} tensors belong to no CLIP pair and are left out, `{first}` among them", extra.len()));
        }
        Ok(ClipCheckpoint {
            config,
            preprocess,
            tokenizer_dir: None,
            label: file.path().display().to_string(),
            notes,
            path: file.path().to_path_buf(),
            weights: Weights::File { file, layout, locations },
        })
    }

    /// Reads a tensor by its canonical name (see [`tensor_names`]), whatever the layout on disk. `shape` is the shape
    /// that the caller will index with.
    ///
    /// # Errors
    /// [`Error::Tensor`] if the model has no such tensor, the shapes differ, or a value is not finite.
    pub fn read(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        let known = match &self.weights {
            Weights::File { locations, .. } => locations.get(name).map(|(shape, _)| shape),
            Weights::Random { shapes, .. } => shapes.get(name),
        };
        if known.map(Vec::as_slice) != Some(shape) {
            let found = known.map_or("no such tensor".into(), |shape| format!("{shape:?}"));
            return Err(Error::tensor(&self.path, name, format!("shape {shape:?}"), found));
        }
        match &self.weights {
            Weights::Random { seed, .. } => Ok(random::tensor(&self.config, *seed, name, shape)),
            Weights::File { file, locations, .. } => match locations.get(name) {
                Some((_, Location { name, part: Part::Whole, .. })) => file.read_f32(name),
                Some((_, Location { name, part: Part::Rows(rows), .. })) => file.read_f32_rows(name, rows.clone()),
                Some((_, Location { name, shape, part: Part::Transposed })) => {
                    let columns = shape.last().copied().unwrap_or(1);
                    Ok(transpose(&file.read_f32(name)?, columns))
                }
                None => Err(Error::tensor(&self.path, name, format!("shape {shape:?}"), "no such tensor")),
            },
        }
    }

    /// A short fingerprint of weights and configuration for the record of a result: 16 hexadecimal digits of a SHA-256
    /// over the configuration and [`TensorFile::hash`], which samples the data; of name and seed for random weights.
    pub fn hash(&self) -> String {
        let weights = match &self.weights {
            Weights::File { file, .. } => file.hash(),
            Weights::Random { seed, .. } => format!("{} {seed}", self.label),
        };
        let digest = Sha256::new().chain_update(format!("{:?}", self.config)).chain_update(weights).finalize();
        digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect()
    }

    /// What it is, as names and values for `vitscope inspect`.
    pub fn describe(&self) -> Vec<(String, String)> {
        let (vision, text) = (&self.config.vision, &self.config.text);
        let tower = |t: &super::Tower| {
            let (head, activation) = (t.head_size(), t.activation.name());
            format!(
                "width {}, {} layers, {} heads of {head}, MLP {}, {activation}, eps {}",
                t.width, t.layers, t.heads, t.mlp_width, t.eps
            )
        };
        let (layout, size) = match &self.weights {
            Weights::File { file, layout, .. } => (layout.name(), format!("{} bytes", file.size())),
            Weights::Random { .. } => ("random", "nothing on disk".into()),
        };
        let (image, patch, tokens) = (vision.image_size, vision.patch, vision.tokens());
        let mut rows = vec![
            ("kind", "CLIP checkpoint".into()),
            ("layout", layout.into()),
            ("parameters", parameters(&self.config).to_string()),
            ("size", size),
            ("image tower", tower(&vision.tower)),
            ("image", format!("{image} x {image}, patch {patch}, {tokens} tokens")),
            ("text tower", tower(&text.tower)),
            (
                "text",
                format!("{} tokens of a vocabulary of {}, pooled at {:?}", text.context, text.vocab, text.pooling),
            ),
            ("joint width", self.config.embed.to_string()),
            (
                "preprocessing",
                match &self.preprocess {
                    PreprocessSource::HfJson(_) => "preprocessor_config.json".into(),
                    PreprocessSource::OpenClipJson(_) => "open_clip_config.json".into(),
                    PreprocessSource::None => "not stated".into(),
                },
            ),
            ("tokenizer", if self.tokenizer_dir.is_some() { "its own".into() } else { "not included".into() }),
            ("hash", self.hash()),
        ];
        rows.extend(self.notes.iter().map(|note| ("note", note.clone())));
        rows.into_iter().map(|(key, value)| (key.to_string(), value)).collect()
    }
}

/// The layout that a file's names follow, if it is a CLIP pair.
pub(super) fn layout_of(file: &TensorFile) -> Option<Layout> {
    if file.contains("vision_model.embeddings.class_embedding") {
        Some(Layout::HuggingFace)
    } else if file.contains("visual.conv1.weight") && file.contains("visual.class_embedding") {
        let custom = file.contains("text.token_embedding.weight");
        Some(Layout::OpenClip { text_prefix: if custom { "text." } else { "" } })
    } else {
        None
    }
}

fn not_clip(file: &TensorFile) -> Error {
    let has = |part: &str| file.names().any(|name| name.starts_with(part));
    let reason = if has("visual.trunk.") {
        "a timm image tower (`visual.trunk`): not supported"
    } else if has("vision_model.head.") {
        "a SigLIP model (attention pooling): not supported"
    } else if has("visual.layer1.") {
        "a CLIP ResNet: only vision transformers are supported"
    } else {
        "not a CLIP pair: neither Hugging Face's nor OpenAI's names"
    };
    Error::file(file.path(), reason)
}

pub(super) fn weight_files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files: Vec<PathBuf> = WEIGHT_FILES.iter().map(|name| folder.join(name)).filter(|p| p.is_file()).collect();
    if files.is_empty() {
        let entries = std::fs::read_dir(folder).map_err(|e| Error::io(folder, e))?;
        let paths = entries.filter_map(|entry| entry.ok().map(|e| e.path()));
        files = paths.filter(|p| p.is_file() && p.extension().is_some_and(|e| e == "safetensors")).collect();
        files.sort();
    }
    Ok(files)
}

fn no_weights(folder: &Path) -> String {
    let pickles = ["pytorch_model.bin", "open_clip_pytorch_model.bin", "pytorch_model.bin.index.json"];
    match pickles.iter().find(|name| folder.join(name).exists()) {
        Some(pickle) => {
            format!("its weights are a pickle ({pickle}), which is never loaded: convert them to safetensors")
        }
        None => "no safetensors weights in this folder".into(),
    }
}

/// Tensors that some files carry and no model needs.
fn is_buffer(name: &str) -> bool {
    let last = name.rsplit('.').next().unwrap_or(name);
    matches!(last, "position_ids" | "attn_mask" | "input_resolution" | "context_length" | "vocab_size")
}

/// Whether a tensor is part of one of the towers: leaving it out would compute another model.
fn is_inside(layout: Layout, name: &str) -> bool {
    let towers: &[&str] = match layout {
        Layout::HuggingFace => &["vision_model.", "text_model.", "visual_projection.", "text_projection."],
        Layout::OpenClip { .. } => {
            &["visual.", "text.", "transformer.", "text_projection", "ln_final", "token_embedding"]
        }
    };
    name == "logit_bias" || towers.iter().any(|tower| name.starts_with(tower))
}

/// (rows, columns) to (columns, rows).
pub(super) fn transpose(values: &[f32], columns: usize) -> Vec<f32> {
    // Blocks of columns, so that a cache line of the input serves several rows of the output.
    const BLOCK: usize = 16;
    use rayon::prelude::*;
    if columns == 0 {
        return Vec::new();
    }
    let rows = values.len() / columns;
    let mut out = vec![0.0; rows * columns];
    out.par_chunks_mut((BLOCK * rows).max(1)).enumerate().for_each(|(block, part)| {
        for (r, row) in values.chunks_exact(columns).enumerate() {
            let from = row.iter().skip(block * BLOCK);
            part.iter_mut().skip(r).step_by(rows).zip(from).for_each(|(to, &value)| *to = value);
        }
    });
    out
}
