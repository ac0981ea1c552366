//! `sae train`: what it writes, that a stopped run ends like any other, and what it refuses.

use std::{
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use serde_json::Value;
use vitscope::weights::{SaeWeights, TensorFile, TokenScopeHint};

use super::{fixture, lines, photos, stderr, vitscope};

/// 4 pictures are 4 x 197 tokens of the bundled model.
const IMAGES: usize = 4;
const SHORT: [&str; 16] = [
    "sae",
    "train",
    "photos",
    "--train-batch",
    "64",
    "--buffer",
    "400",
    "--k",
    "8",
    "--steps",
    "40",
    "--log-every",
    "5",
    "--lr",
    "0.003",
    "-q",
];

fn args<'a>(more: &[&'a str]) -> Vec<&'a str> {
    [&SHORT[..], more].concat()
}

fn weights(folder: &Path, sae: &str) -> Vec<u8> {
    std::fs::read(folder.join(sae).join("sae_weights.safetensors")).unwrap()
}

/// The log without the time that it took.
fn log(folder: &Path, sae: &str) -> Vec<Value> {
    let mut lines = lines(&folder.join(sae).join("log.jsonl"));
    lines.iter_mut().for_each(|line| line["seconds"] = Value::Null);
    lines
}

/// The whole checkpoints of a run.
fn checkpoints(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.starts_with("checkpoint-") && !name.ends_with("unfinished")).collect()
}

#[test]
fn several_saes_in_one_pass_are_what_each_would_be_alone_and_can_be_used() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    photos(at, IMAGES);
    let both = ["--layer", "1", "--layer", "-3", "--expansion", "1,0.5", "--tokens", "patches", "-o", "both"];
    vitscope(at, &args(&both)).code(0);
    let alone = ["--layer", "1", "--latents", "64", "--tokens", "patches", "-o", "alone"];
    vitscope(at, &args(&alone)).code(0);
    assert!(weights(&at.join("both"), "layer1-x0.5") == weights(&at.join("alone"), "layer1-64"));
    assert_eq!(log(&at.join("both"), "layer1-x0.5"), log(&at.join("alone"), "layer1-64"));

    let sae = at.join("both/layer2-x1");
    let loaded = SaeWeights::load(&sae).unwrap();
    let hook = loaded.hook.clone().unwrap();
    assert_eq!((loaded.width, loaded.latents, loaded.format), (128, 128, "SAELens 6"));
    assert_eq!((hook.layer, hook.tokens), (Some(2), Some(TokenScopeHint::Patches)));
    assert_eq!(loaded.fit(128, 5, None).unwrap().layer, 2);
    let log = lines(&sae.join("log.jsonl"));
    let steps: Vec<u64> = log.iter().map(|line| line["step"].as_u64().unwrap()).collect();
    assert_eq!(steps, [0, 4, 9, 14, 19, 24, 29, 34, 39]);
    assert_eq!(log[8]["tokens"], 40 * 64);
    let fvu = |line: &Value| line["fvu"].as_f64().unwrap();
    assert!(fvu(&log[8]) < 0.7 * fvu(&log[0]), "{} {}", log[0], log[8]);
    let record: Value = serde_json::from_slice(&std::fs::read(sae.join("train.json")).unwrap()).unwrap();
    assert_eq!(record["request"]["origin"]["images"]["count"], IMAGES);
    assert_eq!(record["tokens_of_an_epoch"], IMAGES * 196);
    assert!(record["warnings"][0].as_str().unwrap().contains("different tokens"));
    assert!(std::fs::read_to_string(sae.join("curves.svg")).unwrap().contains("</svg>"));
    assert!(sae.join("curves.png").is_file() && checkpoints(&at.join("both")).is_empty());
    vitscope(at, &["features", "photos/000.png", "--sae", "both/layer2-x1", "--tokens", "patches"]).code(0);

    // It is there already; with other options it is not.
    let before = std::fs::metadata(sae.join("train.json")).unwrap().modified().unwrap();
    vitscope(at, &args(&[&both[..], &["--resume"]].concat())).code(0);
    assert_eq!(std::fs::metadata(sae.join("train.json")).unwrap().modified().unwrap(), before);
}

/// Starts a run, stops it with a signal once it has written a checkpoint of its own, and waits for its end.
#[cfg(unix)]
fn stopped(at: &Path, args: &[&str], out: &str, signal: &str) -> Option<i32> {
    let before = checkpoints(&at.join(out));
    let mut child = Command::new(env!("CARGO_BIN_EXE_vitscope"))
        .current_dir(at)
        .args(args)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let start = Instant::now();
    while checkpoints(&at.join(out)).iter().all(|name| before.contains(name)) {
        assert!(start.elapsed() < Duration::from_secs(60), "no checkpoint");
        std::thread::sleep(Duration::from_millis(1));
    }
    assert!(Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap().success());
    let code = child.wait().unwrap().code();
    assert!(!at.join(out).join("layer2-x1/train.json").exists(), "it came to its end");
    code
}

#[cfg(unix)]
#[test]
fn a_killed_run_ends_as_if_it_had_not_been() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    photos(at, IMAGES);
    std::fs::write(at.join("photos/broken.png"), "no picture").unwrap();
    let common = ["--layer", "2", "--expansion", "1", "--steps", "300", "--checkpoint-every", "7"];
    let common: Vec<&str> = args(&[]).into_iter().filter(|a| !["--steps", "40"].contains(a)).chain(common).collect();
    for (cache, out, whole) in [(&[][..], "a", "b"), (&["--cache", "cache", "--shard-tokens", "300"][..], "c", "d")] {
        let run = |out| [&common[..], cache, &["-o", out]].concat();
        let resumed = [&run(out)[..], &["--resume"]].concat();
        vitscope(at, &run(whole)).code(1);
        assert_eq!(stopped(at, &run(out), out, "-KILL"), None);
        assert!(stderr(&vitscope(at, &run(out)).code(2)).contains("--resume"));
        // Stopped a second time, by hand.
        assert_eq!(stopped(at, &resumed, out, "-INT"), Some(130));
        assert_eq!(checkpoints(&at.join(out)).len(), 1);
        let other = [&resumed[..], &["--decay", "0.5"]].concat();
        assert!(stderr(&vitscope(at, &other).code(2)).contains("decay was 0.2, now 0.5"));
        vitscope(at, &resumed).code(1);
        assert!(weights(&at.join(out), "layer2-x1") == weights(&at.join(whole), "layer2-x1"), "{out}");
        assert_eq!(log(&at.join(out), "layer2-x1"), log(&at.join(whole), "layer2-x1"));
        assert!(checkpoints(&at.join(out)).is_empty());
    }
    let failed = lines(&at.join("a/failed.jsonl"));
    assert!(failed.len() == 1 && failed[0]["image"].as_str().unwrap().contains("broken.png"));
}

#[test]
fn a_cache_is_filled_once_and_one_that_does_not_fit_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    photos(at, IMAGES);
    let cached = ["--cache", "c", "--shard-tokens", "300", "--batch-size", "1", "--layer", "3,0", "--expansion", "1"];
    vitscope(at, &args(&[&cached[..], &["-o", "a"]].concat())).code(0);
    let index = std::fs::read(at.join("c/index.json")).unwrap();
    let shard = at.join("c/layer3-00001.safetensors");
    let file = TensorFile::open(&shard).unwrap();
    assert_eq!(file.shape("x"), Some(&[394, 128][..]));
    drop(file);

    // The harvest as it stands after a kill: the second shard is not in the index.
    let mut partial: Value = serde_json::from_slice(&index).unwrap();
    partial["complete"] = false.into();
    partial["shards"].as_array_mut().unwrap().truncate(1);
    std::fs::write(at.join("c/index.json"), partial.to_string()).unwrap();
    let first = std::fs::metadata(at.join("c/layer3-00000.safetensors")).unwrap().modified().unwrap();
    std::fs::remove_file(&shard).unwrap();
    let alone = ["--cache", "c", "--layer", "3", "--expansion", "1", "-o", "b"];
    let without: Vec<&str> = args(&alone).into_iter().filter(|a| *a != "photos").collect();
    assert!(stderr(&vitscope(at, &without).code(2)).contains("no images"));
    vitscope(at, &args(&[&cached[..], &["-o", "b"]].concat())).code(0);
    assert_eq!(std::fs::read(at.join("c/index.json")).unwrap(), index);
    assert_eq!(std::fs::metadata(at.join("c/layer3-00000.safetensors")).unwrap().modified().unwrap(), first);
    assert!(weights(&at.join("b"), "layer3-x1") == weights(&at.join("a"), "layer3-x1"));

    // One layer of two, without the images.
    vitscope(at, &without).code(0);
    assert!(weights(&at.join("b"), "layer3-x1") == weights(&at.join("a"), "layer3-x1"));

    let refused = |more: &[&str], code: i32, reason: &str| {
        let done = vitscope(at, &args(&[&["--cache", "c", "--expansion", "1", "-o", "x"], more].concat())).code(code);
        assert!(stderr(&done).contains(reason), "{more:?}: {}", stderr(&done));
    };
    refused(&["--layer", "2"], 2, "--layer 2");
    refused(&["--layer", "0", "--tokens", "cls"], 2, "tokens was \"all\", now \"cls\"");
    refused(&["--layer", "0", "--cache-dtype", "f16"], 2, "dtype was \"f32\", now \"f16\"");
    refused(&["--layer", "0", "--model", &fixture("clip/tiny_a")], 2, "model.name");
    let bytes = std::fs::read(&shard).unwrap();
    std::fs::write(&shard, &bytes[..bytes.len() - 1]).unwrap();
    refused(&["--layer", "3"], 3, "layer3-00001");
}

#[test]
fn what_cannot_be_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    photos(at, 1);
    std::fs::create_dir(at.join("empty")).unwrap();
    std::fs::create_dir(at.join("bad")).unwrap();
    std::fs::write(at.join("bad/a.png"), "no picture").unwrap();
    let cases: [(&[&str], i32, &[&str]); 19] = [
        (&["photos"], 2, &["--layer"]),
        (&["photos", "--layer", "5"], 2, &["--layer", "0 to 4"]),
        (&["photos", "--layer", "4,-1"], 2, &["given twice"]),
        (&["photos", "--layer", "1", "--tokens", "patches:1,2"], 2, &["--tokens patches:1,2"]),
        (&["photos", "--layer", "1", "--algorithm", "gated"], 2, &["topk"]),
        (&["photos", "--layer", "1", "--algorithm", "relu", "--k", "3"], 2, &["--k", "relu", "batchtopk"]),
        (&["photos", "--layer", "1", "--l1", "3"], 2, &["--l1", "relu", "topk"]),
        (&["photos", "--layer", "1", "--bandwidth", "3"], 2, &["--bandwidth", "jumprelu"]),
        (&["photos", "--layer", "1", "--resample-every", "3"], 2, &["--resample-every", "topk"]),
        (&["photos", "--layer", "1", "--expansion", "2", "--latents", "9"], 2, &["--expansion", "--latents"]),
        (&["photos", "--layer", "1", "--steps", "2", "--tokens-total", "9"], 2, &["--steps", "--tokens-total"]),
        (&["photos", "--layer", "1", "--latents", "9", "--k", "10"], 2, &["--k 10", "9 latents"]),
        (&["photos", "--layer", "1", "--steps", "5", "--warm-up", "6"], 2, &["--warm-up 6", "--steps 5"]),
        (&["photos", "--layer", "1", "--cache-dtype", "f16"], 2, &["--cache"]),
        (&["photos", "--layer", "1", "--buffer", "100"], 2, &["--buffer", "--train-batch"]),
        (&["photos", "--layer", "1"], 2, &["197 tokens", "--train-batch"]),
        (&["--layer", "1"], 2, &["no images", "--cache"]),
        (&["empty", "--layer", "1"], 1, &["no picture in this folder", "none of the 1 images"]),
        (&["bad", "--layer", "1"], 1, &["a.png", "none of the 1 images"]),
    ];
    for (args, code, parts) in cases {
        let done = vitscope(at, &[&["sae", "train", "-o", "out"], args].concat()).code(code);
        assert!(parts.iter().all(|part| stderr(&done).contains(part)), "{args:?}: {}", stderr(&done));
    }
}

/// The most memory that a training took, in bytes.
#[cfg(target_os = "linux")]
fn peak(at: &Path, args: &[&str]) -> usize {
    let mut child = Command::new(env!("CARGO_BIN_EXE_vitscope"))
        .current_dir(at)
        .args(args)
        .env("RAYON_NUM_THREADS", "2")
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let (status, mut peak) = (format!("/proc/{}/status", child.id()), 0);
    // The kernel keeps the peak, but only as long as the process lives.
    while child.try_wait().unwrap().is_none() {
        let text = std::fs::read_to_string(&status).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        peak = line.map_or(peak, |line| line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() * 1024);
        std::thread::sleep(Duration::from_millis(1));
    }
    assert!(child.wait().unwrap().success() && peak > 0);
    peak
}

#[cfg(target_os = "linux")]
#[test]
fn memory_does_not_grow_with_the_number_of_images() {
    let (few, many) = (50, 500);
    let folders = [few, many].map(|count| {
        let folder = tempfile::tempdir().unwrap();
        photos(folder.path(), count);
        folder
    });
    // 100 steps of 1000 tokens: every picture of the many is read, 197 tokens of 512 bytes each.
    let words = "sae train photos -q --layer 0 --latents 32 --k 4 --train-batch 1000 --buffer 2000 --steps 100 -o out";
    let held = (many - few) * 197 * 512;
    for cache in ["", " --cache cache --shard-tokens 1000"] {
        let words = format!("{words}{cache}");
        let words: Vec<&str> = words.split(' ').collect();
        let [less, more] = folders.each_ref().map(|folder| {
            let _ = std::fs::remove_dir_all(folder.path().join("out"));
            peak(folder.path(), &words)
        });
        assert!(more < less + held / 2, "{cache}: {less} bytes for {few} images, {more} for {many}");
    }
}
