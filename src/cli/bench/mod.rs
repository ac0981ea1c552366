//! `vitscope bench`: whole passes on random pixels, timed; kernels one by one.

mod kernels;

use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde_json::json;
use vitscope::engine::BenchPass;

use crate::cli::{
    args::ModelArgs,
    console::{Console, bytes, table},
    memory, setup,
};

/// Time whole passes on random pixels: images a second and memory
#[derive(Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct BenchArgs {
    #[command(subcommand)]
    part: Option<BenchPart>,
    #[command(flatten)]
    model: ModelArgs,
    /// forward, or a method of `heatmap` (repeat)
    #[arg(long = "pass", default_values = ["forward", "grad-eclip", "gradient"])]
    passes: Vec<BenchPass>,
    /// Images a pass (repeat)
    #[arg(long = "batch-size", default_values_t = [1, 16])]
    batches: Vec<usize>,
    /// Timed repetitions
    #[arg(long, default_value_t = 10)]
    repeat: usize,
    /// Repetitions before those: a GPU captures a pass in its second and third run
    #[arg(long, default_value_t = 3)]
    warm: usize,
}

/// What else is measured.
#[derive(Subcommand)]
enum BenchPart {
    Kernels(Box<kernels::KernelsArgs>),
}

/// Times every pass at every batch size, or the kernels.
pub fn run(args: &BenchArgs, console: &Console) -> anyhow::Result<ExitCode> {
    if let Some(BenchPart::Kernels(args)) = &args.part {
        return kernels::run(args, console);
    }
    let mut engine = setup::open(&args.model, console)?;
    let side = engine.checkpoint.config.vision.image_size;
    let grid = engine.grid(side, side)?;
    let (mut rows, mut lines) = (Vec::new(), Vec::new());
    for &batch in &args.batches {
        for pass in &args.passes {
            let methods = match pass {
                BenchPass::Forward => Vec::new(),
                BenchPass::Method(method) => vec![method.clone()],
            };
            let question = engine.ask_random(methods, 1, args.model.seed)?;
            let arena = engine.pass_bytes(batch.max(1), grid, &question)?.arena;
            let predicted = engine.weight_bytes(&question) + arena;
            let timed = engine.bench(pass, batch.max(1), args.warm, args.repeat.max(1), args.model.seed)?;
            rows.push(vec![
                pass.to_string(),
                batch.to_string(),
                format!("{:.1}", timed.median() * 1e3),
                format!("{:.1}", timed.images_per_second()),
                bytes(predicted),
                memory::peak().map_or("unknown".into(), bytes),
            ]);
            lines.push(json!({
                "model": engine.checkpoint.label,
                "device": engine.device,
                "emulated": engine.is_emulated(),
                "dtype": engine.dtype.to_string(),
                "pass": pass.to_string(),
                "batch": batch,
                "seconds_median": timed.median(),
                "seconds": timed.seconds,
                "images_per_s": timed.images_per_second(),
                "arena_bytes": arena,
                "predicted_bytes": predicted,
                "peak_bytes": memory::peak(),
            }));
        }
    }
    setup::say_kernels(engine.kernels_used(), console);
    if engine.is_emulated() {
        console.say("emulated: these are the times of this machine's processor, not those of a GPU");
    }
    let names = ["pass", "batch", "ms", "images/s", "memory predicted", "peak so far"];
    console.result(|| table(&names, &rows), || lines)?;
    Ok(ExitCode::SUCCESS)
}
