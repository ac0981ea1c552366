//! SAELens, from its first releases to version 6: `cfg.json` and `sae_weights.safetensors`. Keys and defaults as in its
//! `SAEConfig` classes and in its handling of configurations from before version 6.

use super::super::clip_checkpoint::transpose;
use super::super::json_fields::Fields;
use super::{Hook, InputNorm, Parts, SaeActivation, SaeWeights, hook};
use crate::error::Result;

/// The epsilon of SAELens's run-time layer norm.
const LAYER_NORM_EPS: f64 = 1e-5;

pub(super) fn load(parts: &Parts<'_>) -> Result<SaeWeights> {
    let config = Fields::new(parts.config_path, "", Some(parts.config))?;
    let metadata = config.section("metadata")?;
    let kind = Kind::of(config)?;
    let mut notes = Vec::new();
    refuse_unsupported(config, metadata)?;
    let Some(width) = config.size("d_in")? else { return Err(config.wrong("d_in", "is missing")) };
    // W_enc is (d_in, d_sae) in every release, so a missing d_sae can be read off it once d_in agrees.
    let latents = match config.size("d_sae")? {
        Some(latents) => latents,
        None => parts.file.shape("W_enc").and_then(|shape| shape.get(1)).copied().unwrap_or(0),
    };
    let (matrix, rows) = ([width, latents], [latents]);
    parts.file.expect("W_enc", &matrix)?;
    parts.file.expect("W_dec", &[latents, width])?;

    let mut known = vec!["W_enc", "W_dec", "b_dec"];
    known.extend(kind.tensors(parts));
    for name in ["scaling_factor", "finetuning_scaling_factor"] {
        if parts.file.contains(name) {
            if parts.read(name, &rows)?.iter().any(|v| *v != 1.0) {
                return parts
                    .refuse(format!("`{name}` is used: SAEs fine-tuned with a scaling factor are not supported"));
            }
            known.push(name);
        }
    }
    parts.only(&known)?;

    let decoder = parts.read("W_dec", &[latents, width])?;
    let decoder_bias = parts.read("b_dec", &[width])?;
    let activation = match &kind {
        Kind::Standard => SaeActivation::Relu,
        Kind::TopK { k } => SaeActivation::TopK { k: *k, relu: true },
        Kind::JumpRelu | Kind::BatchTopK if parts.file.contains("threshold") => {
            SaeActivation::JumpRelu { theta: parts.read("threshold", &rows)? }
        }
        Kind::JumpRelu => {
            SaeActivation::JumpRelu { theta: parts.read("log_threshold", &rows)?.into_iter().map(f32::exp).collect() }
        }
        Kind::BatchTopK => batch_threshold(parts, &mut notes)?,
        Kind::Gated => SaeActivation::Gated {
            gate_bias: parts.read("b_gate", &rows)?,
            mag_bias: parts.read("b_mag", &rows)?,
            r_mag: parts.read("r_mag", &rows)?,
        },
    };
    let encoder_bias = match kind {
        Kind::Gated => vec![0.0; latents],
        _ => parts.read("b_enc", &rows)?,
    };
    let rescale = match (&kind, &activation) {
        (Kind::TopK { .. }, _) => config.flag("rescale_acts_by_decoder_norm")?.unwrap_or(false),
        // A training checkpoint: releases differ in what they do when the key is absent.
        (Kind::BatchTopK, SaeActivation::Threshold { .. }) => match config.flag("rescale_acts_by_decoder_norm")? {
            Some(flag) => flag,
            None => {
                let key = "rescale_acts_by_decoder_norm";
                return Err(config.wrong(key, "is missing: releases of SAELens differ in its default for BatchTopK"));
            }
        },
        _ => false,
    };
    if let Some(model) = metadata.text("model_name")?.or(config.text("model_name")?) {
        notes.push(format!("trained on `{model}`"));
    }
    let subtract = config.flag("apply_b_dec_to_input")?.unwrap_or(true);
    Ok(SaeWeights {
        width,
        latents,
        encoder: transpose(&parts.read("W_enc", &matrix)?, latents),
        encoder_bias,
        decoder,
        input_bias: subtract.then(|| decoder_bias.clone()),
        decoder_bias,
        activation,
        rescale_by_decoder_norm: rescale,
        norm: norm(parts, config)?,
        hook: place(config, metadata)?,
        format: if is_v6(config, metadata)? { "SAELens 6" } else { "SAELens before 6" },
        notes,
        path: parts.path.to_path_buf(),
    })
}

/// The architectures that can be spliced.
enum Kind {
    Standard,
    TopK { k: usize },
    BatchTopK,
    JumpRelu,
    Gated,
}

impl Kind {
    /// Several keys of several releases tell the architecture. SAELens itself has loaded TopK SAEs as ReLU ones when
    /// they disagreed; here a disagreement is an error.
    fn of(config: Fields<'_>) -> Result<Kind> {
        let architecture = config.text("architecture")?.unwrap_or("standard");
        if ["batchtopk", "matryoshka_batchtopk"].contains(&architecture) {
            // Its k is an average over a batch, perhaps a fraction, and plays no part at inference.
            return Ok(Kind::BatchTopK);
        }
        let function = config.text("activation_fn_str")?.or(config.text("activation_fn")?);
        let kwargs = config.section("activation_fn_kwargs")?;
        let k = match (config.size("k")?, kwargs.size("k")?) {
            (Some(a), Some(b)) if a != b => {
                return Err(config.wrong("k", format!("is {a}, but activation_fn_kwargs.k {b}")));
            }
            (a, b) => a.or(b),
        };
        if let Some(other) = function.filter(|f| !["relu", "topk"].contains(f)) {
            return Err(config.wrong("activation_fn", format!("`{other}` is not supported")));
        }
        let no_k = || config.wrong("k", "is missing for a TopK SAE, and is not guessed");
        match (architecture, function, k) {
            ("topk", _, k) | ("standard", Some("topk"), k) => Ok(Kind::TopK { k: k.ok_or_else(no_k)? }),
            ("standard", _, None) => Ok(Kind::Standard),
            ("standard", _, Some(k)) => {
                Err(config
                    .wrong("architecture", format!("is `standard` (ReLU), but k = {k} says TopK: which one is it?")))
            }
            ("jumprelu" | "gated", Some("topk"), _) => {
                Err(config.wrong("activation_fn", format!("`topk` does not go with architecture `{architecture}`")))
            }
            ("jumprelu", _, _) => Ok(Kind::JumpRelu),
            ("gated", _, _) => Ok(Kind::Gated),
            (other, _, _) => Err(config.wrong("architecture", format!("`{other}` is not supported"))),
        }
    }

    /// The tensors beside `W_enc`, `W_dec` and `b_dec`.
    fn tensors(&self, parts: &Parts<'_>) -> &'static [&'static str] {
        let per_latent = parts.file.contains("threshold");
        match self {
            Kind::Standard | Kind::TopK { .. } => &["b_enc"],
            Kind::JumpRelu | Kind::BatchTopK if per_latent => &["b_enc", "threshold"],
            Kind::JumpRelu => &["b_enc", "log_threshold"],
            Kind::BatchTopK => &["b_enc", "topk_threshold"],
            Kind::Gated => &["b_gate", "b_mag", "r_mag"],
        }
    }
}

/// A BatchTopK training checkpoint holds one threshold, a running mean of the least kept activation.
fn batch_threshold(parts: &Parts<'_>, notes: &mut Vec<String>) -> Result<SaeActivation> {
    let values = parts.file.read_f64("topk_threshold")?;
    let [theta] = values.as_slice() else {
        return parts.refuse(format!("tensor `topk_threshold` holds {} values instead of one", values.len()));
    };
    if !theta.is_finite() {
        return parts.refuse(format!("tensor `topk_threshold` is {theta}"));
    }
    if *theta <= 0.0 {
        notes.push(format!("its BatchTopK threshold is {theta}, as if never trained: it acts as ReLU"));
    }
    Ok(SaeActivation::Threshold { theta: theta.max(0.0) as f32 })
}

fn refuse_unsupported(config: Fields<'_>, metadata: Fields<'_>) -> Result<()> {
    if config.flag("finetuning_scaling_factor")? == Some(true) {
        return Err(config.wrong("finetuning_scaling_factor", "is true, which is not supported"));
    }
    if let Some(other) = config.text("reshape_activations")?.filter(|r| *r != "none") {
        return Err(config
            .wrong("reshape_activations", format!("`{other}`: it reads attention heads, not the residual stream")));
    }
    for section in [config, metadata] {
        for key in ["hook_head_index", "hook_point_head_index"] {
            if section.get(key).is_some() {
                return Err(section.wrong(key, "is set: it reads one attention head, not the residual stream"));
            }
        }
        if section.get("hook_name_out").is_some() {
            return Err(section.wrong("hook_name_out", "is set: a transcoder, and only autoencoders can be spliced"));
        }
    }
    Ok(())
}

/// `normalize_activations`, which early releases wrote as a boolean, and the factor that some releases keep outside.
fn norm(parts: &Parts<'_>, config: Fields<'_>) -> Result<InputNorm> {
    let scaler = Fields::new(parts.config_path, "activation_scaler.json", parts.scaler)?;
    if scaler.flag("has_whitening")? == Some(true) {
        return Err(scaler.wrong("has_whitening", "is true: whitened inputs are not supported"));
    }
    let factor = scaler.number("scaling_factor")?.filter(|f| *f != 1.0);
    let mode = match config.get("normalize_activations") {
        Some(serde_json::Value::Bool(flag)) => {
            if *flag {
                "expected_average_only_in"
            } else {
                "none"
            }
        }
        _ => config.text("normalize_activations")?.unwrap_or("none"),
    };
    match (mode, factor) {
        ("expected_average_only_in", Some(f)) if f.is_finite() && f > 0.0 => {
            Ok(InputNorm::Fixed { mean: None, scale: (1.0 / f) as f32 })
        }
        ("expected_average_only_in", _) => Err(config.wrong(
            "normalize_activations",
            "is `expected_average_only_in`, but the factor is not in the files (activation_scaler.json): \
             fold it into the weights, or set `none` if that has been done",
        )),
        (_, Some(f)) => {
            let reason = format!("is `{mode}`, but activation_scaler.json says {f}: which one is it?");
            Err(config.wrong("normalize_activations", reason))
        }
        ("none", None) => Ok(InputNorm::None),
        ("layer_norm", None) => Ok(InputNorm::LayerNorm { eps: LAYER_NORM_EPS }),
        ("constant_norm_rescale", None) => Ok(InputNorm::UnitNorm),
        (other, None) => Err(config.wrong("normalize_activations", format!("`{other}` is not supported"))),
    }
}

/// The hook: `metadata.hook_name`, `hook_name` or `hook_point`, and the older releases' separate layer.
fn place(config: Fields<'_>, metadata: Fields<'_>) -> Result<Option<Hook>> {
    let name = match (metadata.text("hook_name")?, config.text("hook_name")?) {
        (Some(name), _) | (None, Some(name)) => Some(name),
        (None, None) => config.text("hook_point")?,
    };
    let layer = match (metadata.size("hook_layer")?, config.size("hook_layer")?) {
        (Some(layer), _) | (None, Some(layer)) => Some(layer),
        (None, None) => config.size("hook_point_layer")?,
    };
    let Some(name) = name else { return Ok(None) };
    // Some configurations write a pattern and give the layer apart.
    let name = match layer {
        Some(layer) => name.replace("{layer}", &layer.to_string()),
        None => name.to_string(),
    };
    if let (Some(named), Some(layer)) = (hook::block_index(&name), layer)
        && named != layer
    {
        return Err(config.wrong("hook_name", format!("`{name}` and layer {layer} are two different blocks")));
    }
    hook::named(&name, &[metadata, config]).map(Some)
}

fn is_v6(config: Fields<'_>, metadata: Fields<'_>) -> Result<bool> {
    let version = config.text("sae_lens_version")?.or(metadata.text("sae_lens_version")?).unwrap_or("0");
    let major = version.split('.').next().and_then(|major| major.parse::<u32>().ok());
    Ok(major.unwrap_or(0) >= 6)
}
