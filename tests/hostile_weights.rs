//! Damaged and malicious weight files: a named error, never a panic, never an allocation that the file does not fill.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod weights_support;

use proptest::prelude::*;
use serde_json::json;
use std::alloc::{GlobalAlloc, Layout, System};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use vitscope::weights::{ClipCheckpoint, SaeWeights, Stored, TensorFile, inspect, tensor_names};
use weights_support::*;

/// The largest single allocation so far: a damaged size must not become one.
struct Watched;
static LARGEST: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call is passed on to the system's allocator unchanged.
unsafe impl GlobalAlloc for Watched {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LARGEST.fetch_max(layout.size(), Ordering::Relaxed);
        // SAFETY: as above.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Watched = Watched;

/// The files here are far smaller.
const ALLOWED: usize = 32 << 20;

fn bytes(header: &str, data: usize) -> Vec<u8> {
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header.as_bytes());
    file.resize(file.len() + data, 0);
    file
}

#[test]
fn damaged_headers_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.safetensors");
    let one =
        |shape: &str, offsets: &str| format!(r#"{{"a":{{"dtype":"F32","shape":{shape},"data_offsets":{offsets}}}}}"#);
    let two = |b: &str| {
        format!(
            r#"{{"a":{{"dtype":"F32","shape":[2],"data_offsets":[0,8]}},"b":{{"dtype":"F32","shape":[2],"data_offsets":{b}}}}}"#
        )
    };
    let mut oversized = u64::MAX.to_le_bytes().to_vec();
    oversized.extend(b"{}");
    let mut long = 90_000_000u64.to_le_bytes().to_vec();
    long.extend(b"{}");
    let huge = format!("[{},{}]", u64::MAX, 2);
    for (name, file, part) in [
        ("empty", Vec::new(), "truncated"),
        ("seven bytes", vec![1; 7], "truncated"),
        ("oversized header", oversized, "not safetensors"),
        ("header past the end", long, "truncated"),
        ("not JSON", bytes("{nope", 0), "header is not valid"),
        ("not UTF-8", [8u64.to_le_bytes().to_vec(), vec![0xff; 8]].concat(), "UTF-8"),
        ("truncated data", bytes(&one("[4]", "[0,16]"), 12), "end where the file ends"),
        ("padded data", bytes(&one("[4]", "[0,16]"), 20), "end where the file ends"),
        ("overlap", bytes(&two("[4,12]"), 12), "`b`"),
        ("hole", bytes(&two("[12,20]"), 20), "`b`"),
        ("reversed", bytes(&one("[4]", "[16,0]"), 16), "`a`"),
        ("wrong size", bytes(&one("[5]", "[0,16]"), 16), "`a`"),
        ("overflow", bytes(&one(&huge, "[0,16]"), 16), "`a`"),
        ("unknown type", bytes(&one("[4]", "[0,16]").replace("F32", "F99"), 16), "header is not valid"),
        ("negative shape", bytes(&one("[-4]", "[0,16]"), 16), "header is not valid"),
        (
            "twice",
            bytes(
                r#"{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"a":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}}"#,
                2,
            ),
            "`a`",
        ),
    ] {
        std::fs::write(&path, file).unwrap();
        let error = TensorFile::open(&path).err().unwrap_or_else(|| panic!("{name} was accepted"));
        let message = error.to_string();
        assert_eq!(error.exit_code(), 3, "{name}: {message}");
        assert!(message.contains("x.safetensors") && message.contains(part), "{name}: {message}");
    }
    // An empty tensor is no damage.
    std::fs::write(&path, bytes(&one("[0, 7]", "[0,0]"), 0)).unwrap();
    assert_eq!(TensorFile::open(&path).unwrap().read_f32("a").unwrap(), Vec::<f32>::new());
}

#[test]
fn configurations_cannot_ask_for_absurd_sizes() {
    let dir = tempfile::tempdir().unwrap();
    save_hf(dir.path());
    for (section, key) in [
        ("vision_config", "hidden_size"),
        ("vision_config", "num_hidden_layers"),
        ("vision_config", "intermediate_size"),
        ("vision_config", "image_size"),
        ("vision_config", "patch_size"),
        ("vision_config", "num_attention_heads"),
        ("text_config", "vocab_size"),
        ("text_config", "max_position_embeddings"),
    ] {
        for value in
            [json!(u64::MAX), json!(1u64 << 40), json!(0), json!(-1), json!(1e300), json!("big"), json!([1, 2, 3])]
        {
            let mut config = hf_config();
            config[section][key] = value.clone();
            save_json(&dir.path().join("config.json"), &config);
            let error = ClipCheckpoint::open(dir.path()).expect_err("an absurd size");
            assert_eq!(error.exit_code(), 3, "{key} {value}: {error}");
        }
    }
    assert!(LARGEST.load(Ordering::Relaxed) < ALLOWED);
}

/// Reads everything that opens.
fn exercise(folder: &Path) {
    if let Ok(clip) = ClipCheckpoint::open(folder) {
        for (name, shape) in tensor_names(&clip.config) {
            let _ = clip.read(&name, &shape);
        }
    }
    let _ = inspect(folder);
}

#[derive(Clone, Debug)]
enum Damage {
    Flip { at: prop::sample::Index, bit: u8 },
    Cut { at: prop::sample::Index },
    Insert { at: prop::sample::Index, byte: u8 },
}

fn damages() -> impl Strategy<Value = Vec<Damage>> {
    let one = prop_oneof![
        4 => (any::<prop::sample::Index>(), 0..8u8).prop_map(|(at, bit)| Damage::Flip { at, bit }),
        1 => any::<prop::sample::Index>().prop_map(|at| Damage::Cut { at }),
        1 => (any::<prop::sample::Index>(), any::<u8>()).prop_map(|(at, byte)| Damage::Insert { at, byte }),
    ];
    prop::collection::vec(one, 1..4)
}

/// Damages the first `reach` bytes: headers and configurations are where a file can mislead.
fn damaged(mut file: Vec<u8>, damages: &[Damage], reach: usize) -> Vec<u8> {
    for damage in damages {
        let reach = reach.min(file.len());
        if reach == 0 {
            break;
        }
        match damage {
            Damage::Flip { at, bit } => file[at.index(reach)] ^= 1 << bit,
            Damage::Cut { at } => file.truncate(at.index(reach)),
            Damage::Insert { at, byte } => file.insert(at.index(reach), *byte),
        }
    }
    file
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn damaged_checkpoints_never_panic(weights in damages(), config in damages(), which in 0..3) {
        let dir = tempfile::tempdir().unwrap();
        save_hf(dir.path());
        let (w, c) = (dir.path().join("model.safetensors"), dir.path().join("config.json"));
        if which != 1 {
            std::fs::write(&w, damaged(std::fs::read(&w).unwrap(), &weights, 6000)).unwrap();
        }
        if which != 0 {
            std::fs::write(&c, damaged(std::fs::read(&c).unwrap(), &config, 6000)).unwrap();
        }
        exercise(dir.path());
        prop_assert!(LARGEST.load(Ordering::Relaxed) < ALLOWED);
    }

    #[test]
    fn damaged_saes_never_panic(weights in damages(), config in damages(), which in 0..3, sparsify in any::<bool>()) {
        let dir = tempfile::tempdir().unwrap();
        let (tensors, name, text) = if sparsify {
            let tensors = vec![tensor("encoder.weight", &[16, 6]), tensor("encoder.bias", &[16]), tensor("W_dec", &[16, 6]), tensor("b_dec", &[6])];
            (tensors, "sae.safetensors", json!({"d_in": 6, "num_latents": 16, "k": 4, "activation": "groupmax"}))
        } else {
            let tensors = vec![tensor("W_enc", &[6, 16]), tensor("b_enc", &[16]), tensor("W_dec", &[16, 6]), tensor("b_dec", &[6]), tensor("threshold", &[16])];
            (tensors, "sae_weights.safetensors", json!({"d_in": 6, "d_sae": 16, "architecture": "jumprelu", "metadata": {"hook_name": "blocks.3.hook_resid_post"}}))
        };
        let (w, c) = (dir.path().join(name), dir.path().join("cfg.json"));
        save(&w, &tensors);
        save_json(&c, &text);
        if which != 1 {
            std::fs::write(&w, damaged(std::fs::read(&w).unwrap(), &weights, usize::MAX)).unwrap();
        }
        if which != 0 {
            std::fs::write(&c, damaged(std::fs::read(&c).unwrap(), &config, usize::MAX)).unwrap();
        }
        if let Ok(sae) = SaeWeights::load(dir.path()) {
            sae.validate().unwrap();
            let _ = sae.describe();
            let _ = sae.save_sparsify(&dir.path().join("s"), Stored::F32);
            let _ = sae.save_sae_lens(&dir.path().join("l"), Stored::F32);
        }
        prop_assert!(LARGEST.load(Ordering::Relaxed) < ALLOWED);
    }
}
