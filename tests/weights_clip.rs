//! CLIP checkpoints: one file or many, every float type, every key layout, and what is refused.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod weights_support;

use serde_json::json;
use vitscope::weights::{
    Activation, ClipCheckpoint, Data, Pooling, PreprocessSource, TensorFile, inspect, parameters, tensor_names, write,
};
use weights_support::*;

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

fn get<'a>(tensors: &'a [Tensor], name: &str) -> &'a Tensor {
    tensors.iter().find(|(n, _, _)| n == name).unwrap()
}

#[test]
fn a_hugging_face_folder_is_read_whole() {
    let dir = folder();
    save_hf(dir.path());
    save_json(&dir.path().join("preprocessor_config.json"), &json!({"crop_size": 30}));
    std::fs::write(dir.path().join("tokenizer.json"), "{}").unwrap();
    let clip = ClipCheckpoint::open(dir.path()).unwrap();
    assert_eq!((clip.config.vision.grid(), clip.config.vision.tokens()), (3, 10));
    assert_eq!(clip.config.vision.tower.activation, Activation::Gelu);
    assert_eq!(clip.config.text.pooling, Pooling::FirstEos(99));
    assert_eq!(clip.preprocess, PreprocessSource::HfJson(json!({"crop_size": 30})));
    assert_eq!(clip.tokenizer_dir.as_deref(), Some(dir.path()));
    assert!(clip.notes.is_empty(), "{:?}", clip.notes);
    let saved = hf_tensors();
    let names = tensor_names(&clip.config);
    assert_eq!(names.len(), saved.len());
    for (name, shape) in &names {
        assert_eq!(clip.read(name, shape).unwrap(), get(&saved, name).2, "{name}");
    }
    assert_eq!(parameters(&clip.config), saved.iter().map(|(_, _, v)| v.len()).sum::<usize>());
    // A caller that would index with another shape is stopped.
    assert!(clip.read("visual_projection.weight", &[48, 24]).is_err());
    assert!(clip.read("visual.proj", &[48, 24]).is_err());
    let rows = inspect(dir.path()).unwrap();
    assert!(rows.contains(&("parameters".into(), parameters(&clip.config).to_string())), "{rows:?}");
    assert!(rows.contains(&("hash".into(), clip.hash())));
}

#[test]
fn shards_are_one_checkpoint() {
    let dir = folder();
    let tensors = hf_tensors();
    let mut map = serde_json::Map::new();
    for (shard, part) in tensors.chunks(20).enumerate() {
        let name = format!("model-{shard:05}.safetensors");
        save(&dir.path().join(&name), part);
        map.extend(part.iter().map(|(tensor, _, _)| (tensor.clone(), json!(name))));
    }
    save_json(&dir.path().join("config.json"), &hf_config());
    let index = dir.path().join("model.safetensors.index.json");
    save_json(&index, &json!({"metadata": {}, "weight_map": map}));
    let clip = ClipCheckpoint::open(dir.path()).unwrap();
    for (name, shape, values) in &tensors {
        assert_eq!(&clip.read(name, shape).unwrap(), values);
    }
    // A shard outside the folder is never opened; a tensor that no shard has is missed.
    for (shard, part) in [("../other.safetensors", "not the name of a shard"), ("model-00000.safetensors", "in none")] {
        let mut wrong = map.clone();
        wrong.insert("more".into(), json!(shard));
        save_json(&index, &json!({"weight_map": wrong}));
        let message = ClipCheckpoint::open(dir.path()).unwrap_err().to_string();
        assert!(message.contains(part) && message.contains("more"), "{message}");
    }
}

#[test]
fn half_types_are_widened_exactly() {
    use safetensors::{Dtype, tensor::TensorView};
    let dir = folder();
    save_json(&dir.path().join("config.json"), &hf_config());
    let path = dir.path().join("model.safetensors");
    for dtype in [Dtype::F16, Dtype::BF16] {
        let tensors = hf_tensors();
        let round = |v: f32| match dtype {
            Dtype::F16 => half::f16::from_f32(v).to_f32(),
            _ => half::bf16::from_f32(v).to_f32(),
        };
        let bits = |v: &f32| match dtype {
            Dtype::F16 => half::f16::from_f32(*v).to_le_bytes(),
            _ => half::bf16::from_f32(*v).to_le_bytes(),
        };
        let bytes: Vec<Vec<u8>> = tensors.iter().map(|(_, _, v)| v.iter().flat_map(bits).collect()).collect();
        let views = tensors.iter().zip(&bytes).map(|((n, s, _), b)| (n, TensorView::new(dtype, s.clone(), b).unwrap()));
        std::fs::write(&path, safetensors::serialize(views, None).unwrap()).unwrap();
        let clip = ClipCheckpoint::open(dir.path()).unwrap();
        for (name, shape, values) in &tensors {
            assert!(clip.read(name, shape).unwrap().iter().zip(values).all(|(a, &b)| *a == round(b)), "{name}");
        }
    }
}

/// The same model under OpenAI's names: fused projections, transposed ones.
fn open_clip_tensors(text: &str) -> Vec<Tensor> {
    let source = hf_tensors();
    let transposed = |name: &str, to: String| {
        let (_, shape, values) = get(&source, name);
        let (rows, columns) = (shape[0], shape[1]);
        let out =
            (0..columns).flat_map(|c| (0..rows).map(move |r| (r, c))).map(|(r, c)| values[r * columns + c]).collect();
        (to, vec![columns, rows], out)
    };
    let mut list = vec![
        transposed("visual_projection.weight", "visual.proj".into()),
        transposed("text_projection.weight", format!("{text}text_projection")),
    ];
    let copy = |from: String, to: String| {
        let (_, shape, values) = get(&source, &from).clone();
        (to, shape, values)
    };
    for (from, to) in [
        ("logit_scale", "logit_scale".to_string()),
        ("vision_model.embeddings.class_embedding", "visual.class_embedding".into()),
        ("vision_model.embeddings.patch_embedding.weight", "visual.conv1.weight".into()),
        ("vision_model.embeddings.position_embedding.weight", "visual.positional_embedding".into()),
        ("text_model.embeddings.token_embedding.weight", format!("{text}token_embedding.weight")),
        ("text_model.embeddings.position_embedding.weight", format!("{text}positional_embedding")),
    ] {
        list.push(copy(from.to_string(), to));
    }
    for kind in ["weight", "bias"] {
        list.push(copy(format!("vision_model.pre_layrnorm.{kind}"), format!("visual.ln_pre.{kind}")));
        list.push(copy(format!("vision_model.post_layernorm.{kind}"), format!("visual.ln_post.{kind}")));
        list.push(copy(format!("text_model.final_layer_norm.{kind}"), format!("{text}ln_final.{kind}")));
        for (side, prefix, layers) in [("vision_model", "visual.".to_string(), 2), ("text_model", text.to_string(), 1)]
        {
            for layer in 0..layers {
                let from = format!("{side}.encoder.layers.{layer}");
                let to = format!("{prefix}transformer.resblocks.{layer}");
                for (a, b) in [
                    ("layer_norm1", "ln_1"),
                    ("layer_norm2", "ln_2"),
                    ("mlp.fc1", "mlp.c_fc"),
                    ("mlp.fc2", "mlp.c_proj"),
                    ("self_attn.out_proj", "attn.out_proj"),
                ] {
                    list.push(copy(format!("{from}.{a}.{kind}"), format!("{to}.{b}.{kind}")));
                }
                let parts = ["q", "k", "v"].map(|p| get(&source, &format!("{from}.self_attn.{p}_proj.{kind}")).clone());
                let mut shape = parts[0].1.clone();
                shape[0] *= 3;
                let fused = parts.into_iter().flat_map(|(_, _, values)| values).collect();
                list.push((format!("{to}.attn.in_proj_{kind}"), shape, fused));
            }
        }
    }
    list
}

fn open_clip_config() -> serde_json::Value {
    json!({"model_cfg": {"embed_dim": 24,
        "vision_cfg": {"image_size": 30, "layers": 2, "width": 48, "head_width": 16, "mlp_ratio": 2.0, "patch_size": 8},
        "text_cfg": {"context_length": 16, "vocab_size": 100, "width": 32, "heads": 2, "layers": 1, "mlp_ratio": 2.0}},
        "preprocess_cfg": {"mean": [0.5, 0.5, 0.5]}})
}

#[test]
fn open_clip_folders_give_the_same_tensors() {
    for text in ["", "text."] {
        let dir = folder();
        let mut tensors = open_clip_tensors(text);
        tensors.push(tensor(&format!("{text}attn_mask"), &[16, 16]));
        save(&dir.path().join("open_clip_model.safetensors"), &tensors);
        save_json(&dir.path().join("open_clip_config.json"), &open_clip_config());
        let clip = ClipCheckpoint::open(dir.path()).unwrap();
        assert!(clip.notes.is_empty(), "{:?}", clip.notes);
        assert_eq!(clip.config.vision.tower.heads, 3);
        assert!(matches!(&clip.preprocess, PreprocessSource::OpenClipJson(v) if v["mean"][0] == 0.5));
        for (name, shape, values) in &hf_tensors() {
            assert_eq!(&clip.read(name, shape).unwrap(), values, "{name}");
        }
    }
}

#[test]
fn a_bare_file_with_openai_names_is_inferred_and_says_so() {
    // Widths that are multiples of 64, as heads are assumed to be 64 wide.
    let (d, f, e) = (128, 256, 32);
    let mut list = vec![
        tensor("logit_scale", &[]),
        tensor("visual.proj", &[d, e]),
        tensor("text_projection", &[64, e]),
        tensor("visual.class_embedding", &[d]),
        tensor("visual.conv1.weight", &[d, 3, 8, 8]),
        tensor("visual.positional_embedding", &[17, d]),
        tensor("token_embedding.weight", &[50, 64]),
        tensor("positional_embedding", &[8, 64]),
    ];
    for (name, width) in [("visual.ln_pre", d), ("visual.ln_post", d), ("ln_final", 64)] {
        list.push(tensor(&format!("{name}.weight"), &[width]));
        list.push(tensor(&format!("{name}.bias"), &[width]));
    }
    for (prefix, layers, d) in [("visual.transformer.resblocks", 2, d), ("transformer.resblocks", 1, 64)] {
        for layer in 0..layers {
            for (name, rows, columns) in
                [("attn.in_proj_", 3 * d, d), ("attn.out_proj.", d, d), ("mlp.c_fc.", f, d), ("mlp.c_proj.", d, f)]
            {
                list.push(tensor(&format!("{prefix}.{layer}.{name}weight"), &[rows, columns]));
                list.push(tensor(&format!("{prefix}.{layer}.{name}bias"), &[rows]));
            }
            for norm in ["ln_1", "ln_2"] {
                list.push(tensor(&format!("{prefix}.{layer}.{norm}.weight"), &[d]));
                list.push(tensor(&format!("{prefix}.{layer}.{norm}.bias"), &[d]));
            }
        }
    }
    let dir = folder();
    let path = dir.path().join("my_clip.safetensors");
    save(&path, &list);
    let clip = ClipCheckpoint::open(&path).unwrap();
    let vision = &clip.config.vision;
    assert_eq!((vision.tower.width, vision.tower.layers, vision.tower.heads, vision.tower.mlp_width), (128, 2, 2, 256));
    assert_eq!((vision.image_size, vision.patch, clip.config.embed), (32, 8, 32));
    assert_eq!((clip.config.text.vocab, clip.config.text.context, clip.config.text.tower.heads), (50, 8, 1));
    assert!(clip.notes.iter().any(|n| n.contains("quick_gelu")), "{:?}", clip.notes);
    assert!(clip.notes.iter().any(|n| n.contains("heads")), "{:?}", clip.notes);

    // Positions that are no square of patches tell no size.
    list[5] = tensor("visual.positional_embedding", &[19, d]);
    save(&path, &list);
    assert!(ClipCheckpoint::open(&path).unwrap_err().to_string().contains("square"));
}

#[test]
fn buffers_are_ignored_and_strangers_noted_or_refused() {
    let dir = folder();
    save_hf(dir.path());
    let path = dir.path().join("model.safetensors");
    let tensors = hf_tensors();
    let open = |extra: &str, shape: &[usize]| {
        let ids: Vec<i64> = (0..10).collect();
        let odd = tensor(extra, shape);
        let mut list: Vec<(&str, &[usize], Data<'_>)> =
            tensors.iter().map(|(n, s, v)| (n.as_str(), s.as_slice(), Data::F32(v))).collect();
        list.push(("vision_model.embeddings.position_ids", &[1, 10], Data::I64(&ids)));
        list.push((extra, shape, Data::F32(&odd.2)));
        write(&path, &list, &[]).unwrap();
        ClipCheckpoint::open(dir.path())
    };
    let noted = open("ema.decay", &[3]).unwrap();
    assert!(noted.notes.iter().any(|n| n.contains("ema.decay")), "{:?}", noted.notes);
    // A part of a tower that would be left out, and SigLIP's bias, would compute another model.
    for name in ["vision_model.encoder.layers.2.mlp.fc1.bias", "vision_model.encoder.layers.0.ls1", "logit_bias"] {
        assert!(open(name, &[4]).unwrap_err().to_string().contains(name));
    }
}

#[test]
fn what_does_not_fit_is_refused_by_name() {
    let dir = folder();
    save_hf(dir.path());
    let path = dir.path().join("model.safetensors");
    let refused = |change: &dyn Fn(&mut Vec<Tensor>), parts: &[&str]| {
        let mut tensors = hf_tensors();
        change(&mut tensors);
        save(&path, &tensors);
        let error = ClipCheckpoint::open(dir.path()).unwrap_err();
        assert_eq!(error.exit_code(), 3);
        let message = error.to_string();
        assert!(parts.iter().all(|part| message.contains(part)), "{message}");
    };
    refused(&|t| t.retain(|(n, _, _)| n != "logit_scale"), &["model.safetensors", "logit_scale", "no such tensor"]);
    refused(
        &|t| {
            let wrong = tensor("vision_model.encoder.layers.1.mlp.fc1.weight", &[48, 96]);
            t.retain(|(n, _, _)| *n != wrong.0);
            t.push(wrong);
        },
        &["vision_model.encoder.layers.1.mlp.fc1.weight", "[96, 48]", "[48, 96]"],
    );
    refused(&|t| t.truncate(3), &["neither Hugging Face's nor OpenAI's"]);
    refused(&|t| *t = vec![tensor("visual.trunk.blocks.0.norm1.weight", &[4])], &["timm"]);

    // Integers where weights should be.
    let tensors = hf_tensors();
    let integers = vec![1i64; 48];
    let list: Vec<(&str, &[usize], Data<'_>)> = tensors
        .iter()
        .map(|(n, s, v)| match n.as_str() {
            "vision_model.post_layernorm.bias" => (n.as_str(), s.as_slice(), Data::I64(&integers)),
            _ => (n.as_str(), s.as_slice(), Data::F32(v)),
        })
        .collect();
    write(&path, &list, &[]).unwrap();
    let message = ClipCheckpoint::open(dir.path()).unwrap_err().to_string();
    assert!(message.contains("vision_model.post_layernorm.bias") && message.contains("I64"), "{message}");

    // A folder with a pickle only.
    let other = folder();
    save_json(&other.path().join("config.json"), &hf_config());
    std::fs::write(other.path().join("pytorch_model.bin"), "x").unwrap();
    let message = ClipCheckpoint::open(other.path()).unwrap_err().to_string();
    assert!(message.contains("pickle"), "{message}");
}

#[test]
fn nan_and_infinity_are_refused_where_they_stand() {
    let dir = folder();
    for (value, text) in [(f32::NAN, "NaN"), (f32::NEG_INFINITY, "-inf")] {
        let mut tensors = hf_tensors();
        tensors[6].2[777] = value;
        save(&dir.path().join("model.safetensors"), &tensors);
        save_json(&dir.path().join("config.json"), &hf_config());
        let clip = ClipCheckpoint::open(dir.path()).unwrap();
        let message = clip.read("text_model.embeddings.token_embedding.weight", &[100, 32]).unwrap_err().to_string();
        assert!(message.contains("token_embedding") && message.contains(&format!("{text} at index 777")), "{message}");
    }
}

#[test]
fn random_checkpoints_have_every_tensor() {
    let clip = ClipCheckpoint::random("tiny", 3).unwrap();
    for (name, shape) in tensor_names(&clip.config) {
        let values = clip.read(&name, &shape).unwrap();
        assert_eq!(values.len(), shape.iter().product::<usize>());
        assert!(values.iter().all(|v| v.is_finite()), "{name}");
        assert!(values.len() == 1 || values.iter().any(|v| *v != values[0]), "{name}");
    }
    assert_eq!(clip.hash(), ClipCheckpoint::random("tiny", 3).unwrap().hash());
    assert_ne!(clip.hash(), ClipCheckpoint::random("tiny", 4).unwrap().hash());
    assert_eq!(ClipCheckpoint::random("ViT-L", 0).unwrap_err().exit_code(), 2);
}

#[test]
fn the_hash_sees_weights_and_configuration() {
    let dir = folder();
    save_hf(dir.path());
    let hash = || ClipCheckpoint::open(dir.path()).unwrap().hash();
    let first = hash();
    assert_eq!(first, hash());
    let mut config = hf_config();
    config["vision_config"]["hidden_act"] = json!("quick_gelu");
    save_json(&dir.path().join("config.json"), &config);
    let second = hash();
    assert_ne!(first, second);
    let mut tensors = hf_tensors();
    tensors[5].2[0] += 1.0;
    save(&dir.path().join("model.safetensors"), &tensors);
    assert_ne!(second, hash());
}

#[test]
fn embedded_checkpoints_equal_those_on_disk() {
    let dir = folder();
    save_hf(dir.path());
    let bytes = std::fs::read(dir.path().join("model.safetensors")).unwrap();
    let clip = ClipCheckpoint::from_bytes("demo", &hf_config(), None, bytes).unwrap();
    let disk = ClipCheckpoint::open(dir.path()).unwrap();
    assert_eq!(clip.config, disk.config);
    assert_eq!(clip.hash(), disk.hash());
    assert_eq!(clip.read("logit_scale", &[]).unwrap(), disk.read("logit_scale", &[]).unwrap());
}

#[test]
fn written_files_read_back_and_are_repeatable() {
    let dir = folder();
    let path = dir.path().join("out.safetensors");
    let (f32s, f64s, u32s, i64s) = ([1.5f32, f32::NAN], [0.1f64, f64::INFINITY], [u32::MAX], [i64::MIN, 7]);
    let list: [(&str, &[usize], Data<'_>); 4] = [
        ("a", &[2], Data::F32(&f32s)),
        ("b", &[2, 1], Data::F64(&f64s)),
        ("c", &[], Data::U32(&u32s)),
        ("d", &[1, 2], Data::I64(&i64s)),
    ];
    write(&path, &list, &[("made", "here")]).unwrap();
    let once = std::fs::read(&path).unwrap();
    write(&path, &list, &[("made", "here")]).unwrap();
    assert_eq!(once, std::fs::read(&path).unwrap());
    let file = TensorFile::open(&path).unwrap();
    assert_eq!(file.metadata()["made"], "here");
    assert_eq!(file.names().collect::<Vec<_>>(), ["a", "b", "c", "d"]);
    assert_eq!((file.shape("b"), file.shape("c")), (Some(&[2, 1][..]), Some(&[][..])));
    assert_eq!(file.read_f64("b").unwrap(), f64s);
    assert_eq!(file.read_i64("c").unwrap(), [i64::from(u32::MAX)]);
    assert_eq!(file.read_i64("d").unwrap(), i64s);
    assert!(file.read_f64("a").unwrap()[1].is_nan());
    assert!(file.read_f32("a").is_err(), "weights are finite");
    assert!(file.read_f32("b").unwrap_err().to_string().contains("F64"), "weights are not rounded in silence");
    assert!(file.read_i64("a").is_err());
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "no temporary file is left");
    assert!(write(&path, &[("a", &[3], Data::F32(&f32s))], &[]).is_err());
    assert!(write(&dir.path().join("no/folder"), &list, &[]).is_err());
}
