//! `vitscope kernels list`: every rung, from the kernels' files themselves.

use std::process::ExitCode;

use clap::Args;
use serde_json::json;
use vitscope::backend::gpu::{
    launch::Storage,
    registry::{self, Rung},
};

use crate::cli::console::{Console, columns};

/// List the rungs of every operation, and where each was last verified
#[derive(Args)]
pub struct ListArgs {
    /// Print each rung's card: shapes, cost, the prediction made before measuring, and what was measured
    #[arg(long)]
    card: bool,
}

/// Prints the table.
pub fn run(args: &ListArgs, console: &Console) -> anyhow::Result<ExitCode> {
    let (rungs, verified) = (registry::all(), registry::verified()?);
    let row = |rung: &Rung| {
        let state = verified.get(&rung.hash).map_or("never on a GPU".into(), |v| format!("{}, {}", v.device, v.date));
        let types: Vec<_> = rung.storages.iter().copied().map(Storage::name).collect();
        [
            rung.operation,
            rung.direction,
            &rung.number.to_string(),
            &rung.idea,
            &types.join(" "),
            &rung.needs.to_string(),
            &state,
        ]
        .map(str::to_owned)
        .to_vec()
    };
    let text = || {
        if args.card {
            return rungs.iter().map(|rung| format!("{}\n", rung.card())).collect();
        }
        let names = ["operation", "direction", "rung", "idea", "types", "needs", "verified"];
        columns(&names, &rungs.iter().map(row).collect::<Vec<_>>(), names.len())
    };
    let lines = || {
        let line = |rung: &Rung| {
            json!({
                "operation": rung.operation,
                "direction": rung.direction,
                "rung": rung.number,
                "idea": rung.idea,
                "types": rung.storages.iter().copied().map(Storage::name).collect::<Vec<_>>(),
                "needs": rung.needs.to_string(),
                "source": rung.source.name,
                "hash": rung.hash,
                "verified": verified.get(&rung.hash),
                "card": args.card.then(|| rung.card()),
            })
        };
        rungs.iter().map(line).collect()
    };
    console.result(text, lines)?;
    Ok(ExitCode::SUCCESS)
}
