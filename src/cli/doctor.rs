//! `vitscope doctor`: what this machine has, and what the program will use of it.

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
    thread,
};

use clap::Args;
use serde_json::{Map, Value};
use vitscope::{
    Error,
    backend::gpu::{
        jit::{HostCxx, Nvdisasm, Nvrtc, cache_folder},
        open::driver_version,
    },
    engine::{AskedDtype, Device},
    weights::{HubCache, HubId},
};

use super::{
    console::{Console, bytes},
    memory,
};

/// Say what this machine has, and which device the program will use
#[derive(Args)]
pub struct DoctorArgs {
    /// auto, cpu, cuda, cuda:N or emulated
    #[arg(long, default_value = "auto", env = "VITSCOPE_DEVICE")]
    device: Device,
}

/// Prints the findings; an error when the device that was asked for is not there.
pub fn run(args: &DoctorArgs, console: &Console) -> anyhow::Result<ExitCode> {
    let mut rows = machine();
    rows.extend(compilers());
    rows.extend(folders());
    let (device, why) = args.device.choose(AskedDtype::default());
    let found = device.find();
    rows.push(("device asked", args.device.to_string()));
    rows.push(("device used", found.as_ref().map_or("none".into(), |()| device.to_string())));
    rows.push(("why", found.as_ref().map_or_else(ToString::to_string, |()| why)));
    let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    console.result(
        || rows.iter().map(|(name, value)| format!("{name:width$}  {value}\n")).collect(),
        || {
            let fields =
                rows.iter().map(|(name, value)| (name.replace(' ', "_").to_lowercase(), Value::from(value.as_str())));
            vec![Value::Object(fields.collect::<Map<_, _>>())]
        },
    )?;
    found?;
    Ok(ExitCode::SUCCESS)
}

fn machine() -> Vec<(&'static str, String)> {
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let size = |n: Option<usize>| n.map_or("unknown".into(), bytes);
    vec![
        ("vitscope", format!("{} ({} {})", env!("CARGO_PKG_VERSION"), std::env::consts::ARCH, std::env::consts::OS)),
        ("processor", cpu_info("model name").unwrap_or_else(|| "unknown".into())),
        ("vector units", vector_units()),
        ("threads", threads.to_string()),
        ("memory", format!("{}, {} available", size(memory::total()), size(memory::available()))),
        ("CUDA driver", driver()),
    ]
}

/// What compiles and reads kernels.
fn compilers() -> Vec<(&'static str, String)> {
    let cache = cache_folder();
    // Nothing is compiled here, so the folder does not matter.
    let folder = cache.as_deref().unwrap_or(Path::new("."));
    let nvrtc = Nvrtc::find(folder).map(|nvrtc| {
        let (major, minor) = nvrtc.version();
        format!("{major}.{minor}, {}", nvrtc.path().display())
    });
    let cxx = HostCxx::find(folder).map(|cxx| cxx.version().to_owned());
    let nvdisasm = Nvdisasm::find().map(|tool| format!("{}, {}", tool.version(), tool.path().display()));
    let kept = cache.as_ref().map(|folder| format!("{} ({})", folder.display(), contents(folder)));
    let said = |found: Result<String, &Error>| found.unwrap_or_else(ToString::to_string);
    vec![
        ("NVRTC", said(nvrtc.as_ref().map(String::clone))),
        ("nvdisasm", said(nvdisasm.as_ref().map(String::clone))),
        ("C++ compiler", said(cxx.as_ref().map(String::clone))),
        ("kernel cache", said(kept)),
    ]
}

/// How much a folder holds.
fn contents(folder: &Path) -> String {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let sizes = entries.filter_map(|entry| entry.metadata().ok()).filter(fs::Metadata::is_file).map(|file| file.len());
    let (files, size) = sizes.fold((0, 0), |(files, size), one| (files + 1, size + one as usize));
    format!("{files} files, {}", bytes(size))
}

fn folders() -> Vec<(&'static str, String)> {
    let hub = HubCache::from_env().ok().zip(HubId::parse("org/name")).map(|(cache, id)| cache.folder(&id));
    let state = |path: PathBuf| format!("{} ({})", path.display(), if path.is_dir() { "there" } else { "not there" });
    let root = hub.and_then(|folder| folder.parent().map(PathBuf::from));
    vec![("Hugging Face cache", root.map_or("unknown: set HF_HOME".into(), state))]
}

/// The first value of a field of `/proc/cpuinfo`.
fn cpu_info(field: &str) -> Option<String> {
    let text = std::fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = text.lines().find(|line| line.starts_with(field))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

/// Of the vector extensions that matter to matrix products, those that are there.
fn vector_units() -> String {
    let flags = cpu_info("flags").or_else(|| cpu_info("Features")).unwrap_or_default();
    let has = |name: &str| flags.split_whitespace().any(|flag| flag == name);
    let known = ["avx2", "fma", "avx512f", "avx512_bf16", "amx_tile", "amx_bf16", "asimd", "sve"];
    let found: Vec<&str> = known.into_iter().filter(|name| has(name)).collect();
    if found.is_empty() { "unknown".into() } else { found.join(" ") }
}

/// The newest CUDA that the driver serves.
fn driver() -> String {
    driver_version().map_or_else(|error| error.to_string(), |(major, minor)| format!("CUDA {major}.{minor}"))
}
