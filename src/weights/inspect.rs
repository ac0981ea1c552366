//! Says what a file or a folder is.

use super::clip_checkpoint::{ClipCheckpoint, layout_of, weight_files};
use super::sae::SaeWeights;
use super::safetensors_file::TensorFile;
use crate::error::{Error, Result};
use std::path::Path;

/// Names and values that describe a CLIP checkpoint, an SAE, any other safetensors file, or a picture.
///
/// # Errors
/// [`Error::File`] or [`Error::Tensor`] if it is damaged, incomplete or of no known kind.
pub fn inspect(path: &Path) -> Result<Vec<(String, String)>> {
    if !path.exists() {
        return Err(Error::file(path, "no such file or folder"));
    }
    if path.is_dir() {
        // A folder with a `cfg.json`, or whose folders have one, is an SAE's; `config.json` is a model's.
        let is_model = path.join("config.json").is_file() || path.join("open_clip_config.json").is_file();
        let looks_like_clip = || {
            let files = weight_files(path).unwrap_or_default();
            files.iter().any(|f| TensorFile::open(f).is_ok_and(|file| layout_of(&file).is_some()))
        };
        return if is_model || (!path.join("cfg.json").is_file() && looks_like_clip()) {
            Ok(ClipCheckpoint::open(path)?.describe())
        } else {
            Ok(SaeWeights::load(path)?.describe())
        };
    }
    let name = path.file_name().and_then(|name| name.to_str());
    if matches!(name, Some("config.json" | "open_clip_config.json" | "cfg.json")) {
        let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        return inspect(folder);
    }
    match path.extension().and_then(|e| e.to_str()).map(str::to_ascii_lowercase).as_deref() {
        Some("safetensors" | "json") => inspect_tensors(path),
        _ => inspect_picture(path),
    }
}

fn inspect_tensors(path: &Path) -> Result<Vec<(String, String)>> {
    let file = TensorFile::open(path)?;
    if layout_of(&file).is_some() {
        return Ok(ClipCheckpoint::open(path)?.describe());
    }
    let is_sae = file.contains("W_dec") && (file.contains("W_enc") || file.contains("encoder.weight"));
    if is_sae && path.with_file_name("cfg.json").is_file() {
        return Ok(SaeWeights::load(path)?.describe());
    }
    let kind = if is_sae { "tensors of an SAE without its cfg.json" } else { "safetensors file" };
    let mut rows = vec![
        ("kind".to_string(), kind.to_string()),
        ("size".to_string(), format!("{} bytes", file.size())),
        ("hash".to_string(), file.hash()),
    ];
    rows.extend(file.metadata().iter().map(|(key, value)| (format!("metadata {key}"), value.clone())));
    rows.extend(file.names().map(|name| {
        let (dtype, shape) = (file.dtype(name), file.shape(name).unwrap_or_default());
        (name.to_string(), format!("{} {shape:?}", dtype.map_or(String::new(), |d| format!("{d:?}"))))
    }));
    Ok(rows)
}

fn inspect_picture(path: &Path) -> Result<Vec<(String, String)>> {
    let reader =
        image::ImageReader::open(path).and_then(|r| r.with_guessed_format()).map_err(|e| Error::io(path, e))?;
    let Some(format) = reader.format() else {
        return Err(Error::file(path, "of no known kind: neither safetensors nor a picture"));
    };
    let (width, height) = reader.into_dimensions().map_err(|e| Error::image(path, e.to_string()))?;
    let rows = [("kind", "picture".into()), ("format", format!("{format:?}")), ("size", format!("{width} x {height}"))];
    Ok(rows.into_iter().map(|(key, value)| (key.to_string(), value)).collect())
}
