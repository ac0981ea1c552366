//! Hugging Face's `config.json` of a CLIP pair. Keys that equal the class defaults are often left out of the file, so
//! the defaults of transformers' `CLIPConfig`, `CLIPTextConfig` and `CLIPVisionConfig` stand here.

use super::config::{Activation, ClipConfig, Pooling, TextConfig, Tower, VisionConfig};
use super::json_fields::Fields;
use crate::error::Result;
use serde_json::Value;
use std::path::Path;

/// Parses and checks a configuration; `path` names it in messages.
pub(super) fn parse(path: &Path, config: &Value) -> Result<ClipConfig> {
    let top = Fields::new(path, "", Some(config))?;
    if let Some(kind) = top.text("model_type")?.filter(|kind| *kind != "clip") {
        return Err(top.wrong("model_type", format!("`{kind}` is not supported: only CLIP pairs (`clip`) are")));
    }
    let (text, vision) =
        (half(top, "text_config", "text_config_dict")?, half(top, "vision_config", "vision_config_dict")?);
    if let Some(channels) = vision.size("num_channels")?.filter(|n| *n != 3) {
        return Err(vision.wrong("num_channels", format!("is {channels}: only 3 are supported")));
    }
    // transformers compares with 2 because early files carried that wrong id; they pool at the largest one.
    let pooling = match text.size("eos_token_id")?.unwrap_or(49407) {
        2 => Pooling::ArgMax,
        id => Pooling::FirstEos(
            u32::try_from(id).map_err(|_| text.wrong("eos_token_id", format!("{id} is not a token id")))?,
        ),
    };
    let parsed = ClipConfig {
        vision: VisionConfig {
            tower: tower(vision, [768, 12, 12, 3072])?,
            image_size: vision.square("image_size")?.unwrap_or(224),
            patch: vision.square("patch_size")?.unwrap_or(32),
        },
        text: TextConfig {
            tower: tower(text, [512, 12, 8, 2048])?,
            vocab: text.size("vocab_size")?.unwrap_or(49408),
            context: text.size("max_position_embeddings")?.unwrap_or(77),
            pooling,
        },
        embed: top.size("projection_dim")?.unwrap_or(512),
    };
    parsed.validate(path)?;
    Ok(parsed)
}

/// One half's section. The legacy section, where present, replaces the other one whole, its gaps filled by defaults.
fn half<'a>(top: Fields<'a>, key: &'a str, legacy: &'a str) -> Result<Fields<'a>> {
    top.section(if top.get(legacy).is_some() { legacy } else { key })
}

fn tower(section: Fields<'_>, [width, layers, heads, mlp_width]: [usize; 4]) -> Result<Tower> {
    if section.flag("attention_bias")? == Some(false) {
        return Err(section.wrong("attention_bias", "is false: attention without biases is not supported"));
    }
    let activation = match section.text("hidden_act")?.unwrap_or("quick_gelu") {
        "quick_gelu" => Activation::QuickGelu,
        "gelu" | "gelu_python" => Activation::Gelu,
        "gelu_pytorch_tanh" | "gelu_new" | "gelu_fast" | "gelu_accurate" => Activation::GeluTanh,
        other => return Err(section.wrong("hidden_act", format!("`{other}` is not supported"))),
    };
    Ok(Tower {
        width: section.size("hidden_size")?.unwrap_or(width),
        layers: section.size("num_hidden_layers")?.unwrap_or(layers),
        heads: section.size("num_attention_heads")?.unwrap_or(heads),
        mlp_width: section.size("intermediate_size")?.unwrap_or(mlp_width),
        activation,
        eps: section.number("layer_norm_eps")?.unwrap_or(1e-5),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn parsed(config: Value) -> Result<ClipConfig> {
        parse(Path::new("config.json"), &config)
    }

    #[test]
    fn an_empty_file_is_vit_b_32() {
        let config = parsed(json!({})).unwrap();
        assert_eq!(
            config,
            super::super::random::preset("ViT-B-32")
                .map(|c| ClipConfig { text: TextConfig { pooling: Pooling::FirstEos(49407), ..c.text }, ..c })
                .unwrap()
        );
    }

    #[test]
    fn given_keys_win_and_gaps_are_filled() {
        let config = parsed(json!({
            "model_type": "clip", "projection_dim": 768,
            "text_config": {"hidden_size": 768, "num_attention_heads": 12, "intermediate_size": 3072, "eos_token_id": 2},
            "vision_config": {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16,
                "intermediate_size": 4096, "patch_size": [14, 14], "hidden_act": "gelu", "layer_norm_eps": 1e-6},
        }))
        .unwrap();
        assert_eq!((config.vision.patch, config.vision.tokens(), config.embed), (14, 257, 768));
        assert_eq!((config.vision.tower.activation, config.vision.tower.eps), (Activation::Gelu, 1e-6));
        assert_eq!((config.text.tower.activation, config.text.tower.layers), (Activation::QuickGelu, 12));
        assert_eq!(config.text.pooling, Pooling::ArgMax);
    }

    #[test]
    fn the_legacy_section_replaces_the_other_whole() {
        let config = parsed(json!({
            "vision_config": {"hidden_size": 96, "patch_size": 8},
            "vision_config_dict": {"hidden_size": 48, "num_attention_heads": 3},
        }))
        .unwrap();
        assert_eq!((config.vision.tower.width, config.vision.patch), (48, 32));
    }

    #[test]
    fn unsupported_or_absurd_values_are_named() {
        for (config, part) in [
            (json!({"model_type": "siglip"}), "siglip"),
            (json!({"vision_config": {"hidden_act": "swiglu"}}), "vision_config.hidden_act"),
            (json!({"vision_config": {"num_channels": 4}}), "num_channels"),
            (json!({"vision_config": {"hidden_size": 100}}), "multiple of its 12 heads"),
            (json!({"vision_config": {"hidden_size": 0}}), "width is 0"),
            (json!({"vision_config": {"patch_size": 0}}), "patch size is 0"),
            (json!({"vision_config": {"patch_size": 300}}), "larger than image size"),
            (json!({"vision_config": {"num_hidden_layers": 4_000_000_000u64}}), "vision layers"),
            (json!({"vision_config": {"attention_bias": false}}), "attention_bias"),
            (json!({"vision_config": {"image_size": [224, 196]}}), "image_size"),
            (json!({"vision_config": {"layer_norm_eps": "small"}}), "layer_norm_eps"),
            (json!({"text_config": {"eos_token_id": [1, 2]}}), "eos_token_id"),
            (json!({"text_config": 5}), "text_config"),
            (json!({"text_config": {"vocab_size": -3}}), "vocab_size"),
            (json!([]), "not an object"),
        ] {
            let message = parsed(config.clone()).unwrap_err().to_string();
            assert!(message.contains(part), "{config}: {message}");
        }
    }
}
