//! `features`, `sweep` and `sae`.

use serde_json::Value;
use vitscope::{
    report::read_npy,
    weights::{SaeWeights, TensorFile},
};

use super::{fixture, json_lines, lines, picture, spliced, stderr, stdout, vitscope, with};

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap()
}

#[test]
fn features_are_ranked_and_their_maps_add_up() {
    let folder = tempfile::tempdir().unwrap();
    let spliced = spliced();
    let args = with(&["features", "--text", "cat", "--text", "dog", "--json"], &spliced, &["--top", "6", "-o", "f"]);
    let done = vitscope(folder.path(), &args).code(0);
    let listed = json_lines(&stdout(&done));
    assert_eq!(listed, lines(&folder.path().join("f/features.jsonl")));
    assert_eq!(listed.len(), 6);
    let contributions: Vec<f64> = listed.iter().map(|l| number(&l["contribution"]["cat"]).abs()).collect();
    assert!(contributions.windows(2).all(|w| w[0] >= w[1]));
    for line in &listed {
        let map = |path: &Value| read_npy(&folder.path().join("f").join(path.as_str().unwrap())).unwrap();
        let (shape, activation) = map(&line["activation_map"]);
        assert_eq!(shape, [4, 4]);
        // The class token is not on the map.
        assert!(f64::from(activation.iter().sum::<f32>()) <= number(&line["activation"]) + 1e-4);
        assert_eq!(map(&line["contribution_map"]["dog"]).0, [4, 4]);
        assert!(folder.path().join("f").join(line["activation_overlay"].as_str().unwrap()).is_file());
    }
    let args = with(&["features", "--sort", "activation", "--json"], &spliced, &[]);
    let listed = json_lines(&stdout(&vitscope(folder.path(), &args).code(0)));
    assert!(listed.windows(2).all(|w| number(&w[0]["activation"]) >= number(&w[1]["activation"])));
    assert_eq!(listed[0]["contribution"], serde_json::json!({}));
    vitscope(folder.path(), &with(&["features", "--sort", "contribution"], &spliced, &[])).code(2);
    vitscope(folder.path(), &with(&["features", "gone.png"], &spliced, &[])).code(1);
}

/// Without `replace`'s damage and to first order, zeroing a latent takes its contribution.
#[test]
fn a_sweep_tabulates_each_edit_alone() {
    let folder = tempfile::tempdir().unwrap();
    let spliced = spliced();
    std::fs::write(folder.path().join("edits.txt"), "scale:49=1\nzero:49\n\nzero:49 set:38=3\n").unwrap();
    let args = with(&["sweep", "--text", "cat", "--json"], &spliced, &["--edits-file", "edits.txt", "-o", "s"]);
    let rows = json_lines(&stdout(&vitscope(folder.path(), &args).code(0)));
    let edits: Vec<&str> = rows.iter().map(|row| row["edit"].as_str().unwrap()).collect();
    assert_eq!(edits, ["scale:49=1", "zero:49", "zero:49 set:38=3"]);
    assert_eq!((number(&rows[0]["score"]["change"]), number(&rows[0]["map"]["l2"])), (0.0, 0.0));
    assert_eq!(number(&rows[0]["map"]["iou_top10"]), 1.0);
    assert!(number(&rows[1]["score"]["change"]) != 0.0 && number(&rows[1]["map"]["l1"]) > 0.0);
    assert_eq!(rows[1]["options"]["sae"]["edits"], serde_json::json!(["zero:49"]));

    // The same as the heatmap says.
    let args = with(&["heatmap", "--text", "cat", "--json", "-q"], &spliced, &["--edit", "zero:49"]);
    let line = &json_lines(&stdout(&vitscope(folder.path(), &args).code(0)))[0];
    assert_eq!(line["delta"]["score"], rows[1]["score"]["change"]);

    let csv = std::fs::read_to_string(folder.path().join("s/sweep.csv")).unwrap();
    assert_eq!(csv.lines().count(), 4);
    assert!(csv.starts_with("image,text,edit,") && csv.contains("\"zero:49 set:38=3\""));
    let args = with(&["sweep", "--text", "cat", "--json"], &spliced, &["--latents", "top:2", "--edit", "scale=3"]);
    let rows = json_lines(&stdout(&vitscope(folder.path(), &args).code(0)));
    assert!(rows.len() == 2 && rows[0]["edit"].as_str().unwrap().starts_with("scale:"));
    vitscope(folder.path(), &with(&["sweep", "--text", "cat"], &spliced, &["--latents", "64"])).code(2);
    vitscope(folder.path(), &with(&["sweep", "--text", "cat"], &spliced, &[])).code(2);
}

#[test]
fn an_sae_is_inspected_on_images_and_converted() {
    let folder = tempfile::tempdir().unwrap();
    let (model, sae) = (fixture("clip/tiny_a"), fixture("clip/sae_a1_sparsify"));
    picture(&folder.path().join("1.png"), 48, 48, 1);
    let args = ["sae", "inspect", &sae, "1.png", "--model", &model, "--layer", "1", "--json"];
    let told = &json_lines(&stdout(&vitscope(folder.path(), &args).code(0)))[0]["is"];
    assert_eq!(
        (&told["latents"], &told["L0"], &told["tokens"]),
        (&"64 (x1.3333)".into(), &"6.00".into(), &"17".into())
    );
    assert!(told["FVU"].is_string() && told["explained variance, uncentred"].is_string());
    vitscope(folder.path(), &["sae", "inspect", &sae]).code(0);
    vitscope(folder.path(), &["sae", "inspect", "1.png"]).code(3);

    vitscope(folder.path(), &["sae", "convert", &sae, "--to", "saelens", "-o", "converted"]).code(0);
    let (before, after) =
        (SaeWeights::load(sae.as_ref()).unwrap(), SaeWeights::load(&folder.path().join("converted")).unwrap());
    assert_eq!((after.format, &after.encoder, &after.decoder), ("SAELens 6", &before.encoder, &before.decoder));
    let jump = fixture("clip/sae_a1_jumprelu");
    vitscope(folder.path(), &["sae", "convert", &jump, "--to", "sparsify", "-o", "never"]).code(2);
}

#[test]
fn codes_are_harvested_as_a_sparse_matrix() {
    let folder = tempfile::tempdir().unwrap();
    let (model, sae) = (fixture("clip/tiny_a"), fixture("clip/sae_a1_sparsify"));
    picture(&folder.path().join("1.png"), 48, 48, 1);
    picture(&folder.path().join("2.png"), 48, 48, 2);
    let args = [
        "sae",
        "apply",
        &sae,
        "1.png",
        "gone.png",
        "2.png",
        "--model",
        &model,
        "--layer",
        "1",
        "-o",
        "codes.safetensors",
    ];
    let done = vitscope(folder.path(), &args).code(1);
    assert!(stderr(&done).contains("gone.png"));
    let file = TensorFile::open(&folder.path().join("codes.safetensors")).unwrap();
    assert_eq!(file.read_i64("tokens").unwrap(), [17, 17]);
    let indptr = file.read_i64("indptr").unwrap();
    assert_eq!((indptr.len(), indptr[0], indptr[34]), (35, 0, 6 * 34));
    assert!(file.read_f32("values").unwrap().iter().all(|&v| v > 0.0));
    assert!(file.read_i64("indices").unwrap().iter().all(|&id| id < 64));
    assert_eq!(file.metadata()["images"], r#"["1.png","2.png"]"#);
}
