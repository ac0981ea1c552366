//! An index of results: one JSON object per line.
//!
//! Lines are appended whole and flushed to the disk at the end of each batch, so after a crash at most the last line is
//! torn; [`read_lines`] drops it.

use std::{
    fs::{File, OpenOptions},
    io::Write,
    path::{Path, PathBuf},
};

use serde_json::Value;

use crate::files::write_file;
use crate::{Error, Result};

/// An index that grows.
#[derive(Debug)]
pub struct JsonLines {
    path: PathBuf,
    file: File,
}

impl JsonLines {
    /// An index that holds `lines` and nothing else, ready to grow.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn with_lines(path: &Path, lines: &[String]) -> Result<Self> {
        let text: String = lines.iter().flat_map(|line| [line.as_str(), "\n"]).collect();
        write_file(path, text.as_bytes())?;
        let file = OpenOptions::new().append(true).open(path).map_err(|e| Error::io(path, e))?;
        Ok(JsonLines { path: path.to_path_buf(), file })
    }

    /// Appends whole lines and waits until they are on the disk.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn append(&mut self, lines: &[Value]) -> Result<()> {
        let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
        self.file.write_all(text.as_bytes()).and_then(|()| self.file.sync_data()).map_err(|e| Error::io(&self.path, e))
    }
}

/// The lines of an index, as text and parsed; none where there is no index yet. A torn last line is dropped.
///
/// # Errors
/// [`Error::Io`]; [`Error::File`] for any other line that is not JSON.
pub fn read_lines(path: &Path) -> Result<Vec<(String, Value)>> {
    let bytes = match std::fs::read(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        read => read.map_err(|e| Error::io(path, e))?,
    };
    let whole = bytes.iter().rposition(|&b| b == b'\n').map_or(&[][..], |end| &bytes[..end]);
    let mut lines = Vec::new();
    for (number, line) in (1..).zip(whole.split(|&b| b == b'\n')).filter(|(_, line)| !line.is_empty()) {
        let value = serde_json::from_slice(line)
            .map_err(|e| Error::file(path, format!("line {number} is not valid JSON: {e}")))?;
        lines.push((String::from_utf8_lossy(line).into_owned(), value));
    }
    Ok(lines)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn lines_are_kept_appended_and_a_torn_one_is_dropped() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("results.jsonl");
        assert!(read_lines(&path).unwrap().is_empty());
        let mut index = JsonLines::with_lines(&path, &[]).unwrap();
        index.append(&[json!({"a": 1}), json!({"a": 2})]).unwrap();
        let whole = std::fs::read(&path).unwrap();
        assert_eq!(whole, b"{\"a\":1}\n{\"a\":2}\n");
        for cut in whole.len() / 2..whole.len() {
            std::fs::write(&path, &whole[..cut]).unwrap();
            assert_eq!(read_lines(&path).unwrap().len(), 1, "{cut}");
        }
        let kept: Vec<String> = read_lines(&path).unwrap().into_iter().map(|(text, _)| text).collect();
        JsonLines::with_lines(&path, &kept).unwrap().append(&[json!({"a": 2})]).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), whole);
        std::fs::write(&path, "{\"a\":1}\nnot json\n{\"a\":2}\n").unwrap();
        assert!(read_lines(&path).unwrap_err().to_string().contains("line 2"));
    }
}
