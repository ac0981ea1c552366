//! EleutherAI's sparsify: `cfg.json` and `sae.safetensors` in a folder named after the hookpoint. Keys and defaults as
//! in its `SparseCoderConfig`; the encoding as in `SparseCoder.encode`, which subtracts the decoder bias and applies
//! ReLU before the selection.

use super::super::json_fields::Fields;
use super::{InputNorm, Parts, SaeActivation, SaeWeights, hook};
use crate::error::Result;

pub(super) fn load(parts: &Parts<'_>) -> Result<SaeWeights> {
    let config = Fields::new(parts.config_path, "", Some(parts.config))?;
    for (key, why) in [
        ("transcode", "a transcoder predicts another place than it reads: only autoencoders can be spliced"),
        ("skip_connection", "skip connections are not supported"),
        ("embed_skip", "it needs the embedding layer's activations"),
        ("gram_lookup", "it needs a table of n-grams"),
        ("signed", "it selects by absolute value, which is not supported"),
    ] {
        if config.flag(key)? == Some(true) {
            return Err(config.wrong(key, format!("is true: {why}")));
        }
    }
    let Some(width) = config.size("d_in")? else { return Err(config.wrong("d_in", "is missing")) };
    let Some(k) = config.size("k")? else { return Err(config.wrong("k", "is missing, and is not guessed")) };
    let latents = match config.size("num_latents")?.unwrap_or(0) {
        0 => width.saturating_mul(config.size("expansion_factor")?.unwrap_or(32)),
        given => given,
    };
    let activation = match config.text("activation")?.unwrap_or("topk") {
        "topk" => SaeActivation::TopK { k, relu: true },
        "groupmax" => SaeActivation::GroupMax { k },
        other => return Err(config.wrong("activation", format!("`{other}` is not supported"))),
    };
    parts.only(&["encoder.weight", "encoder.bias", "W_dec", "b_dec"])?;
    for (name, shape) in [("encoder.weight", [latents, width]), ("W_dec", [latents, width])] {
        parts.file.expect(name, &shape)?;
    }
    let mut notes = Vec::new();
    if config.flag("multi_topk")? == Some(true) {
        notes.push("multi_topk is part of the training loss only: encoded with k".into());
    }
    // A folder's name is a hookpoint only if it mentions a block.
    let hookpoint = config.text("hookpoint")?.or(parts.folder_name.filter(|name| hook::block_index(name).is_some()));
    let decoder_bias = parts.read("b_dec", &[width])?;
    Ok(SaeWeights {
        width,
        latents,
        encoder: parts.read("encoder.weight", &[latents, width])?,
        encoder_bias: parts.read("encoder.bias", &[latents])?,
        decoder: parts.read("W_dec", &[latents, width])?,
        input_bias: Some(decoder_bias.clone()),
        decoder_bias,
        activation,
        rescale_by_decoder_norm: false,
        norm: InputNorm::None,
        hook: hookpoint.map(|name| hook::named(name, &[config])).transpose()?,
        format: "sparsify",
        notes,
        path: parts.path.to_path_buf(),
    })
}
