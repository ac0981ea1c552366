//! Paths, folders and patterns to a list of pictures.

use std::{
    collections::HashSet,
    path::{Path, PathBuf},
};

use vitscope::{
    Error, Result,
    demo::{SCENES, Scene},
};
use walkdir::WalkDir;

/// The picture that is explained when no other is named: a scene of things that the bundled model knows.
pub const BUNDLED: Scene = SCENES[0];

/// What a folder is searched for.
const EXTENSIONS: [&str; 8] = ["jpg", "jpeg", "png", "webp", "bmp", "gif", "tif", "tiff"];

/// One picture to explain.
#[derive(Clone, Debug, PartialEq)]
pub struct Input {
    /// Its name in results.
    pub name: String,
    /// Where its bytes are.
    pub place: Place,
}

/// Where a picture's bytes are.
#[derive(Clone, Debug, PartialEq)]
pub enum Place {
    /// In the program: these bytes.
    Bundled(&'static [u8]),
    /// In a file.
    File(PathBuf),
    /// Nowhere, and why.
    Missing(String),
}

/// All pictures that the arguments name, each once, in order; the bundled one where there is no argument. What names
/// no picture stays in the list as missing. Folders are searched through, but not `output`.
pub fn collect(paths: &[PathBuf], output: Option<&Path>) -> Vec<Input> {
    if paths.is_empty() {
        return vec![bundled(&BUNDLED)];
    }
    let output = output.and_then(|path| path.canonicalize().ok());
    let mut seen = HashSet::new();
    let inputs = paths.iter().flat_map(|path| named_by(path, output.as_deref()));
    inputs.filter(|input| seen.insert(input.name.clone())).collect()
}

/// One picture: a file, or the bundled one.
///
/// # Errors
/// [`Error::Usage`] for a folder.
pub fn one(path: Option<&Path>) -> Result<Input> {
    match path {
        None => Ok(bundled(&BUNDLED)),
        Some(path) if path.is_dir() => Err(Error::usage(format!("{}: a folder; give one picture", path.display()))),
        Some(path) => Ok(file(path.to_path_buf())),
    }
}

/// A bundled scene.
pub fn bundled(scene: &Scene) -> Input {
    Input { name: format!("bundled:{}", scene.name), place: Place::Bundled(scene.png) }
}

fn named_by(path: &Path, output: Option<&Path>) -> Vec<Input> {
    if path.is_dir() {
        return in_folder(path, output);
    }
    let pattern = path.to_string_lossy();
    if path.exists() || !pattern.contains(['*', '?', '[']) {
        return vec![file(path.to_path_buf())];
    }
    let matches = match glob::glob(&pattern) {
        Ok(matches) => matches,
        Err(error) => return vec![missing(path, &format!("not a valid pattern: {error}"))],
    };
    let found: Vec<Input> = matches
        .flat_map(|entry| match entry {
            Ok(path) if path.is_dir() => in_folder(&path, output),
            Ok(path) => vec![file(path)],
            Err(error) => vec![missing(error.path(), &error.error().to_string())],
        })
        .collect();
    if found.is_empty() { vec![missing(path, "the pattern matches nothing")] } else { found }
}

fn in_folder(folder: &Path, output: Option<&Path>) -> Vec<Input> {
    let is_output = |path: &Path| output.is_some() && path.canonicalize().ok().as_deref() == output;
    let entries = WalkDir::new(folder)
        .follow_links(true)
        .sort_by_file_name()
        .into_iter()
        .filter_entry(|entry| !(entry.file_type().is_dir() && entry.depth() > 0 && is_output(entry.path())));
    let found: Vec<Input> = entries
        .filter_map(|entry| match entry {
            Ok(entry) if entry.file_type().is_file() && is_picture(entry.path()) => Some(file(entry.into_path())),
            Ok(_) => None,
            Err(error) => Some(missing(error.path().unwrap_or(folder), &error.to_string())),
        })
        .collect();
    if found.is_empty() { vec![missing(folder, "no picture in this folder")] } else { found }
}

fn is_picture(path: &Path) -> bool {
    let extension = path.extension().and_then(|e| e.to_str()).map(str::to_ascii_lowercase);
    extension.is_some_and(|e| EXTENSIONS.contains(&e.as_str()))
}

fn file(path: PathBuf) -> Input {
    Input { name: path.to_string_lossy().into_owned(), place: Place::File(path) }
}

fn missing(path: &Path, reason: &str) -> Input {
    Input { name: path.to_string_lossy().into_owned(), place: Place::Missing(reason.to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_files_and_patterns_give_each_picture_once_in_order() {
        let root = tempfile::tempdir().unwrap();
        let at = |name: &str| root.path().join(name);
        for folder in ["a/deep", "out/overlays", "empty"] {
            std::fs::create_dir_all(at(folder)).unwrap();
        }
        for name in ["a/2.PNG", "a/1.jpg", "a/notes.txt", "a/deep/3.webp", "out/overlays/x.png"] {
            std::fs::write(at(name), "").unwrap();
        }
        let names = |paths: &[&str]| -> Vec<String> {
            let paths: Vec<PathBuf> = paths.iter().map(|p| at(p)).collect();
            let prefix = root.path().to_string_lossy().into_owned();
            let list = collect(&paths, Some(&at("out"))).into_iter();
            list.map(|i| {
                format!(
                    "{}{}",
                    i.name.replace(&prefix, ""),
                    if matches!(i.place, Place::Missing(_)) { "!" } else { "" }
                )
            })
            .collect()
        };
        assert_eq!(names(&[""]), ["/a/1.jpg", "/a/2.PNG", "/a/deep/3.webp"]);
        assert_eq!(names(&["a/*.jpg", "a/1.jpg", "a/notes.txt"]), ["/a/1.jpg", "/a/notes.txt"]);
        assert_eq!(names(&["empty", "*.gif"]), ["/empty!", "/*.gif!"]);
        // A file that is not there is found out when it is read.
        assert_eq!(names(&["gone.jpg"]), ["/gone.jpg"]);
        assert_eq!(names(&["out"]), ["/out/overlays/x.png"]);
        assert_eq!(collect(&[], None), [Input { name: "bundled:picnic".into(), place: Place::Bundled(BUNDLED.png) }]);
    }
}
