//! `vitscope verify`: the engine against fixtures, tensor by tensor.

use std::{collections::BTreeSet, path::PathBuf, process::ExitCode};

use clap::Args;
use serde_json::json;
use vitscope::{
    Error,
    engine::{AskedDtype, Compared, Device, Options, verify},
};

use super::{
    args::KernelArgs,
    console::{Console, table},
    setup,
};

/// Compare every tensor of fixtures with PyTorch's float64 values, within a multiple of PyTorch's own error
#[derive(Args)]
pub struct VerifyArgs {
    /// Fixture files, or folders of them (tools/make_fixtures.py makes them)
    #[arg(required = true)]
    fixtures: Vec<PathBuf>,
    /// auto, cpu, cuda, cuda:N or emulated
    #[arg(long, default_value = "auto", env = "VITSCOPE_DEVICE")]
    device: Device,
    /// auto, f32 or f64; f32, f16 or bf16 on a GPU
    #[arg(long, default_value = "auto")]
    dtype: AskedDtype,
    #[command(flatten)]
    kernels: KernelArgs,
}

/// Verifies all fixtures; an error when one tensor is outside its bound.
pub fn run(args: &VerifyArgs, console: &Console) -> anyhow::Result<ExitCode> {
    let kernels = args.kernels.forced();
    let progress = console.compiling();
    let options = Options { device: args.device, dtype: args.dtype, kernels, progress, ..Options::default() };
    let dtype = args.dtype.on(args.device.choose(args.dtype).0)?;
    let fixtures = files(&args.fixtures)?;
    let (mut rows, mut lines) = (Vec::new(), Vec::new());
    let (mut tensors, mut failed, mut unserved, mut kernels) = (0, 0, 0, BTreeSet::new());
    for fixture in &fixtures {
        let name = fixture.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let verified = match verify(fixture, &options) {
            // A forced rung need not serve the sizes of every fixture.
            Err(Error::Unserved(why)) if unserved + 1 < fixtures.len() => {
                unserved += 1;
                console.say(&format!("{name}: left out: {why}"));
                continue;
            }
            other => other?,
        };
        kernels.extend(verified.kernels);
        for tensor in verified.tensors {
            tensors += 1;
            failed += usize::from(!tensor.ok());
            rows.push(row(&name, &tensor));
            lines.push(json!({
                "fixture": fixture.display().to_string(),
                "tensor": tensor.name,
                "ours": { "max": tensor.ours.max, "rms": tensor.ours.rms },
                "torch": { "max": tensor.torch.max, "rms": tensor.torch.rms },
                "ratio": tensor.ratio,
                "ok": tensor.ok(),
            }));
        }
    }
    console.result(|| table(&["fixture", "tensor", "our error", "torch's error", "ratio", "ok"], &rows), || lines)?;
    let summary =
        format!("{tensors} tensors of {} fixtures in {dtype}: {failed} outside their bound", fixtures.len() - unserved);
    setup::say_kernels(kernels, console);
    console.say(&summary);
    if failed > 0 {
        return Err(Error::Verification(summary).into());
    }
    Ok(ExitCode::SUCCESS)
}

fn row(fixture: &str, tensor: &Compared) -> Vec<String> {
    vec![
        fixture.to_owned(),
        tensor.name.clone(),
        format!("{:.2e}", tensor.ours.rms),
        format!("{:.2e}", tensor.torch.rms),
        format!("{:.2}", tensor.ratio),
        if tensor.ok() { "ok" } else { "FAILED" }.to_owned(),
    ]
}

/// The files themselves, and those in folders that end in `.safetensors`, sorted.
fn files(paths: &[PathBuf]) -> vitscope::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for path in paths {
        if !path.is_dir() {
            files.push(path.clone());
            continue;
        }
        let entries = std::fs::read_dir(path).map_err(|e| Error::io(path, e))?;
        let mut found: Vec<PathBuf> = entries
            .filter_map(|e| Some(e.ok()?.path()))
            .filter(|p| p.extension().is_some_and(|e| e == "safetensors"))
            .collect();
        found.sort();
        files.extend(found);
    }
    if files.is_empty() {
        return Err(Error::usage("no fixture in these folders"));
    }
    Ok(files)
}
