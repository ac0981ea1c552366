//! What `--model` may say.

use super::hf_cache::HubId;
use super::random::PRESETS;
use crate::error::{Error, Result};
use std::path::{Path, PathBuf};

/// Where a CLIP checkpoint comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// The model that is embedded in the program: `demo`.
    Demo,
    /// Random weights of a published size: `random:ViT-L-14`.
    Random(String),
    /// A file or a folder.
    Path(PathBuf),
    /// A model on the Hugging Face hub: `org/name`, `org/name@revision` or `hf-hub:org/name`.
    Hub(HubId),
}

impl Source {
    /// Parses a model's name. What exists as a file or folder is one, whatever else its name could mean.
    ///
    /// # Errors
    /// [`Error::Usage`] for an unknown `random:` name; [`Error::File`] for what neither exists nor can be an id.
    pub fn parse(text: &str) -> Result<Self> {
        if text == "demo" {
            return Ok(Source::Demo);
        }
        if let Some(name) = text.strip_prefix("random:") {
            if !PRESETS.contains(&name) {
                let known = PRESETS.join(", ");
                return Err(Error::usage(format!("{text} is not a known size; known are {known}")));
            }
            return Ok(Source::Random(name.to_string()));
        }
        if Path::new(text).exists() {
            return Ok(Source::Path(PathBuf::from(text)));
        }
        let id = HubId::parse(text.strip_prefix("hf-hub:").unwrap_or(text));
        id.map(Source::Hub).ok_or_else(|| {
            let what = "no such file or folder, and neither `demo`, `random:NAME` nor a Hugging Face id";
            Error::file(text, what)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_is_told_apart() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().to_str().unwrap();
        assert_eq!(Source::parse("demo").unwrap(), Source::Demo);
        assert_eq!(Source::parse("random:ViT-g-14").unwrap(), Source::Random("ViT-g-14".into()));
        assert_eq!(Source::parse(path).unwrap(), Source::Path(folder.path().into()));
        for text in ["laion/CLIP-ViT-g-14", "hf-hub:laion/CLIP-ViT-g-14"] {
            assert!(matches!(Source::parse(text).unwrap(), Source::Hub(id) if id.name == "laion/CLIP-ViT-g-14"));
        }
        assert_eq!(Source::parse("random:ViT-X").unwrap_err().exit_code(), 2);
        assert_eq!(Source::parse("./missing/model").unwrap_err().exit_code(), 3);
    }
}
