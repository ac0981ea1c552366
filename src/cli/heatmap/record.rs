//! What stands in the output folder for one image.

use std::path::{Path, PathBuf};

use rayon::prelude::*;
use serde_json::{Map, Value, json};
use vitscope::{
    Error, Result,
    backend::PatchGrid,
    engine::{Explanation, MapValues, Pictured, Question},
    image::write_png,
    model::{Method, NamedMethod, Score},
    report::{short_hash, slug, write_npy},
};

use super::{
    Format, HeatmapArgs,
    draw::{Drawing, Overlay, Scored},
};
use crate::cli::{
    args::FadeRule,
    console::{number, signed, table},
    pictures::{Picture, Ready, State},
    setup::Asked,
};

/// Writes maps and overlays, and the lines that name them.
pub struct Record {
    /// The output folder.
    pub folder: PathBuf,
    /// Without the method.
    options: Value,
    methods: Vec<NamedMethod>,
    /// The texts; empty for a latent's score.
    texts: Vec<String>,
    latent: Option<usize>,
    patch: usize,
    drawing: Drawing,
    /// Whether overlays are wanted.
    overlays: bool,
}

impl Record {
    /// For the results of `asked`.
    pub fn new(args: &HeatmapArgs, asked: &Asked, fade: FadeRule, options: Value) -> Self {
        let Question { texts, score, methods, splice, .. } = &asked.question;
        let edits = splice.as_ref().filter(|s| !s.edits.is_empty()).map(|s| {
            let list: Vec<String> = s.edits.iter().map(ToString::to_string).collect();
            format!("{} at block {}", list.join(" "), s.layer)
        });
        Record {
            folder: args.output.clone(),
            options,
            methods: methods.iter().map(|(named, _)| named.clone()).collect(),
            texts: texts.clone(),
            latent: if let Score::Latent(id) = score { Some(*id) } else { None },
            patch: asked.engine.checkpoint.config.vision.patch,
            drawing: Drawing::new(&args.draw, fade, edits),
            overlays: args.format.contains(&Format::Png),
        }
    }

    /// Writes the files of a picture and returns its lines, texts outermost. `found` (Q) tells how surely it shows each
    /// text, where the fade looks at it.
    ///
    /// # Errors
    /// [`Error::Io`] when the folder cannot be written; anything else concerns this picture.
    pub fn write(&self, picture: &Picture, explanation: &Explanation, found: &[f64]) -> Result<Vec<Value>> {
        let State::Ready(ready) = &picture.state else { return Ok(Vec::new()) };
        check_finite(&explanation.result)?;
        explanation.baseline.as_ref().map_or(Ok(()), check_finite)?;
        let targets = self.texts.len().max(1);
        let pairs: Vec<(usize, usize)> =
            (0..targets).flat_map(|text| (0..self.methods.len()).map(move |method| (text, method))).collect();
        pairs
            .into_par_iter()
            .map(|(text, method)| self.line(picture, ready, explanation, found, text, method))
            .collect()
    }

    fn label(&self, text: usize) -> String {
        match self.latent {
            Some(id) => format!("latent {id}"),
            None => self.texts.get(text).cloned().unwrap_or_default(),
        }
    }

    fn line(
        &self,
        picture: &Picture,
        ready: &Ready,
        explanation: &Explanation,
        found: &[f64],
        text: usize,
        method: usize,
    ) -> Result<Value> {
        let result = map_of(&explanation.result, method, text)?;
        let baseline = explanation.baseline.as_ref().map(|b| map_of(b, method, text)).transpose()?;
        let (named, label) = (&self.methods[method], self.label(text));
        let mut options = self.options.clone();
        options["method"] = named.method.canonical().into();
        let stem = stem(picture, &label, named, &options);

        let mut line = Map::new();
        line.insert("image".into(), json!(picture.name));
        line.insert("text".into(), self.texts.get(text).map_or(Value::Null, |t| json!(t)));
        if let Some(id) = self.latent {
            line.insert("latent".into(), json!(id));
        }
        let (min, max) = range(&result.values);
        let all = std::iter::once(&explanation.result).chain(&explanation.baseline).flat_map(|run| &run.maps);
        let sharing = self.drawing.sharing(text, all.filter(|map| map.method == method));
        let scored = |map| self.drawing.scored(map, &sharing, found);
        let (after, before) = (scored(result), baseline.map(scored));
        let mut put = |name: &str, value: Value| line.insert(name.to_owned(), value);
        put("method", json!(named.given));
        put("score", json!(result.score));
        put("fade", json!(after.fade));
        if let Some(found) = after.found {
            put("found", json!(found));
        }
        put("grid", json!([result.rows, result.cols]));
        put("map", self.map(&stem, "", result, &result.values)?);
        put("min", json!(min));
        put("max", json!(max));
        let overlay = Overlay {
            label: &label,
            method: &named.given,
            shape: (result.rows, result.cols),
            result: after,
            baseline: before,
            sharing: &sharing,
        };
        put("overlay", if self.overlays { self.overlay(ready, named.method, &overlay, &stem)? } else { Value::Null });
        if let (Some(before), Some(Scored { fade, .. })) = (baseline, before) {
            let delta: Vec<f32> = result.exact.iter().zip(&before.exact).map(|(a, b)| (a - b) as f32).collect();
            let map = self.map(&stem, ".baseline", before, &before.values)?;
            put("baseline", json!({ "score": before.score, "fade": fade, "map": map }));
            let map = self.map(&stem, ".delta", result, &delta)?;
            put("delta", json!({ "score": result.score - before.score, "map": map }));
        }
        if let Some(gap) = result.completeness_gap {
            put("completeness_gap", json!(gap));
        }
        let region = ready.prepared.region;
        put("size", json!([ready.original.width, ready.original.height]));
        put("region", json!([region.left, region.top, region.width, region.height]));
        put("image_hash", json!(picture.hash));
        put("options", options);
        Ok(Value::Object(line))
    }

    /// Writes a raw map; its path relative to the folder.
    fn map(&self, stem: &str, kind: &str, shape: &MapValues, values: &[f32]) -> Result<Value> {
        let name = format!("maps/{stem}{kind}.npy");
        write_npy(&self.folder.join(&name), &[shape.rows, shape.cols], values)?;
        Ok(name.into())
    }

    /// Draws an overlay; its path relative to the folder.
    fn overlay(&self, ready: &Ready, method: Method, overlay: &Overlay<'_>, stem: &str) -> Result<Value> {
        let size = &ready.prepared;
        let grid = PatchGrid::of(size.height, size.width, self.patch);
        let name = format!("overlays/{stem}.png");
        write_png(self.folder.join(&name), &self.drawing.draw(ready, grid, method, overlay)?)?;
        Ok(name.into())
    }
}

fn map_of(run: &Pictured, method: usize, text: usize) -> Result<&MapValues> {
    let found = run.maps.iter().find(|m| m.method == method && m.text == text);
    found.ok_or_else(|| Error::Plan { tensor: format!("map of method {method}, text {text}"), planned: None })
}

fn check_finite(run: &Pictured) -> Result<()> {
    let finite = |m: &MapValues| m.score.is_finite() && m.values.iter().all(|v| v.is_finite());
    if run.maps.iter().all(finite) {
        return Ok(());
    }
    Err(Error::usage("the score or the map is not finite: a weight or an edit is too large"))
}

fn range(values: &[f32]) -> (f32, f32) {
    values.iter().fold((f32::INFINITY, f32::NEG_INFINITY), |(low, high), &v| (low.min(v), high.max(v)))
}

/// A file name that tells what it holds and belongs to this result alone.
fn stem(picture: &Picture, label: &str, method: &NamedMethod, options: &Value) -> String {
    let options = options.to_string();
    let hash = short_hash(&[picture.name.as_bytes(), label.as_bytes(), options.as_bytes()], 12);
    let image = Path::new(&picture.name).file_stem().unwrap_or_default().to_string_lossy();
    let image = image.strip_prefix("bundled:").unwrap_or(&image);
    format!("{}-{}-{}-{hash}", slug(image, 40), slug(label, 40), slug(&method.given, 40))
}

/// The scores of one image, for people.
pub fn human(name: &str, lines: &[Value]) -> String {
    let text = |v: &Value| v.as_str().map_or_else(String::new, str::to_owned);
    let score = |v: &Value| v["score"].as_f64().unwrap_or(f64::NAN);
    let label = |line: &Value| match &line["latent"] {
        Value::Null => text(&line["text"]),
        id => format!("latent {id}"),
    };
    // A row per text; per method only where methods explain different scores, as grad-eclip:heads=single does.
    let same = |a: &Value, b: &Value| {
        label(a) == label(b) && a["score"] == b["score"] && a["baseline"]["score"] == b["baseline"]["score"]
    };
    let mut rows: Vec<Vec<String>> = Vec::new();
    for (i, line) in lines.iter().enumerate() {
        if lines[..i].iter().any(|earlier| same(earlier, line)) {
            continue;
        }
        let several = lines.iter().any(|other| label(other) == label(line) && !same(other, line));
        let method = if several { format!("  ({})", text(&line["method"])) } else { String::new() };
        let found = if line["found"] == json!(false) { "  (not found)" } else { "" };
        let mut row = vec![format!("{}{method}{found}", label(line))];
        if line["baseline"].is_object() {
            row.extend([number(score(&line["baseline"])), number(score(line)), signed(score(&line["delta"]))]);
        } else {
            row.push(number(score(line)));
        }
        rows.push(row);
    }
    let names: &[&str] =
        if rows.iter().any(|row| row.len() > 2) { &[name, "before", "after", "change"] } else { &[name, ""] };
    table(names, &rows)
}
