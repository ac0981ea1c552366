//! `vitscope inspect`: what a file is.

use std::{path::PathBuf, process::ExitCode};

use clap::Args;
use serde_json::{Value, json};
use vitscope::weights::inspect;

use super::console::Console;

/// Say what a model, SAE, safetensors file or picture is
#[derive(Args)]
pub struct InspectArgs {
    /// The file or folder
    path: PathBuf,
}

/// Prints the description.
pub fn run(args: &InspectArgs, console: &Console) -> anyhow::Result<ExitCode> {
    let rows = inspect(&args.path)?;
    console
        .result(|| listing(&rows), || vec![json!({ "path": args.path.display().to_string(), "is": fields(&rows) })])?;
    Ok(ExitCode::SUCCESS)
}

/// Names and values in two columns.
pub fn listing(rows: &[(String, String)]) -> String {
    let width = rows.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
    rows.iter().map(|(name, value)| format!("{name:width$}  {value}\n")).collect()
}

/// Names and values as one object; a name that comes several times has a list.
pub fn fields(rows: &[(String, String)]) -> Value {
    let mut object = serde_json::Map::new();
    for (name, value) in rows {
        match object.get_mut(name) {
            None => {
                object.insert(name.clone(), json!(value));
            }
            Some(Value::Array(list)) => list.push(json!(value)),
            Some(one) => *one = json!([one, value]),
        }
    }
    Value::Object(object)
}
