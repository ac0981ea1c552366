//! The command line: it only asks. One thin file per command; what several commands share is in `args`, `setup`,
//! `console`, `inputs` and `pictures`.

mod args;
mod bench;
mod completions;
mod console;
mod doctor;
#[cfg(feature = "hub")]
mod download;
mod features;
mod heatmap;
mod inputs;
mod inspect;
mod interrupt;
mod kernels;
mod latents;
mod map_change;
mod memory;
mod pictures;
mod sae;
mod setup;
mod sweep;
mod verify;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use vitscope::Error;

use args::Verbosity;
use console::Console;

/// Where a CLIP vision transformer looks, and which sparse features make it look there.
///
/// `vitscope heatmap` without any argument explains a bundled scene with the bundled model.
///
/// Exit codes: 0 done, 1 some inputs failed, 2 usage, 3 invalid model or SAE file, 4 no such device,
/// 5 verification failed, 130 interrupted.
#[derive(Parser)]
#[command(version, max_term_width = 110)]
struct Cli {
    #[command(flatten)]
    verbosity: Verbosity,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Heatmap(Box<heatmap::HeatmapArgs>),
    Features(Box<features::FeaturesArgs>),
    Sweep(Box<sweep::SweepArgs>),
    #[command(subcommand)]
    Sae(sae::SaeCommand),
    Inspect(inspect::InspectArgs),
    Verify(verify::VerifyArgs),
    Bench(bench::BenchArgs),
    #[command(subcommand)]
    Kernels(kernels::KernelsCommand),
    Doctor(doctor::DoctorArgs),
    Completions(completions::CompletionsArgs),
}

/// Parses, runs, and turns the end into the process's exit code.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help goes to stdout; a reader that closed it early has what it wanted.
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { 2 } else { 0 });
        }
    };
    let console = Console::new(&cli.verbosity);
    let done = match &cli.command {
        Command::Heatmap(args) => heatmap::run(args, &console),
        Command::Features(args) => features::run(args, &console),
        Command::Sweep(args) => sweep::run(args, &console),
        Command::Sae(command) => sae::run(command, &console),
        Command::Inspect(args) => inspect::run(args, &console),
        Command::Verify(args) => verify::run(args, &console),
        Command::Bench(args) => bench::run(args, &console),
        Command::Kernels(command) => kernels::run(command, &console),
        Command::Doctor(args) => doctor::run(args, &console),
        Command::Completions(args) => completions::run(args),
    };
    done.unwrap_or_else(|error| failed(&error, &console))
}

/// Says what ended the run; its exit code.
fn failed(error: &anyhow::Error, console: &Console) -> ExitCode {
    let broken_pipe = |e: &std::io::Error| e.kind() == std::io::ErrorKind::BrokenPipe;
    if error.chain().any(|e| e.downcast_ref().is_some_and(broken_pipe)) {
        return ExitCode::SUCCESS;
    }
    console.error(&format!("{error:#}"));
    let known = error.chain().find_map(|e| e.downcast_ref::<Error>());
    ExitCode::from(known.map_or(1, Error::exit_code))
}
