//! open_clip's `open_clip_config.json`, and what the shapes of an OpenAI-named file tell where there is none.

use super::config::{Activation, ClipConfig, Pooling, TextConfig, Tower, VisionConfig};
use super::json_fields::Fields;
use super::random::{PRESETS, preset};
use super::safetensors_file::TensorFile;
use crate::error::{Error, Result};
use serde_json::Value;
use std::path::Path;

/// Parses and checks a configuration; `path` names it in messages. Defaults are those of open_clip's `CLIPVisionCfg`
/// and `CLIPTextCfg`.
pub(super) fn parse(path: &Path, config: &Value) -> Result<ClipConfig> {
    let top = Fields::new(path, "", Some(config))?;
    let Some(model) = top.get("model_cfg") else { return Err(top.wrong("model_cfg", "is missing")) };
    let model = Fields::new(path, "model_cfg", Some(model))?;
    let vision = model.section("vision_cfg")?;
    let text = model.section("text_cfg")?;
    // Whatever is set and not known here would change the computation: it is refused, not ignored.
    known(
        model,
        &["embed_dim", "vision_cfg", "text_cfg", "quick_gelu", "custom_text", "cast_dtype", "init_logit_scale"],
    )?;
    known(
        vision,
        &[
            "image_size",
            "layers",
            "width",
            "head_width",
            "patch_size",
            "mlp_ratio",
            "pool_type",
            "pos_embed_type",
            "patch_dropout",
            "output_tokens",
            "act_kwargs",
            "norm_kwargs",
            "attn_pooler_heads",
            "attn_pooler_queries",
            "n_queries",
        ],
    )?;
    known(
        text,
        &[
            "context_length",
            "vocab_size",
            "width",
            "heads",
            "layers",
            "mlp_ratio",
            "pool_type",
            "eos_id",
            "bos_id",
            "pad_id",
            "proj_type",
            "output_tokens",
            "act_kwargs",
            "norm_kwargs",
            "hf_model_pretrained",
            "hf_proj_type",
            "hf_pooler_type",
            "hf_tokenizer_name",
            "tokenizer_kwargs",
            "tokenizer_mode",
        ],
    )?;
    only(vision, "pool_type", "tok")?;
    only(vision, "pos_embed_type", "learnable")?;
    only(text, "proj_type", "linear")?;
    let pooling = match text.text("pool_type")?.unwrap_or("argmax") {
        "argmax" => Pooling::ArgMax,
        "eos" => {
            let id = text.size("eos_id")?.unwrap_or(2);
            Pooling::FirstEos(u32::try_from(id).map_err(|_| text.wrong("eos_id", "is not a token id"))?)
        }
        other => return Err(text.wrong("pool_type", format!("`{other}` is not supported"))),
    };
    let Some(embed) = model.size("embed_dim")? else { return Err(model.wrong("embed_dim", "is missing")) };
    let quick = model.flag("quick_gelu")?.unwrap_or(false);
    let vision_width = vision.size("width")?.unwrap_or(768);
    let head_width = vision.size("head_width")?.unwrap_or(64);
    if head_width == 0 || !vision_width.is_multiple_of(head_width) {
        return Err(vision.wrong("head_width", format!("{head_width} does not divide width {vision_width}")));
    }
    let parsed = ClipConfig {
        vision: VisionConfig {
            tower: tower(vision, quick, vision_width, vision_width / head_width)?,
            image_size: vision.square("image_size")?.unwrap_or(224),
            patch: vision.square("patch_size")?.unwrap_or(16),
        },
        text: TextConfig {
            tower: tower(text, quick, text.size("width")?.unwrap_or(512), text.size("heads")?.unwrap_or(8))?,
            vocab: text.size("vocab_size")?.unwrap_or(49408),
            context: text.size("context_length")?.unwrap_or(77),
            pooling,
        },
        embed,
    };
    parsed.validate(path)?;
    Ok(parsed)
}

fn tower(section: Fields<'_>, quick: bool, width: usize, heads: usize) -> Result<Tower> {
    let act = section.section("act_kwargs")?;
    known(act, &["approximate"])?;
    let activation = match (quick, act.text("approximate")?.unwrap_or("none")) {
        (true, "none") => Activation::QuickGelu,
        (false, "none") => Activation::Gelu,
        (false, "tanh") => Activation::GeluTanh,
        (_, other) => return Err(act.wrong("approximate", format!("`{other}` is not supported here"))),
    };
    let norm = section.section("norm_kwargs")?;
    known(norm, &["eps"])?;
    let ratio = section.number("mlp_ratio")?.unwrap_or(4.0);
    // open_clip truncates: 1408 * 4.3637 = 6144.09 gives 6144. Out of range becomes 0 and is refused as such.
    let mlp_width = (width as f64 * ratio).clamp(0.0, 1e9) as usize;
    let layers = section.size("layers")?.unwrap_or(12);
    Ok(Tower { width, layers, heads, mlp_width, activation, eps: norm.number("eps")?.unwrap_or(1e-5) })
}

fn known(section: Fields<'_>, keys: &[&str]) -> Result<()> {
    match section.set_keys().find(|key| !keys.contains(key)) {
        Some(key) => Err(section.wrong(key, "is set, and the model that it describes is not supported")),
        None => Ok(()),
    }
}

fn only(section: Fields<'_>, key: &str, value: &str) -> Result<()> {
    match section.text(key)? {
        Some(other) if other != value => Err(section.wrong(key, format!("`{other}` is not supported, only `{value}`"))),
        _ => Ok(()),
    }
}

/// Reads the sizes off the shapes of an OpenAI-named file. What shapes cannot tell is assumed, and said in the notes.
pub(super) fn infer(file: &TensorFile, text_prefix: &str) -> Result<(ClipConfig, Vec<String>)> {
    let path = file.path();
    let dims = |name: &str| {
        file.shape(name).ok_or_else(|| Error::tensor(path, name, "a tensor to read the model's sizes from", "none"))
    };
    let side = |name: &str, dim: usize, rank: usize| -> Result<usize> {
        let shape = dims(name)?;
        match shape.get(dim) {
            Some(&size) if shape.len() == rank && size > 0 => Ok(size),
            _ => Err(Error::tensor(path, name, format!("{rank} dimensions, none of them 0"), format!("{shape:?}"))),
        }
    };
    let text_name = |name: &str| format!("{text_prefix}{name}");
    let width = side("visual.conv1.weight", 0, 4)?;
    let patch = side("visual.conv1.weight", 3, 4)?;
    let tokens = side("visual.positional_embedding", 0, 2)?;
    let grid = (tokens - 1).isqrt();
    if grid == 0 || grid * grid + 1 != tokens {
        let expected = "one row for the class token and a square of patches";
        return Err(Error::tensor(path, "visual.positional_embedding", expected, format!("{tokens} rows")));
    }
    let text_width = side(&text_name("positional_embedding"), 1, 2)?;
    let blocks = |prefix: &str| {
        let index = |name: &str| name.strip_prefix(prefix)?.split('.').next()?.parse::<usize>().ok();
        file.names().filter_map(index).max().map_or(0, |last| last.saturating_add(1))
    };
    let layers = blocks("visual.transformer.resblocks.");
    let known = PRESETS
        .iter()
        .filter_map(|name| preset(name))
        .find(|p| p.vision.tower.width == width && p.vision.tower.layers == layers && p.text.tower.width == text_width);
    let (heads, text_heads) = match &known {
        Some(p) => (p.vision.tower.heads, p.text.tower.heads),
        None if width % 64 == 0 && text_width % 64 == 0 => (width / 64, text_width / 64),
        None => {
            let reason =
                format!("widths {width} and {text_width} do not tell the number of heads: add open_clip_config.json");
            return Err(Error::file(path, reason));
        }
    };
    let activation = Activation::QuickGelu;
    let tower = |width, layers, heads, mlp_width| Tower { width, layers, heads, mlp_width, activation, eps: 1e-5 };
    let text_blocks = text_name("transformer.resblocks.");
    let config = ClipConfig {
        vision: VisionConfig {
            tower: tower(width, layers, heads, side("visual.transformer.resblocks.0.mlp.c_fc.weight", 0, 2)?),
            image_size: grid * patch,
            patch,
        },
        text: TextConfig {
            tower: tower(
                text_width,
                blocks(&text_blocks),
                text_heads,
                side(&format!("{text_blocks}0.mlp.c_fc.weight"), 0, 2)?,
            ),
            vocab: side(&text_name("token_embedding.weight"), 0, 2)?,
            context: side(&text_name("positional_embedding"), 0, 2)?,
            pooling: Pooling::ArgMax,
        },
        embed: side("visual.proj", 1, 2)?,
    };
    config.validate(path)?;
    let how = if known.is_some() { "as in the published model of these widths" } else { "64 wide each" };
    let notes = vec![
        "no open_clip_config.json: quick_gelu is assumed, as in OpenAI's checkpoints; most LAION and DataComp ones use gelu".into(),
        format!("no open_clip_config.json: {heads} image heads and {text_heads} text heads are assumed, {how}"),
    ];
    Ok((config, notes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn parsed(config: Value) -> Result<ClipConfig> {
        parse(Path::new("open_clip_config.json"), &config)
    }

    #[test]
    fn big_g_has_its_odd_head_and_mlp_sizes() {
        let config = parsed(json!({"model_cfg": {
            "embed_dim": 1280,
            "vision_cfg": {"image_size": 224, "layers": 48, "width": 1664, "head_width": 104, "mlp_ratio": 4.9231, "patch_size": 14},
            "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 1280, "heads": 20, "layers": 32}
        }, "preprocess_cfg": {"mean": [0.5, 0.5, 0.5]}}))
        .unwrap();
        assert_eq!(config, preset("ViT-bigG-14").unwrap());
    }

    #[test]
    fn quick_gelu_and_tanh_are_read() {
        let quick = parsed(json!({"model_cfg": {"embed_dim": 512, "quick_gelu": true,
            "vision_cfg": {"patch_size": 32}, "text_cfg": {}}}))
        .unwrap();
        assert_eq!(quick, preset("ViT-B-32").unwrap());
        let tanh =
            parsed(json!({"model_cfg": {"embed_dim": 512, "vision_cfg": {"act_kwargs": {"approximate": "tanh"}},
            "text_cfg": {"norm_kwargs": {"eps": 1e-6}, "pool_type": "eos", "eos_id": 7}}}))
            .unwrap();
        assert_eq!(tanh.vision.tower.activation, Activation::GeluTanh);
        assert_eq!((tanh.text.tower.eps, tanh.text.pooling), (1e-6, Pooling::FirstEos(7)));
    }

    #[test]
    fn other_towers_are_refused_by_key() {
        for (model, part) in [
            (json!({"vision_cfg": {"timm_model_name": "vit_base_patch16_siglip_224"}}), "timm_model_name"),
            (json!({"vision_cfg": {"layers": [3, 4, 6, 3]}}), "layers"),
            (json!({"vision_cfg": {"attentional_pool": true}}), "attentional_pool"),
            (json!({"vision_cfg": {"pool_type": "avg"}}), "pool_type"),
            (json!({"vision_cfg": {"head_width": 60}}), "head_width"),
            (json!({"vision_cfg": {"mlp_ratio": -1}}), "MLP width is 0"),
            (json!({"text_cfg": {"hf_model_name": "roberta-base"}}), "hf_model_name"),
            (json!({"text_cfg": {"no_causal_mask": true}}), "no_causal_mask"),
            (json!({"init_logit_bias": -10}), "init_logit_bias"),
            (json!({"multimodal_cfg": {"width": 512}}), "multimodal_cfg"),
        ] {
            let mut model = model;
            model["embed_dim"] = json!(512);
            let message = parsed(json!({ "model_cfg": model })).unwrap_err().to_string();
            assert!(message.contains(part), "{part}: {message}");
        }
    }
}
