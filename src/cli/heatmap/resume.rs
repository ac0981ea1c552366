//! What an earlier run left in the output folder.

use std::{
    collections::{HashMap, HashSet},
    path::Path,
};

use serde_json::Value;
use vitscope::{
    Error, Result,
    report::{JsonLines, read_lines},
};

/// The lines of an earlier run, and what became of them.
#[derive(Default)]
pub struct Earlier {
    lines: Vec<Line>,
    done: HashSet<(String, String)>,
    failed: HashMap<String, String>,
    replaced: HashSet<String>,
}

struct Line {
    image: String,
    /// Whether a new result of this run takes its place: one with these options, or a failure.
    replaceable: bool,
    text: String,
}

impl Earlier {
    /// Reads an index. An image is done when it has `expected` lines with these options (the method apart); the lines
    /// of an image that was torn apart by an interrupt are left out.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Usage`] for a file that is not an index.
    pub fn read(path: &Path, options: &Value, expected: usize) -> Result<Self> {
        let lines = read_lines(path).map_err(|error| match error {
            Error::File { .. } => Error::usage(format!("cannot resume: {error}")),
            other => other,
        })?;
        // Numbers take the same way through text as those of the file.
        let options: Option<Value> = serde_json::from_str(&options.to_string()).ok();
        let mut counts: HashMap<(String, String), usize> = HashMap::new();
        let mut parsed = Vec::new();
        let mut earlier = Earlier::default();
        for (text, mut line) in lines {
            let of = |name: &str| line[name].as_str().unwrap_or_default().to_owned();
            let (image, hash, error) = (of("image"), of("image_hash"), line["error"].as_str().map(str::to_owned));
            if let Some(options) = line["options"].as_object_mut() {
                options.shift_remove("method");
            }
            let ours = options.as_ref() == Some(&line["options"]);
            if ours {
                *counts.entry((image.clone(), hash.clone())).or_default() += 1;
            }
            let replaceable = ours || error.is_some();
            if let Some(reason) = error {
                earlier.failed.insert(image.clone(), reason);
            }
            parsed.push((hash, ours, Line { image, replaceable, text }));
        }
        earlier.done = counts.into_iter().filter(|(_, count)| *count == expected).map(|(key, _)| key).collect();
        for (hash, ours, line) in parsed {
            if !ours || earlier.done.contains(&(line.image.clone(), hash)) {
                earlier.lines.push(line);
            }
        }
        Ok(earlier)
    }

    /// The lines that the index starts with.
    pub fn kept(&self) -> Vec<String> {
        self.lines.iter().map(|line| line.text.clone()).collect()
    }

    /// Whether an image, by name and fingerprint, is done.
    pub fn is_done(&self) -> Box<dyn Fn(&str, &str) -> bool + Send + Sync> {
        let done = self.done.clone();
        Box::new(move |name, hash| done.contains(&(name.to_owned(), hash.to_owned())))
    }

    /// Whether the index says already that an image failed for this reason.
    pub fn failed_so(&self, image: &str, reason: &str) -> bool {
        self.failed.get(image).is_some_and(|earlier| earlier == reason)
    }

    /// Notes that this run has new lines for an image.
    pub fn replaced(&mut self, image: &str) {
        if !self.lines.is_empty() {
            self.replaced.insert(image.to_owned());
        }
    }

    /// Takes lines out of the index that this run replaced: earlier failures, results of a changed file.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn drop_replaced(&self, path: &Path) -> Result<()> {
        let stale = |line: &Line| line.replaceable && self.replaced.contains(&line.image);
        if !self.lines.iter().any(stale) {
            return Ok(());
        }
        let keep = self.lines.iter().map(|line| !stale(line)).chain(std::iter::repeat(true));
        let lines = read_lines(path)?.into_iter().zip(keep);
        let kept: Vec<String> = lines.filter(|(_, keep)| *keep).map(|((text, _), _)| text).collect();
        JsonLines::with_lines(path, &kept).map(|_| ())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn result(image: &str, hash: &str, method: &str, options: &Value) -> Value {
        let mut options = options.clone();
        options["method"] = method.into();
        json!({"image": image, "image_hash": hash, "method": method, "options": options})
    }

    #[test]
    fn whole_images_are_done_torn_ones_are_not_and_other_options_stay() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("results.jsonl");
        let (mine, other) = (json!({"seed": 0, "factor": 1.0 / 255.0}), json!({"seed": 1}));
        let lines = [
            result("a", "1", "rollout", &mine),
            result("a", "1", "chefer", &mine),
            json!({"image": "bad", "error": "broken"}),
            result("b", "2", "rollout", &other),
            result("b", "2", "rollout", &mine),
        ];
        JsonLines::with_lines(&path, &[]).unwrap().append(&lines).unwrap();
        let mut earlier = Earlier::read(&path, &mine, 2).unwrap();
        assert_eq!(earlier.kept().len(), 4);
        let done = earlier.is_done();
        assert!(done("a", "1") && !done("a", "9") && !done("b", "2"));
        assert!(earlier.failed_so("bad", "broken") && !earlier.failed_so("bad", "other"));

        let mut index = JsonLines::with_lines(&path, &earlier.kept()).unwrap();
        index.append(&[result("bad", "3", "rollout", &mine), result("bad", "3", "chefer", &mine)]).unwrap();
        earlier.replaced("bad");
        earlier.drop_replaced(&path).unwrap();
        let images: Vec<String> =
            read_lines(&path).unwrap().iter().map(|(_, v)| v["image"].as_str().unwrap().to_owned()).collect();
        assert_eq!(images, ["a", "a", "b", "bad", "bad"]);
        assert!(read_lines(&path).unwrap().iter().all(|(_, v)| v.get("error").is_none()));
    }
}
