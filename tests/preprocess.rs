//! Decoding and preprocessing against Pillow: fixtures of every pixel type, and golden values.

#![allow(clippy::unwrap_used, clippy::panic)] // The helpers here are tests too.

use std::path::{Path, PathBuf};

use serde_json::Value;
use sha2::{Digest, Sha256};
use vitscope::Error;
use vitscope::image::{
    CropRule, DecodeOptions, Filter, PassOrder, Preprocess, ResizeRule, Rgb8, Window, decode, decode_bytes, resize,
    resize_window,
};

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/images")
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

fn document(name: &str) -> Value {
    serde_json::from_str(&std::fs::read_to_string(fixtures().join(name)).unwrap()).unwrap()
}

fn pair(value: &Value) -> (usize, usize) {
    (value[0].as_u64().unwrap() as usize, value[1].as_u64().unwrap() as usize)
}

fn expected() -> Vec<(String, Value)> {
    document("expected.json")["files"].as_object().unwrap().iter().map(|(k, v)| (k.clone(), v.clone())).collect()
}

#[test]
fn a_moved_picture_repeats_its_last_column_and_row() {
    let picture = Rgb8::new(3, 2, (0..18).collect()).unwrap();
    let columns = |row: [u8; 3]| row.iter().flat_map(|&v| [v, v + 1, v + 2]).collect::<Vec<u8>>();
    assert_eq!(picture.moved(0, 0), picture);
    assert_eq!(picture.moved(2, 0).data, [columns([6, 6, 6]), columns([15, 15, 15])].concat());
    assert_eq!(picture.moved(1, 1).data, columns([12, 15, 15]).repeat(2));
    assert_eq!(picture.moved(9, 9).data, [15, 16, 17].repeat(6));
}

#[test]
fn every_pixel_type_decodes_as_pillow_converts_it() {
    let mut wrong = Vec::new();
    let upright = DecodeOptions { exif: true, ..Default::default() };
    for (name, entry) in expected() {
        let path = fixtures().join(&name);
        let picture = match decode(&path, &DecodeOptions::default()) {
            Ok(picture) => picture,
            Err(e) => {
                wrong.push(format!("{e}"));
                continue;
            }
        };
        let size = (picture.width, picture.height);
        if size != (entry["width"].as_u64().unwrap() as usize, entry["height"].as_u64().unwrap() as usize) {
            wrong.push(format!("{name}: size {size:?}"));
        } else if let Some(tolerance) = entry["tolerance"].as_u64() {
            let pillow = decode(fixtures().join(format!("{name}.expected.png")), &DecodeOptions::default()).unwrap();
            let worst = picture.data.iter().zip(&pillow.data).map(|(&a, &b)| a.abs_diff(b)).max().unwrap();
            if u64::from(worst) > tolerance {
                wrong.push(format!("{name}: differs by {worst} > {tolerance}"));
            }
        } else {
            if sha256(&picture.data) != entry["sha256"].as_str().unwrap() {
                wrong.push(format!("{name}: other pixels"));
            }
            if sha256(&decode(&path, &upright).unwrap().data) != entry["upright_sha256"].as_str().unwrap() {
                wrong.push(format!("{name}: other pixels with EXIF rotation"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// p(x, y, c) = (7x + 13y + 29c + (xy mod 31)) mod 256.
fn synthetic(width: usize, height: usize) -> Rgb8 {
    let value = |x: usize, y: usize, c: usize| ((7 * x + 13 * y + 29 * c + (x * y) % 31) % 256) as u8;
    let data = (0..height).flat_map(|y| (0..width).flat_map(move |x| (0..3).map(move |c| value(x, y, c)))).collect();
    Rgb8::new(width, height, data).unwrap()
}

#[test]
fn golden_values_of_the_hugging_face_pipeline() {
    use PassOrder::{Pillow12, Pillow13};
    type Golden = ((usize, usize), PassOrder, (usize, usize), (i64, i64), u64, &'static str, [u8; 3], [u8; 3]);
    #[rustfmt::skip]
    let golden: [Golden; 7] = [
        ((640, 480), Pillow12, (298, 224), (37, 0), 19193349, "ce8bc92abe5138c2", [64, 93, 122], [243, 67, 44]),
        ((640, 480), Pillow13, (298, 224), (37, 0), 19193349, "ce8bc92abe5138c2", [64, 93, 122], [243, 67, 44]),
        ((100, 80), Pillow12, (280, 224), (28, 0), 19223582, "cebb31bef0a6f660", [66, 95, 124], [7, 52, 81]),
        ((225, 301), Pillow12, (224, 299), (0, 37), 19192679, "29f4f584b52dae75", [228, 203, 30], [185, 214, 164]),
        ((224, 224), Pillow13, (224, 224), (0, 0), 19185892, "1eeb915e8054523f", [0, 29, 58], [212, 241, 14]),
        ((333, 999), Pillow12, (224, 672), (0, 224), 19189240, "ef500fd304c24a1d", [172, 27, 48], [121, 150, 179]),
        ((333, 999), Pillow13, (224, 672), (0, 224), 19189486, "c79beeeec32e4eff", [172, 27, 49], [122, 151, 180]),
    ];
    for ((w, h), pass_order, resized, offset, sum, hash, first, inner) in golden {
        let preprocess = Preprocess { pass_order, ..Preprocess::default() };
        let geometry = preprocess.geometry(w, h).unwrap();
        assert_eq!((geometry.resized, geometry.offset, geometry.size), (resized, offset, (224, 224)), "{w} x {h}");
        let prepared = preprocess.apply(&synthetic(w, h)).unwrap();
        assert_eq!(prepared.cropped.data.iter().map(|&v| u64::from(v)).sum::<u64>(), sum, "{w} x {h}");
        assert_eq!(&sha256(&prepared.cropped.data)[..16], hash, "{w} x {h} {pass_order:?}");
        assert_eq!(prepared.cropped.get(0, 0), Some(first));
        assert_eq!(prepared.cropped.get(77, 111), Some(inner));
        if (w, h) == (640, 480) {
            let plane = 224 * 224;
            let pixels = prepared.pixels();
            let found = [pixels[0], pixels[plane], pixels[2 * plane]];
            assert_eq!(found.map(|v| format!("{v:.7}")), ["-0.8579632", "-0.3563747", "0.2546283"]);
        }
    }
}

#[test]
fn resizing_is_pillows_to_the_bit_in_both_orders() {
    let document = document("resize.json");
    let mut differ = 0;
    for (key, order) in [("pillow12", PassOrder::Pillow12), ("pillow13", PassOrder::Pillow13)] {
        let cases = document[key].as_array().unwrap();
        assert_eq!(cases.len(), 28);
        for (i, case) in cases.iter().enumerate() {
            let filter = if case["filter"] == "bicubic" { Filter::Bicubic } else { Filter::Bilinear };
            let ((w, h), (tw, th)) = (pair(&case["from"]), pair(&case["to"]));
            let resized = resize(&synthetic(w, h), tw, th, filter, order).unwrap();
            assert_eq!((resized.width, resized.height), (tw, th));
            assert_eq!(sha256(&resized.data), case["sha256"].as_str().unwrap(), "{case}");
            differ += usize::from(case["sha256"] != document["pillow12"][i]["sha256"]);
        }
    }
    assert!(differ > 0, "no case tells the two orders apart");
}

#[test]
fn a_window_has_the_bytes_of_the_whole() {
    let picture = synthetic(90, 301);
    for order in [PassOrder::Pillow12, PassOrder::Pillow13] {
        for to in [(45, 77), (90, 77), (45, 301), (130, 400)] {
            let whole = resize(&picture, to.0, to.1, Filter::Bicubic, order).unwrap();
            let window = Window { x: 7..40, y: 20..71 };
            let part = resize_window(&picture, to, window, Filter::Bicubic, order).unwrap();
            for y in 0..part.height {
                for x in 0..part.width {
                    assert_eq!(part.get(x, y), whole.get(x + 7, y + 20), "{to:?} {order:?} {x} {y}");
                }
            }
        }
    }
}

#[test]
fn the_processor_of_transformers_gives_the_same_floats() {
    let document = document("processor.json");
    let cases = document["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 30);
    for case in cases {
        let preprocess = Preprocess::from_hf_json(Path::new("preprocessor_config.json"), &case["settings"]).unwrap();
        let (w, h) = pair(&case["from"]);
        let prepared = preprocess.apply(&synthetic(w, h)).unwrap();
        assert_eq!(case["shape"], serde_json::json!([3, prepared.height, prepared.width]), "{case}");
        let bytes: Vec<u8> = prepared.pixels().iter().flat_map(|v| v.to_le_bytes()).collect();
        assert_eq!(sha256(&bytes), case["sha256"].as_str().unwrap(), "{case}");
    }
}

#[test]
fn torchvision_rounds_the_crop_half_to_even() {
    let at = |crop, side| {
        let resize = ResizeRule::Off;
        let preprocess = Preprocess { resize, crop, crop_size: Some((224, 224)), ..Preprocess::default() };
        preprocess.geometry(side, 224).unwrap().offset.0
    };
    let sides = [225, 227, 229, 298, 221, 224];
    assert_eq!(sides.map(|n| at(CropRule::HfFloor, n)), [0, 1, 2, 37, -2, 0]);
    assert_eq!(sides.map(|n| at(CropRule::TorchvisionRound, n)), [0, 2, 2, 37, -1, 0]);
}

#[test]
fn whole_image_mode_rounds_to_the_nearest_patch() {
    let keep = Preprocess::default().keep(16);
    for ((w, h), size) in [((640, 480), (640, 480)), ((647, 488), (640, 496)), ((3, 100), (16, 96))] {
        let geometry = keep.geometry(w, h).unwrap();
        assert_eq!((geometry.size, geometry.resized, geometry.offset), (size, size, (0, 0)));
        assert_eq!((geometry.region.width, geometry.region.height), (w as f64, h as f64));
    }
}

#[test]
fn the_region_is_the_crop_in_pixels_of_the_original() {
    let geometry = Preprocess::default().geometry(640, 480).unwrap();
    let scale = 480.0 / 224.0;
    assert!((geometry.region.left - 37.0 * 640.0 / 298.0).abs() < 1e-12);
    assert!((geometry.region.height - 224.0 * scale).abs() < 1e-12 && geometry.region.top == 0.0);
}

#[test]
fn truncated_and_giant_files_are_errors() {
    let refused = |bytes: &[u8], options: &DecodeOptions, what: &str| {
        let Err(error) = decode_bytes("x", bytes, options) else { panic!("{what} was decoded") };
        assert!(matches!(error, Error::Image { .. }), "{what}: {error:?}");
        assert_eq!(error.exit_code(), 1);
        error.to_string()
    };
    let any = DecodeOptions::default();
    for (name, _) in expected() {
        let bytes = std::fs::read(fixtures().join(&name)).unwrap();
        // Half of the animation still holds its first frame.
        let kept = bytes.len() / if name == "animated.gif" { 8 } else { 2 };
        refused(&bytes[..kept], &any, &name);
        let small = DecodeOptions { max_pixels: 16, ..any };
        refused(&bytes, &small, &name);
    }
    refused(b"", &any, "empty");
    refused(b"<svg/>", &any, "unknown");

    // Headers that claim 65535 or 2^31 - 1 pixels a side, over a few bytes of data.
    let patched = |name: &str, patches: &[(usize, &[u8])]| {
        let mut bytes = std::fs::read(fixtures().join(name)).unwrap();
        patches.iter().for_each(|(at, value)| bytes[*at..at + value.len()].copy_from_slice(value));
        bytes
    };
    let jpeg = std::fs::read(fixtures().join("rgb.jpg")).unwrap();
    let frame = jpeg.windows(2).position(|w| w == [0xFF, 0xC0]).unwrap() + 5;
    for bytes in [
        patched("rgb.jpg", &[(frame, &[0xFF; 4])]),
        patched("rgb.bmp", &[(18, &i32::MAX.to_le_bytes()), (22, &i32::MAX.to_le_bytes())]),
        patched("palette.gif", &[(6, &[0xFF; 4])]),
    ] {
        refused(&bytes, &any, "giant");
    }
    let missing = decode(fixtures().join("none.png"), &any).unwrap_err();
    assert!(matches!(missing, Error::Io { .. }));
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig { cases: 400, failure_persistence: None, ..Default::default() })]

    /// Whatever bytes are changed: a picture within the limit or a named error, and never a panic that gets out.
    #[test]
    fn mutated_files_never_panic(
        which in 0usize..1000,
        edits in proptest::collection::vec((0usize..1 << 20, 0u8..=255), 1..8),
        cut in proptest::option::of(0usize..1 << 20),
    ) {
        let names = expected();
        let mut bytes = std::fs::read(fixtures().join(&names[which % names.len()].0)).unwrap();
        let length = bytes.len();
        edits.iter().for_each(|(at, value)| bytes[at % length] = *value);
        bytes.truncate(cut.map_or(length, |n| n % length));
        match decode_bytes("mutated", &bytes, &DecodeOptions { max_pixels: 1 << 20, exif: true }) {
            Ok(picture) => assert_eq!(picture.data.len(), picture.width * picture.height * 3),
            Err(error) => assert!(matches!(error, Error::Image { .. })),
        }
    }
}
