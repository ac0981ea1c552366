//! The local Hugging Face cache: `models--org--name/{refs,snapshots,blobs}` under one root.

use super::clip_checkpoint::weight_files;
use crate::error::{Error, Result};
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// A model on the Hugging Face hub: `org/name` or `org/name@revision`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HubId {
    /// `org/name`.
    pub name: String,
    /// A branch, a tag or a commit; `main` if not given.
    pub revision: String,
}

impl HubId {
    /// Parses an id; `None` if the text cannot be one.
    pub fn parse(text: &str) -> Option<Self> {
        let (name, revision) = text.split_once('@').unwrap_or((text, "main"));
        let (org, model) = name.split_once('/')?;
        let plain = is_plain(org) && is_plain(model) && is_plain(revision);
        plain.then(|| HubId { name: name.to_string(), revision: revision.to_string() })
    }
}

impl std::fmt::Display for HubId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.revision.as_str() {
            "main" => f.write_str(&self.name),
            revision => write!(f, "{}@{revision}", self.name),
        }
    }
}

/// Whether a text is one harmless component of a path.
pub(super) fn is_plain(text: &str) -> bool {
    let ok = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    (1..=128).contains(&text.len()) && text.chars().all(ok) && !text.starts_with('.')
}

/// The cache's root folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HubCache {
    root: PathBuf,
}

impl HubCache {
    /// The cache that the environment names, by the same rules as the Python library: `HF_HUB_CACHE`,
    /// `HUGGINGFACE_HUB_CACHE`, `HF_HOME/hub`, `XDG_CACHE_HOME/huggingface/hub`, `~/.cache/huggingface/hub`.
    ///
    /// # Errors
    /// [`Error::Usage`] if none of them, nor a home folder, is set.
    pub fn from_env() -> Result<Self> {
        Self::from_variables(|name| std::env::var_os(name))
    }

    fn from_variables(variable: impl Fn(&str) -> Option<OsString>) -> Result<Self> {
        let rules: [(&str, &[&str]); 6] = [
            ("HF_HUB_CACHE", &[]),
            ("HUGGINGFACE_HUB_CACHE", &[]),
            ("HF_HOME", &["hub"]),
            ("XDG_CACHE_HOME", &["huggingface", "hub"]),
            ("HOME", &[".cache", "huggingface", "hub"]),
            ("USERPROFILE", &[".cache", "huggingface", "hub"]),
        ];
        let set = |name: &str| variable(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let root = rules.iter().find_map(|(name, parts)| Some(set(name)?.join(parts.iter().collect::<PathBuf>())));
        root.map(Self::at).ok_or_else(|| Error::usage("no Hugging Face cache: set HF_HOME"))
    }

    /// The cache under this folder.
    pub fn at(root: impl Into<PathBuf>) -> Self {
        HubCache { root: root.into() }
    }

    /// The folder of one model.
    pub fn folder(&self, id: &HubId) -> PathBuf {
        self.root.join(format!("models--{}", id.name.replace('/', "--")))
    }

    /// The folder of a model's files, if its weights are there.
    pub fn snapshot(&self, id: &HubId) -> Option<PathBuf> {
        let folder = self.folder(id);
        let commit = std::fs::read_to_string(folder.join("refs").join(&id.revision)).ok();
        let commit = commit.as_deref().map(str::trim).unwrap_or(&id.revision);
        let snapshot = is_plain(commit).then(|| folder.join("snapshots").join(commit))?;
        let has_weights = |snapshot: &Path| weight_files(snapshot).is_ok_and(|files| !files.is_empty());
        (snapshot.is_dir() && has_weights(&snapshot)).then_some(snapshot)
    }

    /// The folder of a model's files.
    ///
    /// # Errors
    /// [`Error::File`] saying where it was looked for and how to get it.
    pub fn find(&self, id: &HubId) -> Result<PathBuf> {
        self.snapshot(id).ok_or_else(|| {
            let reason = format!(
                "`{id}` is neither a file or folder here nor, with its weights, in the Hugging Face cache; \
                 a vitscope built with `--features hub` downloads it, and so does `hf download {}`",
                id.name
            );
            Error::file(self.folder(id), reason)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_two_plain_names() {
        let id = HubId::parse("openai/clip-vit-base-patch32").unwrap();
        assert_eq!((id.name.as_str(), id.revision.as_str()), ("openai/clip-vit-base-patch32", "main"));
        assert_eq!(HubId::parse("a/b@v1.0").unwrap().to_string(), "a/b@v1.0");
        for bad in ["", "a", "/b", "a/", "a/b/c", "../b", "a/..", "a/b@../../x", "a b/c", "/a/b"] {
            assert_eq!(HubId::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn the_environment_is_read_in_order() {
        let with = |set: &'static [(&'static str, &'static str)]| {
            HubCache::from_variables(|name| set.iter().find(|(n, _)| *n == name).map(|(_, v)| OsString::from(v)))
        };
        let root = |set| with(set).unwrap().root;
        assert_eq!(root(&[("HOME", "/h")]), Path::new("/h/.cache/huggingface/hub"));
        assert_eq!(root(&[("HOME", "/h"), ("XDG_CACHE_HOME", "/x")]), Path::new("/x/huggingface/hub"));
        assert_eq!(root(&[("XDG_CACHE_HOME", "/x"), ("HF_HOME", "/f")]), Path::new("/f/hub"));
        assert_eq!(root(&[("HF_HOME", "/f"), ("HUGGINGFACE_HUB_CACHE", "/old")]), Path::new("/old"));
        assert_eq!(root(&[("HUGGINGFACE_HUB_CACHE", "/old"), ("HF_HUB_CACHE", "/c")]), Path::new("/c"));
        assert_eq!(root(&[("HF_HUB_CACHE", ""), ("HOME", "/h")]), Path::new("/h/.cache/huggingface/hub"));
        assert_eq!(with(&[]).unwrap_err().exit_code(), 2);
    }

    #[test]
    fn a_snapshot_counts_when_its_weights_are_there() {
        let root = tempfile::tempdir().unwrap();
        let (cache, id) = (HubCache::at(root.path()), HubId::parse("org/name").unwrap());
        let message = cache.find(&id).unwrap_err().to_string();
        assert!(message.contains("models--org--name") && message.contains("hub"), "{message}");
        let folder = root.path().join("models--org--name");
        let snapshot = folder.join("snapshots").join("abc123");
        std::fs::create_dir_all(&snapshot).unwrap();
        std::fs::create_dir_all(folder.join("refs")).unwrap();
        std::fs::write(folder.join("refs/main"), "abc123\n").unwrap();
        std::fs::write(snapshot.join("config.json"), "{}").unwrap();
        assert_eq!(cache.snapshot(&id), None);
        std::fs::write(snapshot.join("model.safetensors"), "").unwrap();
        assert_eq!(cache.find(&id).unwrap(), snapshot);
        assert_eq!(cache.snapshot(&HubId::parse("org/name@abc123").unwrap()), Some(snapshot));
        std::fs::write(folder.join("refs/main"), "../../elsewhere").unwrap();
        assert_eq!(cache.snapshot(&id), None);
    }
}
