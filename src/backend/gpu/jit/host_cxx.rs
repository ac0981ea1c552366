//! The host's C++ compiler: makes shared objects of the emulator's runtime and of kernels, and keeps them on disk.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use super::{
    EMULATOR, Source,
    cache::{Cache, key},
    toolkit::variable,
};
use crate::{Error, Result, backend::gpu::emulated};

/// How a kernel is compiled for the emulator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// At full speed: results, divergence, deadlocks, copies and guard bands are checked, single accesses are not.
    Fast,
    /// Every load and store is checked: bounds, unwritten bytes, races.
    Checked,
}

/// For kernels and the runtime alike. Line tables carry inlined calls, so that a finding names the kernel's line.
const FLAGS: &[&str] = &["-std=c++20", "-O2", "-g", "-fPIC", "-fvisibility=hidden"];

/// How the runtime is linked. It has the name under which cudarc looks for the driver first, so that, once loaded, it
/// is found in the driver's place.
const RUNTIME_LINK: &[&str] = &["-Wl,-soname,libcuda.so", "-ldl", "-pthread"];

/// A kernel's calls are found by their return address, so none may become a jump, and no two may become one.
const KERNEL_FLAGS: &[&str] = &[
    "-x",
    "c++",
    "-DVITSCOPE_EMULATED",
    "-fno-exceptions",
    "-fno-rtti",
    "-fno-optimize-sibling-calls",
    "-fno-crossjumping",
    "-fno-tree-tail-merge",
    "-fno-strict-aliasing",
    "-Wno-unknown-pragmas",
];

/// A C++ compiler and the folder that keeps what it made.
#[derive(Debug)]
pub struct HostCxx {
    compiler: PathBuf,
    version: String,
    cache: Cache,
}

impl HostCxx {
    /// Takes the compiler that `VITSCOPE_CXX` or `CXX` names, else `g++` or `c++`, and keeps its results in `cache`.
    ///
    /// # Errors
    /// [`Error::Device`] when there is none: it says what to install.
    pub fn find(cache: &Path) -> Result<Self> {
        let named = ["VITSCOPE_CXX", "CXX"].into_iter().find_map(variable);
        let candidates = named.map_or_else(|| vec!["g++".into(), "c++".into()], |name| vec![PathBuf::from(name)]);
        let found = candidates.iter().find_map(|compiler| Some((compiler, version(compiler)?)));
        let Some((compiler, version)) = found else {
            let names: Vec<_> = candidates.iter().map(|path| path.display().to_string()).collect();
            return Err(emulated(format!(
                "no C++ compiler ({} not found): install g++ (12 or newer) with binutils, or name one in VITSCOPE_CXX",
                names.join(", ")
            )));
        };
        Ok(HostCxx { compiler: compiler.clone(), version, cache: Cache::new(cache) })
    }

    /// The compiler's name and version.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// The emulator's runtime and the stand-in driver over it, as one shared object: two copies would be two worlds.
    ///
    /// # Errors
    /// [`Error::Device`] with the compiler's messages; [`Error::Io`] when the cache cannot be written.
    pub fn runtime(&self) -> Result<PathBuf> {
        // One translation unit: the headers are read once.
        let units = EMULATOR.iter().filter(|source| source.name.ends_with(".cpp"));
        let all: String = units.map(|unit| format!("#include \"{}\"\n", unit.name)).collect();
        let parts = [&[all.as_str()], RUNTIME_LINK, processor_flags()].concat();
        self.cached(&self.name("emulator", &parts, EMULATOR), EMULATOR, |folder, out| {
            write(&folder.join("runtime.cpp"), &all)?;
            let mut command = self.command(folder);
            command.args(processor_flags()).args(["-shared", "-I.", "runtime.cpp", "-o"]).arg(out).args(RUNTIME_LINK);
            run(command, "the emulator's runtime")
        })
    }

    /// The kernels of a source file as a shared object for the emulator. `defines` are `NAME=VALUE` options.
    ///
    /// # Errors
    /// As [`HostCxx::runtime`].
    pub fn kernels(&self, source: &Source, mode: Mode, defines: &[&str]) -> Result<PathBuf> {
        let (name, sources, options) = self.named(source, mode, defines);
        self.cached(&name, &sources, |folder, out| {
            let mut compile = self.command(folder);
            compile.args(options).args(["-Ikernels", "-c", source.name, "-o", "kernel.o"]);
            run(compile, source.name)?;
            let mut link = self.command(folder);
            link.args(["-shared", "kernel.o", "-o"]).arg(out);
            run(link, source.name)
        })
    }

    /// Whether the cache has them.
    pub fn has(&self, source: &Source, mode: Mode, defines: &[&str]) -> bool {
        self.cache.path(&self.named(source, mode, defines).0).is_file()
    }

    /// The file of a source's kernels, what it is made from, and how it is compiled.
    fn named(&self, source: &Source, mode: Mode, defines: &[&str]) -> (String, Vec<Source>, Vec<String>) {
        let flags = KERNEL_FLAGS.iter().chain(processor_flags()).map(|flag| flag.to_string());
        let mut options: Vec<String> = flags.chain(defines.iter().map(|define| format!("-D{define}"))).collect();
        if mode == Mode::Checked {
            // Only the calls at each access are wanted: the sanitizer's library is not linked.
            options.push("-fsanitize=thread".into());
        }
        let mut sources = source.with_headers();
        sources.extend(EMULATOR.iter().filter(|s| s.name.ends_with("device.h")));
        let stem = Path::new(source.name).file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let parts: Vec<&str> = options.iter().map(String::as_str).collect();
        (self.name(&stem, &parts, &sources), sources, options)
    }

    /// A compiler that runs in `folder` and whose debug information has paths as in the repository.
    fn command(&self, folder: &Path) -> Command {
        let mut command = Command::new(&self.compiler);
        command.args(FLAGS).arg(format!("-ffile-prefix-map={}=", folder.display()));
        command.current_dir(folder).env("LC_ALL", "C");
        command
    }

    /// A file's name: it tells everything that decides the bytes.
    fn name(&self, stem: &str, options: &[&str], sources: &[Source]) -> String {
        let parts = [&[self.version.as_str()], FLAGS, options].concat();
        format!("{stem}-{}.so", key(&parts, sources))
    }

    /// The file of this name, made by `build` in a folder of its own, with the sources in it, when it is not there yet.
    fn cached(
        &self,
        name: &str,
        sources: &[Source],
        build: impl FnOnce(&Path, &Path) -> Result<()>,
    ) -> Result<PathBuf> {
        self.cache.file(name, |folder, out| {
            for source in sources {
                write(&folder.join(source.name), source.text)?;
            }
            build(folder, out)
        })
    }
}

/// The compiler's version, or nothing when it does not run.
fn version(compiler: &Path) -> Option<String> {
    let output = Command::new(compiler).arg("--version").env("LC_ALL", "C").output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout);
    output.status.success().then(|| format!("{}: {}", compiler.display(), text.lines().next().unwrap_or_default()))
}

/// Instructions that this processor has and that make the emulator faster.
fn processor_flags() -> &'static [&'static str] {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("bmi2") {
        return &["-march=x86-64-v3"];
    }
    &[]
}

fn write(path: &Path, text: &str) -> Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder).and_then(|()| fs::write(path, text)).map_err(|error| Error::io(path, error))
}

fn run(mut command: Command, what: &str) -> Result<()> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.output().map_err(|error| emulated(format!("{program}: {error}")))?;
    if output.status.success() {
        return Ok(());
    }
    let messages = String::from_utf8_lossy(&output.stderr);
    Err(emulated(format!("{program} cannot compile {what}:\n{}", messages.trim_end())))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: Source = Source { name: "good.cu", text: "int x;" };
    const BAD: Source = Source { name: "bad.cu", text: "#include \"include/types.cuh\"\nfloat x = missing;\n" };

    #[test]
    fn a_result_is_made_once_and_nothing_else_stays() {
        let folder = tempfile::tempdir().unwrap();
        let cxx = HostCxx::find(folder.path()).unwrap();
        let first = cxx.kernels(&GOOD, Mode::Fast, &[]).unwrap();
        let made = fs::metadata(&first).unwrap().modified().unwrap();
        assert_eq!(cxx.kernels(&GOOD, Mode::Fast, &[]).unwrap(), first);
        assert_eq!(fs::metadata(&first).unwrap().modified().unwrap(), made);
        assert_ne!(cxx.kernels(&GOOD, Mode::Fast, &["A=1"]).unwrap(), first);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
    }

    #[test]
    fn a_compilers_message_names_the_repositorys_file_and_line() {
        let folder = tempfile::tempdir().unwrap();
        let error = HostCxx::find(folder.path()).unwrap().kernels(&BAD, Mode::Checked, &[]).unwrap_err();
        assert!(error.to_string().contains("\nbad.cu:2:"), "{error}");
        assert_eq!(error.exit_code(), 4);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_compiler_that_is_not_there_has_no_version() {
        assert!(version(Path::new("no-such-compiler")).is_none());
    }
}
