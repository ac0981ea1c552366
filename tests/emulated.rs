//! The GPU backend on the emulated device: the fixtures in every type, the bundled model beside the CPU, and the same bits
//! in every batch. Needs a C++ compiler.

#![allow(clippy::unwrap_used)] // helpers of tests are tests

#[path = "common/fixtures.rs"]
mod fixtures;

use std::path::{Path, PathBuf};

use vitscope::{
    demo,
    engine::{
        AskedDtype, Compared, Device, Dtype, Engine, Explanation, Options, Pictured, Request, SaeRequest, verify,
    },
    image::{DecodeOptions, Prepared, decode_bytes},
    model::{Score, Splice, Through, Tokens},
    text::Template,
    weights::Source,
};

const EMULATED: Device = Device::Emulated { checked: false };

fn options(device: Device, dtype: Dtype) -> Options {
    let kernel_cache = Some(PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("emulator"));
    Options { device, dtype: AskedDtype(Some(dtype)), kernel_cache, ..Options::default() }
}

#[test]
fn every_fixture_in_f32() {
    fixtures::verify_all(&options(EMULATED, Dtype::F32));
}

#[test]
fn every_fixture_in_f16() {
    fixtures::verify_all(&options(EMULATED, Dtype::F16));
}

#[test]
fn every_fixture_in_bf16() {
    fixtures::verify_all(&options(EMULATED, Dtype::Bf16));
}

fn request(texts: &[&str], methods: &[&str], sae: Option<SaeRequest>) -> Request {
    Request {
        texts: texts.iter().map(|text| text.to_string()).collect(),
        template: Template::default(),
        score: Score::Cosine,
        methods: methods.iter().map(|method| method.parse().unwrap()).collect(),
        sae,
        latents: false,
        seed: 0,
    }
}

/// The bundled scenes, cut and normalised.
fn scenes(engine: &Engine) -> Vec<Prepared> {
    let decode = |scene: &demo::Scene| decode_bytes(scene.name, scene.png, &DecodeOptions::default()).unwrap();
    demo::SCENES.iter().map(|scene| engine.preprocess.apply(&decode(scene)).unwrap()).collect()
}

fn explain(engine: &mut Engine, images: &[&Prepared], request: &Request) -> Vec<Explanation> {
    let question = engine.ask(request).unwrap();
    engine.explain(images, &question).unwrap()
}

/// The bundled model on a bundled scene, within the bounds of f32 on either device.
#[test]
fn the_bundled_models_maps_are_the_cpus() {
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/demo/space.safetensors");
    for device in [Device::Cpu, EMULATED] {
        let rows = verify(&fixture, &options(device, Dtype::F32)).unwrap().tensors;
        assert!(rows.len() >= 10 && rows.iter().all(Compared::ok), "{device}: {rows:?}");
    }
}

fn same(one: &Pictured, other: &Pictured) {
    assert_eq!(one.scores, other.scores);
    assert_eq!(one.maps, other.maps);
}

#[test]
fn a_batch_gives_the_bits_of_its_images() {
    let sae = SaeRequest {
        weights: demo::sae("demo").unwrap(),
        layer: None,
        tokens: Tokens::All,
        edits: vec!["scale:3=2".parse().unwrap()],
        splice: Splice::Replace,
        through: Through::Exact,
    };
    let request =
        request(&["a photo of a dog", "a photo of the moon"], &["grad-eclip", "chefer", "gradient"], Some(sae));
    let mut engine = Engine::open(&Source::Demo, &options(EMULATED, Dtype::Bf16)).unwrap();
    let images = scenes(&engine);
    let eight: Vec<&Prepared> = images.iter().cycle().take(8).collect();
    let all = explain(&mut engine, &eight, &request);
    for (first, count) in [(0, 1), (2, 3), (7, 1)] {
        let some = explain(&mut engine, &eight[first..first + count], &request);
        for (one, of_many) in some.iter().zip(&all[first..]) {
            same(&one.result, &of_many.result);
            same(one.baseline.as_ref().unwrap(), of_many.baseline.as_ref().unwrap());
        }
    }
}

/// The first pass is issued, the second and third are captured, the others replayed, two of them out at a time.
#[test]
fn passes_that_are_remembered_give_the_same_bits() {
    let request = request(&["a photo of a dog"], &["grad-eclip", "gradient-x-input"], None);
    let mut engine = Engine::open(&Source::Demo, &options(EMULATED, Dtype::F16)).unwrap();
    let images = &scenes(&engine)[..2];
    let question = engine.ask(&request).unwrap();
    let alone: Vec<Explanation> = images
        .iter()
        .map(|image| {
            let mut fresh = Engine::open(&Source::Demo, &options(EMULATED, Dtype::F16)).unwrap();
            explain(&mut fresh, &[image], &request).remove(0)
        })
        .collect();
    // A forward of its own between them has its own arena.
    let stream = engine.streams(&[&images[0]], &[1]).unwrap();
    let mut pending = std::collections::VecDeque::new();
    for i in 0..3 * images.len() {
        pending.push_back((i, engine.submit(&[&images[i % images.len()]], &question).unwrap()));
        if pending.len() == 2 || i + 1 == 3 * images.len() {
            let (of, oldest) = pending.pop_front().unwrap();
            assert_eq!(engine.streams(&[&images[0]], &[1]).unwrap(), stream);
            let explanation = engine.collect(oldest, &question).unwrap();
            same(&explanation[0].result, &alone[of % images.len()].result);
        }
    }
}
