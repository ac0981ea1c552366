//! The bundled model: it opens, it reads texts, and its heatmaps lie on what they name.

#![allow(clippy::unwrap_used)] // helpers of tests are tests

use serde_json::Value;
use vitscope::{
    demo,
    engine::{Engine, MapValues, Options, Request, SaeRequest, latent_uses},
    image::{DecodeOptions, decode_bytes},
    model::{Edit, Score, Splice, Through, Tokens},
    text::Template,
    weights::Source,
};

/// scenes.json, which the program itself does not need.
fn listed() -> Vec<Value> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/src/demo/scenes.json");
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// The boxes (x, y, width, height) of two texts in a scene.
fn boxes_of(scene: &str, texts: &[&str; 2]) -> [[f64; 4]; 2] {
    let listed = listed();
    let objects = listed.iter().find(|entry| entry["name"] == scene).unwrap()["objects"].as_array().unwrap();
    texts.map(|text| {
        let object = objects.iter().find(|object| object["prompt"] == *text).unwrap();
        [0, 1, 2, 3].map(|i| object["box"][i].as_f64().unwrap())
    })
}

fn engine() -> Engine {
    Engine::open(&Source::Demo, &Options::default()).unwrap()
}

fn request(texts: &[&str]) -> Request {
    Request {
        texts: texts.iter().map(|text| text.to_string()).collect(),
        template: Template::default(),
        score: Score::Cosine,
        methods: vec!["grad-eclip".parse().unwrap()],
        sae: None,
        latents: false,
        seed: 0,
    }
}

#[test]
fn the_scenes_are_those_of_the_list() {
    let listed = listed();
    assert_eq!(demo::SCENES.len(), listed.len());
    for (scene, entry) in demo::SCENES.iter().zip(&listed) {
        assert_eq!(scene.name, entry["name"]);
        let prompts: Vec<&str> =
            entry["objects"].as_array().unwrap().iter().map(|o| o["prompt"].as_str().unwrap()).collect();
        assert_eq!(scene.prompts, prompts);
    }
}

#[test]
fn the_tokenizer_finds_the_ids_of_transformers() {
    let tokenizer = demo::tokenizer().unwrap();
    for entry in listed() {
        for object in entry["objects"].as_array().unwrap() {
            let encoded = tokenizer.encode(object["prompt"].as_str().unwrap(), 48).unwrap();
            let expected: Vec<u32> = serde_json::from_value(object["ids"].clone()).unwrap();
            assert_eq!(encoded.ids[..encoded.len], expected, "{}", object["prompt"]);
        }
    }
}

#[test]
fn every_prompt_has_its_maximum_on_its_object() {
    let mut engine = engine();
    let patch = engine.checkpoint.config.vision.patch as f64;
    for (scene, entry) in demo::SCENES.iter().zip(listed()) {
        let picture = decode_bytes(scene.name, scene.png, &DecodeOptions::default()).unwrap();
        let prepared = engine.preprocess.apply(&picture).unwrap();
        let question = engine.ask(&request(scene.prompts)).unwrap();
        let explanation = engine.explain(&[&prepared], &question).unwrap().remove(0);
        let scale = prepared.width as f64 / picture.width as f64;
        for (map, object) in explanation.result.maps.iter().zip(entry["objects"].as_array().unwrap()) {
            let (peak, _) = map.values.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).unwrap();
            let [x, y, width, height] = [0, 1, 2, 3].map(|i| object["box"][i].as_f64().unwrap() * scale);
            let (left, top) = ((peak % map.cols) as f64 * patch, (peak / map.cols) as f64 * patch);
            // The patch with the maximum overlaps the box.
            let hit = left < x + width && left + patch > x && top < y + height && top + patch > y;
            assert!(hit, "{}: {}: maximum at ({left}, {top}), box {:?}", scene.name, object["prompt"], object["box"]);
        }
    }
}

#[test]
fn what_is_there_scores_above_what_is_not() {
    let mut engine = engine();
    let absent = ["a photo of a tractor", "a photo of a violin", "a photo of a shark"];
    for scene in demo::SCENES {
        let picture = decode_bytes(scene.name, scene.png, &DecodeOptions::default()).unwrap();
        let prepared = engine.preprocess.apply(&picture).unwrap();
        let texts: Vec<&str> = scene.prompts.iter().chain(&absent).copied().collect();
        let question = engine.ask(&request(&texts)).unwrap();
        let scores = engine.explain(&[&prepared], &question).unwrap().remove(0).result.scores;
        let (present, absent) = scores.split_at(scene.prompts.len());
        let least = present.iter().copied().fold(f64::INFINITY, f64::min);
        let most = absent.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        assert!(least > most, "{}: {scores:?}", scene.name);
    }
}

/// With what the model knows as rivals.
#[test]
fn what_is_there_is_found_and_what_is_not_is_not() {
    let mut engine = engine();
    let known: Vec<String> = demo::vocabulary().map(str::to_owned).collect();
    let absent = ["a photo of a tractor", "a photo of a violin", "a photo of a shark"];
    for scene in demo::SCENES {
        let picture = decode_bytes(scene.name, scene.png, &DecodeOptions::default()).unwrap();
        let prepared = engine.preprocess.apply(&picture).unwrap();
        let texts: Vec<&str> = scene.prompts.iter().chain(&absent).copied().collect();
        let question = engine.ask(&request(&texts)).unwrap();
        let presence = engine.presence(&question, &known).unwrap();
        let found = engine.found(&[&prepared, &prepared], &presence).unwrap();
        assert_eq!(found[0], found[1]);
        let (present, absent) = found[0].split_at(scene.prompts.len());
        assert!(present.iter().all(|found| (0.5..=1.0).contains(found)), "{}: {present:?}", scene.name);
        assert!(absent.iter().all(|found| (0.0..0.05).contains(found)), "{}: {absent:?}", scene.name);
    }
}

#[test]
fn texts_are_read_as_the_card_says() {
    let mut engine = engine();
    let names = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/src/demo/concepts.txt")).unwrap();
    let names: Vec<String> = names.lines().map(str::to_owned).collect();
    assert!(names.len() >= 253);
    let embedded = engine.embed_texts(&names, &Template::default()).unwrap();
    assert!(embedded.warnings.is_empty());
    // No two concepts share an embedding.
    let rows: Vec<&[f64]> = embedded.values.chunks(engine.checkpoint.config.embed).collect();
    for (i, a) in rows.iter().enumerate() {
        for (j, b) in rows.iter().enumerate().skip(i + 1) {
            let cosine: f64 = a.iter().zip(*b).map(|(a, b)| a * b).sum();
            assert!(cosine < 0.99, "{} and {}: {cosine}", names[i], names[j]);
        }
    }
}

/// What the zeroing of latents is for: one thing goes, its neighbour stays.
#[test]
fn without_the_latent_of_the_moon_the_moon_is_gone_and_the_rocket_is_not() {
    let mut engine = engine();
    let scene = &demo::SCENES[2];
    let texts = ["a photo of the moon", "a photo of a rocket"];
    assert!(texts.iter().all(|text| scene.prompts.contains(text)));
    let picture = decode_bytes(scene.name, scene.png, &DecodeOptions::default()).unwrap();
    let prepared = engine.preprocess.apply(&picture).unwrap();
    let mut explain = |edits: Vec<Edit>, latents: bool| {
        let sae = SaeRequest {
            weights: demo::sae("demo").unwrap(),
            layer: None,
            tokens: Tokens::All,
            edits,
            splice: Splice::KeepError,
            through: Through::Exact,
        };
        let asked = Request { sae: Some(sae), latents, ..request(&texts) };
        let question = engine.ask(&asked).unwrap();
        engine.explain(&[&prepared], &question).unwrap().remove(0)
    };
    let before = explain(Vec::new(), true).result;
    let mut uses = latent_uses(before.latents.as_ref().unwrap(), 2);
    uses.sort_by(|a, b| b.contribution[0].total_cmp(&a.contribution[0]));
    let after = explain(vec![format!("zero:{}", uses[0].id).parse().unwrap()], false).result;
    let (moon, rocket) = (0, 1);
    let scale = prepared.width as f64 / picture.width as f64;
    let boxes = boxes_of(scene.name, &texts).map(|sides| sides.map(|side| side * scale));
    let positive = |(_, v): (usize, &f32)| v.max(0.0);
    let heat = |map: &MapValues| map.values.iter().enumerate().map(positive).sum::<f32>();
    // Of the patches whose centre lies in the text's box.
    let heat_inside = |map: &MapValues| {
        let ([x, y, width, height], patch) = (boxes[map.text], prepared.width as f64 / map.cols as f64);
        let centre = |i: usize| (i as f64 + 0.5) * patch;
        let inside = |i: usize| {
            let (across, down) = (centre(i % map.cols) - x, centre(i / map.cols) - y);
            (0.0..=width).contains(&across) && (0.0..=height).contains(&down)
        };
        map.values.iter().enumerate().filter(|(i, _)| inside(*i)).map(positive).sum::<f32>()
    };
    assert!(after.scores[moon] < 0.6 * before.scores[moon], "{:?} {:?}", before.scores, after.scores);
    assert!(after.scores[rocket] > 0.95 * before.scores[rocket], "{:?} {:?}", before.scores, after.scores);
    assert!(heat_inside(&after.maps[moon]) < 0.1 * heat_inside(&before.maps[moon]));
    assert!(heat(&after.maps[moon]) < 0.5 * heat(&before.maps[moon]));
    for heat in [&heat as &dyn Fn(&MapValues) -> f32, &heat_inside] {
        assert!(heat(&after.maps[rocket]) > 0.85 * heat(&before.maps[rocket]));
    }
}

#[test]
fn the_saes_fit_the_model() {
    for (name, layer) in [("demo", 4), ("demo:layer4", 4), ("demo:layer3", 3)] {
        let sae = demo::sae(name).unwrap();
        assert_eq!(sae.fit(128, 5, None).unwrap().layer, layer);
    }
    assert_eq!(demo::sae("demo:layer0").unwrap_err().exit_code(), 2);
}
