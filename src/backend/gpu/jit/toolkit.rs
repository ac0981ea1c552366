//! Where the pieces of NVIDIA's toolkit may lie: a toolkit, or the wheels of a Python environment.

use std::{
    env,
    ffi::OsString,
    path::{Path, PathBuf},
};

/// Folders of libraries inside a Python environment's packages, newest first.
pub const WHEEL_LIBRARIES: &[&str] = &["nvidia/cu13/lib", "nvidia/cuda_nvrtc/lib"];
/// Folders of programs inside a Python environment's packages.
pub const WHEEL_PROGRAMS: &[&str] = &["nvidia/cu13/bin"];

/// The variable's value, unless it is empty.
pub fn variable(name: &str) -> Option<OsString> {
    env::var_os(name).filter(|value| !value.is_empty())
}

/// `subfolder` of the toolkits that `CUDA_HOME` and `CUDA_PATH` name, and of the one in its usual place.
pub fn toolkits(subfolder: &str) -> Vec<PathBuf> {
    let named = ["CUDA_HOME", "CUDA_PATH"].into_iter().filter_map(variable).map(PathBuf::from);
    named.chain([PathBuf::from("/usr/local/cuda")]).map(|root| root.join(subfolder)).collect()
}

/// The programs of this name in `PATH`.
pub fn in_path(program: &str) -> Vec<PathBuf> {
    let path = variable("PATH").unwrap_or_default();
    env::split_paths(&path).map(|folder| folder.join(program)).filter(|file| file.is_file()).collect()
}

/// Those of `folders` that are inside the packages of the active Python environment, or of the Pythons in `PATH`.
pub fn wheels(folders: &[&str]) -> Vec<PathBuf> {
    let mut roots: Vec<PathBuf> = variable("VIRTUAL_ENV").map(PathBuf::from).into_iter().collect();
    // An environment's python is a link: its own folder counts, not the one it leads to.
    let pythons = in_path("python3").into_iter().chain(in_path("python"));
    roots.extend(pythons.filter_map(|python| Some(python.parent()?.parent()?.to_path_buf())));
    roots.extend(variable("HOME").map(|home| Path::new(&home).join(".local")));
    wheels_below(&roots, folders)
}

fn wheels_below(roots: &[PathBuf], folders: &[&str]) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = Vec::new();
    for root in roots {
        for packages in ["site-packages", "dist-packages"] {
            let pattern =
                Path::new(&glob::Pattern::escape(&root.to_string_lossy())).join("lib/python3*").join(packages);
            let environments = glob::glob(&pattern.to_string_lossy()).into_iter().flatten().flatten();
            for environment in environments {
                let there = folders.iter().map(|folder| environment.join(folder)).filter(|folder| folder.is_dir());
                let new: Vec<_> = there.filter(|folder| !found.contains(folder)).collect();
                found.extend(new);
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wheels_are_found_in_every_environment_once() {
        let root = tempfile::tempdir().unwrap();
        let new = root.path().join("[a]/lib/python3.11/site-packages/nvidia/cu13/lib");
        let old = root.path().join("b/lib/python3/dist-packages/nvidia/cuda_nvrtc/lib");
        for folder in [&new, &old] {
            std::fs::create_dir_all(folder).unwrap();
        }
        let roots = ["[a]", "b", "c", "[a]"].map(|name| root.path().join(name));
        assert_eq!(wheels_below(&roots, WHEEL_LIBRARIES), [new, old]);
        assert!(wheels_below(&roots, WHEEL_PROGRAMS).is_empty());
    }
}
