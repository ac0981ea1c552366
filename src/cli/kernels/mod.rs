//! `vitscope kernels`: the GPU kernels that there are, and what the compiler makes of them.

mod check;
mod children;
mod list;

use std::process::ExitCode;

use clap::Subcommand;

use super::console::Console;

/// The GPU kernels: list them, or compile and check all of them (no GPU is needed)
#[derive(Subcommand)]
pub enum KernelsCommand {
    List(list::ListArgs),
    Check(check::CheckArgs),
    #[command(hide = true)]
    Compile(children::CompileArgs),
}

/// Runs one of them.
pub fn run(command: &KernelsCommand, console: &Console) -> anyhow::Result<ExitCode> {
    match command {
        KernelsCommand::List(args) => list::run(args, console),
        KernelsCommand::Check(args) => check::run(args, console),
        KernelsCommand::Compile(args) => children::run(args),
    }
}
