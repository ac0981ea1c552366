//! `vitscope verify`: what it prints, and that it fails when a tensor is off.

use std::path::{Path, PathBuf};

use vitscope::weights::{Data, TensorFile, write};

use super::vitscope;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/clip")
}

#[test]
fn a_good_fixture_is_0_and_its_table_has_every_tensor() {
    let folder = tempfile::tempdir().unwrap();
    let file = fixtures().join("a_plain.safetensors");
    let run = vitscope(folder.path(), &["verify", "--json", file.to_str().unwrap()]).success();
    let lines = String::from_utf8(run.get_output().stdout.clone()).unwrap();
    let rows: Vec<serde_json::Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(rows.iter().any(|row| row["tensor"] == "score" && row["ok"] == true));
    assert!(rows.iter().any(|row| row["tensor"].as_str().unwrap().starts_with("map.")));
}

#[test]
fn one_number_off_by_a_millionth_is_5() {
    let folder = tempfile::tempdir().unwrap();
    let source = TensorFile::open(&fixtures().join("a_plain.safetensors")).unwrap();
    let names: Vec<String> = source.names().map(str::to_owned).collect();
    let changed = folder.path().join("changed.safetensors");
    let tensors: Vec<(String, Vec<usize>, Vec<f64>)> = names
        .iter()
        .filter(|name| *name != "text_ids")
        .map(|name| (name.clone(), source.shape(name).unwrap().to_vec(), source.read_f64(name).unwrap()))
        .map(|(name, shape, mut values)| {
            if name == "embed" {
                values[0] += 1e-5;
            }
            (name, shape, values)
        })
        .collect();
    let ids = source.read_i64("text_ids").unwrap();
    let shape = source.shape("text_ids").unwrap().to_vec();
    let mut all: Vec<(&str, &[usize], Data<'_>)> =
        tensors.iter().map(|(name, shape, values)| (name.as_str(), shape.as_slice(), Data::F64(values))).collect();
    all.push(("text_ids", &shape, Data::I64(&ids)));
    let model = fixtures().join("tiny_a").display().to_string();
    let metadata: Vec<(&str, &str)> = source
        .metadata()
        .iter()
        .map(|(key, value)| (key.as_str(), if key == "model" { model.as_str() } else { value.as_str() }))
        .collect();
    write(&changed, &all, &metadata).unwrap();
    let run = vitscope(folder.path(), &["verify", changed.to_str().unwrap()]).code(5);
    let text = String::from_utf8(run.get_output().stdout.clone()).unwrap();
    let failed: Vec<&str> = text.lines().filter(|line| line.contains("FAILED")).collect();
    assert!(failed.len() == 1 && failed[0].contains("embed"), "{text}");
}

#[test]
fn what_is_no_fixture_is_3() {
    let folder = tempfile::tempdir().unwrap();
    let model = fixtures().join("tiny_a/model.safetensors");
    let run = vitscope(folder.path(), &["verify", model.to_str().unwrap()]).code(3);
    let text = String::from_utf8(run.get_output().stderr.clone()).unwrap();
    assert!(text.contains("vitscope_fixture"), "{text}");
}

#[test]
fn bench_times_a_pass() {
    let folder = tempfile::tempdir().unwrap();
    let args = ["bench", "--model", "random:tiny", "--pass", "forward", "--batch-size", "2", "--repeat", "2", "--json"];
    let run = vitscope(folder.path(), &args).success();
    let line: serde_json::Value = serde_json::from_slice(&run.get_output().stdout).unwrap();
    assert!(line["images_per_s"].as_f64().unwrap() > 0.0 && line["batch"] == 2, "{line}");
}
