//! Checkpoints: folders `checkpoint-STEP` that are there whole or not at all.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
};

use crate::{Error, Result};

const PREFIX: &str = "checkpoint-";
/// Ends the name of a folder that is being written.
const UNFINISHED: &str = ".unfinished";

/// The checkpoint of the highest step in `folder`.
///
/// # Errors
/// [`Error::Io`].
pub fn latest(folder: &Path) -> Result<Option<PathBuf>> {
    let whole = all(folder)?.into_iter().filter_map(|path| Some((step(&path)?, path)));
    Ok(whole.max().map(|(_, path)| path))
}

/// Writes a checkpoint: `fill` puts its files into a new folder, which then gets its name. Older ones are removed.
/// One of this step that is there already stays: training goes on from it in the same way.
///
/// # Errors
/// Those of `fill`; [`Error::Io`].
pub fn write(folder: &Path, step: usize, fill: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let path = folder.join(format!("{PREFIX}{step:08}"));
    let unfinished = folder.join(format!("{PREFIX}{step:08}{UNFINISHED}"));
    if path.is_dir() {
        return Ok(());
    }
    remove(&unfinished)?;
    fs::create_dir(&unfinished).map_err(|e| Error::io(&unfinished, e))?;
    fill(&unfinished)?;
    sync(&unfinished).map_err(|e| Error::io(&unfinished, e))?;
    fs::rename(&unfinished, &path).map_err(|e| Error::io(&path, e))?;
    all(folder)?.iter().filter(|other| **other != path).try_for_each(|other| remove(other))
}

/// Removes all checkpoints.
///
/// # Errors
/// [`Error::Io`].
pub fn clear(folder: &Path) -> Result<()> {
    all(folder)?.iter().try_for_each(|path| remove(path))
}

/// All checkpoints, unfinished ones among them.
fn all(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        read => read.map_err(|e| Error::io(folder, e))?,
    };
    let paths = entries.map(|entry| entry.map(|entry| entry.path()).map_err(|e| Error::io(folder, e)));
    let paths = paths.collect::<Result<Vec<_>>>()?;
    let ours = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let number = name.strip_prefix(PREFIX).map(|rest| rest.strip_suffix(UNFINISHED).unwrap_or(rest));
        path.is_dir() && number.is_some_and(|n| n.len() >= 8 && n.bytes().all(|b| b.is_ascii_digit()))
    };
    Ok(paths.into_iter().filter(ours).collect())
}

fn step(path: &Path) -> Option<u64> {
    path.file_name()?.to_str()?.strip_prefix(PREFIX)?.parse().ok()
}

fn remove(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Error::io(path, error)),
        _ => Ok(()),
    }
}

/// Waits until the files of a folder are on the disk: a crash of the machine must not leave a name without content.
fn sync(folder: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(folder)? {
        File::open(entry?.path())?.sync_all()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_whole_checkpoint_counts_and_older_ones_go() {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path();
        assert_eq!(latest(&at.join("none")).unwrap(), None);
        let fill = |text: &'static str| move |path: &Path| crate::files::write_file(&path.join("a"), text.as_bytes());
        write(at, 9, fill("nine")).unwrap();
        write(at, 10, fill("ten")).unwrap();
        fs::create_dir(at.join("checkpoint-00000011.unfinished")).unwrap();
        fs::create_dir(at.join("checkpoint-mine")).unwrap();
        let found = latest(at).unwrap().unwrap();
        assert_eq!(found, at.join("checkpoint-00000010"));
        assert_eq!(fs::read(found.join("a")).unwrap(), b"ten");
        assert!(!at.join("checkpoint-00000009").exists());
        // One that fails leaves the last one alone.
        assert!(write(at, 11, |_| Err(Error::usage("no"))).is_err());
        assert_eq!(latest(at).unwrap(), Some(found));
        clear(at).unwrap();
        assert_eq!(latest(at).unwrap(), None);
        assert_eq!(fs::read_dir(at).unwrap().count(), 1, "only what is not ours");
    }
}
