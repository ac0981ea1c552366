//! Prompts around a text: templates, the 80-prompt ensemble, and files of texts.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use crate::{Error, Result};

/// The prompts that a text is put into. Its embedding is the mean over them (`none`: the text itself).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    /// As the user gave it.
    name: String,
    /// Each with one `{}`.
    prompts: Vec<String>,
}

impl Template {
    /// The prompts for `text`: 80 for `openai80`, else one.
    pub fn expand(&self, text: &str) -> Vec<String> {
        self.prompts.iter().map(|prompt| prompt.replacen("{}", text, 1)).collect()
    }
}

impl Default for Template {
    fn default() -> Self {
        Self { name: "none".into(), prompts: vec!["{}".into()] }
    }
}

impl FromStr for Template {
    type Err = Error;

    /// `none`, `openai80`, or a prompt with exactly one `{}`. Anything else is an [`Error::Usage`].
    fn from_str(name: &str) -> Result<Self> {
        let prompts = match name {
            "none" => return Ok(Self::default()),
            "openai80" => OPENAI80.map(str::to_owned).to_vec(),
            prompt if prompt.matches("{}").count() == 1 => vec![prompt.to_owned()],
            _ => {
                let expected = "expected `none`, `openai80` or a prompt with exactly one {}";
                return Err(Error::usage(format!("template `{name}`: {expected}")));
            }
        };
        Ok(Self { name: name.into(), prompts })
    }
}

impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

/// Reads a file of texts: UTF-8, one a line, with or without a byte order mark. Spaces around a text and blank lines are
/// dropped. A line that is not UTF-8, or a file without any text, is an [`Error::Usage`].
pub fn read_texts(path: &Path) -> Result<Vec<String>> {
    let bytes = std::fs::read(path).map_err(|error| Error::io(path, error))?;
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&bytes);
    let mut texts = Vec::new();
    for (number, line) in (1..).zip(bytes.split(|&byte| byte == b'\n')) {
        let line = std::str::from_utf8(line)
            .map_err(|error| Error::usage(format!("{}: line {number} is not UTF-8: {error}", path.display())))?;
        let text = line.trim();
        if !text.is_empty() {
            texts.push(text.to_owned());
        }
    }
    if texts.is_empty() {
        return Err(Error::usage(format!("{}: holds no text", path.display())));
    }
    Ok(texts)
}

/// The prompts of OpenAI's zero-shot ImageNet classifier (Radford et al. 2021; the notebook on prompt engineering in
/// openai/CLIP).
const OPENAI80: [&str; 80] = [
    "a bad photo of a {}.",
    "a photo of many {}.",
    "a sculpture of a {}.",
    "a photo of the hard to see {}.",
    "a low resolution photo of the {}.",
    "a rendering of a {}.",
    "graffiti of a {}.",
    "a bad photo of the {}.",
    "a cropped photo of the {}.",
    "a tattoo of a {}.",
    "the embroidered {}.",
    "a photo of a hard to see {}.",
    "a bright photo of a {}.",
    "a photo of a clean {}.",
    "a photo of a dirty {}.",
    "a dark photo of the {}.",
    "a drawing of a {}.",
    "a photo of my {}.",
    "the plastic {}.",
    "a photo of the cool {}.",
    "a close-up photo of a {}.",
    "a black and white photo of the {}.",
    "a painting of the {}.",
    "a painting of a {}.",
    "a pixelated photo of the {}.",
    "a sculpture of the {}.",
    "a bright photo of the {}.",
    "a cropped photo of a {}.",
    "a plastic {}.",
    "a photo of the dirty {}.",
    "a jpeg corrupted photo of a {}.",
    "a blurry photo of the {}.",
    "a photo of the {}.",
    "a good photo of the {}.",
    "a rendering of the {}.",
    "a {} in a video game.",
    "a photo of one {}.",
    "a doodle of a {}.",
    "a close-up photo of the {}.",
    "a photo of a {}.",
    "the origami {}.",
    "the {} in a video game.",
    "a sketch of a {}.",
    "a doodle of the {}.",
    "a origami {}.",
    "a low resolution photo of a {}.",
    "the toy {}.",
    "a rendition of the {}.",
    "a photo of the clean {}.",
    "a photo of a large {}.",
    "a rendition of a {}.",
    "a photo of a nice {}.",
    "a photo of a weird {}.",
    "a blurry photo of a {}.",
    "a cartoon {}.",
    "art of a {}.",
    "a sketch of the {}.",
    "a embroidered {}.",
    "a pixelated photo of a {}.",
    "itap of the {}.",
    "a jpeg corrupted photo of the {}.",
    "a good photo of a {}.",
    "a plushie {}.",
    "a photo of the nice {}.",
    "a photo of the small {}.",
    "a photo of the weird {}.",
    "the cartoon {}.",
    "art of the {}.",
    "a drawing of the {}.",
    "a photo of the large {}.",
    "a black and white photo of a {}.",
    "the plushie {}.",
    "a dark photo of a {}.",
    "itap of a {}.",
    "graffiti of the {}.",
    "a toy {}.",
    "itap of my {}.",
    "a photo of a cool {}.",
    "a photo of a small {}.",
    "a tattoo of the {}.",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates() {
        let expand = |name: &str| name.parse::<Template>().unwrap().expand("tabby cat");
        assert_eq!(expand("none"), ["tabby cat"]);
        assert_eq!(expand("{}"), ["tabby cat"]);
        assert_eq!(expand("a photo of a {}, {x}"), ["a photo of a tabby cat, {x}"]);
        let prompts = expand("openai80");
        assert_eq!(prompts.len(), 80);
        assert_eq!(prompts[0], "a bad photo of a tabby cat.");
        assert_eq!(prompts[79], "a tattoo of the tabby cat.");
        assert!(OPENAI80.iter().all(|prompt| prompt.matches("{}").count() == 1));
        let distinct: std::collections::BTreeSet<_> = prompts.iter().collect();
        assert_eq!(distinct.len(), 80);
        for wrong in ["", "openai-80", "{} and {}", "a photo of a {0}", "{ }"] {
            let error = wrong.parse::<Template>().unwrap_err();
            assert!(matches!(error, Error::Usage(_)), "{error}");
            assert!(error.to_string().contains(&format!("`{wrong}`")), "{error}");
        }
        assert_eq!("openai80".parse::<Template>().unwrap().to_string(), "openai80");
        assert_eq!(Template::default(), "none".parse().unwrap());
    }

    #[test]
    fn braces_in_a_text_stay() {
        assert_eq!("a {}".parse::<Template>().unwrap().expand("{} b"), ["a {} b"]);
    }

    #[test]
    fn files_of_texts() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("texts.txt");
        std::fs::write(&path, b"\xef\xbb\xbfa cat\r\n\n  a dog \n\t\nna\xc3\xafve").unwrap();
        assert_eq!(read_texts(&path).unwrap(), ["a cat", "a dog", "naïve"]);
        std::fs::write(&path, b"a cat\n\nb\xff\n").unwrap();
        let error = read_texts(&path).unwrap_err().to_string();
        assert!(error.contains("texts.txt: line 3 "), "{error}");
        std::fs::write(&path, b"\xef\xbb\xbf\n \n").unwrap();
        assert!(matches!(read_texts(&path), Err(Error::Usage(_))));
        assert!(matches!(read_texts(&folder.path().join("none")), Err(Error::Io { .. })));
    }
}
