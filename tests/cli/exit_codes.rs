//! Exit codes 0 to 4, and what is said beside them.

use std::process::{Command, Stdio};

use super::{fixture, photos, spliced, stderr, vitscope, vitscope_with, with};

/// Each of these is a usage error whose message holds the second text.
#[test]
fn usage_errors_name_what_is_known() {
    let folder = tempfile::tempdir().unwrap();
    let plain: [(&[&str], &str); 21] = [
        (&["heatmap", "--method", "grad-cam++"], "expected one of grad-eclip, attention, rollout"),
        (&["heatmap", "--method", "rollout:depth=2"], "unknown option `depth`"),
        (&["heatmap", "--method", "chefer:from=9"], "blocks 0 to 4"),
        (&["heatmap", "--method", "rollout", "--method", "rollout:from=0"], "asked for twice"),
        (&["heatmap", "--score", "dot"], "cosine, logit, softmax or latent:ID"),
        (&["heatmap", "--score", "latent:3"], "needs an SAE"),
        (&["heatmap", "--device", "tpu"], "auto, cpu, cuda, cuda:N, emulated or emulated:checked"),
        (&["heatmap", "--dtype", "f8"], "auto, f32, f64, bf16 or f16"),
        (&["heatmap", "--template", "no braces"], "exactly one {}"),
        (&["heatmap", "--colormap", "hot"], "turbo, viridis"),
        (&["heatmap", "--alpha", "1.5"], "from 0 to 1"),
        (&["heatmap", "--batch-size", "0"], "auto or a number from 1"),
        (&["heatmap", "--format", "gif"], "png, npy, safetensors"),
        (&["heatmap", "--texts-file", "none.txt"], "none.txt"),
        (&["heatmap", "--layer", "1"], "--sae"),
        (&["heatmap", "--edit", "zero:1"], "--sae"),
        (&["features", "--model", "random:ViT-B-32"], "no SAE"),
        (&["heatmap", "--device", "cpu", "--kernel", "gemm=1"], "the device is the CPU"),
        (&["heatmap", "--kernel", "gem_forward=1"], "gemm_forward, gemm_reverse"),
        (&["heatmap", "--kernel", "gemm_forward=77"], "has no rung 77"),
        (&["kernels", "check", "--arch", "sm_80,compute_90"], "sm_80 or sm_90a"),
    ];
    for (args, needle) in plain {
        let message = stderr(&vitscope(folder.path(), args).code(2));
        assert!(message.contains(needle), "{args:?}: {message}");
    }
    vitscope(folder.path(), &[]).code(2);
    vitscope(folder.path(), &["heatmaps"]).code(2);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "a run that never started leaves nothing");
}

#[test]
fn edits_layers_latents_and_tokens_out_of_range_are_usage_errors() {
    let folder = tempfile::tempdir().unwrap();
    let spliced = spliced();
    let cases: [(&[&str], &str); 8] = [
        (&["--edit", "zero:64"], "latents 0 to 63"),
        (&["--edit", "double:1"], "zero:ID"),
        (&["--edit", "scale:1=much"], "unknown edit"),
        (&["--score", "latent:64"], "latents 0 to 63"),
        (&["--layer", "3"], "blocks 0 to 2"),
        (&["--tokens", "patches:16"], "16 patches"),
        (&["--tokens", "some"], "all, cls, patches"),
        (&["--splice", "add"], "replace or keep-error"),
    ];
    for (args, needle) in cases {
        let args = match args {
            ["--layer", _] => with(&["heatmap"], &spliced[..4], args),
            _ => with(&["heatmap"], &spliced, args),
        };
        let message = stderr(&vitscope(folder.path(), &args).code(2));
        assert!(message.contains(needle), "{args:?}: {message}");
    }
    let paths = photos(folder.path(), 1);
    let message = stderr(&vitscope(folder.path(), &["heatmap", paths.to_str().unwrap()]).code(2));
    assert!(message.contains("--text"), "{message}");
}

/// What was asked for by name is not replaced in silence: these rungs take 16-bit types only.
#[test]
fn a_rung_that_does_not_serve_is_a_usage_error() {
    let folder = tempfile::tempdir().unwrap();
    let (photos, spliced) = (photos(folder.path(), 1), spliced());
    let run = ["heatmap", photos.to_str().unwrap(), "--text", "a dog", "--device", "emulated", "--dtype", "f32"];
    let message = stderr(&vitscope(folder.path(), &with(&run, &spliced, &["--kernel", "sae_encode=3"])).code(2));
    let said = "--kernel sae_encode_forward=3: this rung does not serve these sizes in f32 on sm_90";
    assert!(message.contains(said), "{message}");
    let message = stderr(&vitscope_with(folder.path(), &run, ("VITSCOPE_KERNEL", "gemm_forward=3")).code(2));
    assert!(message.contains("gemm_forward=3: this rung does not serve"), "{message}");
}

#[test]
fn files_that_are_no_model_or_no_fitting_sae_are_3() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("empty")).unwrap();
    std::fs::write(folder.path().join("bad.safetensors"), b"\xff\xff\xff\xff\xff\xff\xff\x7f{}").unwrap();
    let (tiny, other) = (fixture("clip/tiny_a"), fixture("clip/sae_b2_topk"));
    let cases: [(&[&str], &str); 6] = [
        (&["heatmap", "--model", "./missing"], "missing"),
        (&["heatmap", "--model", "empty"], "empty"),
        (&["heatmap", "--model", "bad.safetensors"], "bad.safetensors"),
        (&["heatmap", "--sae", "missing"], "missing"),
        (&["heatmap", "--model", &tiny, "--sae", &other, "--layer", "1"], "does not fit the model: width"),
        (&["inspect", "bad.safetensors"], "bad.safetensors"),
    ];
    for (args, needle) in cases {
        let message = stderr(&vitscope(folder.path(), args).code(3));
        assert!(message.contains(needle), "{args:?}: {message}");
    }
    assert!(!folder.path().join("out").exists());
}

#[test]
fn devices_that_are_not_there_are_4() {
    let folder = tempfile::tempdir().unwrap();
    for command in ["heatmap", "doctor"] {
        for device in ["cuda", "cuda:7"] {
            let message = stderr(&vitscope(folder.path(), &[command, "--device", device]).code(4));
            assert!(message.contains("device `") && message.contains("driver"), "{message}");
        }
        let compiler = ("VITSCOPE_CXX", "no-such-compiler");
        let message = stderr(&vitscope_with(folder.path(), &[command, "--device", "emulated"], compiler).code(4));
        assert!(message.contains("install g++"), "{message}");
    }
}

#[test]
fn a_reader_that_leaves_early_is_no_error() {
    let folder = tempfile::tempdir().unwrap();
    for args in [&["doctor"][..], &["completions", "bash"], &["heatmap", "--json"], &["--help"]] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut command = Command::new(env!("CARGO_BIN_EXE_vitscope"));
        let status = command.current_dir(folder.path()).args(args).stdout(writer).stderr(Stdio::null()).status();
        assert_eq!(status.unwrap().code(), Some(0), "{args:?}");
    }
}
