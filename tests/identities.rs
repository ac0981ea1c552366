//! What must hold without any reference implementation.

#![allow(clippy::unwrap_used, clippy::expect_used)] // helpers of tests are tests

mod common;

use std::path::{Path, PathBuf};

use common::Rng;
use vitscope::{
    backend::{
        Arena, AttentionShape, Backend, Input, Memory, PatchGrid, Plan, Relevance,
        cpu::{Cpu, CpuMemory},
    },
    engine::{AskedDtype, Dtype, Engine, Explanation, Options, Question, Request, SaeRequest},
    image::{Prepared, Rgb8},
    model::{Edit, Splice, Through, Tokens, pass::MapKey},
    text::Template,
    weights::{SaeWeights, Source},
};

const METHODS: [&str; 9] = [
    "grad-eclip",
    "grad-eclip:heads=single",
    "attention",
    "rollout",
    "chefer",
    "legrad",
    "grad-cam",
    "gradient",
    "gradient-x-input",
];

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/clip").join(name)
}

fn open(model: &Path, dtype: Dtype) -> Engine {
    let options = Options { dtype: AskedDtype(Some(dtype)), ..Options::default() };
    Engine::open(&Source::Path(model.to_path_buf()), &options).unwrap()
}

fn request(methods: &[&str], sae: Option<SaeRequest>) -> Request {
    Request {
        texts: vec!["a photo of a cat".into(), "two dogs".into()],
        template: Template::default(),
        score: "cosine".parse().unwrap(),
        methods: methods.iter().map(|m| m.parse().unwrap()).collect(),
        sae,
        latents: false,
        seed: 7,
    }
}

fn sae(layer: isize, edits: &[&str], tokens: Tokens, splice: Splice, through: Through) -> SaeRequest {
    SaeRequest {
        weights: SaeWeights::load(&fixture("sae_a1_sparsify")).unwrap(),
        layer: Some(layer),
        tokens,
        edits: edits.iter().map(|e| e.parse().unwrap()).collect(),
        splice,
        through,
    }
}

fn pixels(engine: &Engine, batch: usize) -> (Vec<f64>, PatchGrid) {
    let side = engine.checkpoint.config.vision.image_size;
    // Representable in f32, so that both types see the same picture.
    let values = Rng::new(11).normal(batch * 3 * side * side).iter().map(|&v| f64::from(v as f32)).collect();
    (values, engine.grid(side, side).unwrap())
}

fn explain(engine: &mut Engine, request: &Request, batch: usize) -> (Vec<Explanation>, Question) {
    let question = engine.ask(request).unwrap();
    let (values, grid) = pixels(engine, batch);
    (engine.explain_pixels(&values, batch, grid, &question).unwrap(), question)
}

fn same(a: &Explanation, b: &Explanation) {
    assert_eq!(a.result.scores, b.result.scores);
    for (x, y) in a.result.maps.iter().zip(&b.result.maps) {
        assert_eq!(x, y);
    }
}

#[test]
fn keeping_the_error_without_edits_changes_no_bit() {
    let mut engine = open(&fixture("tiny_a"), Dtype::F32);
    let plain = explain(&mut engine, &request(&METHODS, None), 1).0;
    for layer in [0, 1, 2] {
        let spliced = sae(layer, &[], Tokens::All, Splice::KeepError, Through::Exact);
        same(&plain[0], &explain(&mut engine, &request(&METHODS, Some(spliced)), 1).0[0]);
    }
}

#[test]
fn edits_that_change_nothing_change_no_bit() {
    let mut engine = open(&fixture("tiny_a"), Dtype::F32);
    for splice in [Splice::Replace, Splice::KeepError] {
        let plain = request(&METHODS, Some(sae(1, &[], Tokens::All, splice, Through::Exact)));
        let (plain, _) = explain(&mut engine, &plain, 1);
        let mut seen = request(&[], Some(sae(1, &[], Tokens::All, splice, Through::Exact)));
        seen.latents = true;
        let fires = explain(&mut engine, &seen, 1).0[0].result.latents.clone().unwrap();
        let used: Vec<u32> = fires.tokens.iter().flatten().map(|l| l.id).collect();
        let silent = (0..64).find(|id| !used.contains(id)).expect("a latent that never fires");
        for edit in [format!("zero:{silent}"), format!("scale:{silent}=3"), "scale:0,1,2,3,4,5=1".into()] {
            let edited = request(&METHODS, Some(sae(1, &[&edit], Tokens::All, splice, Through::Exact)));
            let (edited, _) = explain(&mut engine, &edited, 1);
            same(&plain[0], &edited[0]);
            let baseline = edited[0].baseline.clone().unwrap();
            assert_eq!(baseline.scores, edited[0].result.scores);
        }
    }
}

#[test]
fn patches_of_the_last_block_do_not_reach_the_similarity() {
    let mut engine = open(&fixture("tiny_a"), Dtype::F32);
    let (plain, _) = explain(&mut engine, &request(&["grad-eclip"], None), 1);
    let edits = ["set:0=9", "add:5=-3", "scale:7=4"];
    for (splice, tokens) in [(Splice::KeepError, Tokens::Patches), (Splice::Replace, Tokens::List(vec![0, 3]))] {
        let edited = request(&["grad-eclip"], Some(sae(-1, &edits, tokens, splice, Through::Exact)));
        let (edited, _) = explain(&mut engine, &edited, 1);
        same(&plain[0], &edited[0]);
    }
    let cls = request(&["grad-eclip"], Some(sae(-1, &edits, Tokens::Cls, Splice::KeepError, Through::Exact)));
    assert_ne!(plain[0].result.scores, explain(&mut engine, &cls, 1).0[0].result.scores);
}

#[test]
fn results_do_not_depend_on_batch_position_or_repetition() {
    let mut engine = open(&fixture("tiny_b"), Dtype::F32);
    let methods = [&METHODS[..], &["integrated-gradients:steps=3", "smoothgrad:samples=2"]].concat();
    let question = engine.ask(&request(&methods, None)).unwrap();
    let (values, grid) = pixels(&engine, 3);
    let together = engine.explain_pixels(&values, 3, grid, &question).unwrap();
    let again = engine.explain_pixels(&values, 3, grid, &question).unwrap();
    for (b, image) in values.chunks(values.len() / 3).enumerate() {
        let alone = engine.explain_pixels(image, 1, grid, &question).unwrap();
        same(&alone[0], &together[b]);
        same(&together[b], &again[b]);
    }
}

/// A copy of a fixture model with its vision configuration changed.
fn changed(key: &str, value: serde_json::Value) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(fixture("tiny_a")).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, folder.path().join(path.file_name().unwrap())).unwrap();
    }
    let config = folder.path().join("config.json");
    let mut json: serde_json::Value = serde_json::from_slice(&std::fs::read(&config).unwrap()).unwrap();
    json["vision_config"][key] = value;
    std::fs::write(&config, json.to_string()).unwrap();
    folder
}

#[test]
fn with_one_head_the_authors_mode_is_the_models_mode() {
    let folder = changed("num_attention_heads", 1.into());
    let mut engine = open(folder.path(), Dtype::F32);
    let (both, _) = explain(&mut engine, &request(&["grad-eclip", "grad-eclip:heads=single"], None), 1);
    let maps = &both[0].result.maps;
    assert_eq!(maps[0].values, maps[2].values);
    assert_eq!(maps[0].score, maps[2].score);
    assert!(maps[0].values.iter().any(|&v| v > 0.0));
}

#[test]
fn the_activation_matters() {
    let (a, b) = (changed("hidden_act", "gelu".into()), changed("hidden_act", "quick_gelu".into()));
    let score = |folder: &Path| explain(&mut open(folder, Dtype::F32), &request(&[], None), 1).0[0].result.scores[0];
    assert!((score(a.path()) - score(b.path())).abs() > 1e-4);
}

#[test]
fn integrated_gradients_are_complete() {
    let mut engine = open(&fixture("tiny_b"), Dtype::F64);
    let (few, _) = explain(&mut engine, &request(&["integrated-gradients:steps=8"], None), 1);
    let (many, _) = explain(&mut engine, &request(&["integrated-gradients:steps=120"], None), 1);
    let gap = |e: &Explanation| e.result.maps[0].completeness_gap.unwrap().abs();
    assert!(gap(&many[0]) < 1e-4, "gap {}", gap(&many[0]));
    assert!(gap(&many[0]) < gap(&few[0]));
}

#[test]
fn contributions_of_latents_add_up() {
    // sum_i z_i u_i + <b_d, g> + <e, g> = <x', g>, with g the gradient after the splice and e the error that is kept.
    let mut engine = open(&fixture("tiny_a"), Dtype::F64);
    for splice in [Splice::Replace, Splice::KeepError] {
        let question =
            engine.ask(&request(&[], Some(sae(1, &["scale:3=2"], Tokens::All, splice, Through::Exact)))).unwrap();
        let (values, grid) = pixels(&engine, 1);
        let mut job = question.job(1, grid, vec![MapKey::Pixels], true).unwrap();
        job.variants = vec![vec!["scale:3=2".parse::<Edit>().unwrap()]];
        job.watched = true;
        let output = engine.runner().unwrap().run(&job, Input::Values(&values)).unwrap();
        let latents = output.variants[0].latents.as_ref().unwrap();
        let (x, out, g) = (&output.watched["block.1.x"], &output.watched["sae.x"], &output.watched["d.block.1.x"]);
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        let weights = SaeWeights::load(&fixture("sae_a1_sparsify")).unwrap();
        let d = weights.width;
        // decode(z) from the file itself, token by token.
        let decoded = |t: usize, values: &[f64]| -> Vec<f64> {
            let c = latents.slots;
            let mut y: Vec<f64> = weights.decoder_bias.iter().map(|&v| f64::from(v)).collect();
            for slot in 0..latents.index[t * (c + 1)] as usize {
                let id = latents.index[t * (c + 1) + 1 + slot] as usize;
                let row = &weights.decoder[id * d..][..d];
                y.iter_mut().zip(row).for_each(|(y, &w)| *y += values[t * c + slot] * f64::from(w));
            }
            y
        };
        let (mut sum, mut whole) = (0.0, 0.0);
        for t in 0..grid.tokens() {
            let (x, out, g) = (&x[t * d..][..d], &out[t * d..][..d], &g[t * d..][..d]);
            let c = latents.slots;
            let used = latents.index[t * (c + 1)] as usize;
            sum += dot(&latents.edited[t * c..][..used], &latents.dz[t * c..][..used]);
            sum += weights.decoder_bias.iter().zip(g).map(|(&b, g)| f64::from(b) * g).sum::<f64>();
            if splice == Splice::KeepError {
                let error: Vec<f64> = x.iter().zip(decoded(t, &latents.z)).map(|(x, y)| x - y).collect();
                sum += dot(&error, g);
            }
            whole += dot(out, g);
        }
        assert!((sum - whole).abs() < 1e-12 * whole.abs().max(1.0), "{splice}: {sum} and {whole}");
    }
}

#[test]
fn attention_rows_sum_to_one_and_equal_keys_have_no_gradient() {
    let s = AttentionShape { batch: 1, tokens: 6, queries: 6, heads: 2, head_dim: 4, causal: false };
    let (t, d) = (s.tokens, s.width());
    let mut rng = Rng::new(5);
    let mut qkv = rng.normal(t * 3 * d);
    let key: Vec<f64> = qkv[d..2 * d].to_vec();
    let x = Cpu::<f64>::new();
    for equal_keys in [false, true] {
        if equal_keys {
            qkv.chunks_mut(3 * d).for_each(|row| row[d..2 * d].copy_from_slice(&key));
        }
        let specs: [(&str, &[usize]); 7] = [
            ("o", &[t, d]),
            ("lse", &[t, 2]),
            ("qkv", &[t, 3 * d]),
            ("in", &[1, t]),
            ("out", &[1, t]),
            ("do", &[t, d]),
            ("dqkv", &[t, 3 * d]),
        ];
        let mut m = CpuMemory::<f64>::new(Plan::lasting(&specs, &[]), false);
        let [o, lse, q, input, out, d_o, dqkv] = specs.map(|(name, shape)| m.tensor(name, shape).unwrap());
        m.constant(q, &qkv).unwrap();
        x.attention(&mut m, o, lse, q, s).unwrap();
        for start in 0..t {
            let mut row = vec![0.0; t];
            row[start] = 1.0;
            m.constant(input, &row).unwrap();
            x.attention_row(&mut m, Relevance { out, input, keep: 0.5, gain: 0.5 }, q, lse, s).unwrap();
            let row = m.read(out).unwrap();
            assert!((row.iter().sum::<f64>() - 1.0).abs() < 1e-14 && row.iter().all(|&v| v >= 0.0));
        }
        m.constant(d_o, &rng.normal(t * d)).unwrap();
        x.attention_reverse(&mut m, Some(dqkv), None, d_o, q, lse, s, 1).unwrap();
        let gradient = m.read(dqkv).unwrap();
        let largest = |part: usize| {
            let rows = gradient.chunks(3 * d).flat_map(|row| &row[part * d..(part + 1) * d]);
            rows.fold(0.0f64, |m, v| m.max(v.abs()))
        };
        // Rows of dS sum to 0, so equal keys leave nothing for the queries.
        assert_eq!(largest(0) < 1e-14, equal_keys, "{}", largest(0));
        assert!(largest(2) > 0.1);
    }
}

#[test]
fn grad_eclip_without_weights_is_the_gradient_of_the_attention_row() {
    // One head: sum over heads of dP is dP itself. Equal keys: every weight is 1. LeGrad's reduction, an independent
    // path, then gives relu(dP) of the one query row.
    let s = AttentionShape { batch: 1, tokens: 5, queries: 1, heads: 1, head_dim: 6, causal: false };
    let (t, d) = (s.tokens, s.width());
    let mut rng = Rng::new(6);
    let mut qkv = rng.normal(t * 3 * d);
    let key: Vec<f64> = qkv[d..2 * d].to_vec();
    qkv.chunks_mut(3 * d).for_each(|row| row[d..2 * d].copy_from_slice(&key));
    let x = Cpu::<f64>::new();
    let specs: [(&str, &[usize]); 4] = [("qkv", &[t, 3 * d]), ("do", &[1, d]), ("a", &[1, t - 1]), ("b", &[1, t - 1])];
    let mut m = CpuMemory::<f64>::new(Plan::lasting(&specs, &[]), false);
    let [q, d_o, a, b] = specs.map(|(name, shape)| m.tensor(name, shape).unwrap());
    m.constant(q, &qkv).unwrap();
    m.constant(d_o, &rng.normal(d)).unwrap();
    x.grad_eclip(&mut m, a, d_o, q, s, 1).unwrap();
    x.fill(&mut m, b, 0.0).unwrap();
    x.attention_positive_gradient(&mut m, b, d_o, q, s, 1).unwrap();
    let (a, b) = (m.read(a).unwrap(), m.read(b).unwrap());
    assert!(a.iter().zip(&b).all(|(a, b)| (a - b).abs() < 1e-14), "{a:?} {b:?}");
    assert!(a.iter().any(|&v| v > 0.0));
}

/// Prepared pictures of random bytes.
fn pictures(engine: &Engine, count: usize) -> Vec<Prepared> {
    let side = engine.checkpoint.config.vision.image_size;
    let mut rng = Rng::new(5);
    let mut picture = || {
        let data = rng.normal(3 * side * side).iter().map(|v| (128.0 + 60.0 * v) as u8).collect();
        engine.preprocess.apply(&Rgb8 { width: side, height: side, data }).unwrap()
    };
    (0..count).map(|_| picture()).collect()
}

#[test]
fn bytes_give_the_same_bits_as_their_pixels() {
    for dtype in [Dtype::F32, Dtype::F64] {
        let mut engine = open(&fixture("tiny_a"), dtype);
        let images = pictures(&engine, 2);
        let pixels: Vec<f64> = images.iter().flat_map(Prepared::pixels).map(f64::from).collect();
        let images: Vec<&Prepared> = images.iter().collect();
        let question = engine.ask(&request(&["grad-eclip", "gradient-x-input"], None)).unwrap();
        let grid = engine.grid(images[0].width, images[0].height).unwrap();
        let from_pixels = engine.explain_pixels(&pixels, 2, grid, &question).unwrap();
        let mut pending: Vec<_> = (0..3).map(|_| engine.submit(&images, &question).unwrap()).collect();
        // In any order.
        for i in [1, 0, 0] {
            assert!(engine.collect(pending.remove(i), &question).unwrap() == from_pixels);
        }
        let other = Prepared { values: std::sync::Arc::new([[0.5; 256]; 3]), ..images[0].clone() };
        assert!(engine.submit(&[images[0], &other], &question).is_err(), "bytes of one pass mean the same");
    }
}

#[test]
fn many_edits_give_what_each_gives_alone() {
    let mut engine = open(&fixture("tiny_a"), Dtype::F32);
    let image = &pictures(&engine, 1)[0];
    let splice = sae(1, &[], Tokens::All, Splice::Replace, Through::Exact);
    let methods = ["chefer", "gradient-x-input", "integrated-gradients:steps=2", "smoothgrad:samples=2"];
    let mut question = engine.ask(&request(&methods, Some(splice))).unwrap();
    // More than one group of them.
    let edits: Vec<Vec<Edit>> = (0..34).map(|id| vec![format!("scale:{id}=2").parse().unwrap()]).collect();
    let together = engine.explain_edits(image, &question, &edits).unwrap();
    assert_eq!(together.len(), 35);
    for i in [0, 31, 32, 33] {
        question.splice.as_mut().unwrap().edits = edits[i].clone();
        let alone = engine.explain(&[image], &question).unwrap().remove(0);
        assert!(together[i + 1] == alone.result && together[0] == alone.baseline.unwrap(), "edit {i}");
    }
    assert!(together[1..].iter().any(|edited| *edited != together[0]));
    question.splice = None;
    assert!(engine.explain_edits(image, &question, &edits).is_err());
}

#[test]
fn streams_are_what_a_watched_pass_sees_whatever_else_is_asked_for() {
    let mut engine = open(&fixture("tiny_a"), Dtype::F32);
    let images = pictures(&engine, 2);
    let images: Vec<&Prepared> = images.iter().collect();
    let question = engine.ask(&request(&[], Some(sae(1, &[], Tokens::All, Splice::Replace, Through::Exact)))).unwrap();
    let hooks = engine.hook_streams(&images, &question).unwrap();
    let expected: Vec<f32> = hooks.iter().flat_map(|hook| hook.before.iter().map(|&v| v as f32)).collect();
    let alone = engine.streams(&images, &[1]).unwrap();
    assert_eq!(alone, std::slice::from_ref(&expected));
    let several = engine.streams(&images, &[0, 1, 2]).unwrap();
    assert!(several[1] == expected && several[0] != expected && several[2] != expected);
    let embedded = engine.embed_images(&images, &[1]).unwrap();
    let streams: Vec<Vec<f32>> = embedded.streams.iter().map(|s| s.iter().map(|&v| v as f32).collect()).collect();
    assert!(streams == alone && !embedded.embeddings.is_empty());
    assert!(engine.streams(&images, &[2, 0, 1]).is_err(), "blocks go in order");
    assert!(engine.streams(&images, &[9]).is_err());
}
