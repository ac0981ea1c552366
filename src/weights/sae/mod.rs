//! Sparse autoencoders: one canonical form, whatever the file's family.
//!
//! With `u` the normalised input, `p` the input bias, `r` the decoder row norms (or 1):
//!
//! ```text
//! h = (encoder (u - p) + encoder_bias) * r       (S)
//! z = activation(h)                              (S)
//! y = norm^-1( decoder^T (z / r) + decoder_bias )(D)
//! ```

mod hook;
mod sae_lens;
mod sparsify;
mod write;

pub use write::Stored;

use super::safetensors_file::{TensorFile, read_json};
use crate::error::{Error, Result};
use serde_json::Value;
use std::borrow::Cow;
use std::path::{Path, PathBuf};

/// A sparse autoencoder with `S` latents over a residual stream of width `D`.
#[derive(Clone, Debug, PartialEq)]
pub struct SaeWeights {
    /// Width of the stream that it reads and writes, `D`.
    pub width: usize,
    /// Number of latents, `S`.
    pub latents: usize,
    /// (S, D): one latent per row. Gated SAEs share it between gate and magnitude.
    pub encoder: Vec<f32>,
    /// (S): zeros for a gated SAE, which has its own two biases.
    pub encoder_bias: Vec<f32>,
    /// (S, D): one latent's direction per row.
    pub decoder: Vec<f32>,
    /// (D).
    pub decoder_bias: Vec<f32>,
    /// (D): `p`, subtracted before encoding.
    pub input_bias: Option<Vec<f32>>,
    /// From pre-activations to activations.
    pub activation: SaeActivation,
    /// Whether pre-activations are multiplied, and activations divided, by the norm of their decoder row.
    pub rescale_by_decoder_norm: bool,
    /// What happens to the input before, and is undone after.
    pub norm: InputNorm,
    /// Where it was trained, if the file says so.
    pub hook: Option<Hook>,
    /// The family that the file belongs to.
    pub format: &'static str,
    /// What was assumed or left out while loading.
    pub notes: Vec<String>,
    /// Where it came from.
    pub path: PathBuf,
}

/// From pre-activations `h` (S) to activations `z` (S).
#[derive(Clone, Debug, PartialEq)]
pub enum SaeActivation {
    /// `max(h, 0)`.
    Relu,
    /// The `k` largest, ties to the lower index; the others are 0.
    TopK {
        /// How many are kept.
        k: usize,
        /// Whether kept negative values become 0.
        relu: bool,
    },
    /// The latents form `k` contiguous groups; of each the largest is kept, after ReLU.
    GroupMax {
        /// How many groups; it divides `S`.
        k: usize,
    },
    /// `h [h > theta]`: a BatchTopK SAE at inference. `theta >= 0`.
    Threshold {
        /// The one threshold.
        theta: f32,
    },
    /// `relu(h) [h > theta]`.
    JumpRelu {
        /// (S).
        theta: Vec<f32>,
    },
    /// With `a = encoder (u - p)`: `relu(exp(r_mag) * a + mag_bias) [a + gate_bias > 0]`.
    Gated {
        /// (S).
        gate_bias: Vec<f32>,
        /// (S).
        mag_bias: Vec<f32>,
        /// (S).
        r_mag: Vec<f32>,
    },
}

/// What happens to an input token `x` (D) before encoding; it is undone after decoding.
#[derive(Clone, Debug, PartialEq)]
pub enum InputNorm {
    /// Nothing.
    None,
    /// `(x - mean) / scale`.
    Fixed {
        /// (D), zeros if absent.
        mean: Option<Vec<f32>>,
        /// A positive number.
        scale: f32,
    },
    /// `(x - mean(x)) / (std(x) + eps)` with the unbiased standard deviation; undone by `std(x) y + mean(x)`.
    LayerNorm {
        /// Added to the standard deviation.
        eps: f64,
    },
    /// `x sqrt(D) / |x|`.
    UnitNorm,
}

/// Where an SAE was trained, as its file says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hook {
    /// The 0-based block whose output it reads, if the name says a block's output.
    pub layer: Option<usize>,
    /// The name in the file.
    pub name: String,
    /// Which tokens it was trained on, if the file says so.
    pub tokens: Option<TokenScopeHint>,
}

/// Which tokens an SAE was trained on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenScopeHint {
    /// All tokens.
    All,
    /// The class token alone.
    Cls,
    /// The patches without the class token.
    Patches,
}

/// Where an SAE goes in a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fit {
    /// The 0-based block whose output is spliced.
    pub layer: usize,
    /// What the user should know: another place than the one it was trained at.
    pub warning: Option<String>,
}

impl SaeWeights {
    /// Loads an SAE: a folder of EleutherAI's sparsify (`cfg.json`, `sae.safetensors`; the folder's name is the
    /// hookpoint) or of SAELens (`cfg.json`, `sae_weights.safetensors`), or one safetensors file with its `cfg.json`
    /// beside it.
    ///
    /// # Errors
    /// [`Error::File`] if the family is unknown, an option is not supported, or configuration and tensors can be read
    /// in two ways; [`Error::Tensor`] for a missing tensor, or a wrong shape, type or value.
    pub fn load(path: &Path) -> Result<Self> {
        let (folder, weights) = locate(path)?;
        let config_path = folder.join("cfg.json");
        if !config_path.is_file() {
            return Err(Error::file(
                &weights,
                "cfg.json is missing beside it: an SAE's tensors alone do not say what it computes",
            ));
        }
        let config = read_json(&config_path)?;
        let scaler_path = folder.join("activation_scaler.json");
        let scaler = if scaler_path.is_file() { Some(read_json(&scaler_path)?) } else { None };
        let folder_name =
            folder.canonicalize().ok().and_then(|f| f.file_name().map(|n| n.to_string_lossy().into_owned()));
        Parts {
            path,
            config_path: &config_path,
            config: &config,
            scaler: scaler.as_ref(),
            folder_name: folder_name.as_deref(),
            file: &TensorFile::open(&weights)?,
        }
        .load()
    }

    /// An SAE that is already in memory, such as one embedded in the program: the content of its `cfg.json` and its
    /// safetensors file. `label` names it in messages.
    ///
    /// # Errors
    /// As [`SaeWeights::load`].
    pub fn from_bytes(label: &str, config: &Value, weights: impl Into<Cow<'static, [u8]>>) -> Result<Self> {
        let path = Path::new(label);
        let file = TensorFile::from_bytes(path, weights)?;
        Parts { path, config_path: path, config, scaler: None, folder_name: None, file: &file }.load()
    }

    /// Checks that all parts agree: lengths, `k`, thresholds and scales.
    ///
    /// # Errors
    /// [`Error::File`] naming the part.
    pub fn validate(&self) -> Result<()> {
        let (d, s) = (self.width, self.latents);
        let bad = |reason: String| Err(Error::file(&self.path, reason));
        if d == 0 || s == 0 {
            return bad(format!("an SAE of {s} latents over width {d}"));
        }
        let Some(matrix) = s.checked_mul(d) else { return bad(format!("{s} latents times width {d} overflows")) };
        let mut lengths = vec![
            ("encoder", self.encoder.len(), matrix),
            ("encoder bias", self.encoder_bias.len(), s),
            ("decoder", self.decoder.len(), matrix),
            ("decoder bias", self.decoder_bias.len(), d),
        ];
        lengths.extend(self.input_bias.iter().map(|p| ("input bias", p.len(), d)));
        match &self.activation {
            SaeActivation::Relu => {}
            SaeActivation::TopK { k, .. } if (1..=s).contains(k) => {}
            SaeActivation::GroupMax { k } if (1..=s).contains(k) && s.is_multiple_of(*k) => {}
            SaeActivation::TopK { k, .. } => return bad(format!("k is {k}, which is not in 1..={s}")),
            SaeActivation::GroupMax { k } => return bad(format!("{s} latents do not form {k} equal groups")),
            SaeActivation::Threshold { theta } if *theta >= 0.0 && theta.is_finite() => {}
            SaeActivation::Threshold { theta } => return bad(format!("threshold {theta} is not a number from 0")),
            SaeActivation::JumpRelu { theta } => lengths.push(("threshold", theta.len(), s)),
            SaeActivation::Gated { gate_bias, mag_bias, r_mag } => lengths.extend([
                ("gate bias", gate_bias.len(), s),
                ("magnitude bias", mag_bias.len(), s),
                ("r_mag", r_mag.len(), s),
            ]),
        }
        match &self.norm {
            InputNorm::Fixed { mean, scale } => {
                if !(scale.is_finite() && *scale > 0.0) {
                    return bad(format!("input scale {scale} is not a positive number"));
                }
                lengths.extend(mean.iter().map(|mean| ("input mean", mean.len(), d)));
            }
            InputNorm::LayerNorm { eps } if !(eps.is_finite() && *eps >= 0.0) => {
                return bad(format!("input layer norm's eps is {eps}"));
            }
            InputNorm::None | InputNorm::LayerNorm { .. } | InputNorm::UnitNorm => {}
        }
        if self.rescale_by_decoder_norm && matches!(self.activation, SaeActivation::Gated { .. }) {
            return bad("a gated SAE is not rescaled by its decoder's norms".into());
        }
        if matches!(self.norm, InputNorm::LayerNorm { .. }) && d < 2 {
            return bad("a layer norm over one value".into());
        }
        match lengths.iter().find(|(_, found, expected)| found != expected) {
            Some((what, found, expected)) => bad(format!("{what}: {found} values, expected {expected}")),
            None => Ok(()),
        }
    }

    /// Euclidean norm of every decoder row: (S).
    pub fn decoder_norms(&self) -> Vec<f32> {
        let norm = |row: &[f32]| row.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>().sqrt() as f32;
        self.decoder.chunks_exact(self.width.max(1)).map(norm).collect()
    }

    /// Decides where the SAE goes in a model of this width and number of blocks: at `asked` (0-based), or else where
    /// its file says.
    ///
    /// # Errors
    /// [`Error::Fit`] if width or layer do not fit; [`Error::Usage`] if neither the user nor the file names a layer.
    pub fn fit(&self, width: usize, blocks: usize, asked: Option<usize>) -> Result<Fit> {
        let unfit =
            |what, expected: String, found: String| Error::Fit { path: self.path.clone(), what, expected, found };
        if self.width != width {
            return Err(unfit("width", width.to_string(), self.width.to_string()));
        }
        let said = self.hook.as_ref().and_then(|hook| hook.layer);
        let warning = match (&self.hook, asked) {
            (Some(hook), Some(asked)) if hook.layer != Some(asked) => Some(format!(
                "{}: trained at `{}`, spliced at the output of block {asked}",
                self.path.display(),
                hook.name
            )),
            _ => None,
        };
        match (asked.or(said), &self.hook) {
            (Some(layer), _) if layer < blocks => Ok(Fit { layer, warning }),
            (Some(layer), _) => Err(unfit("layer", format!("a block in 0..{blocks}"), layer.to_string())),
            (None, Some(hook)) => Err(unfit("hook", "the output of a block".into(), hook.name.clone())),
            (None, None) => {
                Err(Error::usage(format!("{}: does not say where it was trained: give --layer", self.path.display())))
            }
        }
    }

    /// What it is, as names and values for `vitscope inspect`.
    pub fn describe(&self) -> Vec<(String, String)> {
        let norms = self.decoder_norms();
        let (least, most) = norms.iter().fold((f32::INFINITY, 0f32), |(a, b), &n| (a.min(n), b.max(n)));
        let mean = norms.iter().map(|&n| f64::from(n)).sum::<f64>() / norms.len().max(1) as f64;
        // A latent without encoder or decoder can never be seen; whether others are dead needs activations.
        let silent = |row: &[f32]| row.iter().all(|v| *v == 0.0);
        let rows = self.encoder.chunks_exact(self.width.max(1)).zip(self.decoder.chunks_exact(self.width.max(1)));
        let dead = rows.filter(|(encoder, decoder)| silent(encoder) || silent(decoder)).count();
        let activation = match &self.activation {
            SaeActivation::Relu => "ReLU".into(),
            SaeActivation::TopK { k, relu: true } => format!("top {k}, then ReLU"),
            SaeActivation::TopK { k, relu: false } => format!("top {k}, signed"),
            SaeActivation::GroupMax { k } => format!("largest of each of {k} groups, after ReLU"),
            SaeActivation::Threshold { theta } => format!("above {theta} (BatchTopK)"),
            SaeActivation::JumpRelu { theta } => {
                let (a, b) = theta.iter().fold((f32::INFINITY, f32::NEG_INFINITY), |(a, b), &t| (a.min(t), b.max(t)));
                format!("JumpReLU, thresholds {a} to {b}")
            }
            SaeActivation::Gated { .. } => "gated".into(),
        };
        let norm = match &self.norm {
            InputNorm::None => "none".into(),
            InputNorm::Fixed { mean, scale } => {
                format!("{}divided by {scale}", if mean.is_some() { "mean subtracted, " } else { "" })
            }
            InputNorm::LayerNorm { eps } => format!("layer norm per token, eps {eps}"),
            InputNorm::UnitNorm => "per token to norm sqrt(D)".into(),
        };
        let hook = match &self.hook {
            None => "not stated".into(),
            Some(Hook { layer, name, tokens }) => {
                let place = layer.map_or("not a block's output".into(), |l| format!("output of block {l}"));
                let tokens = tokens.map_or(String::new(), |t| format!(", trained on {t:?} tokens").to_lowercase());
                format!("{name} ({place}{tokens})")
            }
        };
        let input_bias = match &self.input_bias {
            None => "none",
            Some(p) if *p == self.decoder_bias => "the decoder bias",
            Some(_) => "its own",
        };
        let yes = |flag| if flag { "yes" } else { "no" };
        let mut rows = vec![
            ("kind", "sparse autoencoder".into()),
            ("family", self.format.to_string()),
            ("width", self.width.to_string()),
            ("latents", format!("{} (x{:.4})", self.latents, self.latents as f64 / self.width.max(1) as f64)),
            ("activation", activation),
            ("input norm", norm),
            ("subtracted from the input", input_bias.into()),
            ("rescaled by decoder norm", yes(self.rescale_by_decoder_norm).into()),
            ("hook", hook),
            ("decoder row norms", format!("{least:.4} to {most:.4}, mean {mean:.4}")),
            ("latents with a zero row", dead.to_string()),
        ];
        rows.extend(self.notes.iter().map(|note| ("note", note.clone())));
        rows.into_iter().map(|(key, value)| (key.to_string(), value)).collect()
    }
}

/// The folder of an SAE and its weight file.
fn locate(path: &Path) -> Result<(PathBuf, PathBuf)> {
    if path.is_file() {
        if path.extension().is_none_or(|e| e != "safetensors") {
            return Err(Error::file(
                path,
                "not a safetensors file; pickles (.pt, .pth, .pkl) are never loaded: convert it",
            ));
        }
        let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        return Ok((folder.to_path_buf(), path.to_path_buf()));
    }
    if !path.is_dir() {
        return Err(Error::file(path, "no such file or folder"));
    }
    let known = ["sae_weights.safetensors", "sae.safetensors"].map(|name| path.join(name));
    let present: Vec<PathBuf> = known.into_iter().filter(|p| p.is_file()).collect();
    match present.as_slice() {
        [one] => Ok((path.to_path_buf(), one.clone())),
        [] => {
            let entries = std::fs::read_dir(path).map_err(|e| Error::io(path, e))?;
            let mut inner: Vec<String> = entries
                .filter_map(|entry| entry.ok())
                .filter(|entry| entry.path().join("cfg.json").is_file())
                .map(|entry| entry.file_name().to_string_lossy().into_owned())
                .collect();
            inner.sort();
            let reason = if inner.is_empty() {
                "no SAE: neither sae_weights.safetensors (SAELens) nor sae.safetensors (sparsify) is in it".into()
            } else {
                format!("holds several SAEs, name one of its folders: {}", inner.join(", "))
            };
            Err(Error::file(path, reason))
        }
        _ => Err(Error::file(path, "holds both sae_weights.safetensors and sae.safetensors: name one of the files")),
    }
}

/// What a loader reads.
struct Parts<'a> {
    path: &'a Path,
    config_path: &'a Path,
    config: &'a Value,
    /// SAELens's `activation_scaler.json`.
    scaler: Option<&'a Value>,
    folder_name: Option<&'a str>,
    file: &'a TensorFile,
}

impl Parts<'_> {
    /// The tensors' names tell the family.
    fn load(self) -> Result<SaeWeights> {
        let file = self.file;
        let sae = match (file.contains("W_enc"), file.contains("encoder.weight")) {
            (true, false) => sae_lens::load(&self)?,
            (false, true) if file.contains("W_dec") => sparsify::load(&self)?,
            _ => {
                let names: Vec<&str> = file.names().take(8).collect();
                let reason = format!("neither a SAELens nor a sparsify SAE: its tensors are {}", names.join(", "));
                return Err(Error::file(file.path(), reason));
            }
        };
        sae.validate()?;
        Ok(sae)
    }

    /// Refuses tensors that the loader would leave out: they would change what is computed.
    fn only(&self, known: &[&str]) -> Result<()> {
        match self.file.names().find(|name| !known.contains(name)) {
            Some("W_skip" | "b_dec_out") => {
                Err(Error::file(self.file.path(), "a transcoder: only autoencoders can be spliced"))
            }
            Some(other) => {
                let expected = format!("one of {}", known.join(", "));
                Err(Error::tensor(self.file.path(), other, expected, "a tensor that this kind of SAE does not have"))
            }
            None => Ok(()),
        }
    }

    fn read(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        self.file.expect(name, shape)?;
        self.file.read_f32(name)
    }

    fn refuse<T>(&self, reason: impl Into<String>) -> Result<T> {
        Err(Error::file(self.config_path, reason))
    }
}
