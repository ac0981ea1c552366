//! The bundled model: a small CLIP that knows 253 emoji, its tokenizer and a few pictures, embedded in the program.
//!
//! `tools/train_demo.py` makes all files of this folder but this one. `README.md` beside it is the model card.

use serde_json::Value;

use crate::{
    Error, Result,
    text::Tokenizer,
    weights::{ClipCheckpoint, SaeWeights},
};

/// What the model is called where a path would stand.
pub const LABEL: &str = "demo";

/// The text that stands for a place where nothing is. The model has been trained on it.
pub const BACKGROUND: &str = "a background";

/// What the model knows.
pub fn vocabulary() -> impl Iterator<Item = &'static str> {
    include_str!("concepts.txt").lines()
}

/// A picture with several things in it.
#[derive(Clone, Copy, Debug)]
pub struct Scene {
    /// Its name.
    pub name: &'static str,
    /// The picture, as a PNG file.
    pub png: &'static [u8],
    /// A text for each thing in it.
    pub prompts: &'static [&'static str],
}

/// The pictures. `scenes.json` says where each thing lies.
pub const SCENES: &[Scene] = &[
    Scene {
        name: "picnic",
        png: include_bytes!("picnic.png"),
        prompts: &["a photo of a cat", "a photo of a pizza", "a photo of an umbrella", "a photo of a banana"],
    },
    Scene {
        name: "street",
        png: include_bytes!("street.png"),
        prompts: &["a photo of a car", "a photo of a dog", "a photo of a guitar", "a photo of a traffic light"],
    },
    Scene {
        name: "space",
        png: include_bytes!("space.png"),
        prompts: &["a photo of a rocket", "a photo of a flying saucer", "a photo of the moon", "a photo of the earth"],
    },
    Scene {
        name: "kitchen",
        png: include_bytes!("kitchen.png"),
        prompts: &[
            "a photo of a strawberry",
            "a photo of a pineapple",
            "a photo of a birthday cake",
            "a photo of a butterfly",
        ],
    },
];

/// The model. Its weights stay where the program holds them.
///
/// # Errors
/// None but for a program that was built from damaged files.
pub fn checkpoint() -> Result<ClipCheckpoint> {
    let config = json("config.json", include_bytes!("config.json"))?;
    let preprocess = json("preprocessor_config.json", include_bytes!("preprocessor_config.json"))?;
    let weights: &[u8] = include_bytes!("model.safetensors");
    ClipCheckpoint::from_bytes(LABEL, &config, Some(preprocess), weights)
}

/// An SAE of the model, trained by vitscope.
struct DemoSae {
    name: &'static str,
    config: &'static [u8],
    weights: &'static [u8],
}

/// The first is what `demo` alone means.
const SAES: &[DemoSae] = &[
    DemoSae {
        name: "demo:layer4",
        config: include_bytes!("layer4/cfg.json"),
        weights: include_bytes!("layer4/sae_weights.safetensors"),
    },
    DemoSae {
        name: "demo:layer3",
        config: include_bytes!("layer3/cfg.json"),
        weights: include_bytes!("layer3/sae_weights.safetensors"),
    },
];

/// A bundled SAE: `demo`, `demo:layer4` or `demo:layer3`.
///
/// # Errors
/// [`Error::Usage`] for another name.
pub fn sae(name: &str) -> Result<SaeWeights> {
    let wanted = SAES.iter().find(|sae| name == LABEL || sae.name == name).ok_or_else(|| {
        let names: Vec<&str> = SAES.iter().map(|sae| sae.name).collect();
        Error::usage(format!("no bundled SAE `{name}`: there are {}", names.join(", ")))
    })?;
    SaeWeights::from_bytes(wanted.name, &json("cfg.json", wanted.config)?, wanted.weights)
}

/// Its tokenizer.
///
/// # Errors
/// As [`checkpoint`].
pub fn tokenizer() -> Result<Tokenizer> {
    Tokenizer::from_bytes("demo/tokenizer.json", include_bytes!("tokenizer.json"))
}

fn json(name: &str, bytes: &[u8]) -> Result<Value> {
    serde_json::from_slice(bytes).map_err(|error| Error::file(format!("{LABEL}/{name}"), error.to_string()))
}
