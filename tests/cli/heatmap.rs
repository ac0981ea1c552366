//! What `vitscope heatmap` leaves in the output folder and prints.

use std::collections::HashSet;
use std::path::Path;

use serde_json::Value;
use vitscope::{
    image::{DecodeOptions, decode},
    report::read_npy,
    weights::TensorFile,
};

use super::{json_lines, lines, photos, picture, spliced, stderr, stdout, vitscope, with};

fn map(out: &Path, path: &Value) -> (Vec<usize>, Vec<f32>) {
    read_npy(&out.join(path.as_str().unwrap())).unwrap()
}

#[test]
fn without_arguments_the_bundled_scene_is_explained() {
    let folder = tempfile::tempdir().unwrap();
    let done = vitscope(folder.path(), &["heatmap"]).code(0);
    assert!(stdout(&done).contains("a photo of a cat"));
    let out = folder.path().join("out");
    let lines = lines(&out.join("results.jsonl"));
    assert_eq!(lines.len(), 4);
    for line in &lines {
        let overlay = decode(out.join(line["overlay"].as_str().unwrap()), &DecodeOptions::default()).unwrap();
        // The scene, a colour bar at its right, a caption below.
        assert!(overlay.width > 288 && overlay.height > 288);
        assert_eq!(line["size"], serde_json::json!([288, 288]));
    }
}

#[test]
fn every_line_names_its_files_and_says_how_it_came_about() {
    let folder = tempfile::tempdir().unwrap();
    let photos = photos(folder.path(), 2);
    let args = ["heatmap", photos.to_str().unwrap(), "--text", "a cat", "--text", "a dog", "--method", "rollout"];
    let more = ["--method", "integrated-gradients:steps=3", "--format", "png,npy,safetensors", "--json", "-o", "r"];
    let done = vitscope(folder.path(), &[&args[..], &more].concat()).code(0);
    let out = folder.path().join("r");
    let lines = lines(&out.join("results.jsonl"));
    assert_eq!(json_lines(&stdout(&done)), lines, "stdout and the index say the same");
    let key = |line: &Value| ["image", "text", "method"].map(|k| line[k].as_str().unwrap().to_owned());
    let keys: HashSet<[String; 3]> = lines.iter().map(key).collect();
    assert_eq!((lines.len(), keys.len()), (8, 8), "image x text x method");

    let mut files = HashSet::new();
    for line in &lines {
        let (shape, values) = map(&out, &line["map"]);
        assert_eq!(serde_json::json!(shape), line["grid"]);
        let on_pixels = line["method"] != "rollout";
        assert_eq!(shape, if on_pixels { [112, 112] } else { [14, 14] });
        let range = values.iter().fold((f32::MAX, f32::MIN), |(a, b), &v| (a.min(v), b.max(v)));
        assert_eq!((line["min"].as_f64(), line["max"].as_f64()), (Some(range.0.into()), Some(range.1.into())));
        assert_eq!(line["completeness_gap"].is_number(), on_pixels);
        assert!(out.join(line["overlay"].as_str().unwrap()).is_file());
        assert!(files.insert(line["map"].clone()) && files.insert(line["overlay"].clone()), "names are unique");
        let options = &line["options"];
        let method = if on_pixels { "integrated-gradients:steps=3" } else { "rollout:from=0" };
        assert_eq!(options["method"], method);
        assert_eq!(
            (&options["score"], &options["dtype"], &options["device"]),
            (&"cosine".into(), &"f32".into(), &"cpu".into())
        );
        assert_eq!(options["preprocess"]["pass_order"], "pillow13");
        assert_eq!(options["model"]["hash"].as_str().unwrap().len(), 16);
    }
    let run = TensorFile::open(&out.join("maps.safetensors")).unwrap();
    assert_eq!(run.shape("rollout/14x14/maps"), Some(&[4, 14, 14][..]));
    let at = run.read_i64("rollout/14x14/lines").unwrap()[1] as usize;
    assert_eq!(run.read_f32("rollout/14x14/maps").unwrap()[196..392], map(&out, &lines[at]["map"]).1);
}

#[test]
fn an_edit_is_shown_before_after_and_as_their_difference() {
    let folder = tempfile::tempdir().unwrap();
    let spliced = spliced();
    let args = with(&["heatmap", "--text", "cat"], &spliced, &["--edit", "scale:49=4", "--edit", "set:5=2"]);
    let done = vitscope(folder.path(), &args).code(0);
    assert!(stdout(&done).contains("before") && stdout(&done).contains("change"));
    let out = folder.path().join("out");
    let line = &lines(&out.join("results.jsonl"))[0];
    let [after, before, delta] =
        [&line["map"], &line["baseline"]["map"], &line["delta"]["map"]].map(|m| map(&out, m).1);
    assert_ne!(after, before);
    assert!(after.iter().zip(&before).zip(&delta).all(|((a, b), d)| (a - b - d).abs() < 1e-6));
    let number = |v: &Value| v.as_f64().unwrap();
    let change = number(&line["score"]) - number(&line["baseline"]["score"]);
    assert!(change != 0.0 && (change - number(&line["delta"]["score"])).abs() < 1e-12);
    let sae = &line["options"]["sae"];
    assert_eq!(sae["edits"], serde_json::json!(["scale:49=4", "set:5=2"]));
    assert_eq!((&sae["layer"], &sae["splice"], &sae["through"]), (&1.into(), &"replace".into(), &"exact".into()));
    let overlay = decode(out.join(line["overlay"].as_str().unwrap()), &DecodeOptions::default()).unwrap();
    assert!(overlay.width > 3 * 288);
}

#[test]
fn an_absent_thing_is_drawn_fainter_and_its_raw_map_is_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let out = |name: &str| folder.path().join(name);
    let run = |name: &str, more: &[&str]| {
        let texts = ["heatmap", "--text", "a photo of a cat", "--text", "a photo of a submarine"];
        let more = [&["--method", "grad-eclip", "--method", "gradient-x-input", "-o", name], more].concat();
        vitscope(folder.path(), &[&texts[..], &more].concat()).code(0);
        lines(&out(name).join("results.jsonl"))
    };
    let (faded, full) = (run("score", &["--fade", "score"]), run("none", &["--fade", "none"]));
    let bytes = |name: &str, path: &Value| std::fs::read(out(name).join(path.as_str().unwrap())).unwrap();
    for (a, b) in faded.iter().zip(&full) {
        let (fade, score) = (a["fade"].as_f64().unwrap(), a["score"].as_f64().unwrap());
        let present = a["text"] == "a photo of a cat";
        let best = faded[0]["score"].as_f64().unwrap();
        assert_eq!(fade, score.max(0.0) / best, "{a}");
        assert_eq!(present, fade == 1.0, "{a}");
        assert!(present || fade < 0.4, "{a}");
        assert_eq!((&b["fade"], &b["options"]["overlay"]["fade"]), (&1.0.into(), &"none".into()));
        assert_eq!(map(&out("score"), &a["map"]), map(&out("none"), &b["map"]));
        assert_eq!((&a["min"], &a["max"]), (&b["min"], &b["max"]));
        assert_eq!(present, bytes("score", &a["overlay"]) == bytes("none", &b["overlay"]));
    }
    let own = run("own", &["--fade", "score", "--scale", "own", "--format", "npy"]);
    assert!(own.iter().all(|line| line["fade"] == 1.0), "a map alone on its scale is drawn in full");
}

#[test]
fn the_demo_fades_by_presence_whatever_else_is_asked() {
    let folder = tempfile::tempdir().unwrap();
    let fades = |texts: &[&str], more: &[&str]| -> Vec<f64> {
        let texts = texts.iter().flat_map(|text| ["--text", text]);
        let args: Vec<&str> =
            ["heatmap", "--format", "npy"].into_iter().chain(texts).chain(more.iter().copied()).collect();
        vitscope(folder.path(), &args).code(0);
        let lines = lines(&folder.path().join("out/results.jsonl"));
        assert!(lines.iter().all(|line| line["options"]["overlay"]["fade"] == "presence"));
        lines.iter().map(|line| line["fade"].as_f64().unwrap()).collect()
    };
    let (cat, submarine) = ("a photo of a cat", "a photo of a submarine");
    let both = fades(&[cat, submarine], &[]);
    assert!(both[0] > 0.9 && both[1] < 0.02, "{both:?}");
    for own in [&["--scale", "own"][..], &["--method", "attention"], &["--score", "softmax"]] {
        assert_eq!(fades(&[cat, submarine], own), both);
    }
    let alone = fades(&[submarine], &[]);
    assert!(alone[0] < 0.1, "{alone:?}");
    let said = stdout(&vitscope(folder.path(), &["heatmap", "--text", cat, "--text", submarine]).code(0));
    let told: Vec<bool> = said.lines().skip(1).map(|line| line.contains("(not found)")).collect();
    assert_eq!(told, [false, true], "{said}");
    let found = lines(&folder.path().join("out/results.jsonl"));
    assert_eq!((&found[0]["found"], &found[1]["found"]), (&true.into(), &false.into()));
    vitscope(folder.path(), &["heatmap", "--text", cat, "--fade", "score"]).code(0);
    assert!(lines(&folder.path().join("out/results.jsonl"))[0].get("found").is_none(), "no rule looked for it");
    let wrong = ["heatmap", "--score", "latent:49", "--sae", "demo", "--fade", "presence"];
    assert!(stderr(&vitscope(folder.path(), &wrong).code(2)).contains("a latent has none"));
}

#[test]
fn before_and_after_an_edit_are_faded_by_one_measure() {
    let folder = tempfile::tempdir().unwrap();
    let spliced = spliced();
    for (scale, texts) in [("own", &["cat"][..]), ("shared", &["cat", "dog", "a car"])] {
        let mut before = vec!["heatmap", "--fade", "score", "--scale", scale, "--format", "npy"];
        before.extend(texts.iter().flat_map(|text| ["--text", text]));
        let args = with(&before, &spliced, &["--splice", "keep-error", "--edit", "scale:49=0.5"]);
        vitscope(folder.path(), &args).code(0);
        let lines = lines(&folder.path().join("out/results.jsonl"));
        let runs: Vec<&Value> = lines.iter().flat_map(|line| [line, &line["baseline"]]).collect();
        let number = |run: &Value, key: &str| run[key].as_f64().unwrap();
        let best = runs.iter().map(|run| number(run, "score")).fold(f64::MIN, f64::max);
        assert!(best > 0.0);
        for run in &runs {
            assert_eq!(number(run, "fade"), number(run, "score").max(0.0) / best, "{run}");
        }
        assert!(runs.iter().any(|run| number(run, "fade") == 1.0) && runs.iter().any(|run| number(run, "fade") < 1.0));
    }
}

#[test]
fn a_latent_is_explained_without_a_text() {
    let folder = tempfile::tempdir().unwrap();
    let spliced = spliced();
    let args = with(&["heatmap", "--score", "latent:49"], &spliced, &["--format", "npy"]);
    vitscope(folder.path(), &args).code(0);
    let lines = lines(&folder.path().join("out/results.jsonl"));
    assert_eq!(lines.len(), 1);
    assert_eq!(
        (&lines[0]["text"], &lines[0]["latent"], &lines[0]["overlay"]),
        (&Value::Null, &49.into(), &Value::Null)
    );
    assert!(!folder.path().join("out/overlays").exists());
}

#[test]
fn names_and_texts_may_hold_anything() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["a", "b"] {
        std::fs::create_dir(folder.path().join(name)).unwrap();
        picture(&folder.path().join(name).join("same name [1].png"), 40, 40, 1);
    }
    let texts = ["../../up", "a/b", "A B", "a  b", "猫", "\"quoted\"\n", "x".repeat(400).leak()];
    let mut args = vec!["heatmap", "a", "b/*.png", "-q"];
    args.extend(texts.iter().flat_map(|text| ["--text", text]));
    let done = vitscope(folder.path(), &args).code(0);
    assert_eq!((stdout(&done), stderr(&done)), (String::new(), String::new()), "quiet");
    let lines = lines(&folder.path().join("out/results.jsonl"));
    let files: HashSet<&str> = lines.iter().map(|line| line["map"].as_str().unwrap()).collect();
    assert_eq!(files.len(), 14);
    for file in files {
        let path = folder.path().join("out").join(file);
        assert_eq!(path.parent().unwrap(), folder.path().join("out/maps"));
        assert!(path.is_file() && path.file_name().unwrap().len() < 200);
    }
}

#[test]
fn one_broken_image_is_one_line_and_exit_code_1() {
    let folder = tempfile::tempdir().unwrap();
    let photos = photos(folder.path(), 4);
    let whole = std::fs::read(photos.join("001.png")).unwrap();
    std::fs::write(photos.join("001.png"), &whole[..whole.len() / 2]).unwrap();
    let args = ["heatmap", photos.to_str().unwrap(), "gone.jpg", "--text", "cat"];
    let done = vitscope(folder.path(), &args).code(1);
    let lines = lines(&folder.path().join("out/results.jsonl"));
    let failed: Vec<bool> = lines.iter().map(|line| line["error"].is_string()).collect();
    assert_eq!(failed, [false, true, false, false, true], "in the order of the inputs");
    assert!(lines[1]["image"].as_str().unwrap().ends_with("001.png"));
    let message = stderr(&done);
    assert!(
        message.contains("001.png: ") && message.contains("gone.jpg: ") && message.contains("2 of 5 images failed")
    );
}

#[test]
fn results_do_not_depend_on_the_batch() {
    let folder = tempfile::tempdir().unwrap();
    let photos = photos(folder.path(), 5);
    let run = |batch: &str| {
        let args =
            ["heatmap", photos.to_str().unwrap(), "--text", "cat", "--text", "dog", "--batch-size", batch, "-o", batch];
        vitscope(folder.path(), &args).code(0);
        std::fs::read(folder.path().join(batch).join("results.jsonl")).unwrap()
    };
    let auto = run("auto");
    assert!(run("1") == auto && run("2") == auto);
}

#[test]
fn whole_pictures_keep_their_shape() {
    let folder = tempfile::tempdir().unwrap();
    for (name, width, height) in [("1.png", 64, 40), ("2.png", 64, 40), ("3.png", 24, 50)] {
        picture(&folder.path().join(name), width, height, 2);
    }
    let args = ["heatmap", "1.png", "2.png", "3.png", "--text", "cat", "--size", "keep", "--overlay-size", "crop"];
    vitscope(folder.path(), &args).code(0);
    let grids: Vec<Value> = lines(&folder.path().join("out/results.jsonl")).iter().map(|l| l["grid"].clone()).collect();
    assert_eq!(serde_json::json!(grids), serde_json::json!([[5, 8], [5, 8], [6, 3]]));
}

#[test]
fn an_edit_that_overflows_is_that_pictures_failure() {
    let folder = tempfile::tempdir().unwrap();
    let spliced = spliced();
    let args = with(&["heatmap", "--text", "cat"], &spliced, &["--edit", "set:1=1e39"]);
    let done = vitscope(folder.path(), &args).code(1);
    assert!(stderr(&done).contains("not finite"), "{}", stderr(&done));
}
