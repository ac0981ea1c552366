//! Files that are either whole or not there.

use std::{
    fs::File,
    io::{self, BufWriter, Write},
    path::Path,
};

use crate::{Error, Result};

/// Writes a file under a temporary name in its folder, then renames it.
///
/// # Errors
/// [`Error::Io`]; the temporary file is removed.
pub fn write_file(path: &Path, bytes: &[u8]) -> Result<()> {
    write_with(path, |out| out.write_all(bytes))
}

/// The same for content that `fill` streams.
///
/// # Errors
/// As [`write_file`].
pub fn write_with(path: &Path, fill: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(format!(".{}.tmp", std::process::id()));
    let temporary = path.with_file_name(name);
    let write = || {
        let mut out = BufWriter::with_capacity(1 << 20, File::create(&temporary)?);
        fill(&mut out)?;
        // No sync: a run writes thousands of maps, and its index is synced after each batch.
        out.flush()?;
        drop(out);
        std::fs::rename(&temporary, path)
    };
    write().map_err(|error| {
        // Nothing of ours may stay behind; that it cannot be removed either is not the news.
        let _ = std::fs::remove_file(&temporary);
        Error::io(path, error)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_whole_and_no_other_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.bin");
        write_file(&path, b"one").unwrap();
        write_file(&path, b"two").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"two");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
        assert!(matches!(write_file(&folder.path().join("no/a.bin"), b""), Err(Error::Io { .. })));
    }
}
