//! The command line as a user and a script meet it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod bench;
mod evaluate;
mod exit_codes;
mod heatmap;
mod latents;
mod resume;
mod sae_train;
mod tools;
mod verify;

use std::path::{Path, PathBuf};

use assert_cmd::{Command, assert::Assert};
use serde_json::Value;
use vitscope::image::{Rgb8, write_png};

/// The program, run in a folder.
fn vitscope(folder: &Path, args: &[&str]) -> Assert {
    command(folder, args).assert()
}

/// The same with a variable of the environment.
fn vitscope_with(folder: &Path, args: &[&str], (name, value): (&str, &str)) -> Assert {
    command(folder, args).env(name, value).assert()
}

fn command(folder: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vitscope"));
    for name in ["VITSCOPE_MODEL", "VITSCOPE_DEVICE", "VITSCOPE_KERNEL"] {
        command.env_remove(name);
    }
    command.env("VITSCOPE_CACHE", concat!(env!("CARGO_TARGET_TMPDIR"), "/emulator"));
    command.current_dir(folder).args(args);
    command
}

/// A committed file or folder.
fn fixture(name: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name).to_str().unwrap().to_owned()
}

/// Arguments that splice a fixture SAE into the fixture model.
fn spliced() -> Vec<String> {
    let (model, sae) = (fixture("clip/tiny_a"), fixture("clip/sae_a1_sparsify"));
    ["--model", &model, "--sae", &sae, "--layer", "1"].map(str::to_owned).to_vec()
}

fn with<'a>(before: &[&'a str], more: &'a [String], after: &[&'a str]) -> Vec<&'a str> {
    before.iter().copied().chain(more.iter().map(String::as_str)).chain(after.iter().copied()).collect()
}

/// `count` different pictures in `folder/photos`.
fn photos(folder: &Path, count: usize) -> PathBuf {
    let photos = folder.join("photos");
    std::fs::create_dir_all(&photos).unwrap();
    for i in 0..count {
        picture(&photos.join(format!("{i:03}.png")), 40, 36, i);
    }
    photos
}

fn picture(path: &Path, width: usize, height: usize, seed: usize) {
    let data = (0..width * height * 3).map(|i| ((i * (seed + 3) / 7) ^ (i >> 3) ^ (seed * 41)) as u8).collect();
    write_png(path, &Rgb8 { width, height, data }).unwrap();
}

/// The lines of a file of JSON lines.
fn lines(path: &Path) -> Vec<Value> {
    json_lines(&std::fs::read_to_string(path).unwrap())
}

fn json_lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn stdout(done: &Assert) -> String {
    String::from_utf8(done.get_output().stdout.clone()).unwrap()
}

fn stderr(done: &Assert) -> String {
    String::from_utf8(done.get_output().stderr.clone()).unwrap()
}
