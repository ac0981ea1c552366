//! What a finished training leaves in its folder: the SAE, its record and its curves.

use std::path::Path;

use serde_json::{Value, json};

use super::{
    Trainer,
    difference::first_difference,
    run::{LOG, RunSpec, SaeSpec},
};
use crate::{
    Error, Result,
    files::write_file,
    image::{Chart, ChartPanel, Curve, write_png},
    report::read_lines,
    weights::{Hook, SaeWeights, Stored, TokenScopeHint},
};

const RECORD: &str = "train.json";
/// The most points of a curve.
const POINTS: usize = 1000;
/// Different tokens a latent below which a training is called short. Published trainings have thousands.
const FEW: usize = 100;

/// A trained SAE.
#[derive(Debug, Clone, PartialEq)]
pub struct Finished {
    /// Its folder below the run's.
    pub name: String,
    /// The block whose output it reads.
    pub layer: usize,
    /// `S`.
    pub latents: usize,
    /// Mean of the last tenth of the log: `loss`, `fvu`, `l0`, `dead`.
    pub end: Value,
    /// What the user should know.
    pub warnings: Vec<String>,
}

/// What a run has seen.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seen {
    /// Tokens, all epochs together.
    pub tokens: usize,
    /// Tokens of an epoch, if one was read to its end.
    pub epoch: Option<usize>,
    pub seconds: f64,
}

/// The command line's word for a scope.
pub(super) fn scope_name(tokens: TokenScopeHint) -> &'static str {
    match tokens {
        TokenScopeHint::All => "all",
        TokenScopeHint::Cls => "cls",
        TokenScopeHint::Patches => "patches",
    }
}

/// Whether `folder` holds the result of `request`.
pub(super) fn is_of(folder: &Path, request: &Value) -> bool {
    let record = std::fs::read(folder.join(RECORD)).ok();
    let record = record.and_then(|bytes| serde_json::from_slice::<Value>(&bytes).ok());
    record.is_some_and(|record| first_difference(&record["request"], request).is_none())
}

/// Takes back an earlier result's record: its folder is complete no more.
pub(super) fn forget(folder: &Path) -> Result<()> {
    let path = folder.join(RECORD);
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Error::io(path, error)),
        _ => Ok(()),
    }
}

/// Writes everything about one SAE. The record comes last: with it, the folder is complete.
pub(super) fn write(spec: &RunSpec, sae: &SaeSpec, trainer: &Trainer, seen: Seen) -> Result<Finished> {
    let folder = spec.folder.join(&sae.name);
    let layer = spec.layers.get(sae.layer).copied().unwrap_or_default();
    let hook = Hook { layer: Some(layer), name: format!("blocks.{layer}.hook_resid_post"), tokens: Some(spec.tokens) };
    let weights = SaeWeights { hook: Some(hook), ..trainer.weights() };
    weights.save_sae_lens(&folder, Stored::F32)?;

    let lines: Vec<Value> = read_lines(&folder.join(LOG))?.into_iter().map(|(_, line)| line).collect();
    let chart = chart(&lines);
    write_file(&folder.join("curves.svg"), chart.svg().as_bytes())?;
    write_png(folder.join("curves.png"), &chart.picture()?)?;

    let (end, warnings) = (end(&lines), warnings(sae.recipe.latents, seen));
    let record = json!({
        "vitscope": env!("CARGO_PKG_VERSION"),
        "request": spec.request(sae),
        // What activations were divided by in training; the weights stand without it.
        "scale": trainer.scale,
        "hook": weights.hook.as_ref().map(|hook| &hook.name),
        "tokens_seen": seen.tokens,
        "tokens_of_an_epoch": seen.epoch,
        "seconds": (seen.seconds * 1e3).round() / 1e3,
        "end": end,
        "warnings": warnings,
    });
    let path = folder.join(RECORD);
    let text = serde_json::to_string_pretty(&record).map_err(|e| Error::file(&path, e.to_string()))?;
    write_file(&path, format!("{text}\n").as_bytes())?;
    Ok(Finished { name: sae.name.clone(), layer, latents: sae.recipe.latents, end, warnings })
}

/// Few different tokens for many latents: latents die, or learn single images by heart.
fn warnings(latents: usize, seen: Seen) -> Vec<String> {
    let different = seen.epoch.map_or(seen.tokens, |epoch| epoch.min(seen.tokens));
    let few = different < FEW.saturating_mul(latents);
    let text = || {
        format!(
            "{different} different tokens for {latents} latents, {:.1} each: expect latents that are dead or know \
             single images by heart",
            different as f64 / latents as f64
        )
    };
    few.then(text).into_iter().collect()
}

/// Means over the log's last tenth.
fn end(lines: &[Value]) -> Value {
    let last = &lines[lines.len() - lines.len().div_ceil(10).min(lines.len())..];
    let mean = |name: &str| last.iter().filter_map(|line| line[name].as_f64()).sum::<f64>() / last.len().max(1) as f64;
    ["loss", "reconstruction", "fvu", "l0", "dead"]
        .map(|name| (name.to_owned(), json!(mean(name))))
        .into_iter()
        .collect()
}

/// Loss and FVU, L0, and dead latents over the steps.
fn chart(lines: &[Value]) -> Chart {
    let every = lines.len().div_ceil(POINTS).max(1);
    let curve = |name: &str, key: &str| {
        let point = |line: &Value| (line["step"].as_f64().unwrap_or(f64::NAN), line[key].as_f64().unwrap_or(f64::NAN));
        Curve { name: name.into(), points: lines.iter().step_by(every).chain(lines.last()).map(point).collect() }
    };
    let panel = |title: &str, log: bool, curves: Vec<Curve>| ChartPanel {
        title: title.into(),
        x_label: "step".into(),
        log,
        curves,
    };
    Chart {
        panels: vec![
            panel("loss and unexplained variance", true, vec![curve("loss", "loss"), curve("FVU", "fvu")]),
            panel("active latents per token (L0)", false, vec![curve("L0", "l0")]),
            panel("dead latents", false, vec![curve("dead", "dead")]),
        ],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_is_the_logs_last_tenth_and_short_trainings_are_called_so() {
        let line = |step: usize| json!({ "step": step, "loss": step, "fvu": 0.5, "l0": 3.0, "dead": 0 });
        let lines: Vec<Value> = (0..30).map(line).collect();
        assert_eq!((&end(&lines)["loss"], &end(&lines)["fvu"]), (&json!(28.0), &json!(0.5)));
        assert_eq!(end(&[])["l0"], json!(0.0));
        assert_eq!(chart(&lines).panels[0].curves[0].points.len(), 31);
        let long: Vec<Value> = (0..5000).map(line).collect();
        assert!(chart(&long).panels[1].curves[0].points.len() <= POINTS + 1);
        let seen = |tokens, epoch| Seen { tokens, epoch, seconds: 0.0 };
        assert!(warnings(64, seen(6400, None)).is_empty());
        assert!(warnings(64, seen(1_000_000, Some(640)))[0].contains("10.0 each"));
    }
}
