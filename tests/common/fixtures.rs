//! All committed fixtures.

use std::path::PathBuf;

use vitscope::engine::{Options, verify};

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

/// Requires every tensor of every fixture to be within its bound.
pub fn verify_all(options: &Options) {
    let mut failures = Vec::new();
    let mut tensors = 0;
    for path in fixtures() {
        match verify(&path, options) {
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
