//! Compiled kernels on disk. A file is either whole or not there, and its name tells everything that decided its bytes.

use std::{
    env,
    ffi::OsString,
    fs::{self, File},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

use sha2::{Digest, Sha256};

use super::Source;
use crate::{Error, Result};

/// Hash of everything that decides what a compilation gives, as 32 hexadecimal digits.
pub fn key(parts: &[&str], sources: &[Source]) -> String {
    let mut hash = Sha256::new();
    let texts = sources.iter().flat_map(|source| [source.name, source.text]);
    for part in parts.iter().copied().chain(texts) {
        // The length keeps neighbouring parts apart.
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    hash.finalize().iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}

/// The folder that keeps compiled kernels: `VITSCOPE_CACHE`, or `vitscope/kernels` in `XDG_CACHE_HOME` or `~/.cache`.
///
/// # Errors
/// [`Error::Usage`] when none of them, nor a home folder, is set.
pub fn cache_folder() -> Result<PathBuf> {
    folder_from(|name| env::var_os(name))
}

fn folder_from(variable: impl Fn(&str) -> Option<OsString>) -> Result<PathBuf> {
    let set = |name: &str| variable(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let base = || set("XDG_CACHE_HOME").or_else(|| Some(set("HOME")?.join(".cache")));
    set("VITSCOPE_CACHE")
        .or_else(|| Some(base()?.join("vitscope").join("kernels")))
        .ok_or_else(|| Error::usage("no folder for compiled kernels: set VITSCOPE_CACHE"))
}

/// A folder of compiled files.
#[derive(Debug)]
pub struct Cache {
    folder: PathBuf,
}

impl Cache {
    /// In `folder`, which need not exist yet.
    pub fn new(folder: &Path) -> Self {
        Cache { folder: folder.to_path_buf() }
    }

    /// Where a file of this name is or will be.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// The file of this name. When it is not there yet, `build` makes it: it gets a folder of its own, and the path in it
    /// of the file to make.
    ///
    /// # Errors
    /// [`Error::Io`] when the folder cannot be written, and those of `build`.
    pub fn file(&self, name: &str, build: impl FnOnce(&Path, &Path) -> Result<()>) -> Result<PathBuf> {
        let path = self.path(name);
        if path.is_file() {
            return Ok(path);
        }
        fs::create_dir_all(&self.folder).map_err(|error| Error::io(&self.folder, error))?;
        // Threads and processes that want the same file wait for the first. Where the file system has no locks they all
        // build it, and the last one replaces the same bytes.
        let lock = self.path(&format!(".{name}.lock"));
        let held = File::create(&lock).map_err(|error| Error::io(&lock, error))?;
        let _ = held.lock();
        let made = if path.is_file() { Ok(()) } else { self.build(name, &path, build) };
        // Whoever waits for it finds the result; that it cannot be removed is not the news.
        let _ = fs::remove_file(&lock);
        made.map(|()| path)
    }

    fn build(&self, name: &str, path: &Path, build: impl FnOnce(&Path, &Path) -> Result<()>) -> Result<()> {
        static SERIAL: AtomicU64 = AtomicU64::new(0);
        let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
        let folder = self.folder.join(format!(".{name}.{}.{serial}.tmp", std::process::id()));
        fs::create_dir_all(&folder).map_err(|error| Error::io(&folder, error))?;
        let made = fs::canonicalize(&folder).map_err(|error| Error::io(&folder, error)).and_then(|folder| {
            let out = folder.join(name);
            build(&folder, &out)?;
            fs::rename(&out, path).map_err(|error| Error::io(path, error))
        });
        // What is left of a build is of no use, and that it cannot be removed is not the news.
        let _ = fs::remove_dir_all(&folder);
        made
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn a_file_is_built_once_and_a_failed_build_leaves_nothing() {
        let root = tempfile::tempdir().unwrap();
        let cache = Cache::new(&root.path().join("cache"));
        let failed = cache.file("a", |folder, _| {
            fs::write(folder.join("half"), "x").unwrap();
            Err(Error::usage("broken"))
        });
        assert_eq!(failed.unwrap_err().to_string(), "broken");
        let write =
            |text: &'static str| move |_: &Path, out: &Path| fs::write(out, text).map_err(|e| Error::io(out, e));
        let path = cache.file("a", write("one")).unwrap();
        assert_eq!(cache.file("a", write("two")).unwrap(), path);
        assert_eq!(fs::read(&path).unwrap(), b"one");
        assert_eq!(fs::read_dir(root.path().join("cache")).unwrap().count(), 1);
    }

    #[test]
    fn threads_that_want_the_same_file_build_it_once() {
        let root = tempfile::tempdir().unwrap();
        let (cache, builds) = (Cache::new(root.path()), AtomicU64::new(0));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let build = |_: &Path, out: &Path| {
                        builds.fetch_add(1, Ordering::Relaxed);
                        fs::write(out, "x").map_err(|e| Error::io(out, e))
                    };
                    cache.file("a", build).unwrap();
                });
            }
        });
        assert_eq!(builds.into_inner(), 1);
    }

    #[test]
    fn a_key_tells_every_part_apart() {
        let source = |text| Source { name: "a.cu", text };
        let keys = [
            key(&["ab", "c"], &[source("x")]),
            key(&["a", "bc"], &[source("x")]),
            key(&["ab", "c"], &[source("y")]),
            key(&["ab", "c"], &[source("x"), source("x")]),
        ];
        assert_eq!(keys.iter().collect::<BTreeSet<_>>().len(), keys.len());
    }

    #[test]
    fn the_folder_is_the_one_that_the_environment_names() {
        let folder = |set: &'static [(&'static str, &'static str)]| {
            folder_from(move |name| set.iter().find(|(key, _)| *key == name).map(|(_, value)| value.into()))
        };
        assert_eq!(folder(&[("HOME", "/h"), ("VITSCOPE_CACHE", "")]).unwrap(), Path::new("/h/.cache/vitscope/kernels"));
        assert_eq!(folder(&[("HOME", "/h"), ("XDG_CACHE_HOME", "/x")]).unwrap(), Path::new("/x/vitscope/kernels"));
        assert_eq!(folder(&[("HOME", "/h"), ("VITSCOPE_CACHE", "/v")]).unwrap(), Path::new("/v"));
        assert_eq!(folder(&[]).unwrap_err().exit_code(), 2);
    }
}
