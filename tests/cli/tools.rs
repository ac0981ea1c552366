//! `inspect`, `doctor`, `completions`, help.

use super::{fixture, json_lines, stderr, stdout, vitscope};

#[test]
fn files_are_told_apart() {
    let folder = tempfile::tempdir().unwrap();
    let kind = |name: &str| {
        let done = vitscope(folder.path(), &["inspect", &fixture(name), "--json"]).code(0);
        json_lines(&stdout(&done))[0]["is"]["kind"].as_str().unwrap().to_owned()
    };
    assert_eq!(kind("clip/tiny_a"), "CLIP checkpoint");
    assert_eq!(kind("clip/sae_a1_gated"), "sparse autoencoder");
    assert_eq!(kind("clip/a_plain.safetensors"), "safetensors file");
    assert_eq!(kind("images/rgb.png"), "picture");
    vitscope(folder.path(), &["inspect", "gone"]).code(3);
}

#[test]
fn the_doctor_says_which_device_and_why() {
    let folder = tempfile::tempdir().unwrap();
    let done = vitscope(folder.path(), &["doctor", "--json"]).code(0);
    let told = &json_lines(&stdout(&done))[0];
    assert_eq!((&told["device_asked"], &told["device_used"]), (&"auto".into(), &"cpu".into()));
    for field in [
        "why",
        "processor",
        "memory",
        "cuda_driver",
        "nvrtc",
        "c++_compiler",
        "nvdisasm",
        "kernel_cache",
        "hugging_face_cache",
    ] {
        assert!(told[field].is_string(), "{field}: {told}");
    }
    assert!(stdout(&vitscope(folder.path(), &["doctor"]).code(0)).contains("device used"));
}

#[test]
fn every_shell_gets_a_script_and_every_command_has_help() {
    let folder = tempfile::tempdir().unwrap();
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        assert!(stdout(&vitscope(folder.path(), &["completions", shell]).code(0)).contains("heatmap"));
    }
    for command in ["heatmap", "features", "sweep", "sae", "inspect", "kernels", "doctor", "completions"] {
        assert!(stdout(&vitscope(folder.path(), &[command, "--help"]).code(0)).contains("Usage: vitscope"));
    }
    assert!(stdout(&vitscope(folder.path(), &["--version"]).code(0)).starts_with("vitscope "));
}

#[test]
fn details_come_with_v() {
    let folder = tempfile::tempdir().unwrap();
    let said = stderr(&vitscope(folder.path(), &["heatmap", "-v"]).code(0));
    for part in ["f32 on cpu (auto: ", "of arena and ", "of pictures predicted", "peak memory", "images per second"] {
        assert!(said.contains(part), "{part}: {said}");
    }
}

#[test]
fn kernels_are_listed_from_their_files() {
    let folder = tempfile::tempdir().unwrap();
    let told = json_lines(&stdout(&vitscope(folder.path(), &["kernels", "list", "--json"]).code(0)));
    let rung = told.iter().find(|line| line["source"] == "kernels/gemm/forward_2_mma_stages.cu").unwrap();
    assert_eq!((&rung["operation"], &rung["direction"], &rung["rung"]), (&"gemm".into(), &"forward".into(), &2.into()));
    assert_eq!((&rung["needs"], &rung["idea"]), (&"sm_80+".into(), &"mma stages".into()));
    assert_eq!(rung["hash"].as_str().unwrap().len(), 32);
    let text = stdout(&vitscope(folder.path(), &["kernels", "list"]).code(0));
    assert_eq!(text.lines().count(), told.len() + 1);
    assert!(stdout(&vitscope(folder.path(), &["kernels", "list", "--card"]).code(0)).contains("bytes/flops per tile"));
}

#[test]
fn a_compiler_that_is_not_there_is_named_with_what_to_install() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = assert_cmd::Command::new(env!("CARGO_BIN_EXE_vitscope"));
    let done = command.args(["kernels", "check"]).env("VITSCOPE_NVRTC", folder.path()).assert().code(4);
    let said = stderr(&done);
    assert!(said.contains("VITSCOPE_NVRTC: no libnvrtc.so.13"), "{said}");
    assert!(said.contains("pip install nvidia-cuda-nvrtc"), "{said}");
}
