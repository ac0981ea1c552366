//! Every committed fixture, in f32 and f64: all tensors within a multiple of PyTorch's own error.

#![allow(clippy::unwrap_used)] // helpers of tests are tests

use std::path::PathBuf;

use vitscope::engine::{Dtype, Options, verify};

fn fixtures() -> Vec<PathBuf> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/clip");
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "safetensors"))
        .collect();
    files.sort();
    assert!(files.len() > 30, "fixtures are missing: {files:?}");
    files
}

fn verify_all(dtype: Dtype) {
    let mut failures = Vec::new();
    let mut tensors = 0;
    for path in fixtures() {
        let options = Options { dtype, ..Options::default() };
        match verify(&path, &options) {
            Ok(verified) => {
                let rows = verified.tensors;
                tensors += rows.len();
                for row in rows.iter().filter(|row| !row.ok()) {
                    failures.push(format!(
                        "{}: {}: ours {:.3e} / {:.3e}, torch {:.3e} / {:.3e}, ratio {:.2}",
                        path.file_name().unwrap().display(),
                        row.name,
                        row.ours.max,
                        row.ours.rms,
                        row.torch.max,
                        row.torch.rms,
                        row.ratio
                    ));
                }
            }
            Err(error) => failures.push(format!("{}: {error}", path.display())),
        }
    }
    assert!(failures.is_empty(), "{} of {tensors} tensors:\n{}", failures.len(), failures.join("\n"));
    assert!(tensors > 350);
}

#[test]
fn f64_equals_torch() {
    verify_all(Dtype::F64);
}

#[test]
fn f32_is_within_twice_torch() {
    verify_all(Dtype::F32);
}
