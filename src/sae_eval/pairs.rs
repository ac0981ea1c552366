//! Files that say something about pictures: labels and captions.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
};

use serde_json::Value;

use crate::{Error, Result};

/// Reads a file of pictures with one text each, under `name` such as `label` or `caption`: CSV (`.csv`, the picture in
/// the first column and the text in the second, quoted as in RFC 4180, with or without a line of names) or JSON lines
/// (`{"image": ..., name: ...}`). A path that is not absolute is relative to the file's folder. Pictures keep their order.
///
/// # Errors
/// [`Error::Usage`] for a file that cannot be read, a line that is not one, a picture that comes twice, or no picture.
pub fn read_pairs(path: &Path, name: &str) -> Result<Vec<(PathBuf, String)>> {
    let bad = |reason: String| Error::usage(format!("{}: {reason}", path.display()));
    let text = std::fs::read_to_string(path).map_err(|error| bad(error.to_string()))?;
    let is_csv = path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("csv"));
    let folder = path.parent().unwrap_or(Path::new(""));
    let (mut pairs, mut seen) = (Vec::new(), HashMap::new());
    for (number, line) in (1..).zip(text.trim_start_matches('\u{feff}').lines()) {
        if line.trim().is_empty() {
            continue;
        }
        let (image, text) = match is_csv {
            true => csv_row(line).ok_or_else(|| bad(format!("line {number} is not `image,{name}`")))?,
            false => json_row(line, name)
                .ok_or_else(|| bad(format!("line {number} is not {{\"image\": ..., \"{name}\": ...}}")))?,
        };
        if is_csv && number == 1 && image == "image" {
            continue;
        }
        if let Some(first) = seen.insert(image.clone(), number) {
            return Err(bad(format!("`{image}` stands in line {first} and in line {number}")));
        }
        pairs.push((folder.join(image), text));
    }
    if pairs.is_empty() { Err(bad("names no picture".into())) } else { Ok(pairs) }
}

fn json_row(line: &str, name: &str) -> Option<(String, String)> {
    let value: Value = serde_json::from_str(line).ok()?;
    Some((value["image"].as_str()?.to_owned(), value[name].as_str()?.to_owned()))
}

/// The first two fields of a line.
fn csv_row(line: &str) -> Option<(String, String)> {
    let (first, rest) = csv_field(line)?;
    let (second, _) = csv_field(rest.strip_prefix(',')?)?;
    Some((first, second))
}

/// A field and what follows it. In a quoted field a double quote stands for one.
fn csv_field(text: &str) -> Option<(String, &str)> {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find(',').unwrap_or(text.len());
        return Some((text[..end].trim().to_owned(), &text[end..]));
    };
    let (mut field, mut rest) = (String::new(), quoted);
    loop {
        let (before, after) = rest.split_once('"')?;
        field.push_str(before);
        match after.strip_prefix('"') {
            Some(after) => {
                field.push('"');
                rest = after;
            }
            None => return Some((field, after)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(name: &str, content: &str) -> Result<Vec<(PathBuf, String)>> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        std::fs::write(&path, content).unwrap();
        let pairs = read_pairs(&path, "label")?;
        Ok(pairs
            .into_iter()
            .map(|(p, l)| (p.strip_prefix(folder.path()).map(Path::to_path_buf).unwrap_or(p), l))
            .collect())
    }

    #[test]
    fn csv_and_json_lines_are_read() {
        let expected = [("a.png".into(), "a cat".to_owned()), ("/b,1.png".into(), "so \"big\", a dog".to_owned())];
        let csv = "\u{feff}image,label,more\r\na.png, a cat ,x\r\n\r\n\"/b,1.png\",\"so \"\"big\"\", a dog\"\r\n";
        assert_eq!(read("l.CSV", csv).unwrap(), expected);
        let json =
            "{\"image\":\"a.png\",\"label\":\"a cat\"}\n\n{\"label\":\"so \\\"big\\\", a dog\",\"image\":\"/b,1.png\"}";
        assert_eq!(read("l.jsonl", json).unwrap(), expected);
        assert_eq!(read("l.csv", "a.png,x").unwrap().len(), 1);
    }

    #[test]
    fn what_is_wrong_is_said_with_its_line() {
        for (name, content, needle) in [
            ("l.csv", "a.png", "line 1 is not `image,label`"),
            ("l.csv", "a.png,x\n\"b.png,y", "line 2"),
            ("l.jsonl", "{\"image\":\"a.png\"}", "\"label\""),
            ("l.jsonl", "a.png,x", "line 1"),
            ("l.csv", "a.png,x\na.png,y", "in line 1 and in line 2"),
            ("l.csv", "image,label\n", "names no picture"),
        ] {
            let error = read(name, content).unwrap_err();
            assert!(matches!(error, Error::Usage(_)) && error.to_string().contains(needle), "{error}");
        }
        assert!(matches!(read_pairs(Path::new("no/such.csv"), "label"), Err(Error::Usage(_))));
    }
}
