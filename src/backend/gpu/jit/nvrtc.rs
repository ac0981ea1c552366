//! NVRTC: kernel sources to cubins, kept on disk. Never PTX: a driver older than the compiler would not take it.

use std::{
    error::Error as _,
    ffi::{CStr, CString, c_char, c_int, c_uint, c_void},
    fs,
    path::{Path, PathBuf},
    ptr,
};

use libloading::Library;

use super::{
    Source,
    cache::{Cache, key},
    toolkit,
};
use crate::{Error, Result, backend::gpu::architecture::Architecture, files::write_file};

/// How every kernel is compiled, beside its architecture and variant. The log tells registers and spills.
const OPTIONS: &[&str] = &["--std=c++20", "-lineinfo", "--ptxas-options=-v"];

/// Names of the library, newest first.
const NAMES: &[&str] = &["libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so"];

const INSTALL: &str = "install it with `pip install nvidia-cuda-nvrtc` or with a CUDA toolkit, or name its folder in \
                       VITSCOPE_NVRTC";

fn cuda(reason: impl Into<String>) -> Error {
    Error::Device { device: "cuda".into(), reason: reason.into() }
}

/// Declares the library's functions and how they are found.
macro_rules! api {
    ($($name:ident as $symbol:literal: fn($($argument:ty),*) -> $result:ty;)*) => {
        struct Api {
            $($name: unsafe extern "C" fn($($argument),*) -> $result,)*
        }

        impl Api {
            fn of(library: &'static Library) -> Result<Self, libloading::Error> {
                Ok(Api {
                    // SAFETY: the signatures are those of nvrtc.h, the same since version 11.
                    $($name: *unsafe { library.get($symbol) }?,)*
                })
            }
        }
    };
}

/// A program's handle.
type Program = *mut c_void;

// Results are plain numbers: a newer library may return one that no enum of today has.
api! {
    version as b"nvrtcVersion": fn(*mut c_int, *mut c_int) -> c_uint;
    error_string as b"nvrtcGetErrorString": fn(c_uint) -> *const c_char;
    architecture_count as b"nvrtcGetNumSupportedArchs": fn(*mut c_int) -> c_uint;
    architectures as b"nvrtcGetSupportedArchs": fn(*mut c_int) -> c_uint;
    create as b"nvrtcCreateProgram":
        fn(*mut Program, *const c_char, *const c_char, c_int, *const *const c_char, *const *const c_char) -> c_uint;
    destroy as b"nvrtcDestroyProgram": fn(*mut Program) -> c_uint;
    compile as b"nvrtcCompileProgram": fn(Program, c_int, *const *const c_char) -> c_uint;
    log_size as b"nvrtcGetProgramLogSize": fn(Program, *mut usize) -> c_uint;
    log as b"nvrtcGetProgramLog": fn(Program, *mut c_char) -> c_uint;
    cubin_size as b"nvrtcGetCUBINSize": fn(Program, *mut usize) -> c_uint;
    cubin as b"nvrtcGetCUBIN": fn(Program, *mut c_char) -> c_uint;
}

/// NVIDIA's run-time compiler and the folder that keeps what it made.
pub struct Nvrtc {
    api: Api,
    path: PathBuf,
    version: (u32, u32),
    cache: Cache,
}

/// One compilation that is wanted.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    /// The kernel file.
    pub source: &'a Source,
    /// The target.
    pub architecture: Architecture,
    /// `NAME=VALUE` options.
    pub defines: &'a [&'a str],
}

/// A compiled kernel file.
#[derive(Debug, Clone)]
pub struct Cubin {
    /// The file, an ELF image that the driver loads.
    pub path: PathBuf,
    /// What the compiler said: registers, shared memory and spills of each entry, warnings and remarks.
    pub log: String,
}

impl Cubin {
    /// The bytes that the driver loads.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn image(&self) -> Result<Vec<u8>> {
        fs::read(&self.path).map_err(|error| Error::io(&self.path, error))
    }
}

impl Nvrtc {
    /// Takes the library that `VITSCOPE_NVRTC` names (a file or its folder). Else the first that is found: by the system's
    /// loader, in `CUDA_HOME` and `CUDA_PATH`, among the wheels of the Python in `VIRTUAL_ENV` or `PATH`. Keeps its
    /// results in `cache`.
    ///
    /// # Errors
    /// [`Error::Device`] when there is none: it says what to install.
    pub fn find(cache: &Path) -> Result<Self> {
        let mut refused = Vec::new();
        let found = match toolkit::variable("VITSCOPE_NVRTC").map(PathBuf::from) {
            Some(named) => {
                let found = if named.is_dir() { in_folder(&named) } else { vec![named.clone()] };
                if found.is_empty() {
                    refused.push(format!("VITSCOPE_NVRTC: no {} in {}", NAMES.join(" or "), named.display()));
                }
                found
            }
            None => {
                let folders = ["lib64", "lib"].into_iter().flat_map(toolkit::toolkits);
                let folders = folders.chain(toolkit::wheels(toolkit::WHEEL_LIBRARIES));
                let by_loader = NAMES.iter().map(PathBuf::from);
                by_loader.chain(folders.flat_map(|folder| in_folder(&folder))).collect()
            }
        };
        for path in found {
            match Self::open(&path, cache) {
                Ok(nvrtc) => return Ok(nvrtc),
                // That the loader knows no such name is the usual case.
                Err(error) if path.components().count() > 1 => refused.push(error),
                Err(_) => {}
            }
        }
        let reasons: String = refused.iter().map(|reason| format!(" ({reason})")).collect();
        Err(cuda(format!("no run-time compiler NVRTC{reasons}: {INSTALL}")))
    }

    /// Loads the library at a path, or of a name that the system's loader knows.
    ///
    /// # Errors
    /// What the loader said.
    fn open(path: &Path, cache: &Path) -> Result<Self, String> {
        Self::load(path, cache).map_err(|error| match error.source() {
            // The error's own text does not say why.
            Some(why) => why.to_string(),
            None => error.to_string(),
        })
    }

    fn load(path: &Path, cache: &Path) -> Result<Self, libloading::Error> {
        let is_file = path.components().count() > 1;
        // It loads its other half by name, which succeeds when that is loaded already.
        for half in path.parent().filter(|_| is_file).into_iter().flat_map(builtins) {
            // SAFETY: NVIDIA's library, which has no initialisers of its own beyond the C++ library's.
            let half = unsafe { Library::new(half) };
            half.map(Box::new).map(Box::leak)?;
        }
        // SAFETY: as above.
        let library = unsafe { Library::new(path) }?;
        // It stays: it has threads and tables that do not expect to be unloaded.
        let api = Api::of(Box::leak(Box::new(library)))?;
        let (mut major, mut minor) = (0, 0);
        // SAFETY: both numbers are written.
        unsafe { (api.version)(&mut major, &mut minor) };
        let path = if is_file { path.to_path_buf() } else { loaded(path) };
        Ok(Nvrtc { api, path, version: (major.unsigned_abs(), minor.unsigned_abs()), cache: Cache::new(cache) })
    }

    /// The library's file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Major and minor version, those of the toolkit it is from.
    pub fn version(&self) -> (u32, u32) {
        self.version
    }

    /// The compute capabilities it compiles for.
    ///
    /// # Errors
    /// [`Error::Device`] with the library's message.
    pub fn architectures(&self) -> Result<Vec<u32>> {
        let mut count = 0;
        // SAFETY: the number is written.
        self.done("nvrtcGetNumSupportedArchs", unsafe { (self.api.architecture_count)(&mut count) })?;
        let mut numbers = vec![0; count.unsigned_abs() as usize];
        // SAFETY: as many numbers are written as there is room for.
        self.done("nvrtcGetSupportedArchs", unsafe { (self.api.architectures)(numbers.as_mut_ptr()) })?;
        Ok(numbers.into_iter().map(c_int::unsigned_abs).collect())
    }

    /// A kernel file compiled for one architecture, from the cache if it is there.
    ///
    /// # Errors
    /// [`Error::Device`] with the compiler's messages; [`Error::Io`] when the cache cannot be written.
    pub fn cubin(&self, wanted: Wanted) -> Result<Cubin> {
        let (sources, options) = (wanted.source.with_headers(), options(wanted));
        let name = self.name(wanted, &sources, &options);
        let log = self.cache.path(&format!("{name}.log"));
        let path = self.cache.file(&format!("{name}.cubin"), |_, out| {
            let (cubin, said) = self.compile(wanted.source, &sources, &options)?;
            // Before the cubin, so that a cubin that is there has its log.
            write_file(&log, said.as_bytes())?;
            fs::write(out, cubin).map_err(|error| Error::io(out, error))
        })?;
        let log = fs::read_to_string(&log).map_err(|error| Error::io(&log, error))?;
        Ok(Cubin { path, log })
    }

    /// Whether the cache has it.
    pub fn has(&self, wanted: Wanted) -> bool {
        let name = self.name(wanted, &wanted.source.with_headers(), &options(wanted));
        self.cache.path(&format!("{name}.cubin")).is_file()
    }

    /// The file's name without its ending: it tells everything that decides the bytes.
    fn name(&self, Wanted { source, architecture, .. }: Wanted, sources: &[Source], options: &[String]) -> String {
        let version = format!("nvrtc {}.{}", self.version.0, self.version.1);
        let parts: Vec<&str> = [version.as_str()].into_iter().chain(options.iter().map(String::as_str)).collect();
        let stem = source.name.trim_start_matches("kernels/").trim_end_matches(".cu").replace('/', "_");
        format!("{stem}-{architecture}-{}", key(&parts, sources))
    }

    /// The cubin and the log.
    fn compile(&self, source: &Source, sources: &[Source], options: &[String]) -> Result<(Vec<u8>, String)> {
        let text = |text: &str| CString::new(text).map_err(|error| cuda(format!("{}: {error}", source.name)));
        let headers = || sources.iter().filter(|header| header.name != source.name);
        let texts = headers().map(|header| text(header.text)).collect::<Result<Vec<_>>>()?;
        // As kernels include them.
        let names = headers().map(|header| text(header.name.trim_start_matches("kernels/")));
        let names = names.collect::<Result<Vec<_>>>()?;
        let options = options.iter().map(|option| text(option)).collect::<Result<Vec<_>>>()?;
        let pointers = |texts: &[CString]| texts.iter().map(|text| text.as_ptr()).collect::<Vec<_>>();
        let (text, name) = (text(source.text)?, text(source.name)?);
        let mut program = Compilation { api: &self.api, program: ptr::null_mut() };
        // SAFETY: all texts end in 0 and outlive the call, which copies them; there are as many as is said.
        let status = unsafe {
            (self.api.create)(
                &mut program.program,
                text.as_ptr(),
                name.as_ptr(),
                texts.len() as c_int,
                pointers(&texts).as_ptr(),
                pointers(&names).as_ptr(),
            )
        };
        self.done("nvrtcCreateProgram", status)?;
        // SAFETY: the program is open; as above.
        let compiled =
            unsafe { (self.api.compile)(program.program, options.len() as c_int, pointers(&options).as_ptr()) };
        let log = program.bytes(self, self.api.log_size, self.api.log)?;
        let log = String::from_utf8_lossy(&log).trim_end_matches('\0').to_owned();
        if compiled != 0 {
            let options: Vec<_> = options.iter().map(|option| option.to_string_lossy()).collect();
            let reason = self.message(compiled);
            let (file, options) = (source.name, options.join(" "));
            return Err(cuda(format!("NVRTC cannot compile {file} ({options}): {reason}\n{}", log.trim_end())));
        }
        Ok((program.bytes(self, self.api.cubin_size, self.api.cubin)?, log))
    }

    fn done(&self, what: &str, status: c_uint) -> Result<()> {
        if status == 0 { Ok(()) } else { Err(cuda(format!("{what}: {}", self.message(status)))) }
    }

    fn message(&self, status: c_uint) -> String {
        // SAFETY: the library returns a text that ends in 0 and stays, for any number.
        unsafe { CStr::from_ptr((self.api.error_string)(status)) }.to_string_lossy().into_owned()
    }
}

/// An open program.
struct Compilation<'a> {
    api: &'a Api,
    program: Program,
}

impl Compilation<'_> {
    /// One of its results.
    fn bytes(
        &self,
        nvrtc: &Nvrtc,
        size: unsafe extern "C" fn(Program, *mut usize) -> c_uint,
        fill: unsafe extern "C" fn(Program, *mut c_char) -> c_uint,
    ) -> Result<Vec<u8>> {
        let mut n = 0;
        // SAFETY: the program is open; the size is written.
        nvrtc.done("nvrtcGet...Size", unsafe { size(self.program, &mut n) })?;
        let mut bytes = vec![0u8; n];
        // SAFETY: there is room for as many bytes as the library said.
        nvrtc.done("nvrtcGet...", unsafe { fill(self.program, bytes.as_mut_ptr().cast()) })?;
        Ok(bytes)
    }
}

impl Drop for Compilation<'_> {
    fn drop(&mut self) {
        if !self.program.is_null() {
            // SAFETY: opened by this value's maker and closed once.
            unsafe { (self.api.destroy)(&mut self.program) };
        }
    }
}

fn options(Wanted { architecture, defines, .. }: Wanted) -> Vec<String> {
    let mut options = vec![format!("--gpu-architecture={architecture}")];
    options.extend(OPTIONS.iter().map(|option| option.to_string()));
    options.extend(defines.iter().map(|define| format!("--define-macro={define}")));
    options
}

/// The libraries of a folder, newest first.
fn in_folder(folder: &Path) -> Vec<PathBuf> {
    NAMES.iter().map(|name| folder.join(name)).filter(|path| path.is_file()).collect()
}

/// The library's other halves in a folder.
fn builtins(folder: &Path) -> Vec<PathBuf> {
    let pattern = Path::new(&glob::Pattern::escape(&folder.to_string_lossy())).join("libnvrtc-builtins.so.*");
    glob::glob(&pattern.to_string_lossy()).into_iter().flatten().flatten().collect()
}

/// Where the system's loader found a library.
fn loaded(name: &Path) -> PathBuf {
    let maps = fs::read_to_string("/proc/self/maps").unwrap_or_default();
    let mut files = maps.lines().filter_map(|line| line.split_whitespace().nth(5)).map(Path::new);
    let is_it = |file: &Path| file.file_name().is_some_and(|file| file.to_string_lossy().starts_with("libnvrtc.so"));
    files.find(|file| is_it(file)).unwrap_or(name).to_path_buf()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_gives_the_newest_library_and_its_other_half() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["libnvrtc.so.12", "libnvrtc.so.13", "libnvrtc-builtins.so.13.0", "libnvrtc-builtins.alt.so.13.0"] {
            fs::write(folder.path().join(name), "").unwrap();
        }
        let found = in_folder(folder.path());
        assert_eq!(found, ["libnvrtc.so.13", "libnvrtc.so.12"].map(|name| folder.path().join(name)));
        assert_eq!(builtins(folder.path()), [folder.path().join("libnvrtc-builtins.so.13.0")]);
    }

    #[test]
    fn what_is_no_library_is_refused_with_its_path() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("libnvrtc.so.13");
        fs::write(&path, "text").unwrap();
        let error = Nvrtc::open(&path, folder.path()).err().unwrap();
        assert!(error.contains("libnvrtc.so.13"), "{error}");
    }
}
