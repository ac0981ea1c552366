//! `sae eval`.

use std::{fs, path::Path};

use serde_json::Value;
use vitscope::{
    demo,
    engine::{Engine, Options},
    weights::{Hook, InputNorm, SaeActivation, SaeWeights, Source, Stored},
};

use super::{fixture, json_lines, lines, stderr, stdout, vitscope};

/// Writes an SAE for the bundled model whose `rows` rows are the axes, then the negated axes: with all of them it
/// rebuilds the stream to the last bit.
fn write_sae(folder: &Path, name: &str, rows: usize, layer: usize) {
    let d = Engine::open(&Source::Demo, &Options::default()).unwrap().checkpoint.config.vision.tower.width;
    let axis = |i: usize| (0..d).map(move |j| if i % d == j { [1.0, -1.0][i / d] } else { 0.0 });
    let matrix: Vec<f32> = (0..rows.min(2 * d)).flat_map(axis).collect();
    let latents = matrix.len() / d;
    let sae = SaeWeights {
        width: d,
        latents,
        encoder: matrix.clone(),
        encoder_bias: vec![0.0; latents],
        decoder: matrix,
        decoder_bias: vec![0.0; d],
        input_bias: None,
        activation: SaeActivation::Relu,
        rescale_by_decoder_norm: false,
        norm: InputNorm::None,
        hook: Some(Hook { layer: Some(layer), name: format!("blocks.{layer}.hook_resid_post"), tokens: None }),
        format: "SAELens 6",
        notes: Vec::new(),
        path: name.into(),
    };
    sae.save_sae_lens(&folder.join(name), Stored::F32).unwrap();
}

#[test]
fn one_sae_on_the_bundled_scenes() {
    let folder = tempfile::tempdir().unwrap();
    write_sae(folder.path(), "perfect", usize::MAX, 2);
    let done = vitscope(folder.path(), &["sae", "eval", "perfect", "--json", "-o", "out"]).code(0);
    let told = json_lines(&stdout(&done));
    assert_eq!((told.len(), &told), (1, &lines(&folder.path().join("out/eval.jsonl"))));
    let line = &told[0];
    assert_eq!((&line["images"], &line["layer"], &line["tokens"]), (&4.into(), &2.into(), &"all".into()));
    assert_eq!((&line["reconstruction"]["fvu"], &line["contrastive"]["recovered"]), (&0.0.into(), &1.0.into()));
    assert_eq!(
        (&line["contrastive"]["pairs"], &line["picked"], &line["excluded"]),
        (&4.into(), &true.into(), &Value::Null)
    );
    assert_eq!(line["alignment"]["texts"].as_array().unwrap().len(), 16);
    assert!(line["zero_shot"].is_null() && line["rule"].as_str().unwrap().starts_with("lowest FVU among"));
    let image = fs::read(folder.path().join("out/frequency.png")).unwrap();
    assert!(image.starts_with(b"\x89PNG") && folder.path().join("out/frequency.svg").is_file());

    let text =
        stdout(&vitscope(folder.path(), &["sae", "eval", "perfect", "--tokens", "cls", "--text", "a cat"]).code(0));
    for needle in ["output of block 2, tokens cls", "shift of the cosine to `a cat`", "original → spliced", " to  0.0 "]
    {
        assert!(text.contains(needle), "{needle}: {text}");
    }
}

/// The scenes in folders that are named as an object of theirs, with a picture that is none.
fn scenes(folder: &Path) {
    for (scene, class) in demo::SCENES.iter().zip(["cat", "traffic_light", "rocket", "strawberry"]) {
        fs::create_dir_all(folder.join("set").join(class)).unwrap();
        fs::write(folder.join("set").join(class).join(format!("{}.png", scene.name)), scene.png).unwrap();
    }
    fs::write(folder.join("set/cat/broken.png"), "no picture").unwrap();
    let caption = |scene: &demo::Scene, class: &str| {
        format!("{{\"image\":\"set/{class}/{}.png\",\"caption\":\"{}\"}}\n", scene.name, scene.prompts[0])
    };
    let captions = [caption(&demo::SCENES[0], "cat"), caption(&demo::SCENES[2], "rocket")].concat();
    fs::write(folder.join("captions.jsonl"), captions).unwrap();
    fs::write(folder.join("labels.csv"), "image,label\nset/cat/picnic.png,cat\nset/rocket/space.png,rocket\n").unwrap();
}

#[test]
fn of_several_one_is_picked_and_a_broken_picture_is_named() {
    let folder = tempfile::tempdir().unwrap();
    scenes(folder.path());
    write_sae(folder.path(), "half", 60, 2);
    write_sae(folder.path(), "perfect", usize::MAX, 2);
    write_sae(folder.path(), "early", usize::MAX, 0);
    let common = ["sae", "eval", "half", "perfect", "early", "--images", "set", "--labels", "folders"];
    let args = |more: &[&'static str]| -> Vec<&str> { common.iter().chain(more).copied().collect() };
    let done =
        vitscope(folder.path(), &args(&["--captions", "captions.jsonl", "--template", "a photo of a {}"])).code(1);
    let (text, said) = (stdout(&done), stderr(&done));
    assert!(said.contains("broken.png") && said.contains("does not name 3 of the 5 pictures"), "{said}");
    for needle in ["Rule: lowest FVU among", "Does not qualify: half", "Picked: perfect\n", "4 classes", "2 pairs"] {
        assert!(text.contains(needle), "{needle}: {text}");
    }
    let done =
        vitscope(folder.path(), &args(&["--json", "--pick", "accuracy", "--template", "a photo of a {}"])).code(1);
    let told = json_lines(&stdout(&done));
    assert_eq!(told.iter().map(|line| line["failed"].as_u64().unwrap()).collect::<Vec<_>>(), [1, 1, 1]);
    assert_eq!(told[1]["zero_shot"]["accuracy"], told[2]["zero_shot"]["accuracy"].clone());
    assert_eq!(told[1]["zero_shot"]["accuracy"]["original"], told[1]["zero_shot"]["accuracy"]["spliced"]);
    assert!(told[0]["zero_shot"]["recovered"].as_f64().unwrap() < 0.9 && told[1]["zero_shot"]["recovered"] == 1.0);
    assert!(told[0]["excluded"].as_str().unwrap().starts_with("embedding cosine"));
    assert_eq!((&told[1]["picked"], &told[2]["picked"]), (&true.into(), &false.into()));

    // The pictures that the labels name, and no other.
    let args = ["sae", "eval", "perfect", "--labels", "labels.csv", "--json"];
    let told = json_lines(&stdout(&vitscope(folder.path(), &args).code(0)));
    assert_eq!((&told[0]["images"], &told[0]["zero_shot"]["classes"]), (&2.into(), &2.into()));
    assert!(told[0]["contrastive"].is_null());
}

#[test]
fn what_cannot_be_evaluated_is_said_before_the_first_picture() {
    let folder = tempfile::tempdir().unwrap();
    scenes(folder.path());
    write_sae(folder.path(), "perfect", usize::MAX, 2);
    let (model, other) = (fixture("clip/tiny_a"), fixture("clip/sae_b2_topk"));
    let cases: [(&[&str], i32, &str); 8] = [
        (&["perfect", "--model", &model], 3, "does not fit the model: width"),
        (&["perfect", "missing"], 3, "missing"),
        (&[&other], 3, "does not fit"),
        (&["perfect", "--layer", "99"], 2, "blocks 0 to"),
        (&["perfect", "--images", "set/cat", "--labels", "folders"], 2, "zero-shot needs two"),
        (&["perfect", "--images", "set", "--captions", "labels.csv", "--labels", "none.csv"], 2, "none.csv"),
        (&["perfect", "--pick", "ev"], 2, "fvu, l0, cosine"),
        (&["perfect", "--images", "set/cat/broken.png"], 1, "no picture could be evaluated"),
    ];
    for (args, code, needle) in cases {
        let args: Vec<&str> = ["sae", "eval"].iter().chain(args).copied().collect();
        let message = stderr(&vitscope(folder.path(), &args).code(code));
        assert!(message.contains(needle), "{args:?}: {message}");
    }
    // Without pictures only the bundled model has some.
    let fits = fixture("clip/sae_a1_sparsify");
    let message = stderr(&vitscope(folder.path(), &["sae", "eval", &fits, "--layer", "1", "--model", &model]).code(2));
    assert!(message.contains("--images"), "{message}");
    vitscope(folder.path(), &["sae", "eval"]).code(2);
}
