//! Compares the engine with a fixture: every named tensor that the fixture holds, within a multiple of PyTorch's own
//! error in the same type.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use half::{bf16, f16};
use serde::Deserialize;

use super::{Dtype, Engine, Explanation, Options, Question, Request, SaeRequest, pixels::is_direct};
use crate::{
    Error, Result,
    backend::Input,
    model::{NamedMethod, Tokens, pass::MapKey},
    numerics::{Difference, Tolerance, ratio},
    text::Template,
    weights::{SaeWeights, Source, TensorFile},
};

/// One compared tensor.
#[derive(Debug, Clone)]
pub struct Compared {
    /// Its name.
    pub name: String,
    /// Our difference from float64.
    pub ours: Difference,
    /// PyTorch's difference from float64 in the same type.
    pub torch: Difference,
    /// Our difference over what is allowed: at most 1.
    pub ratio: f64,
}

impl Compared {
    /// Whether it is inside its bound.
    pub fn ok(&self) -> bool {
        self.ratio <= 1.0
    }
}

/// What came of a fixture.
#[derive(Debug, Clone)]
pub struct Verified {
    /// Every tensor that it holds.
    pub tensors: Vec<Compared>,
    /// The GPU kernels that ran.
    pub kernels: Vec<String>,
}

/// The request that a fixture was made for, in its metadata.
#[derive(Debug, Deserialize)]
struct FixtureRequest {
    texts: Vec<String>,
    methods: Vec<String>,
    score: String,
    sae: Option<String>,
    layer: Option<isize>,
    tokens: Option<String>,
    #[serde(default)]
    edits: Vec<String>,
    splice: Option<String>,
    through: Option<String>,
}

/// PyTorch's error in one type.
#[derive(Debug, Deserialize)]
struct TorchError {
    max: f64,
    rms: f64,
}

/// What a fixture says about a tensor beside its values.
#[derive(Debug, Deserialize)]
struct TorchErrors {
    f32: TorchError,
    f16: TorchError,
    bf16: TorchError,
}

impl TorchErrors {
    /// PyTorch's error in this type, and what it allows us.
    fn bound(&self, dtype: Dtype, tensor: &str) -> (Difference, Tolerance) {
        // Forward and in f32 twice PyTorch's error, in reverse in 16 bits three times.
        let reverse = tensor.starts_with("d.") || tensor.starts_with("map.");
        let half = |step: f64| Tolerance { factor: if reverse { 3.0 } else { 2.0 }, step };
        let (error, scale, tolerance) = match dtype {
            Dtype::F32 => (&self.f32, 1.0, Tolerance { factor: 2.0, step: f64::from(f32::EPSILON) }),
            // PyTorch's rounding error is proportional to the unit of rounding: that of f64 is that of f32 times 2^-29.
            // In f64 the reference's own error counts as well: |ours - reference| <= 2 e + e.
            Dtype::F64 => (&self.f32, 2f64.powi(-29), Tolerance { factor: 3.0, step: f64::EPSILON }),
            Dtype::F16 => (&self.f16, 1.0, half(f16::EPSILON.to_f64())),
            Dtype::Bf16 => (&self.bf16, 1.0, half(bf16::EPSILON.to_f64())),
        };
        (Difference { max: error.max * scale, rms: error.rms * scale }, tolerance)
    }
}

/// A fixture file.
struct Fixture {
    file: TensorFile,
    model: PathBuf,
    request: FixtureRequest,
    errors: BTreeMap<String, TorchErrors>,
}

impl Fixture {
    fn open(path: &Path) -> Result<Self> {
        let file = TensorFile::open(path)?;
        let field = |name: &str| {
            file.metadata().get(name).ok_or_else(|| Error::file(path, format!("no `{name}` in its metadata")))
        };
        if field("vitscope_fixture")? != "1" {
            return Err(Error::file(path, "a fixture of another version"));
        }
        let json = |name: &str, e: serde_json::Error| Error::file(path, format!("`{name}` in its metadata: {e}"));
        let request = serde_json::from_str(field("request")?).map_err(|e| json("request", e))?;
        let errors = serde_json::from_str(field("errors")?).map_err(|e| json("errors", e))?;
        let model = beside(path, field("model")?);
        Ok(Fixture { file, model, request, errors })
    }

    fn values(&self, name: &str) -> Result<Vec<f64>> {
        self.file.read_f64(name)
    }

    fn shape(&self, name: &str) -> Result<Vec<usize>> {
        self.file
            .shape(name)
            .map(<[usize]>::to_vec)
            .ok_or_else(|| Error::tensor(self.file.path(), name, "a tensor", "nothing"))
    }
}

/// A path in a fixture is relative to the fixture, unless that leads nowhere (a Hugging Face id).
fn beside(fixture: &Path, name: &str) -> PathBuf {
    let path = fixture.parent().unwrap_or(Path::new(".")).join(name);
    if path.exists() { path } else { PathBuf::from(name) }
}

/// Runs a fixture's request and compares every tensor that it holds.
///
/// # Errors
/// [`Error::File`] for a damaged fixture, and those of opening its model and SAE.
pub fn verify(path: &Path, options: &Options) -> Result<Verified> {
    let fixture = Fixture::open(path)?;
    let mut engine = Engine::open(&Source::parse(&fixture.model.to_string_lossy())?, options)?;
    let request = request(&fixture, path)?;
    let mut ours = BTreeMap::new();
    let embeddings = if request.texts.is_empty() || fixture.file.shape("text_ids").is_none() {
        Vec::new()
    } else {
        let context = fixture.shape("text_ids")?.get(1).copied().unwrap_or(1);
        let ids = fixture.file.read_i64("text_ids")?;
        let ids: Vec<Vec<u32>> = ids.chunks(context).map(|row| row.iter().map(|&id| id as u32).collect()).collect();
        let embeddings = engine.embed_ids(&ids)?;
        let unit = Question::unit_rows(&embeddings, engine.checkpoint.config.embed);
        ours.insert("text_embed".to_owned(), embeddings);
        unit
    };
    let question = engine.ask_embedded(&request, embeddings)?;
    let pixels = fixture.values("pixels")?;
    let shape = fixture.shape("pixels")?;
    let [batch, _, height, width] = shape[..] else {
        return Err(Error::tensor(path, "pixels", "4 dimensions", format!("{shape:?}")));
    };
    let grid = engine.grid(width, height)?;

    let direct = question.methods.iter().filter(|(m, _)| is_direct(m.method)).map(|(_, key)| *key);
    let mut keys: std::collections::BTreeSet<MapKey> = direct.collect();
    keys.insert(MapKey::Pixels);
    let mut job = question.job(batch, grid, keys.into_iter().collect(), question.splice.is_some())?;
    job.watched = true;
    let output = engine.runner()?.run(&job, Input::Values(&pixels))?;
    let explanations = engine.finish(&output, &pixels, batch, grid, &question)?;
    tensors_of(&explanations, &question, &mut ours);
    let heads = engine.checkpoint.config.vision.tower.heads;
    for (name, values) in output.watched {
        let values = if name.ends_with(".lse") { transpose_lse(&values, batch, heads) } else { values };
        ours.entry(name).or_insert(values);
    }
    if let (Some(variant), Some(sae)) = (output.variants.last(), &request.sae)
        && let Some(latents) = &variant.latents
    {
        let dense = |values: &[f64]| dense(&latents.index, values, latents.slots, sae.weights.latents);
        ours.insert("sae.z".into(), dense(&latents.z));
        ours.insert("sae.z_edit".into(), dense(&latents.edited));
        if !latents.dz.is_empty() {
            ours.insert("d.sae.z".into(), dense(&latents.dz[..latents.z.len()]));
        }
    }
    Ok(Verified { tensors: compare(&fixture, &ours, engine.dtype)?, kernels: engine.kernels_used() })
}

fn request(fixture: &Fixture, path: &Path) -> Result<Request> {
    let r = &fixture.request;
    let sae = match &r.sae {
        None => None,
        Some(sae) => Some(SaeRequest {
            weights: SaeWeights::load(&beside(path, sae))?,
            layer: r.layer,
            tokens: r.tokens.as_deref().map_or(Ok(Tokens::All), str::parse)?,
            edits: r.edits.iter().map(|e| e.parse()).collect::<Result<_>>()?,
            splice: r.splice.as_deref().unwrap_or("replace").parse()?,
            through: r.through.as_deref().unwrap_or("exact").parse()?,
        }),
    };
    Ok(Request {
        texts: r.texts.clone(),
        template: Template::default(),
        score: r.score.parse()?,
        methods: r.methods.iter().map(|m| m.parse()).collect::<Result<Vec<NamedMethod>>>()?,
        sae,
        latents: false,
        seed: 0,
    })
}

/// Scores (B,Q) and maps (B,Q,cells) of the result.
fn tensors_of(explanations: &[Explanation], question: &Question, ours: &mut BTreeMap<String, Vec<f64>>) {
    let mut add = |name: String, values: &mut dyn Iterator<Item = f64>| {
        ours.entry(name).or_default().extend(values);
    };
    for explanation in explanations {
        let result = &explanation.result;
        add("score".into(), &mut result.scores.iter().copied());
        for map in &result.maps {
            let name = format!("map.{}", question.methods[map.method].0.given);
            add(name, &mut map.exact.iter().copied());
        }
    }
}

/// (B,T,H) to the fixtures' (B,H,T).
fn transpose_lse(values: &[f64], batch: usize, heads: usize) -> Vec<f64> {
    let tokens = values.len() / (batch * heads);
    let at = |b: usize, h: usize, t: usize| values[(b * tokens + t) * heads + h];
    (0..batch)
        .flat_map(|b| (0..heads).flat_map(move |h| (0..tokens).map(move |t| (b, h, t))))
        .map(|(b, h, t)| at(b, h, t))
        .collect()
}

/// A code's values (N,C) spread over all latents (N,S).
fn dense(index: &[u32], values: &[f64], slots: usize, latents: usize) -> Vec<f64> {
    let mut out = vec![0.0; index.len() / (slots + 1) * latents];
    for (row, index) in index.chunks(slots + 1).enumerate() {
        for (slot, &id) in index[1..=index[0] as usize].iter().enumerate() {
            out[row * latents + id as usize] = values[row * slots + slot];
        }
    }
    out
}

fn compare(fixture: &Fixture, ours: &BTreeMap<String, Vec<f64>>, dtype: Dtype) -> Result<Vec<Compared>> {
    let mut rows = Vec::new();
    for (name, errors) in &fixture.errors {
        let reference = fixture.values(name)?;
        let (torch, tolerance) = errors.bound(dtype, name);
        // A walk may have carried more targets than the first, which comes first.
        let values = ours.get(name).map_or(&[][..], |v| &v[..v.len().min(reference.len())]);
        let difference = Difference::of(values, &reference);
        let bound = tolerance.bound(torch, Difference::size(&reference));
        rows.push(Compared { name: name.clone(), ours: difference, torch, ratio: ratio(difference, bound) });
    }
    Ok(rows)
}
