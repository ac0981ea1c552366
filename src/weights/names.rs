//! The canonical names (those of Hugging Face's `CLIPModel`) and where each tensor lies in the layouts on disk.

use super::config::{ClipConfig, Tower};
use std::ops::Range;

/// Every tensor of a CLIP pair with its shape, under the names of Hugging Face's `CLIPModel`.
pub fn tensor_names(config: &ClipConfig) -> Vec<(String, Vec<usize>)> {
    let (vision, text) = (&config.vision, &config.text);
    let (width, text_width, patch) = (vision.tower.width, text.tower.width, vision.patch);
    let mut list = vec![
        ("logit_scale".into(), vec![]),
        ("visual_projection.weight".into(), vec![config.embed, width]),
        ("text_projection.weight".into(), vec![config.embed, text_width]),
        ("vision_model.embeddings.class_embedding".into(), vec![width]),
        ("vision_model.embeddings.patch_embedding.weight".into(), vec![width, 3, patch, patch]),
        ("vision_model.embeddings.position_embedding.weight".into(), vec![vision.tokens(), width]),
        ("text_model.embeddings.token_embedding.weight".into(), vec![text.vocab, text_width]),
        ("text_model.embeddings.position_embedding.weight".into(), vec![text.context, text_width]),
    ];
    let norms = [
        ("vision_model.pre_layrnorm", width),
        ("vision_model.post_layernorm", width),
        ("text_model.final_layer_norm", text_width),
    ];
    for (name, width) in norms {
        list.push((format!("{name}.weight"), vec![width]));
        list.push((format!("{name}.bias"), vec![width]));
    }
    blocks(&mut list, "vision_model", &vision.tower);
    blocks(&mut list, "text_model", &text.tower);
    list
}

fn blocks(list: &mut Vec<(String, Vec<usize>)>, side: &str, tower: &Tower) {
    let (d, f) = (tower.width, tower.mlp_width);
    for layer in 0..tower.layers {
        let mut add = |name: &str, weight: Vec<usize>, bias: usize| {
            let name = format!("{side}.encoder.layers.{layer}.{name}");
            list.push((format!("{name}.weight"), weight));
            list.push((format!("{name}.bias"), vec![bias]));
        };
        add("layer_norm1", vec![d], d);
        for projection in ["q_proj", "k_proj", "v_proj", "out_proj"] {
            add(&format!("self_attn.{projection}"), vec![d, d], d);
        }
        add("layer_norm2", vec![d], d);
        add("mlp.fc1", vec![f, d], f);
        add("mlp.fc2", vec![d, f], d);
    }
}

/// Number of parameters of a CLIP pair.
pub fn parameters(config: &ClipConfig) -> usize {
    tensor_names(config).iter().map(|(_, shape)| shape.iter().product::<usize>()).sum()
}

/// How a checkpoint names its tensors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Layout {
    /// Hugging Face's `CLIPModel`.
    HuggingFace,
    /// OpenAI's and open_clip's; `text.` goes before the text tower's names in open_clip's custom-text models.
    OpenClip {
        /// "" or "text.".
        text_prefix: &'static str,
    },
}

impl Layout {
    /// The name in messages.
    pub fn name(self) -> &'static str {
        match self {
            Layout::HuggingFace => "Hugging Face",
            Layout::OpenClip { text_prefix: "" } => "OpenAI / open_clip",
            Layout::OpenClip { .. } => "open_clip (custom text)",
        }
    }
}

/// Where a canonical tensor lies on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Location {
    /// The tensor's name in the file.
    pub name: String,
    /// Its shape in the file.
    pub shape: Vec<usize>,
    /// Which part of it, and how.
    pub part: Part,
}

/// Which part of a tensor on disk is a canonical tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// All of it.
    Whole,
    /// These rows: queries, keys and values lie fused.
    Rows(Range<usize>),
    /// Its transpose: open_clip multiplies its projections from the right.
    Transposed,
}

/// Finds the canonical tensor `name` of shape `shape` in a layout.
pub(super) fn locate(layout: Layout, name: &str, shape: &[usize]) -> Location {
    let whole = |name: String| Location { name, shape: shape.to_vec(), part: Part::Whole };
    let Layout::OpenClip { text_prefix } = layout else { return whole(name.to_string()) };
    let (side, rest) = match (name.strip_prefix("vision_model."), name.strip_prefix("text_model.")) {
        (Some(rest), _) => ("visual.", rest),
        (_, Some(rest)) => (text_prefix, rest),
        _ => {
            let transposed =
                |name| Location { name, shape: shape.iter().rev().copied().collect(), part: Part::Transposed };
            return match name {
                "visual_projection.weight" => transposed("visual.proj".into()),
                "text_projection.weight" => transposed(format!("{text_prefix}text_projection")),
                other => whole(other.to_string()),
            };
        }
    };
    if let Some(block) = rest.strip_prefix("encoder.layers.") {
        return in_block(&format!("{side}transformer.resblocks."), block, shape);
    }
    whole(match rest {
        "embeddings.class_embedding" => format!("{side}class_embedding"),
        "embeddings.patch_embedding.weight" => format!("{side}conv1.weight"),
        "embeddings.position_embedding.weight" => format!("{side}positional_embedding"),
        "embeddings.token_embedding.weight" => format!("{side}token_embedding.weight"),
        norm => {
            let renamed = [("pre_layrnorm", "ln_pre"), ("post_layernorm", "ln_post"), ("final_layer_norm", "ln_final")];
            let find = |(from, to): (&str, &str)| norm.strip_prefix(from).map(|rest| format!("{side}{to}{rest}"));
            renamed.into_iter().find_map(find).unwrap_or_else(|| format!("{side}{norm}"))
        }
    })
}

/// `block` is the part after `encoder.layers.`: the index, a dot and the rest.
fn in_block(prefix: &str, block: &str, shape: &[usize]) -> Location {
    let (layer, rest) = block.split_once('.').unwrap_or((block, ""));
    for (third, projection) in ["self_attn.q_proj.", "self_attn.k_proj.", "self_attn.v_proj."].into_iter().enumerate() {
        if let Some(kind) = rest.strip_prefix(projection) {
            let rows = shape.first().copied().unwrap_or(0);
            let mut fused = shape.to_vec();
            if let Some(first) = fused.first_mut() {
                *first = 3 * rows;
            }
            let name = format!("{prefix}{layer}.attn.in_proj_{kind}");
            return Location { name, shape: fused, part: Part::Rows(third * rows..(third + 1) * rows) };
        }
    }
    let renamed = [
        ("layer_norm1", "ln_1"),
        ("layer_norm2", "ln_2"),
        ("mlp.fc1", "mlp.c_fc"),
        ("mlp.fc2", "mlp.c_proj"),
        ("self_attn.out_proj", "attn.out_proj"),
    ];
    let find = |(from, to): (&str, &str)| rest.strip_prefix(from).map(|end| format!("{to}{end}"));
    let rest = renamed.into_iter().find_map(find).unwrap_or_else(|| rest.to_string());
    Location { name: format!("{prefix}{layer}.{rest}"), shape: shape.to_vec(), part: Part::Whole }
}

#[cfg(test)]
mod tests {
    use super::super::random::preset;
    use super::*;

    /// Counts of the published checkpoints.
    #[test]
    fn parameter_counts_are_those_of_the_published_models() {
        for (name, count) in [
            ("ViT-B-32", 151_277_313),
            ("ViT-B-16", 149_620_737),
            ("ViT-L-14", 427_616_513),
            ("ViT-L-14-336", 427_944_193),
            ("ViT-H-14", 986_109_441),
        ] {
            assert_eq!(parameters(&preset(name).unwrap()), count, "{name}");
        }
        for (name, millions) in [("ViT-H-14-378", 986.7), ("ViT-g-14", 1366.7), ("ViT-bigG-14", 2539.6)] {
            let found = parameters(&preset(name).unwrap()) as f64 / 1e6;
            assert!((found - millions).abs() < 0.05, "{name}: {found}");
        }
    }

    #[test]
    fn open_clip_names() {
        let plain = Layout::OpenClip { text_prefix: "" };
        let at = |layout, name: &str, shape: &[usize]| {
            let location = locate(layout, name, shape);
            (location.name, location.shape, location.part)
        };
        assert_eq!(
            at(plain, "vision_model.encoder.layers.11.self_attn.k_proj.weight", &[8, 8]),
            ("visual.transformer.resblocks.11.attn.in_proj_weight".into(), vec![24, 8], Part::Rows(8..16))
        );
        assert_eq!(
            at(plain, "text_projection.weight", &[4, 8]),
            ("text_projection".into(), vec![8, 4], Part::Transposed)
        );
        let custom = Layout::OpenClip { text_prefix: "text." };
        for (name, expected) in [
            ("logit_scale", "logit_scale"),
            ("text_projection.weight", "text.text_projection"),
            ("text_model.final_layer_norm.bias", "text.ln_final.bias"),
            ("text_model.embeddings.token_embedding.weight", "text.token_embedding.weight"),
            ("text_model.encoder.layers.0.mlp.fc2.bias", "text.transformer.resblocks.0.mlp.c_proj.bias"),
            ("vision_model.pre_layrnorm.weight", "visual.ln_pre.weight"),
            ("vision_model.embeddings.patch_embedding.weight", "visual.conv1.weight"),
        ] {
            assert_eq!(at(custom, name, &[1]).0, expected);
        }
    }
}
