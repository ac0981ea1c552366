//! `vitscope kernels check`: compiles every rung for every architecture, and reads the machine code back.

use std::{collections::BTreeMap, process::ExitCode, sync::Mutex, sync::PoisonError, thread};

use clap::Args;
use serde_json::{Value, json};
use vitscope::{
    Error,
    backend::gpu::{
        architecture::Architecture,
        check::{Entry, check},
        jit::{CompileLog, Nvdisasm, Nvrtc, cache_folder},
        registry::{self, Rung},
    },
};

use super::children::{Job, Outcome, compile};
use crate::cli::console::{Console, columns};

/// Compile every rung for every architecture, and report registers, spills and instructions
///
/// Needs NVRTC and nvdisasm (`vitscope doctor` says where they are looked for), but no GPU. Ends with exit code 5 when a rung
/// spills registers or uses local memory, draws a warning or a remark of the compiler, has no tensor core instruction
/// though it includes mma.cuh, or no 16-byte copy though it includes copy_async.cuh.
#[derive(Args)]
pub struct CheckArgs {
    /// Architectures, separated by commas
    #[arg(long, value_delimiter = ',', default_value = "sm_75,sm_80,sm_86,sm_89,sm_90a,sm_100a,sm_120a")]
    arch: Vec<Architecture>,
}

/// Files that one child compiles: loading the compiler takes as long as a small kernel.
const FILES_A_CHILD: usize = 6;

/// A rung compiled for an architecture.
struct Checked {
    entries: Vec<Entry>,
    faults: Vec<String>,
}

/// Compiles and checks all; an error when there is a fault.
pub fn run(args: &CheckArgs, console: &Console) -> anyhow::Result<ExitCode> {
    let (nvrtc, nvdisasm) = (Nvrtc::find(&cache_folder()?)?, Nvdisasm::find()?);
    let (major, minor) = nvrtc.version();
    console.say(&format!("NVRTC {major}.{minor}, nvdisasm {}", nvdisasm.version()));
    let rungs = registry::all();
    let mut architectures = args.arch.clone();
    architectures.sort();
    architectures.dedup();
    let mut jobs = Vec::new();
    for &architecture in &architectures {
        let files: Vec<_> =
            rungs.iter().filter(|rung| rung.needs.allow(architecture)).map(|rung| rung.source.name).collect();
        jobs.extend(files.chunks(FILES_A_CHILD).map(|sources| Job { architecture, sources: sources.to_vec() }));
    }
    let total = jobs.iter().map(|job| job.sources.len()).sum();
    let console = console.with_kernels(total);
    let results = Mutex::new(BTreeMap::new());
    let each = |architecture, name, outcome| {
        if let Some((i, rung)) = rungs.iter().enumerate().find(|(_, rung)| rung.source.name == name) {
            let checked = judge(rung, outcome, &nvdisasm);
            results.lock().unwrap_or_else(PoisonError::into_inner).insert((i, architecture), checked);
        }
        console.advance(1);
    };
    let processes = thread::available_parallelism().map_or(1, usize::from);
    compile(jobs, processes, &Job::child, &each)?;
    console.finish();
    let results = results.into_inner().unwrap_or_else(PoisonError::into_inner);
    report(&rungs, &architectures, &results, &console)
}

/// What is to be said of one compilation.
fn judge(rung: &Rung, outcome: Outcome, nvdisasm: &Nvdisasm) -> Checked {
    let (cubin, log) = match outcome {
        Outcome::Compiled { cubin, log } => (cubin, log),
        Outcome::Failed(reason) => return Checked { entries: Vec::new(), faults: vec![reason] },
    };
    match nvdisasm.counts(&cubin) {
        Ok(counts) => {
            let (entries, faults) = check(rung, &CompileLog::parse(&log), &counts);
            Checked { entries, faults }
        }
        Err(error) => Checked { entries: Vec::new(), faults: vec![error.to_string()] },
    }
}

fn report(
    rungs: &[Rung],
    architectures: &[Architecture],
    results: &BTreeMap<(usize, Architecture), Checked>,
    console: &Console,
) -> anyhow::Result<ExitCode> {
    let (mut rows, mut lines, mut said) = (Vec::new(), Vec::new(), Vec::new());
    let (mut compiled, mut skipped, mut faults) = (0, 0, 0);
    for (i, rung) in rungs.iter().enumerate() {
        let name = format!("{}={}", rung.ladder(), rung.number);
        for &architecture in architectures {
            let Some(checked) = results.get(&(i, architecture)) else {
                skipped += 1;
                rows.push(skipped_row(&name, architecture, rung));
                lines.push(line(rung, architecture, None));
                continue;
            };
            compiled += 1;
            faults += checked.faults.len();
            said.extend(checked.faults.iter().map(|fault| format!("{name} on {architecture}: {fault}")));
            rows.push(row(&name, architecture, checked));
            lines.push(line(rung, architecture, Some(checked)));
        }
    }
    console.result(|| columns(&NAMES, &rows, 2), || lines)?;
    said.iter().for_each(|fault| console.error(fault));
    let summary = format!("{} rungs: {compiled} compilations, {skipped} skipped, {faults} faults", rungs.len());
    console.say(&summary);
    if faults > 0 {
        return Err(Error::Verification(summary).into());
    }
    Ok(ExitCode::SUCCESS)
}

/// Over a rung's entries the largest of registers, memory and spills; of instructions the sum.
const NAMES: [&str; 13] = [
    "kernel",
    "for",
    "registers",
    "shared",
    "stack",
    "spills",
    "HMMA",
    "HGMMA",
    "LDSM",
    "LDGSTS",
    "16-byte",
    "local",
    "faults",
];

fn row(name: &str, architecture: Architecture, checked: &Checked) -> Vec<String> {
    let most = |of: fn(&Entry) -> u32| checked.entries.iter().map(of).max().unwrap_or(0).to_string();
    let sum = |of: fn(&Entry) -> u32| checked.entries.iter().map(of).sum::<u32>().to_string();
    vec![
        name.to_owned(),
        architecture.to_string(),
        most(|entry| entry.usage.registers),
        most(|entry| entry.usage.shared),
        most(|entry| entry.usage.stack),
        most(|entry| entry.usage.spill_stores + entry.usage.spill_loads),
        sum(|entry| entry.counts.hmma),
        sum(|entry| entry.counts.hgmma),
        sum(|entry| entry.counts.ldsm),
        sum(|entry| entry.counts.ldgsts),
        sum(|entry| entry.counts.ldgsts_128 + entry.counts.loads_128 + entry.counts.stores_128),
        sum(|entry| entry.counts.ldl + entry.counts.stl),
        checked.faults.len().to_string(),
    ]
}

fn skipped_row(name: &str, architecture: Architecture, rung: &Rung) -> Vec<String> {
    let mut row = vec![name.to_owned(), architecture.to_string()];
    row.resize(NAMES.len() - 1, String::new());
    row.push(format!("skipped: needs {}", rung.needs));
    row
}

fn line(rung: &Rung, architecture: Architecture, checked: Option<&Checked>) -> Value {
    json!({
        "kernel": format!("{}={}", rung.ladder(), rung.number),
        "source": rung.source.name,
        "hash": rung.hash,
        "architecture": architecture.to_string(),
        "skipped": checked.is_none(),
        "entries": checked.map(|checked| &checked.entries),
        "faults": checked.map(|checked| &checked.faults),
    })
}
