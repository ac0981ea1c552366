//! Small checkpoints and SAEs, made in the test that needs them.
#![allow(dead_code, missing_docs)]

use serde_json::{Value, json};
use std::path::Path;
use vitscope::weights::{Data, write};

/// A named tensor: name, shape, values.
pub type Tensor = (String, Vec<usize>, Vec<f32>);

/// Repeatable values in -1..1 that depend on the name.
pub fn values(name: &str, count: usize) -> Vec<f32> {
    let mut state =
        name.bytes().fold(0xcbf2_9ce4_8422_2325u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3));
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

pub fn tensor(name: &str, shape: &[usize]) -> Tensor {
    (name.to_string(), shape.to_vec(), values(name, shape.iter().product()))
}

pub fn save(path: &Path, tensors: &[Tensor]) {
    let list: Vec<_> = tensors.iter().map(|(n, s, v)| (n.as_str(), s.as_slice(), Data::F32(v))).collect();
    write(path, &list, &[]).unwrap();
}

pub fn save_json(path: &Path, value: &Value) {
    std::fs::write(path, value.to_string()).unwrap();
}

/// The `config.json` of a CLIP pair with two different towers and a patch that does not divide the image.
pub fn hf_config() -> Value {
    json!({
        "model_type": "clip", "projection_dim": 24,
        "text_config": {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2,
            "vocab_size": 100, "max_position_embeddings": 16, "eos_token_id": 99},
        "vision_config": {"hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 3,
            "image_size": 30, "patch_size": 8, "hidden_act": "gelu"},
    })
}

/// The tensors that transformers saves for [`hf_config`].
pub fn hf_tensors() -> Vec<Tensor> {
    let mut list = vec![
        tensor("logit_scale", &[]),
        tensor("visual_projection.weight", &[24, 48]),
        tensor("text_projection.weight", &[24, 32]),
        tensor("vision_model.embeddings.class_embedding", &[48]),
        tensor("vision_model.embeddings.patch_embedding.weight", &[48, 3, 8, 8]),
        tensor("vision_model.embeddings.position_embedding.weight", &[10, 48]),
        tensor("text_model.embeddings.token_embedding.weight", &[100, 32]),
        tensor("text_model.embeddings.position_embedding.weight", &[16, 32]),
    ];
    let mut pair = |name: &str, weight: &[usize]| {
        list.push(tensor(&format!("{name}.weight"), weight));
        list.push(tensor(&format!("{name}.bias"), &weight[..1]));
    };
    pair("vision_model.pre_layrnorm", &[48]);
    pair("vision_model.post_layernorm", &[48]);
    pair("text_model.final_layer_norm", &[32]);
    for (side, layers, d, f) in [("vision_model", 2, 48, 96), ("text_model", 1, 32, 64)] {
        for layer in 0..layers {
            let mut block =
                |name: &str, weight: &[usize]| pair(&format!("{side}.encoder.layers.{layer}.{name}"), weight);
            block("layer_norm1", &[d]);
            block("layer_norm2", &[d]);
            block("mlp.fc1", &[f, d]);
            block("mlp.fc2", &[d, f]);
            for projection in ["q_proj", "k_proj", "v_proj", "out_proj"] {
                block(&format!("self_attn.{projection}"), &[d, d]);
            }
        }
    }
    list
}

/// Saves a Hugging Face folder.
pub fn save_hf(folder: &Path) {
    save(&folder.join("model.safetensors"), &hf_tensors());
    save_json(&folder.join("config.json"), &hf_config());
}
