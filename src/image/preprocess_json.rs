//! [`Preprocess`] from the files that checkpoints bring: Hugging Face's `preprocessor_config.json` in its historic
//! shapes, and `open_clip_config.json`.

use std::path::Path;

use serde_json::{Map, Value};

use super::preprocess::{CropRule, Preprocess, ResizeRule};
use super::resize::Filter;
use crate::error::{Error, Result};

/// Settings of a Hugging Face image processor that do not change what it computes here.
const HARMLESS: [&str; 14] = [
    "_auto_class",
    "_processor_class",
    "_valid_processor_keys",
    "auto_map",
    "data_format",
    "device",
    "disable_grouping",
    // Pictures are always converted to RGB.
    "do_convert_rgb",
    "feature_extractor_type",
    "image_processor_type",
    "input_data_format",
    "processor_class",
    "return_tensors",
    "transformers_version",
];
/// Settings that are read below.
const KNOWN: [&str; 10] = [
    "crop_size",
    "do_center_crop",
    "do_normalize",
    "do_rescale",
    "do_resize",
    "image_mean",
    "image_std",
    "resample",
    "rescale_factor",
    "size",
];
/// Sides of a model's input beyond this are a damaged file.
const MAX_INPUT: u64 = 1 << 14;

impl Preprocess {
    /// From the contents of a `preprocessor_config.json` (or a `processor_config.json` that holds one under
    /// `image_processor`); `path` names it in errors. What is missing has the default of `CLIPImageProcessor`.
    ///
    /// # Errors
    /// [`Error::File`] for an image processor that is not CLIP's, a value of the wrong kind, or a setting that would
    /// change the pixels and is not known here.
    pub fn from_hf_json(path: &Path, json: &Value) -> Result<Self> {
        parse_hf(json).map_err(|reason| Error::file(path, reason))
    }

    /// From the contents of an `open_clip_config.json`: `preprocess_cfg`, and the size from
    /// `model_cfg.vision_cfg.image_size`; `path` names it in errors.
    ///
    /// # Errors
    /// [`Error::File`] for a value of the wrong kind or a setting that is not known here.
    pub fn from_open_clip_json(path: &Path, json: &Value) -> Result<Self> {
        parse_open_clip(json).map_err(|reason| Error::file(path, reason))
    }
}

fn parse_hf(json: &Value) -> Result<Preprocess, String> {
    let root = json.as_object().ok_or("the image processor's settings are not a JSON object")?;
    if let Some(inner) = root.get("image_processor") {
        return parse_hf(inner);
    }
    for key in ["image_processor_type", "feature_extractor_type"] {
        if let Some(name) = root.get(key).and_then(Value::as_str).filter(|n| !n.starts_with("CLIP")) {
            return Err(format!("`{key}` is {name}: only CLIP's image processor is supported"));
        }
    }
    for (key, value) in root {
        let acts = !matches!(value, Value::Null | Value::Bool(false));
        if acts && !KNOWN.contains(&key.as_str()) && !HARMLESS.contains(&key.as_str()) {
            return Err(format!("unknown setting `{key}` = {value}, which may change the pixels"));
        }
    }
    let mut it = Preprocess::default();
    it.resize = match (flag(root, "do_resize")?, get(root, "size")) {
        (false, _) => ResizeRule::Off,
        (true, None) => it.resize,
        (true, Some(Value::Object(size))) => {
            let set = |key| get(size, key).map(|v| side(key, v)).transpose();
            match (set("shortest_edge")?, set("height")?, set("width")?, set("longest_edge")?) {
                (Some(n), None, None, None) => ResizeRule::ShortestEdge(n),
                (None, Some(h), Some(w), None) => ResizeRule::Squash(h, w),
                _ => {
                    return Err(format!(
                        "`size` is {}: expected shortest_edge, or height and width",
                        Value::from(size.clone())
                    ));
                }
            }
        }
        (true, Some(Value::Array(pair))) => pair_of_sides("size", pair).map(|(h, w)| ResizeRule::Squash(h, w))?,
        (true, Some(n)) => ResizeRule::ShortestEdge(side("size", n)?),
    };
    it.crop_size = match (flag(root, "do_center_crop")?, get(root, "crop_size")) {
        (false, _) => None,
        (true, None) => it.crop_size,
        (true, Some(Value::Object(size))) => {
            let set = |key| get(size, key).ok_or(format!("`crop_size` lacks `{key}`")).and_then(|v| side(key, v));
            Some((set("height")?, set("width")?))
        }
        (true, Some(Value::Array(pair))) => Some(pair_of_sides("crop_size", pair)?),
        (true, Some(n)) => side("crop_size", n).map(|n| Some((n, n)))?,
    };
    it.filter = match get(root, "resample").map(|v| v.as_u64()) {
        None | Some(Some(3)) => Filter::Bicubic,
        Some(Some(2)) => Filter::Bilinear,
        Some(_) => return Err("`resample` must be 2 (bilinear) or 3 (bicubic)".into()),
    };
    if !flag(root, "do_rescale")? {
        it.rescale = 1.0;
    } else if let Some(factor) = get(root, "rescale_factor") {
        let factor = factor.as_f64().filter(|f| f.is_finite() && *f > 0.0);
        it.rescale = factor.ok_or("`rescale_factor` must be a positive number")?;
    }
    if !flag(root, "do_normalize")? {
        (it.mean, it.std) = ([0.0; 3], [1.0; 3]);
    } else {
        statistics(root, ["image_mean", "image_std"], &mut it)?;
    }
    Ok(it)
}

fn parse_open_clip(json: &Value) -> Result<Preprocess, String> {
    let none = Map::new();
    let settings = match json.get("preprocess_cfg") {
        None | Some(Value::Null) => &none,
        Some(value) => value.as_object().ok_or("`preprocess_cfg` is not an object")?,
    };
    let known = ["mean", "std", "interpolation", "resize_mode", "fill_color", "size", "mode"];
    if let Some(key) = settings.keys().find(|k| !known.contains(&k.as_str())) {
        return Err(format!("unknown setting `preprocess_cfg.{key}`, which may change the pixels"));
    }
    let size = get(settings, "size").or_else(|| json.pointer("/model_cfg/vision_cfg/image_size"));
    let (height, width) = match size {
        None => (224, 224),
        Some(Value::Array(pair)) => match pair.as_slice() {
            // `size` may be (channels, height, width).
            [_, rest @ ..] if rest.len() == 2 => pair_of_sides("size", rest)?,
            _ => pair_of_sides("image_size", pair)?,
        },
        Some(n) => side("image_size", n).map(|n| (n, n))?,
    };
    let mut it = Preprocess { crop: CropRule::TorchvisionRound, ..Preprocess::default() };
    it.crop_size = Some((height, width));
    let text = |key: &str, default| get(settings, key).map_or(Some(default), Value::as_str);
    (it.resize, it.crop_size) = match text("resize_mode", "shortest") {
        Some("shortest") if height == width => (ResizeRule::ShortestEdge(height), it.crop_size),
        Some("shortest") => {
            return Err("`resize_mode` shortest with inputs that are not square is not supported".into());
        }
        Some("longest") => (ResizeRule::LongestEdge(height, width), it.crop_size),
        Some("squash") => (ResizeRule::Squash(height, width), None),
        _ => return Err("`preprocess_cfg.resize_mode` must be shortest, longest or squash".into()),
    };
    it.filter = match text("interpolation", "bicubic") {
        Some("bicubic") => Filter::Bicubic,
        Some("bilinear") => Filter::Bilinear,
        _ => return Err("`preprocess_cfg.interpolation` must be bicubic or bilinear".into()),
    };
    if text("mode", "RGB") != Some("RGB") {
        return Err("`preprocess_cfg.mode` must be RGB".into());
    }
    // The fill colour is seen only where a crop is padded.
    let fill = get(settings, "fill_color");
    if it.resize == ResizeRule::LongestEdge(height, width) && fill.is_some_and(|v| v.as_f64() != Some(0.0)) {
        return Err("`preprocess_cfg.fill_color` other than 0 is not supported".into());
    }
    statistics(settings, ["mean", "std"], &mut it)?;
    Ok(it)
}

/// A setting that is there and not null.
fn get<'a>(map: &'a Map<String, Value>, key: &str) -> Option<&'a Value> {
    map.get(key).filter(|v| !v.is_null())
}

/// A flag that is true unless the file says otherwise.
fn flag(map: &Map<String, Value>, key: &str) -> Result<bool, String> {
    get(map, key).map_or(Some(true), Value::as_bool).ok_or(format!("`{key}` must be true or false"))
}

fn side(key: &str, value: &Value) -> Result<usize, String> {
    let n = value.as_u64().filter(|n| (1..=MAX_INPUT).contains(n));
    n.map(|n| n as usize).ok_or(format!("`{key}` is {value}: expected a whole number from 1 to {MAX_INPUT}"))
}

/// (height, width) from a list of two.
fn pair_of_sides(key: &str, pair: &[Value]) -> Result<(usize, usize), String> {
    match pair {
        [h, w] => Ok((side(key, h)?, side(key, w)?)),
        _ => Err(format!("`{key}` must be one number or two")),
    }
}

/// Mean and standard deviation, where they are given: three numbers, or one for all channels.
fn statistics(map: &Map<String, Value>, keys: [&str; 2], it: &mut Preprocess) -> Result<(), String> {
    for (key, slot) in keys.into_iter().zip([&mut it.mean, &mut it.std]) {
        let Some(value) = get(map, key) else { continue };
        let numbers: Option<Vec<f64>> = match value {
            Value::Array(list) => list.iter().map(Value::as_f64).collect(),
            one => one.as_f64().map(|v| vec![v; 3]),
        };
        let numbers = numbers.and_then(|n| <[f64; 3]>::try_from(n).ok());
        *slot = numbers.filter(|n| n.iter().all(|v| v.is_finite())).ok_or(format!("`{key}` must be three numbers"))?;
    }
    // They divide in f32.
    if it.std.iter().any(|&v| v as f32 <= 0.0) {
        return Err(format!("`{}` must be positive", keys[1]));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn hf(json: Value) -> Result<Preprocess, String> {
        parse_hf(&json)
    }

    #[test]
    fn every_historic_shape_of_the_sizes_means_the_same() {
        let at_336 = Preprocess::clip(336);
        for (size, crop) in [
            (json!(336), json!(336)),
            (json!({"shortest_edge": 336}), json!({"height": 336, "width": 336})),
            (json!({"shortest_edge": 336, "longest_edge": null}), json!([336, 336])),
        ] {
            let settings = json!({"feature_extractor_type": "CLIPFeatureExtractor", "size": size, "crop_size": crop,
                "resample": 3, "do_resize": true, "image_mean": [0.48145466, 0.4578275, 0.40821073]});
            assert_eq!(hf(settings.clone()).unwrap(), at_336);
            assert_eq!(hf(json!({"image_processor": settings})).unwrap(), at_336);
        }
        assert_eq!(hf(json!({})).unwrap(), Preprocess::default());
        let squash = hf(json!({"size": {"height": 32, "width": 48}, "do_center_crop": false})).unwrap();
        assert_eq!((squash.resize, squash.crop_size), (ResizeRule::Squash(32, 48), None));
    }

    #[test]
    fn switches_and_numbers_act() {
        let it = hf(json!({"do_rescale": false, "do_normalize": false, "do_resize": false, "resample": 2})).unwrap();
        assert_eq!((it.rescale, it.mean, it.std), (1.0, [0.0; 3], [1.0; 3]));
        assert_eq!((it.resize, it.filter), (ResizeRule::Off, Filter::Bilinear));
        assert_eq!(hf(json!({"image_std": 0.5})).unwrap().std, [0.5; 3]);
    }

    #[test]
    fn what_is_not_understood_is_refused_by_name() {
        for (settings, word) in [
            (json!({"do_pad": true}), "do_pad"),
            (json!({"image_processor_type": "SiglipImageProcessor"}), "SiglipImageProcessor"),
            (json!({"resample": 1}), "resample"),
            (json!({"size": {"longest_edge": 224}}), "size"),
            (json!({"size": 0}), "size"),
            (json!({"size": 1e9}), "size"),
            (json!({"crop_size": {"height": 224}}), "width"),
            (json!({"image_std": [0.5, 0.5]}), "image_std"),
            (json!({"image_std": [0.5, 0.0, 0.5]}), "image_std"),
            (json!({"rescale_factor": "x"}), "rescale_factor"),
            (json!({"do_resize": 1}), "do_resize"),
            (json!([]), "object"),
        ] {
            let error = hf(settings.clone()).unwrap_err();
            assert!(error.contains(word), "{settings}: {error}");
        }
        assert!(hf(json!({"do_pad": false, "pad_size": null})).is_ok());
    }

    #[test]
    fn open_clip_modes() {
        let parse =
            |p: Value| parse_open_clip(&json!({"preprocess_cfg": p, "model_cfg": {"vision_cfg": {"image_size": 256}}}));
        let it = parse(json!({"mean": [0.5, 0.5, 0.5], "interpolation": "bilinear", "resize_mode": "squash"})).unwrap();
        assert_eq!((it.mean, it.filter, it.crop), ([0.5; 3], Filter::Bilinear, CropRule::TorchvisionRound));
        assert_eq!((it.resize, it.crop_size), (ResizeRule::Squash(256, 256), None));
        let it = parse(json!({})).unwrap();
        assert_eq!((it.resize, it.crop_size), (ResizeRule::ShortestEdge(256), Some((256, 256))));
        let it = parse(json!({"resize_mode": "longest", "fill_color": 0})).unwrap();
        assert_eq!(it.geometry(512, 100).unwrap().resized, (256, 50));
        for bad in [json!({"interpolation": "random"}), json!({"resize_mode": "x"}), json!({"new": 1}), json!(3)] {
            assert!(parse(bad.clone()).is_err(), "{bad}");
        }
    }
}
