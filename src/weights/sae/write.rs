//! Writers: a canonical SAE in the form of SAELens 6 or of sparsify. What a family has no word for is folded into the
//! weights where that is exact in real arithmetic, and refused where it is not.

use super::super::clip_checkpoint::transpose;
use super::super::safetensors_file::{Data, write};
use super::{Hook, InputNorm, SaeActivation, SaeWeights, TokenScopeHint};
use crate::error::{Error, Result};
use crate::files::write_file;
use half::f16;
use rayon::prelude::*;
use serde_json::{Map, Value, json};
use std::path::Path;

/// How the numbers of an SAE are stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Stored {
    /// In 32 bits, as they are.
    #[default]
    F32,
    /// In 16 bits, rounded: half the size.
    F16,
}

impl Stored {
    /// What torch calls it.
    fn name(self) -> &'static str {
        match self {
            Stored::F32 => "float32",
            Stored::F16 => "float16",
        }
    }
}

impl SaeWeights {
    /// Writes `cfg.json` and `sae_weights.safetensors` into `folder`, which is created: the form of SAELens 6.
    ///
    /// # Errors
    /// [`Error::Usage`] if SAELens has no such SAE (signed TopK, groups), or a number is too large for 16 bits;
    /// [`Error::Io`].
    pub fn save_sae_lens(&self, folder: &Path, stored: Stored) -> Result<()> {
        self.validate()?;
        let (architecture, k) = match &self.activation {
            SaeActivation::Relu => ("standard", None),
            SaeActivation::TopK { k, relu: true } => ("topk", Some(*k)),
            SaeActivation::Threshold { .. } | SaeActivation::JumpRelu { .. } => ("jumprelu", None),
            SaeActivation::Gated { .. } => ("gated", None),
            SaeActivation::TopK { relu: false, .. } => return Err(no_word("SAELens", "a signed TopK")),
            SaeActivation::GroupMax { .. } => return Err(no_word("SAELens", "one winner per group")),
        };
        let mut sae = self.clone();
        sae.fold_fixed_norm()?;
        if k.is_none() {
            sae.fold_decoder_norms()?;
        }
        let subtract = match &sae.input_bias {
            None => false,
            Some(p) if *p == sae.decoder_bias => true,
            Some(_) => {
                sae.move_input_bias(None)?;
                false
            }
        };
        let normalize = match sae.norm {
            InputNorm::None | InputNorm::Fixed { .. } => "none",
            // SAELens fixes the epsilon.
            InputNorm::LayerNorm { eps: 1e-5 } => "layer_norm",
            InputNorm::LayerNorm { .. } => {
                return Err(no_word("SAELens", "a layer norm with an epsilon other than 1e-5"));
            }
            InputNorm::UnitNorm => "constant_norm_rescale",
        };
        let (d, s) = (sae.width, sae.latents);
        // (D, S)
        let encoder = transpose(&sae.encoder, d);
        let mut tensors: Vec<(&str, &[usize], Data<'_>)> = Vec::new();
        let (encoder_shape, decoder_shape, rows, columns) = ([d, s], [s, d], [s], [d]);
        tensors.push(("W_enc", &encoder_shape, Data::F32(&encoder)));
        tensors.push(("W_dec", &decoder_shape, Data::F32(&sae.decoder)));
        tensors.push(("b_dec", &columns, Data::F32(&sae.decoder_bias)));
        let uniform;
        match &sae.activation {
            SaeActivation::Gated { gate_bias, mag_bias, r_mag } => {
                for (name, values) in [("b_gate", gate_bias), ("b_mag", mag_bias), ("r_mag", r_mag)] {
                    tensors.push((name, &rows, Data::F32(values)));
                }
            }
            other => {
                tensors.push(("b_enc", &rows, Data::F32(&sae.encoder_bias)));
                let theta = match other {
                    SaeActivation::JumpRelu { theta } => Some(theta),
                    SaeActivation::Threshold { theta } => {
                        uniform = vec![*theta; s];
                        Some(&uniform)
                    }
                    _ => None,
                };
                tensors.extend(theta.map(|theta| ("threshold", rows.as_slice(), Data::F32(theta))));
            }
        }
        let mut metadata = Map::new();
        metadata.insert("sae_lens_version".into(), json!("6.0.0"));
        if let Some(hook) = &sae.hook {
            metadata.insert("hook_name".into(), json!(hook.name));
            metadata.extend(scope(hook));
        }
        let mut config = Map::new();
        config.insert("architecture".into(), json!(architecture));
        config.insert("d_in".into(), json!(d));
        config.insert("d_sae".into(), json!(s));
        config.insert("dtype".into(), json!(stored.name()));
        config.insert("device".into(), json!("cpu"));
        config.insert("apply_b_dec_to_input".into(), json!(subtract));
        config.insert("normalize_activations".into(), json!(normalize));
        config.insert("reshape_activations".into(), json!("none"));
        if let Some(k) = k {
            config.insert("k".into(), json!(k));
            config.insert("rescale_acts_by_decoder_norm".into(), json!(sae.rescale_by_decoder_norm));
        }
        config.insert("metadata".into(), Value::Object(metadata));
        save(folder, "sae_weights.safetensors", &tensors, config, stored)
    }

    /// Writes `cfg.json` and `sae.safetensors` into `folder`, which is created: the form of sparsify. There the
    /// folder's name is the hookpoint; the configuration says it too.
    ///
    /// # Errors
    /// [`Error::Usage`] if sparsify has no such SAE (anything but TopK with ReLU and groups, per-token input norms), or
    /// a number is too large for 16 bits; [`Error::Io`].
    pub fn save_sparsify(&self, folder: &Path, stored: Stored) -> Result<()> {
        self.validate()?;
        let (activation, k) = match &self.activation {
            SaeActivation::TopK { k, relu: true } => ("topk", *k),
            SaeActivation::GroupMax { k } => ("groupmax", *k),
            _ => return Err(no_word("sparsify", "any activation but TopK with ReLU and one winner per group")),
        };
        if matches!(self.norm, InputNorm::LayerNorm { .. } | InputNorm::UnitNorm) {
            return Err(no_word("sparsify", "a norm of the input"));
        }
        let mut sae = self.clone();
        sae.fold_fixed_norm()?;
        sae.fold_decoder_norms()?;
        sae.move_input_bias(Some(sae.decoder_bias.clone()))?;
        let (matrix, rows, columns) = ([sae.latents, sae.width], [sae.latents], [sae.width]);
        let tensors: [(&str, &[usize], Data<'_>); 4] = [
            ("encoder.weight", &matrix, Data::F32(&sae.encoder)),
            ("encoder.bias", &rows, Data::F32(&sae.encoder_bias)),
            ("W_dec", &matrix, Data::F32(&sae.decoder)),
            ("b_dec", &columns, Data::F32(&sae.decoder_bias)),
        ];
        let mut config = Map::new();
        config.insert("activation".into(), json!(activation));
        config.insert("expansion_factor".into(), json!(sae.latents / sae.width));
        // An option of training: false keeps a reader from renormalising the rows.
        config.insert("normalize_decoder".into(), json!(false));
        config.insert("num_latents".into(), json!(sae.latents));
        config.insert("k".into(), json!(k));
        for key in ["multi_topk", "skip_connection", "transcode"] {
            config.insert(key.into(), json!(false));
        }
        config.insert("d_in".into(), json!(sae.width));
        if let Some(hook) = &sae.hook {
            config.insert("hookpoint".into(), json!(hook.name));
            config.extend(scope(hook));
        }
        save(folder, "sae.safetensors", &tensors, config, stored)
    }

    /// Brings `(x - mean) / scale` into the weights. With `W_e / s` and `p' = mean + s p` the encoder reads `x` itself;
    /// the decoder becomes `s W_d`, its bias `s b_d + mean`.
    fn fold_fixed_norm(&mut self) -> Result<()> {
        let InputNorm::Fixed { mean, scale } = &self.norm else { return Ok(()) };
        if self.rescale_by_decoder_norm {
            return Err(no_word("the other form", "a fixed input norm together with rescaling by the decoder's norms"));
        }
        let scale = *scale;
        let back = |values: &[f32]| -> Vec<f32> {
            let mean = mean.iter().flatten().copied().chain(std::iter::repeat(0.0));
            values.iter().zip(mean).map(|(v, mean)| scale * v + mean).collect()
        };
        let input_bias = match (&self.input_bias, mean) {
            (Some(p), _) => Some(back(p)),
            (None, Some(mean)) => Some(mean.clone()),
            (None, None) => None,
        };
        let decoder_bias = back(&self.decoder_bias);
        (self.input_bias, self.decoder_bias, self.norm) = (input_bias, decoder_bias, InputNorm::None);
        self.encoder.par_iter_mut().for_each(|v| *v /= scale);
        self.decoder.par_iter_mut().for_each(|v| *v *= scale);
        Ok(())
    }

    /// Brings the rescaling by decoder norms into the weights: unit decoder rows, their norms in the encoder.
    fn fold_decoder_norms(&mut self) -> Result<()> {
        if !self.rescale_by_decoder_norm {
            return Ok(());
        }
        let norms = self.decoder_norms();
        if let Some(dead) = norms.iter().position(|n| *n == 0.0) {
            return Err(no_word("the other form", &format!("a rescaled latent without a direction (latent {dead})")));
        }
        let d = self.width.max(1);
        for (row, norm) in self.encoder.chunks_exact_mut(d).zip(&norms) {
            row.iter_mut().for_each(|v| *v *= norm);
        }
        for (row, norm) in self.decoder.chunks_exact_mut(d).zip(&norms) {
            row.iter_mut().for_each(|v| *v /= norm);
        }
        self.encoder_bias.iter_mut().zip(&norms).for_each(|(b, norm)| *b *= norm);
        self.rescale_by_decoder_norm = false;
        Ok(())
    }

    /// Replaces `p` by `target`: `W_e (u - p) = W_e (u - p') + W_e (p' - p)`, the last term goes into the biases.
    fn move_input_bias(&mut self, target: Option<Vec<f32>>) -> Result<()> {
        if self.input_bias == target {
            return Ok(());
        }
        let zeros = vec![0.0; self.width];
        let (from, to) = (self.input_bias.as_ref().unwrap_or(&zeros), target.as_ref().unwrap_or(&zeros));
        let step: Vec<f64> = to.iter().zip(from).map(|(to, from)| f64::from(*to) - f64::from(*from)).collect();
        let dot = |row: &[f32]| row.iter().zip(&step).map(|(w, d)| f64::from(*w) * d).sum::<f64>();
        let terms: Vec<f64> = self.encoder.par_chunks_exact(self.width.max(1)).map(dot).collect();
        let add = |biases: &mut Vec<f32>, scale: &dyn Fn(usize) -> f64| {
            for (i, (bias, term)) in biases.iter_mut().zip(&terms).enumerate() {
                *bias = (f64::from(*bias) + scale(i) * term) as f32;
            }
        };
        match &mut self.activation {
            SaeActivation::Gated { gate_bias, mag_bias, r_mag } => {
                add(gate_bias, &|_| 1.0);
                add(mag_bias, &|i| r_mag.get(i).map_or(1.0, |r| f64::from(*r).exp()));
            }
            _ => add(&mut self.encoder_bias, &|_| 1.0),
        }
        self.input_bias = target;
        Ok(())
    }
}

/// The token scope in ViT-Prisma's keys.
fn scope(hook: &Hook) -> Vec<(String, Value)> {
    let flags = |cls: bool, patches: bool| {
        vec![("cls_token_only".to_string(), json!(cls)), ("use_patches_only".to_string(), json!(patches))]
    };
    match hook.tokens {
        None => Vec::new(),
        Some(TokenScopeHint::All) => flags(false, false),
        Some(TokenScopeHint::Cls) => flags(true, false),
        Some(TokenScopeHint::Patches) => flags(false, true),
    }
}

fn no_word(family: &str, what: &str) -> Error {
    Error::usage(format!("this SAE cannot be written for {family}: it has no word for {what}"))
}

/// The weights first: a folder with a configuration is complete.
fn save(
    folder: &Path,
    weights: &str,
    tensors: &[(&str, &[usize], Data<'_>)],
    config: Map<String, Value>,
    stored: Stored,
) -> Result<()> {
    std::fs::create_dir_all(folder).map_err(|e| Error::io(folder, e))?;
    let path = folder.join(weights);
    match stored {
        Stored::F32 => write(&path, tensors, &[("format", "pt")])?,
        Stored::F16 => {
            let halves = tensors.iter().map(|(name, _, data)| halves(name, *data)).collect::<Result<Vec<_>>>()?;
            let tensors: Vec<_> = tensors
                .iter()
                .zip(&halves)
                .map(|(&(name, shape, data), half)| (name, shape, half.as_deref().map_or(data, Data::F16)))
                .collect();
            write(&path, &tensors, &[("format", "pt")])?;
        }
    }
    let text = format!("{:#}\n", Value::Object(config));
    write_file(&folder.join("cfg.json"), text.as_bytes())
}

/// Floats rounded to 16 bits; nothing for other numbers.
fn halves(name: &str, data: Data<'_>) -> Result<Option<Vec<f16>>> {
    let Data::F32(values) = data else { return Ok(None) };
    let halves: Vec<f16> = values.iter().map(|&v| f16::from_f32(v)).collect();
    match values.iter().zip(&halves).find(|(v, half)| v.is_finite() && !half.is_finite()) {
        Some((v, _)) => Err(Error::usage(format!("{name}: {v} is too large for 16 bits"))),
        None => Ok(Some(halves)),
    }
}
