//! `vitscope bench kernels`: every rung at the model's sizes, checked, then timed.

use std::process::ExitCode;

use clap::Args;
use serde_json::{Value, json};
use vitscope::{
    Error,
    backend::gpu::{bench::Measured, emulator::Counters},
    engine::{KernelBench, KernelReport, Options, bench_kernels},
    weights::Source,
};

use crate::cli::{
    args::ModelArgs,
    console::{Console, columns},
};

/// Check every rung of the GPU kernels against rung 1 at the model's sizes, and time those that are right. On the
/// emulated device, count what they do: choose a small model there, such as random:tiny
#[derive(Args)]
pub struct KernelsArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// Images a pass (repeat)
    #[arg(long = "batch-size", default_values_t = [1, 16])]
    batches: Vec<usize>,
    /// Kernels of this name only, such as gemm or attention_forward (repeat)
    #[arg(long, value_name = "NAME")]
    only: Vec<String>,
    /// Texts
    #[arg(long, default_value_t = 8, value_name = "N")]
    texts: usize,
    /// Latents of the SAE
    #[arg(long, default_value_t = 16384, value_name = "N")]
    latents: usize,
    /// Latents that fire in a token
    #[arg(long, default_value_t = 32, value_name = "N")]
    active: usize,
    /// Timed repetitions
    #[arg(long, default_value_t = 20)]
    repeat: usize,
    /// Repetitions before those
    #[arg(long, default_value_t = 3)]
    warm: usize,
}

/// Measures; an error when a rung is wrong.
pub fn run(args: &KernelsArgs, console: &Console) -> anyhow::Result<ExitCode> {
    let ModelArgs { model, device, dtype, seed, kernels } = &args.model;
    let progress = console.compiling();
    let options = Options {
        device: *device,
        dtype: *dtype,
        seed: *seed,
        kernels: kernels.forced(),
        progress,
        ..Options::default()
    };
    let asked = KernelBench {
        batches: args.batches.clone(),
        texts: args.texts,
        latents: args.latents,
        active: args.active,
        only: args.only.clone(),
        repeat: args.repeat,
        warm: args.warm,
    };
    let report = bench_kernels(&Source::parse(model)?, &options, &asked, |case| console.detail(case))?;
    let rungs = || report.rungs.iter().map(|(_, measured)| measured);
    if report.is_emulated {
        console.say("emulated: no times; what accesses of global and shared memory would cost on a GPU is counted");
    }
    let text = || {
        if report.is_emulated {
            columns(&COUNTED, &rungs().map(counted).collect::<Vec<_>>(), 2)
        } else {
            columns(&TIMED, &rungs().map(|measured| timed(measured, &report)).collect::<Vec<_>>(), 2)
        }
    };
    console.result(text, || report.rungs.iter().map(|(batch, measured)| line(*batch, measured, &report)).collect())?;
    let wrong: Vec<String> = rungs().filter(|measured| !measured.is_right).map(|m| rung(m) + " " + &m.sizes).collect();
    if !wrong.is_empty() {
        return Err(Error::Verification(format!("outside of rung 1's rounding bound: {}", wrong.join(", "))).into());
    }
    Ok(ExitCode::SUCCESS)
}

const TIMED: [&str; 8] = ["kernel", "sizes", "error", "us", "TFLOP/s", "GB/s", "% of limit", "x rung 1"];
const COUNTED: [&str; 8] =
    ["kernel", "sizes", "error", "sectors", "needed", "shared passes", "needed", "matrix products"];

fn rung(measured: &Measured) -> String {
    format!("{}={}", measured.ladder, measured.rung)
}

/// The columns that both tables begin with.
fn judged(measured: &Measured) -> Vec<String> {
    let error = if measured.is_right { format!("{:.1e}", measured.error) } else { "WRONG".into() };
    vec![rung(measured), measured.sizes.clone(), error]
}

fn timed(measured: &Measured, report: &KernelReport) -> Vec<String> {
    let mut row = judged(measured);
    let seconds = measured.median();
    let number = |value: Option<f64>| value.map_or(String::new(), |value| format!("{value:.1}"));
    let of_first = || {
        let same = |first: &&(usize, Measured)| {
            first.1.rung == 1 && first.1.ladder == measured.ladder && first.1.sizes == measured.sizes
        };
        Some(report.rungs.iter().find(same)?.1.median()? / seconds?)
    };
    row.push(number(seconds.map(|s| s * 1e6)));
    row.push(number(seconds.map(|s| measured.cost.flops as f64 / s / 1e12)));
    row.push(number(seconds.map(|s| measured.cost.bytes as f64 / s / 1e9)));
    row.push(number(share(measured, report).map(|share| share * 100.0)));
    row.push(number(of_first()));
    row
}

fn counted(measured: &Measured) -> Vec<String> {
    let mut row = judged(measured);
    row.resize(COUNTED.len(), String::new());
    if let Some(c) = measured.counters {
        let numbers =
            [c.global_sectors, c.global_sectors_needed, c.shared_passes, c.shared_passes_needed, c.matrix_products];
        row.splice(3.., numbers.map(|n| n.to_string()));
    }
    row
}

/// The least time that the card needs over the time that was needed.
fn share(measured: &Measured, report: &KernelReport) -> Option<f64> {
    Some(measured.cost.floor(report.limits?, report.storage) / measured.median()?)
}

fn line(batch: usize, measured: &Measured, report: &KernelReport) -> Value {
    let mut line = json!({
        "model": report.model,
        "device": report.device,
        "card": report.card,
        "emulated": report.is_emulated,
        "dtype": report.storage.name(),
        "batch": batch,
        "kernel": measured.ladder,
        "rung": measured.rung,
        "sizes": measured.sizes,
        "right": measured.is_right,
        "against": if measured.has_truth { "processor" } else { "rung 1" },
        "error": measured.error.is_finite().then_some(measured.error),
        "bytes": measured.cost.bytes,
        "flops": measured.cost.flops,
    });
    if let Some(seconds) = measured.median() {
        line["seconds_median"] = seconds.into();
        line["seconds"] = measured.seconds.clone().into();
        line["tflops"] = (measured.cost.flops as f64 / seconds / 1e12).into();
        line["gbs"] = (measured.cost.bytes as f64 / seconds / 1e9).into();
        line["share_of_limit"] = share(measured, report).into();
    }
    if let Some(counters) = measured.counters {
        line["counters"] = counted_json(counters);
    }
    line
}

fn counted_json(c: Counters) -> Value {
    json!({
        "global_accesses": c.global_accesses,
        "global_sectors": c.global_sectors,
        "global_sectors_needed": c.global_sectors_needed,
        "shared_accesses": c.shared_accesses,
        "shared_passes": c.shared_passes,
        "shared_passes_needed": c.shared_passes_needed,
        "matrix_products": c.matrix_products,
        "collectives": c.collectives,
    })
}
