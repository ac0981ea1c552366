//! The pictures of an evaluation, with their classes and captions.

use std::{
    collections::{BTreeSet, HashMap},
    convert::Infallible,
    fmt,
    path::{Path, PathBuf},
    str::FromStr,
};

use vitscope::{Error, demo, sae_eval::read_pairs, weights::Source};

use super::EvalArgs;
use crate::cli::{
    console::Console,
    inputs::{self, Input, Place},
};

/// Where labels come from.
#[derive(Clone, Debug, PartialEq)]
pub enum Labels {
    /// The name of the folder that a picture lies in, as in ImageFolder of torchvision.
    Folders,
    /// A file.
    File(PathBuf),
}

impl FromStr for Labels {
    type Err = Infallible;

    fn from_str(s: &str) -> Result<Self, Infallible> {
        Ok(if s == "folders" { Labels::Folders } else { Labels::File(s.into()) })
    }
}

impl fmt::Display for Labels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Labels::Folders => f.write_str("folders"),
            Labels::File(path) => write!(f, "{}", path.display()),
        }
    }
}

/// Pictures and what is known of them. The maps are by the picture's name.
pub struct Examples {
    pub inputs: Vec<Input>,
    pub texts: Vec<String>,
    /// Sorted.
    pub classes: Vec<String>,
    pub class_of: HashMap<String, usize>,
    pub caption_of: HashMap<String, String>,
}

impl Examples {
    /// What the arguments name. Without any picture the demo model gets the bundled scenes, each with its first prompt
    /// as its caption, and all prompts as texts where none is given.
    ///
    /// # Errors
    /// [`Error::Usage`] without pictures, and for a file that fits none of them.
    pub fn of(args: &EvalArgs, texts: Vec<String>, console: &Console) -> anyhow::Result<Self> {
        let captions = args.captions.as_ref().map(|path| read_pairs(path, "caption")).transpose()?;
        let labels = match &args.labels {
            Some(Labels::File(path)) => Some(read_pairs(path, "label")?),
            Some(Labels::Folders) | None => None,
        };
        let listed = captions.as_ref().or(labels.as_ref());
        if args.images.is_empty() && listed.is_none() {
            return match Source::parse(&args.model.model)? {
                Source::Demo if args.labels.is_none() => Ok(Examples::bundled(texts)),
                _ => Err(Error::usage("no picture: give --images, --captions or --labels FILE").into()),
            };
        }
        let inputs = match (&args.images[..], listed) {
            ([], Some(listed)) => {
                inputs::collect(&listed.iter().map(|(path, _)| path.clone()).collect::<Vec<_>>(), None)
            }
            (paths, _) => inputs::collect(paths, args.output.as_deref()),
        };
        let caption_of = match (&captions, &args.captions) {
            (Some(pairs), Some(path)) => matched(pairs, &inputs, path, console)?,
            _ => HashMap::new(),
        };
        let label_of = match (&labels, &args.labels) {
            (Some(pairs), Some(Labels::File(path))) => matched(pairs, &inputs, path, console)?,
            (_, Some(Labels::Folders)) => inputs.iter().filter_map(folder).collect(),
            _ => HashMap::new(),
        };
        let classes: Vec<String> = label_of.values().cloned().collect::<BTreeSet<_>>().into_iter().collect();
        if args.labels.is_some() && classes.len() < 2 {
            return Err(Error::usage(format!("--labels gives {} class: zero-shot needs two", classes.len())).into());
        }
        let index = |label: &String| classes.iter().position(|class| class == label);
        let class_of = label_of.iter().filter_map(|(name, label)| Some((name.clone(), index(label)?))).collect();
        Ok(Examples { inputs, texts, classes, class_of, caption_of })
    }

    fn bundled(texts: Vec<String>) -> Self {
        let inputs: Vec<Input> = demo::SCENES.iter().map(inputs::bundled).collect();
        let own = || demo::SCENES.iter().flat_map(|scene| scene.prompts).map(|prompt| prompt.to_string()).collect();
        let captions = inputs.iter().zip(demo::SCENES);
        Examples {
            texts: if texts.is_empty() { own() } else { texts },
            classes: Vec::new(),
            class_of: HashMap::new(),
            caption_of: captions.map(|(input, scene)| (input.name.clone(), scene.prompts[0].to_owned())).collect(),
            inputs,
        }
    }
}

/// The name of the folder that a picture lies in, underscores as spaces.
fn folder(input: &Input) -> Option<(String, String)> {
    let Place::File(path) = &input.place else { return None };
    // `cat.png` alone lies in a folder whose name is not written.
    let path = path.canonicalize().unwrap_or_else(|_| path.clone());
    let name = path.parent()?.file_name()?.to_string_lossy().replace('_', " ");
    Some((input.name.clone(), name))
}

/// What a file says of each input, whatever way its path is written.
fn matched(
    pairs: &[(PathBuf, String)],
    inputs: &[Input],
    file: &Path,
    console: &Console,
) -> anyhow::Result<HashMap<String, String>> {
    let real = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_path_buf());
    let said: HashMap<PathBuf, &String> = pairs.iter().map(|(path, text)| (real(path), text)).collect();
    let found: HashMap<String, String> = inputs
        .iter()
        .filter_map(|input| match &input.place {
            Place::File(path) => Some((input.name.clone(), said.get(&real(path))?.to_string())),
            Place::Bundled(_) | Place::Missing(_) => None,
        })
        .collect();
    if found.is_empty() {
        return Err(Error::usage(format!("{}: names none of the pictures", file.display())).into());
    }
    if found.len() < inputs.len() {
        let rest = inputs.len() - found.len();
        console.warn(&format!("{}: does not name {rest} of the {} pictures", file.display(), inputs.len()));
    }
    Ok(found)
}
