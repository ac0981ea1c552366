//! All maps of a run in one safetensors file, stacked by method and grid.

use std::{collections::BTreeMap, path::Path};

use serde_json::Value;

use super::{read_lines, read_npy};
use crate::{
    Error, Result,
    weights::{Data, write},
};

/// The maps of one method on one grid.
#[derive(Default)]
struct Stack {
    /// (N): which line of the index each belongs to, from 0.
    lines: Vec<i64>,
    /// (N).
    scores: Vec<f64>,
    /// (N,rows,cols).
    maps: Vec<f32>,
    /// (N), where there are edits.
    baseline_scores: Vec<f64>,
    /// (N,rows,cols), where there are edits.
    baseline_maps: Vec<f32>,
}

/// Gathers the maps that the lines of `folder/results.jsonl` name into `folder/maps.safetensors`. For each method and
/// grid, under `METHOD/ROWSxCOLS/`: `maps` (N,rows,cols), `scores` (N) and `lines` (N), the lines they belong to; with
/// edits also `baseline_maps` and `baseline_scores`.
///
/// # Errors
/// [`Error::Io`], and [`Error::File`] for a line or a map that is not one of ours.
pub fn write_run_file(folder: &Path) -> Result<()> {
    let index = folder.join("results.jsonl");
    let mut stacks: BTreeMap<(String, usize, usize, bool), Stack> = BTreeMap::new();
    for (number, (_, line)) in read_lines(&index)?.into_iter().enumerate() {
        if line.get("error").is_some() {
            continue;
        }
        let (shape, values) = read_npy(&folder.join(text(&line["map"], &index, number)?))?;
        let [rows, cols] = shape[..] else {
            return Err(Error::file(&index, format!("line {}: its map is no matrix", number + 1)));
        };
        let edited = line["baseline"].is_object();
        let method = text(&line["method"], &index, number)?.to_owned();
        let stack = stacks.entry((method, rows, cols, edited)).or_default();
        stack.lines.push(number as i64);
        stack.scores.push(line["score"].as_f64().unwrap_or(f64::NAN));
        stack.maps.extend(values);
        if edited {
            let baseline = &line["baseline"];
            stack.baseline_scores.push(baseline["score"].as_f64().unwrap_or(f64::NAN));
            stack.baseline_maps.extend(read_npy(&folder.join(text(&baseline["map"], &index, number)?))?.1);
        }
    }
    save(&folder.join("maps.safetensors"), &stacks)
}

fn text<'a>(value: &'a Value, index: &Path, number: usize) -> Result<&'a str> {
    value.as_str().ok_or_else(|| Error::file(index, format!("line {}: names no map or no method", number + 1)))
}

fn save(path: &Path, stacks: &BTreeMap<(String, usize, usize, bool), Stack>) -> Result<()> {
    let mut named: Vec<(String, Vec<usize>, Data<'_>)> = Vec::new();
    for ((method, rows, cols, edited), stack) in stacks {
        let suffix = if *edited { "/edited" } else { "" };
        let name = |what: &str| format!("{method}/{rows}x{cols}{suffix}/{what}");
        let n = stack.lines.len();
        named.push((name("lines"), vec![n], Data::I64(&stack.lines)));
        named.push((name("scores"), vec![n], Data::F64(&stack.scores)));
        named.push((name("maps"), vec![n, *rows, *cols], Data::F32(&stack.maps)));
        if *edited {
            named.push((name("baseline_scores"), vec![n], Data::F64(&stack.baseline_scores)));
            named.push((name("baseline_maps"), vec![n, *rows, *cols], Data::F32(&stack.baseline_maps)));
        }
    }
    let tensors: Vec<(&str, &[usize], Data<'_>)> =
        named.iter().map(|(name, shape, data)| (name.as_str(), shape.as_slice(), *data)).collect();
    write(path, &tensors, &[("index", "results.jsonl")])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        report::{JsonLines, write_npy},
        weights::TensorFile,
    };
    use serde_json::json;

    #[test]
    fn maps_are_stacked_by_method_and_grid() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        write_npy(&at("a.npy"), &[1, 2], &[1.0, 2.0]).unwrap();
        write_npy(&at("b.npy"), &[1, 2], &[3.0, 4.0]).unwrap();
        write_npy(&at("c.npy"), &[1, 1], &[5.0]).unwrap();
        let lines = [
            json!({"map": "a.npy", "method": "rollout", "score": 0.5}),
            json!({"image": "bad.jpg", "error": "no"}),
            json!({"map": "b.npy", "method": "rollout", "score": 0.25}),
            json!({"map": "c.npy", "method": "rollout", "score": 1.0, "baseline": {"map": "c.npy", "score": 2.0}}),
        ];
        JsonLines::with_lines(&at("results.jsonl"), &[]).unwrap().append(&lines).unwrap();
        write_run_file(folder.path()).unwrap();
        let file = TensorFile::open(&at("maps.safetensors")).unwrap();
        assert_eq!(file.shape("rollout/1x2/maps"), Some(&[2, 1, 2][..]));
        assert_eq!(file.read_f32("rollout/1x2/maps").unwrap(), [1.0, 2.0, 3.0, 4.0]);
        assert_eq!(file.read_i64("rollout/1x2/lines").unwrap(), [0, 2]);
        assert_eq!(file.read_f64("rollout/1x1/edited/baseline_scores").unwrap(), [2.0]);
    }
}
