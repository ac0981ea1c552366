//! SAEs: every family and generation gives the same canonical form; what could be read in two ways is refused.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod weights_support;

use serde_json::{Value, json};
use std::path::Path;
use vitscope::weights::{Data, Hook, InputNorm, SaeActivation, SaeWeights, Stored, TokenScopeHint, inspect, write};
use weights_support::*;

const D: usize = 6;
const S: usize = 16;

/// The canonical formulas, in f64.
fn encode_decode(sae: &SaeWeights, x: &[f64]) -> (Vec<f64>, Vec<f64>) {
    let (d, s) = (sae.width, sae.latents);
    let mean = x.iter().sum::<f64>() / d as f64;
    let deviation = (x.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / (d as f64 - 1.0)).sqrt();
    let length = x.iter().map(|v| v * v).sum::<f64>().sqrt();
    let fixed_mean = |i: usize| match &sae.norm {
        InputNorm::Fixed { mean: Some(m), .. } => f64::from(m[i]),
        _ => 0.0,
    };
    let u: Vec<f64> = (0..d)
        .map(|i| match &sae.norm {
            InputNorm::None => x[i],
            InputNorm::Fixed { scale, .. } => (x[i] - fixed_mean(i)) / f64::from(*scale),
            InputNorm::LayerNorm { eps } => (x[i] - mean) / (deviation + eps),
            InputNorm::UnitNorm => x[i] * (d as f64).sqrt() / length,
        })
        .collect();
    let p = |i: usize| sae.input_bias.as_ref().map_or(0.0, |p| f64::from(p[i]));
    let a: Vec<f64> = (0..s).map(|j| (0..d).map(|i| f64::from(sae.encoder[j * d + i]) * (u[i] - p(i))).sum()).collect();
    let row = |j: usize| (0..d).map(|i| f64::from(sae.decoder[j * d + i]).powi(2)).sum::<f64>().sqrt();
    let r = |j: usize| if sae.rescale_by_decoder_norm { row(j) } else { 1.0 };
    let h: Vec<f64> = (0..s).map(|j| (a[j] + f64::from(sae.encoder_bias[j])) * r(j)).collect();
    let z: Vec<f64> = match &sae.activation {
        SaeActivation::Relu => h.iter().map(|v| v.max(0.0)).collect(),
        SaeActivation::TopK { k, relu } => {
            let mut order: Vec<usize> = (0..s).collect();
            order.sort_by(|&i, &j| h[j].total_cmp(&h[i]).then(i.cmp(&j)));
            let mut z = vec![0.0; s];
            order[..*k].iter().for_each(|&j| z[j] = if *relu { h[j].max(0.0) } else { h[j] });
            z
        }
        SaeActivation::GroupMax { k } => {
            let size = s / k;
            let mut z = vec![0.0; s];
            for group in 0..*k {
                let best =
                    (group * size..(group + 1) * size).fold(group * size, |b, j| if h[j] > h[b] { j } else { b });
                z[best] = h[best].max(0.0);
            }
            z
        }
        SaeActivation::Threshold { theta } => h.iter().map(|&v| if v > f64::from(*theta) { v } else { 0.0 }).collect(),
        SaeActivation::JumpRelu { theta } => {
            (0..s).map(|j| if h[j] > f64::from(theta[j]) { h[j].max(0.0) } else { 0.0 }).collect()
        }
        SaeActivation::Gated { gate_bias, mag_bias, r_mag } => (0..s)
            .map(|j| {
                let magnitude = (f64::from(r_mag[j]).exp() * a[j] + f64::from(mag_bias[j])).max(0.0);
                if a[j] + f64::from(gate_bias[j]) > 0.0 { magnitude } else { 0.0 }
            })
            .collect(),
    };
    let y = (0..d)
        .map(|i| {
            let decoded = (0..s).map(|j| z[j] / r(j) * f64::from(sae.decoder[j * d + i])).sum::<f64>();
            let y = decoded + f64::from(sae.decoder_bias[i]);
            match &sae.norm {
                InputNorm::None => y,
                InputNorm::Fixed { scale, .. } => y * f64::from(*scale) + fixed_mean(i),
                InputNorm::LayerNorm { .. } => y * deviation + mean,
                InputNorm::UnitNorm => y * length / (d as f64).sqrt(),
            }
        })
        .collect();
    (z, y)
}

fn input(n: usize) -> Vec<f64> {
    values(&format!("x{n}"), D).iter().map(|v| 3.0 * f64::from(*v)).collect()
}

fn assert_same(a: &SaeWeights, b: &SaeWeights, tolerance: f64) {
    let mut fired = 0;
    for n in 0..8 {
        let ((za, ya), (zb, yb)) = (encode_decode(a, &input(n)), encode_decode(b, &input(n)));
        for (u, v) in za.iter().zip(&zb).chain(ya.iter().zip(&yb)) {
            assert!((u - v).abs() <= tolerance * (1.0 + u.abs()), "{u} {v}");
        }
        fired += za.iter().filter(|z| **z != 0.0).count();
    }
    assert!(fired > 0, "a comparison of nothing");
}

fn canonical(activation: SaeActivation) -> SaeWeights {
    let decoder_bias = values("b_dec", D);
    SaeWeights {
        width: D,
        latents: S,
        encoder: values("W_enc", S * D),
        encoder_bias: if matches!(activation, SaeActivation::Gated { .. }) { vec![0.0; S] } else { values("b_enc", S) },
        decoder: values("W_dec", S * D),
        input_bias: Some(decoder_bias.clone()),
        decoder_bias,
        activation,
        rescale_by_decoder_norm: false,
        norm: InputNorm::None,
        hook: None,
        format: "test",
        notes: Vec::new(),
        path: "test".into(),
    }
}

fn gated() -> SaeActivation {
    SaeActivation::Gated { gate_bias: values("gate", S), mag_bias: values("mag", S), r_mag: values("r", S) }
}

fn activations() -> Vec<SaeActivation> {
    vec![
        SaeActivation::Relu,
        SaeActivation::TopK { k: 3, relu: true },
        SaeActivation::Threshold { theta: 0.5 },
        SaeActivation::JumpRelu { theta: values("theta", S) },
        gated(),
    ]
}

#[test]
fn sae_lens_round_trips_are_exact_without_folding() {
    for activation in activations() {
        for norm in [InputNorm::None, InputNorm::LayerNorm { eps: 1e-5 }, InputNorm::UnitNorm] {
            for subtract in [true, false] {
                let mut sae = canonical(activation.clone());
                sae.norm = norm.clone();
                if !subtract {
                    sae.input_bias = None;
                }
                let dir = tempfile::tempdir().unwrap();
                sae.save_sae_lens(dir.path(), Stored::F32).unwrap();
                let back = SaeWeights::load(dir.path()).unwrap();
                assert_eq!((&back.encoder, &back.decoder, &back.norm), (&sae.encoder, &sae.decoder, &sae.norm));
                assert_eq!(back.input_bias, sae.input_bias);
                match (&back.activation, &activation) {
                    // One threshold becomes one per latent.
                    (SaeActivation::JumpRelu { theta }, SaeActivation::Threshold { theta: one }) => {
                        assert!(theta.iter().all(|t| t == one));
                    }
                    (a, b) => assert_eq!(a, b),
                }
                assert_same(&sae, &back, 0.0);
            }
        }
    }
}

#[test]
fn sparsify_round_trips_are_exact_without_folding() {
    for activation in [SaeActivation::TopK { k: 3, relu: true }, SaeActivation::GroupMax { k: 4 }] {
        let mut sae = canonical(activation);
        sae.hook = Some(Hook { layer: Some(7), name: "layers.7".into(), tokens: Some(TokenScopeHint::Cls) });
        let dir = tempfile::tempdir().unwrap();
        sae.save_sparsify(&dir.path().join("anything"), Stored::F32).unwrap();
        let back = SaeWeights::load(&dir.path().join("anything")).unwrap();
        assert_eq!(SaeWeights { format: "test", path: "test".into(), ..back.clone() }, sae);
        assert_same(&sae, &back, 0.0);
    }
}

#[test]
fn folding_keeps_what_is_computed() {
    let odd_bias = Some(values("p", D));
    let fixed = InputNorm::Fixed { mean: Some(values("mean", D)), scale: 2.5 };
    for activation in activations() {
        let gated = matches!(activation, SaeActivation::Gated { .. });
        let topk = matches!(activation, SaeActivation::TopK { .. });
        for (bias, norm, rescale) in [
            (odd_bias.clone(), InputNorm::None, false),
            (odd_bias.clone(), fixed.clone(), false),
            (None, fixed.clone(), false),
            (odd_bias.clone(), InputNorm::LayerNorm { eps: 1e-5 }, !gated),
            (odd_bias.clone(), InputNorm::None, !gated),
        ] {
            let sae = SaeWeights {
                input_bias: bias,
                norm,
                rescale_by_decoder_norm: rescale,
                ..canonical(activation.clone())
            };
            let dir = tempfile::tempdir().unwrap();
            sae.save_sae_lens(dir.path(), Stored::F32).unwrap();
            let back = SaeWeights::load(dir.path()).unwrap();
            assert_same(&sae, &back, 2e-6);
            // TopK has a word for rescaling, the others fold it.
            assert_eq!(back.rescale_by_decoder_norm, rescale && topk);
            let per_token = matches!(sae.norm, InputNorm::LayerNorm { .. });
            match sae.save_sparsify(&dir.path().join("sparsify"), Stored::F32) {
                Ok(()) => {
                    assert!(topk && !per_token);
                    assert_same(&sae, &SaeWeights::load(&dir.path().join("sparsify")).unwrap(), 2e-6);
                }
                Err(error) => {
                    assert!(!topk || per_token);
                    assert_eq!(error.exit_code(), 2);
                }
            }
        }
    }
    for activation in [SaeActivation::TopK { k: 2, relu: false }, SaeActivation::GroupMax { k: 4 }] {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(canonical(activation).save_sae_lens(dir.path(), Stored::F32).unwrap_err().exit_code(), 2);
    }
}

/// Saves what SAELens would: `W_enc` is (D, S) there.
fn sae_lens(folder: &Path, config: Value, more: &[(&str, usize)]) {
    let mut tensors = vec![tensor("W_enc", &[D, S]), tensor("W_dec", &[S, D]), tensor("b_dec", &[D])];
    tensors.extend(more.iter().map(|(name, count)| tensor(name, &[*count])));
    std::fs::create_dir_all(folder).unwrap();
    save(&folder.join("sae_weights.safetensors"), &tensors);
    save_json(&folder.join("cfg.json"), &config);
}

fn load_sae_lens(config: Value, more: &[(&str, usize)]) -> vitscope::Result<SaeWeights> {
    let dir = tempfile::tempdir().unwrap();
    sae_lens(dir.path(), config, more);
    SaeWeights::load(dir.path())
}

fn v6(architecture: &str, more: Value) -> Value {
    let mut config = json!({"architecture": architecture, "d_in": D, "d_sae": S, "dtype": "float32", "device": "cpu",
        "apply_b_dec_to_input": true, "normalize_activations": "none", "reshape_activations": "none",
        "metadata": {"sae_lens_version": "6.18.0", "hook_name": "blocks.22.hook_resid_post", "hook_head_index": null}});
    config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    config
}

/// Encoded straight from SAELens's own layout: `(x - b_dec) W_enc + b_enc`.
#[test]
fn sae_lens_matrices_are_transposed() {
    let sae = load_sae_lens(v6("standard", json!({})), &[("b_enc", S)]).unwrap();
    let (w, b, p) = (values("W_enc", D * S), values("b_enc", S), values("b_dec", D));
    let x = input(0);
    let (z, _) = encode_decode(&sae, &x);
    for j in 0..S {
        let h = (0..D).map(|i| (x[i] - f64::from(p[i])) * f64::from(w[i * S + j])).sum::<f64>() + f64::from(b[j]);
        assert!((z[j] - h.max(0.0)).abs() < 1e-12);
    }
    assert_eq!(sae.decoder, values("W_dec", S * D));
    assert_eq!(sae.hook.unwrap(), Hook { layer: Some(22), name: "blocks.22.hook_resid_post".into(), tokens: None });
    assert_eq!(sae.format, "SAELens 6");
}

#[test]
fn every_sae_lens_architecture_and_generation() {
    let relu = [("b_enc", S)];
    let theta = [("b_enc", S), ("threshold", S)];
    let activation = |config: Value, more: &[(&str, usize)]| load_sae_lens(config, more).unwrap().activation;
    let topk = SaeActivation::TopK { k: 4, relu: true };
    let jump = SaeActivation::JumpRelu { theta: values("threshold", S) };
    assert_eq!(activation(v6("topk", json!({"k": 4})), &relu), topk);
    assert_eq!(activation(v6("jumprelu", json!({})), &theta), jump);
    assert_eq!(activation(v6("batchtopk", json!({"k": 4.0})), &theta), jump);
    let gated = [("b_gate", S), ("b_mag", S), ("r_mag", S)];
    assert!(
        matches!(activation(v6("gated", json!({})), &gated), SaeActivation::Gated { r_mag, .. } if r_mag == values("r_mag", S))
    );
    assert!(
        load_sae_lens(v6("topk", json!({"k": 4, "rescale_acts_by_decoder_norm": true})), &relu)
            .unwrap()
            .rescale_by_decoder_norm
    );
    assert_eq!(load_sae_lens(v6("standard", json!({"apply_b_dec_to_input": false})), &relu).unwrap().input_bias, None);
    for (mode, norm) in
        [("layer_norm", InputNorm::LayerNorm { eps: 1e-5 }), ("constant_norm_rescale", InputNorm::UnitNorm)]
    {
        assert_eq!(load_sae_lens(v6("standard", json!({"normalize_activations": mode})), &relu).unwrap().norm, norm);
    }
    // Before version 6, from the newest keys to the oldest.
    let old = json!({"d_in": D, "d_sae": S, "hook_name": "blocks.3.hook_resid_pre", "hook_layer": 3, "model_name": "vit",
        "architecture": "standard", "activation_fn_str": "topk", "activation_fn_kwargs": {"k": 4},
        "finetuning_scaling_factor": false, "normalize_activations": "none", "model_from_pretrained_kwargs": {}});
    let sae = load_sae_lens(old, &relu).unwrap();
    assert_eq!((&sae.activation, sae.format), (&topk, "SAELens before 6"));
    assert_eq!(sae.hook.unwrap().layer, Some(2), "what enters block 3 leaves block 2");
    assert!(sae.input_bias.is_some());
    let older = json!({"d_in": D, "d_sae": S, "hook_point": "blocks.{layer}.hook_resid_post", "hook_point_layer": 5,
        "activation_fn": "relu", "normalize_activations": false, "cls_token_only": true, "use_patches_only": false});
    let sae = load_sae_lens(older, &relu).unwrap();
    assert_eq!(sae.activation, SaeActivation::Relu);
    let hook = sae.hook.unwrap();
    assert_eq!((hook.layer, hook.tokens), (Some(5), Some(TokenScopeHint::Cls)));
}

#[test]
fn batch_topk_training_checkpoints_hold_one_threshold() {
    let dir = tempfile::tempdir().unwrap();
    let tensors = [tensor("W_enc", &[D, S]), tensor("W_dec", &[S, D]), tensor("b_dec", &[D]), tensor("b_enc", &[S])];
    let load = |theta: f64, config: Value| {
        let theta = [theta];
        let mut list: Vec<(&str, &[usize], Data<'_>)> =
            tensors.iter().map(|(n, s, v)| (n.as_str(), s.as_slice(), Data::F32(v))).collect();
        list.push(("topk_threshold", &[], Data::F64(&theta)));
        write(&dir.path().join("sae_weights.safetensors"), &list, &[]).unwrap();
        save_json(&dir.path().join("cfg.json"), &config);
        SaeWeights::load(dir.path())
    };
    // A fractional k is an average over a batch; it plays no part at inference.
    let config = v6("batchtopk", json!({"k": 4.5, "rescale_acts_by_decoder_norm": true}));
    let sae = load(0.75, config.clone()).unwrap();
    assert_eq!((sae.activation, sae.rescale_by_decoder_norm), (SaeActivation::Threshold { theta: 0.75 }, true));
    let untrained = load(-1.0, config).unwrap();
    assert_eq!(untrained.activation, SaeActivation::Threshold { theta: 0.0 });
    assert!(untrained.notes.iter().any(|n| n.contains("never trained")));
    assert!(load(0.75, v6("batchtopk", json!({}))).unwrap_err().to_string().contains("rescale_acts_by_decoder_norm"));
}

#[test]
fn an_outside_scale_is_used_or_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    sae_lens(dir.path(), v6("standard", json!({"normalize_activations": "expected_average_only_in"})), &[("b_enc", S)]);
    let message = SaeWeights::load(dir.path()).unwrap_err().to_string();
    assert!(message.contains("activation_scaler.json"), "{message}");
    let scaler = dir.path().join("activation_scaler.json");
    save_json(&scaler, &json!({"scaling_factor": 0.25}));
    assert_eq!(SaeWeights::load(dir.path()).unwrap().norm, InputNorm::Fixed { mean: None, scale: 4.0 });
    // After folding SAELens writes null.
    sae_lens(dir.path(), v6("standard", json!({})), &[("b_enc", S)]);
    assert!(SaeWeights::load(dir.path()).unwrap_err().to_string().contains("which one"));
    save_json(&scaler, &json!({"scaling_factor": null}));
    assert_eq!(SaeWeights::load(dir.path()).unwrap().norm, InputNorm::None);
    save_json(&scaler, &json!({"scaling_factor": null, "has_whitening": true}));
    assert!(SaeWeights::load(dir.path()).is_err());
}

#[test]
fn what_sae_lens_leaves_open_is_refused() {
    let relu = [("b_enc", S)];
    for (config, more, part) in [
        // The TopK SAE that SAELens once loaded as a ReLU one.
        (v6("standard", json!({"k": 4})), &relu[..], "which one is it"),
        (v6("standard", json!({"activation_fn_kwargs": {"k": 4}})), &relu, "which one is it"),
        (v6("topk", json!({})), &relu, "k is missing"),
        (v6("topk", json!({"k": 4, "activation_fn_kwargs": {"k": 8}})), &relu, "activation_fn_kwargs.k"),
        (v6("topk", json!({"k": 0})), &relu, "k is 0"),
        (v6("topk", json!({"k": 17})), &relu, "k is 17"),
        (v6("topk", json!({"k": 4})), &[("b_enc", S), ("threshold", S)], "threshold"),
        (v6("jumprelu", json!({})), &relu, "threshold"),
        (v6("gated", json!({})), &relu, "b_enc"),
        (v6("transcoder", json!({})), &relu, "transcoder"),
        (v6("standard", json!({})), &[("b_enc", S), ("W_skip", 4)], "transcoder"),
        (v6("standard", json!({"activation_fn": "tanh-relu"})), &relu, "tanh-relu"),
        (v6("standard", json!({"normalize_activations": "batch"})), &relu, "batch"),
        (v6("standard", json!({"reshape_activations": "hook_z"})), &relu, "hook_z"),
        (v6("standard", json!({"hook_head_index": 3})), &relu, "hook_head_index"),
        (v6("standard", json!({"finetuning_scaling_factor": true})), &relu, "finetuning_scaling_factor"),
        (v6("standard", json!({})), &[("b_enc", S), ("scaling_factor", S)], "scaling_factor"),
        (v6("standard", json!({"hook_layer": 3})), &relu, "two different blocks"),
        (v6("standard", json!({"cls_token_only": true, "use_patches_only": true})), &relu, "exclude"),
        (v6("standard", json!({"d_in": S, "d_sae": D})), &relu, "W_enc"),
        (v6("standard", json!({"d_sae": u64::MAX})), &relu, "W_enc"),
        (v6("standard", json!({"d_in": "six"})), &relu, "d_in"),
        (v6("standard", json!({})), &[("b_enc", 15)], "b_enc"),
        (json!({"d_sae": S}), &relu, "d_in"),
        (json!([1, 2]), &relu, "not an object"),
    ] {
        let error = load_sae_lens(config.clone(), more).unwrap_err();
        assert_eq!(error.exit_code(), 3, "{config}");
        assert!(error.to_string().contains(part), "{part}: {error}");
    }
}

fn sparsify(folder: &Path, config: Value, extra: &[Tensor]) {
    std::fs::create_dir_all(folder).unwrap();
    let mut tensors = vec![
        tensor("encoder.weight", &[S, D]),
        tensor("encoder.bias", &[S]),
        tensor("W_dec", &[S, D]),
        tensor("b_dec", &[D]),
    ];
    tensors.extend(extra.iter().cloned());
    save(&folder.join("sae.safetensors"), &tensors);
    save_json(&folder.join("cfg.json"), &config);
}

#[test]
fn sparsify_folders_say_hook_and_selection() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("vision_model.encoder.layers.9");
    let config = json!({"activation": "topk", "expansion_factor": 32, "normalize_decoder": true, "num_latents": S, "k": 3,
        "multi_topk": true, "skip_connection": false, "transcode": false, "d_in": D});
    sparsify(&folder, config.clone(), &[]);
    let sae = SaeWeights::load(&folder).unwrap();
    assert_eq!(sae.activation, SaeActivation::TopK { k: 3, relu: true });
    assert_eq!(sae.encoder, values("encoder.weight", S * D));
    assert_eq!(sae.input_bias.as_ref(), Some(&sae.decoder_bias));
    assert_eq!(sae.hook.as_ref().unwrap().layer, Some(9));
    assert!(sae.notes.iter().any(|n| n.contains("multi_topk")));
    // One file of the folder is the folder.
    assert_eq!(SaeWeights::load(&folder.join("sae.safetensors")).unwrap().hook, sae.hook);
    // The parent of several is told apart.
    let message = SaeWeights::load(dir.path()).unwrap_err().to_string();
    assert!(message.contains("vision_model.encoder.layers.9"), "{message}");
    // The size may be given as a multiple of the width.
    let with = |key: &str, value: Value| {
        let mut config = config.clone();
        config[key] = value;
        config
    };
    sparsify(&folder, with("num_latents", json!(0)), &[]);
    assert!(SaeWeights::load(&folder).unwrap_err().to_string().contains(&(32 * D).to_string()));
    for (key, value, part) in [
        ("transcode", json!(true), "transcode"),
        ("skip_connection", json!(true), "skip_connection"),
        ("signed", json!(true), "signed"),
        ("gram_lookup", json!(true), "gram_lookup"),
        ("activation", json!("relu"), "relu"),
        ("k", json!(S + 1), "k is 17"),
        ("k", json!(null), "k is missing"),
        ("d_in", json!(u64::MAX), "encoder.weight"),
        ("num_latents", json!(15), "encoder.weight"),
    ] {
        sparsify(&folder, with(key, value), &[]);
        let error = SaeWeights::load(&folder).unwrap_err();
        assert!(error.exit_code() == 3 && error.to_string().contains(part), "{part}: {error}");
    }
    let mut groups = with("activation", json!("groupmax"));
    sparsify(&folder, groups.clone(), &[]);
    assert!(SaeWeights::load(&folder).unwrap_err().to_string().contains("equal groups"));
    groups["k"] = json!(4);
    sparsify(&folder, groups, &[]);
    assert_eq!(SaeWeights::load(&folder).unwrap().activation, SaeActivation::GroupMax { k: 4 });
    sparsify(&folder, config, &[tensor("W_skip", &[D, D])]);
    assert!(SaeWeights::load(&folder).unwrap_err().to_string().contains("transcoder"));
}

#[test]
fn unknown_families_and_missing_parts_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ae.safetensors");
    save(&path, &[tensor("encoder.weight", &[S, D]), tensor("decoder.weight", &[D, S])]);
    assert!(SaeWeights::load(&path).unwrap_err().to_string().contains("cfg.json"));
    save_json(&dir.path().join("cfg.json"), &json!({"d_in": D, "k": 4}));
    assert!(SaeWeights::load(&path).unwrap_err().to_string().contains("decoder.weight"));
    let pickle = dir.path().join("sae.pt");
    std::fs::write(&pickle, "x").unwrap();
    assert!(SaeWeights::load(&pickle).unwrap_err().to_string().contains("never loaded"));
    assert!(SaeWeights::load(&dir.path().join("none")).unwrap_err().to_string().contains("no such"));
    assert!(SaeWeights::load(dir.path()).unwrap_err().to_string().contains("no SAE"));
}

#[test]
fn an_sae_fits_one_width_and_its_layers() {
    let mut sae = canonical(SaeActivation::Relu);
    assert_eq!(sae.fit(D, 12, None).unwrap_err().exit_code(), 2, "nobody says where");
    assert_eq!(sae.fit(D, 12, Some(3)).unwrap().warning, None);
    sae.hook = Some(Hook { layer: Some(11), name: "blocks.11.hook_resid_post".into(), tokens: None });
    assert_eq!(sae.fit(D, 12, None).unwrap().layer, 11);
    assert_eq!(sae.fit(D, 12, Some(11)).unwrap().warning, None);
    let moved = sae.fit(D, 12, Some(4)).unwrap();
    let warning = moved.warning.unwrap();
    assert!(
        moved.layer == 4 && warning.contains("blocks.11.hook_resid_post") && warning.contains("block 4"),
        "{warning}"
    );
    for (width, blocks, asked) in [(D + 1, 12, None), (D, 11, None), (D, 12, Some(12))] {
        assert_eq!(sae.fit(width, blocks, asked).unwrap_err().exit_code(), 3);
    }
    sae.hook = Some(Hook { layer: None, name: "blocks.3.hook_mlp_out".into(), tokens: None });
    assert!(sae.fit(D, 12, None).unwrap_err().to_string().contains("hook_mlp_out"));
    assert!(sae.fit(D, 12, Some(3)).unwrap().warning.is_some());
}

#[test]
fn inspect_describes_an_sae() {
    let dir = tempfile::tempdir().unwrap();
    let mut sae = canonical(SaeActivation::TopK { k: 3, relu: true });
    sae.decoder[..D].fill(0.0);
    sae.save_sparsify(dir.path(), Stored::F32).unwrap();
    let rows = inspect(dir.path()).unwrap();
    for (key, value) in
        [("family", "sparsify"), ("width", "6"), ("activation", "top 3, then ReLU"), ("latents with a zero row", "1")]
    {
        assert!(rows.iter().any(|(k, v)| k == key && v == value), "{key}: {rows:?}");
    }
    assert_eq!(inspect(&dir.path().join("cfg.json")).unwrap(), rows);
    let plain = dir.path().join("plain.safetensors");
    save(&plain, &[tensor("a", &[2, 3])]);
    let rows = inspect(&plain).unwrap();
    assert!(rows.contains(&("a".into(), "F32 [2, 3]".into())), "{rows:?}");
}

#[test]
fn stored_in_16_bits_an_sae_is_half_as_large_and_rounded() {
    let sae = canonical(SaeActivation::TopK { k: 2, relu: true });
    let dir = tempfile::tempdir().unwrap();
    let size = |folder: &Path| std::fs::metadata(folder.join("sae_weights.safetensors")).unwrap().len();
    let (whole, half) = (dir.path().join("whole"), dir.path().join("half"));
    sae.save_sae_lens(&whole, Stored::F32).unwrap();
    sae.save_sae_lens(&half, Stored::F16).unwrap();
    let values = 2 * sae.encoder.len() + sae.latents + sae.width;
    assert_eq!((size(&whole) - size(&half)) as usize, 2 * values);
    let back = SaeWeights::load(&half).unwrap();
    for (a, b) in sae.encoder.iter().zip(&back.encoder) {
        assert_eq!(half::f16::from_f32(*a).to_f32(), *b);
    }
    let config: Value = serde_json::from_slice(&std::fs::read(half.join("cfg.json")).unwrap()).unwrap();
    assert_eq!(config["dtype"], "float16");

    let large = SaeWeights { decoder_bias: vec![1e6; sae.width], ..sae };
    let error = large.save_sae_lens(&dir.path().join("large"), Stored::F16).unwrap_err();
    assert!(error.to_string().contains("b_dec"), "{error}");
}
