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
    /// Reads an index. An image is done when it has `targets` lines with these options for each of the `methods`; the
    /// lines of an image that was torn apart by an interrupt are left out.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Usage`] for a file that is not an index.
    pub fn read(path: &Path, options: &Value, methods: &[String], targets: usize) -> Result<Self> {
        let lines = read_lines(path).map_err(|error| match error {
            Error::File { .. } => Error::usage(format!("cannot resume: {error}")),
            other => other,
        })?;
        let mut counts: HashMap<(String, String), usize> = HashMap::new();
        let mut parsed = Vec::new();
        let mut earlier = Earlier::default();
        for (text, mut line) in lines {
            let of = |name: &str| line[name].as_str().unwrap_or_default().to_owned();
            let (image, hash, error) = (of("image"), of("image_hash"), line["error"].as_str().map(str::to_owned));
            let method = line["options"].as_object_mut().and_then(|options| options.shift_remove("method"));
            let asked = method.is_some_and(|m| methods.iter().any(|asked| m == *asked));
            let ours = asked && line["options"] == *options;
            if ours {
                *counts.entry((image.clone(), hash.clone())).or_default() += 1;
            }
            let replaceable = ours || error.is_some();
            if let Some(reason) = error {
                earlier.failed.insert(image.clone(), reason);
            }
            parsed.push((hash, ours, Line { image, replaceable, text }));
        }
        let expected = targets * methods.len();
        earlier.done = counts.into_iter().filter(|(_, count)| *count == expected).map(|(key, _)| key).collect();
        let explained: HashSet<&String> = earlier.done.iter().map(|(image, _)| image).collect();
        for (hash, ours, line) in parsed {
            let keep = match (ours, line.replaceable) {
                (true, _) => earlier.done.contains(&(line.image.clone(), hash)),
                // A failure that was overcome since.
                (false, true) => !explained.contains(&line.image),
                (false, false) => true,
            };
            if keep {
                earlier.lines.push(line);
            }
        }
        Ok(earlier)
    }

    /// The lines that the index starts with.
    pub fn kept(&self) -> Vec<String> {
        self.lines.iter().map(|line| line.text.clone()).collect()
    }

    /// The images that are done, by name and fingerprint.
    pub fn done(&self) -> HashSet<(String, String)> {
        self.done.clone()
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
        let methods = ["rollout", "chefer"].map(str::to_owned);
        let mut earlier = Earlier::read(&path, &mine, &methods, 1).unwrap();
        assert_eq!(earlier.kept().len(), 4);
        assert_eq!(earlier.done(), HashSet::from([("a".to_owned(), "1".to_owned())]));
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
