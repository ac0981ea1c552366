//! Seeded random weights for the published sizes: benchmarks and tests need no download.
//!
//! Value `i` of a tensor depends on the seed, the tensor's name and `i` alone, so tensors can be made in any order, on
//! any number of cores, and none has to be kept.

use super::config::{Activation, ClipConfig, Pooling, TextConfig, Tower, VisionConfig};
use rayon::prelude::*;
use sha2::{Digest, Sha256};

/// The names that [`preset`] knows: the published sizes, and `tiny` for tests.
pub const PRESETS: [&str; 9] =
    ["ViT-B-32", "ViT-B-16", "ViT-L-14", "ViT-L-14-336", "ViT-H-14", "ViT-H-14-378", "ViT-g-14", "ViT-bigG-14", "tiny"];

/// The sizes of a published model; `None` for a name that is not in [`PRESETS`].
pub fn preset(name: &str) -> Option<ClipConfig> {
    use Activation::{Gelu, QuickGelu};
    // Image tower (width, layers, heads, MLP), image, patch; text tower (width, layers, heads); joint width.
    let (vision, image_size, patch, text, embed, activation) = match name {
        "ViT-B-32" => ([768, 12, 12, 3072], 224, 32, [512, 12, 8], 512, QuickGelu),
        "ViT-B-16" => ([768, 12, 12, 3072], 224, 16, [512, 12, 8], 512, QuickGelu),
        "ViT-L-14" => ([1024, 24, 16, 4096], 224, 14, [768, 12, 12], 768, QuickGelu),
        "ViT-L-14-336" => ([1024, 24, 16, 4096], 336, 14, [768, 12, 12], 768, QuickGelu),
        "ViT-H-14" => ([1280, 32, 16, 5120], 224, 14, [1024, 24, 16], 1024, Gelu),
        "ViT-H-14-378" => ([1280, 32, 16, 5120], 378, 14, [1024, 24, 16], 1024, QuickGelu),
        "ViT-g-14" => ([1408, 40, 16, 6144], 224, 14, [1024, 24, 16], 1024, Gelu),
        "ViT-bigG-14" => ([1664, 48, 16, 8192], 224, 14, [1280, 32, 20], 1280, Gelu),
        "tiny" => ([64, 2, 4, 256], 32, 8, [64, 2, 4], 32, QuickGelu),
        _ => return None,
    };
    let tower = |[width, layers, heads, mlp_width]: [usize; 4]| Tower {
        width,
        layers,
        heads,
        mlp_width,
        activation,
        eps: 1e-5,
    };
    let [width, layers, heads] = text;
    Some(ClipConfig {
        vision: VisionConfig { tower: tower(vision), image_size, patch },
        text: TextConfig {
            tower: tower([width, layers, heads, 4 * width]),
            vocab: 49408,
            context: 77,
            pooling: Pooling::ArgMax,
        },
        embed,
    })
}

/// Generates one tensor. The scales are those of Hugging Face's CLIP initialisation, so activations stay of order one
/// at any depth; biases and LayerNorm parameters are spread a little around theirs, so that none can be forgotten.
pub(super) fn tensor(config: &ClipConfig, seed: u64, name: &str, shape: &[usize]) -> Vec<f32> {
    let (mean, deviation) = spread(config, name);
    let digest = Sha256::new().chain_update(seed.to_le_bytes()).chain_update(name).finalize();
    let key = digest.first_chunk::<8>().map_or(seed, |bytes| u64::from_le_bytes(*bytes));
    let count: usize = shape.iter().product();
    (0..count).into_par_iter().with_min_len(1 << 14).map(|i| mean + deviation * normal(key, i as u64)).collect()
}

/// Mean and standard deviation of a tensor.
fn spread(config: &ClipConfig, name: &str) -> (f32, f32) {
    let tower = if name.starts_with("text_") { &config.text.tower } else { &config.vision.tower };
    let width = tower.width as f32;
    let deep = (2.0 * tower.layers as f32).sqrt();
    match name.rsplit('.').take(2).collect::<Vec<_>>().as_slice() {
        ["logit_scale"] => ((1.0f32 / 0.07).ln(), 0.0),
        ["weight", "visual_projection" | "text_projection" | "out_proj"] | ["class_embedding", _] => {
            (0.0, width.powf(-0.5))
        }
        ["weight", "patch_embedding" | "position_embedding" | "token_embedding"] | ["bias", _] => (0.0, 0.02),
        ["weight", "q_proj" | "k_proj" | "v_proj" | "fc2"] => (0.0, width.powf(-0.5) / deep),
        ["weight", "fc1"] => (0.0, (2.0 * width).powf(-0.5)),
        // LayerNorm weights.
        _ => (1.0, 0.1),
    }
}

/// A nearly normal value, mean 0, variance 1: the sum of the four 16-bit quarters of a mixed counter (splitmix64).
fn normal(key: u64, i: u64) -> f32 {
    let mut bits = key.wrapping_add(i.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^= bits >> 31;
    let sum = (bits & 0xffff) + (bits >> 16 & 0xffff) + (bits >> 32 & 0xffff) + (bits >> 48);
    // Four uniform values over 0..=65535 have mean 131070 and variance 4 (65536^2 - 1) / 12.
    (sum as f32 - 131_070.0) * (1.0 / 37_837.23)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_normal_and_depend_on_seed_name_and_index() {
        let config = preset("tiny").unwrap();
        let name = "vision_model.encoder.layers.0.mlp.fc1.weight";
        let a = tensor(&config, 7, name, &[256, 64]);
        assert_eq!(a, tensor(&config, 7, name, &[256, 64]));
        assert_eq!(a[..64], tensor(&config, 7, name, &[1, 64])[..]);
        assert_ne!(a, tensor(&config, 8, name, &[256, 64]));
        assert_ne!(a, tensor(&config, 7, "vision_model.encoder.layers.1.mlp.fc1.weight", &[256, 64]));
        let n = a.len() as f64;
        let mean = a.iter().map(|&v| f64::from(v)).sum::<f64>() / n;
        let deviation = (a.iter().map(|&v| (f64::from(v) - mean).powi(2)).sum::<f64>() / n).sqrt();
        let expected = (2.0f64 * 64.0).powf(-0.5);
        assert!(mean.abs() < 4.0 * expected / n.sqrt(), "{mean}");
        assert!((deviation / expected - 1.0).abs() < 0.03, "{deviation}");
    }

    #[test]
    fn every_preset_is_valid() {
        for name in PRESETS {
            preset(name).unwrap().validate(std::path::Path::new(name)).unwrap();
        }
        assert_eq!(preset("ViT-L-15"), None);
    }
}
