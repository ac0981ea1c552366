//! Decoding and preprocessing against Pillow: fixtures of every pixel type, and golden values.

use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use vitscope::image::{DecodeOptions, decode};

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/images")
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

fn expected() -> Vec<(String, serde_json::Value)> {
    let text = std::fs::read_to_string(fixtures().join("expected.json")).unwrap();
    let document: serde_json::Value = serde_json::from_str(&text).unwrap();
    document["files"].as_object().unwrap().iter().map(|(k, v)| (k.clone(), v.clone())).collect()
}

#[test]
fn every_pixel_type_decodes_as_pillow_converts_it() {
    let mut wrong = Vec::new();
    let upright = DecodeOptions { exif: true, ..Default::default() };
    for (name, entry) in expected() {
        let path = fixtures().join(&name);
        let picture = match decode(&path, &DecodeOptions::default()) {
            Ok(picture) => picture,
            Err(e) => {
                wrong.push(format!("{e}"));
                continue;
            }
        };
        let size = (picture.width, picture.height);
        if size != (entry["width"].as_u64().unwrap() as usize, entry["height"].as_u64().unwrap() as usize) {
            wrong.push(format!("{name}: size {size:?}"));
        } else if let Some(tolerance) = entry["tolerance"].as_u64() {
            let pillow = decode(fixtures().join(format!("{name}.expected.png")), &DecodeOptions::default()).unwrap();
            let worst = picture.data.iter().zip(&pillow.data).map(|(&a, &b)| a.abs_diff(b)).max().unwrap();
            eprintln!("{name}: {worst}");
            if u64::from(worst) > tolerance {
                wrong.push(format!("{name}: differs by {worst} > {tolerance}"));
            }
        } else {
            if sha256(&picture.data) != entry["sha256"].as_str().unwrap() {
                wrong.push(format!("{name}: other pixels"));
            }
            if sha256(&decode(&path, &upright).unwrap().data) != entry["upright_sha256"].as_str().unwrap() {
                wrong.push(format!("{name}: other pixels with EXIF rotation"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}
