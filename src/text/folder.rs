//! A tokenizer from a Hugging Face folder: tokenizer.json, or vocab.json and merges.txt.
//!
//! Everything is checked before it is given to the `tokenizers` crate, which trusts its input.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::{Map, Value};
use tokenizers::models::bpe::Vocab;
use tokenizers::{AddedToken, PostProcessorWrapper, Tokenizer as Pipeline};

use super::bundled::{self, EOT, SOT};
use crate::{Error, Result};

/// Larger files are no tokenizers; the largest published ones have some 30 MB.
const LARGEST: u64 = 256 << 20;

/// A pipeline and the ids around a text.
pub(super) struct Loaded {
    pub source: PathBuf,
    pub pipeline: Pipeline,
    pub sot: u32,
    pub eot: u32,
    pub pad: u32,
}

/// Loads the tokenizer of `folder`. None if it holds neither tokenizer.json nor vocab.json nor merges.txt.
pub(super) fn load(folder: &Path) -> Result<Option<Loaded>> {
    let [whole, vocab, merges] = ["tokenizer.json", "vocab.json", "merges.txt"].map(|name| folder.join(name));
    let specials = Specials::read(folder)?;
    if whole.exists() {
        let pipeline = from_whole(&whole, &read(&whole)?)?;
        loaded(whole, pipeline, &specials).map(Some)
    } else if vocab.exists() || merges.exists() {
        let pipeline = from_parts(&vocab, &merges, &specials)?;
        loaded(vocab, pipeline, &specials).map(Some)
    } else {
        Ok(None)
    }
}

/// The tokenizer of a tokenizer.json in memory.
pub(super) fn embedded(source: &str, whole: &[u8]) -> Result<Loaded> {
    let source = PathBuf::from(source);
    let pipeline = from_whole(&source, whole)?;
    loaded(source, pipeline, &Specials::default())
}

/// Finds the ids around a text.
fn loaded(source: PathBuf, mut pipeline: Pipeline, specials: &Specials) -> Result<Loaded> {
    let wrong = |what: &str| Error::file(&source, format!("the vocabulary has no {what} token"));
    let around = pipeline.encode_fast("", true).map_err(|error| Error::file(&source, error.to_string()))?;
    let around = <[u32; 2]>::try_from(around.get_ids()).ok();
    // A name from the folder decides, then what the file itself puts around a text, then the published names.
    let id = |given: &Option<AddedToken>, own: Option<u32>, published: &str| match given {
        Some(token) => pipeline.token_to_id(&token.content),
        None => own.or_else(|| pipeline.token_to_id(published)),
    };
    let sot = id(&specials.bos, around.map(|ids| ids[0]), SOT).ok_or_else(|| wrong("start-of-text"))?;
    let eot = id(&specials.eos, around.map(|ids| ids[1]), EOT).ok_or_else(|| wrong("end-of-text"))?;
    let pad = id(&specials.pad, Some(eot), EOT).ok_or_else(|| wrong("padding"))?;
    pipeline.with_post_processor(None::<PostProcessorWrapper>);
    Ok(Loaded { source, pipeline, sot, eot, pad })
}

/// Reads tokenizer.json with its own cleaning and splitting. Its truncation, padding and decoder are not used.
fn from_whole(path: &Path, bytes: &[u8]) -> Result<Pipeline> {
    /// The part of the file that has to be checked.
    #[derive(Deserialize)]
    struct Model {
        #[serde(rename = "type")]
        kind: Option<String>,
        vocab: HashMap<String, u32>,
        #[serde(default)]
        merges: Vec<Merge>,
        continuing_subword_prefix: Option<String>,
        dropout: Option<f32>,
    }
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Merge {
        Line(String),
        Pair(String, String),
    }

    let wrong = |reason: String| Error::file(path, reason);
    let mut whole: Map<String, Value> = serde_json::from_slice(bytes).map_err(|error| wrong(error.to_string()))?;
    for unused in ["truncation", "padding", "decoder"] {
        whole.remove(unused);
    }
    let model = whole.get("model").ok_or_else(|| wrong("`model` is missing".into()))?;
    let model = Model::deserialize(model).map_err(|error| wrong(format!("model: {error}")))?;
    if let Some(kind) = model.kind.filter(|kind| kind != "BPE") {
        return Err(wrong(format!("expected a tokenizer model of type BPE, found {kind}")));
    }
    if model.continuing_subword_prefix.is_some_and(|prefix| !prefix.is_empty()) {
        return Err(wrong("a continuing_subword_prefix is not used by any CLIP".into()));
    }
    if model.dropout.is_some_and(|dropout| dropout != 0.0) {
        return Err(wrong("with dropout the token ids would be random".into()));
    }
    if whole.get("normalizer").is_some_and(is_precompiled) {
        return Err(wrong("a SentencePiece normalizer (Precompiled) is not used by any CLIP".into()));
    }
    let mut merges = Vec::with_capacity(model.merges.len());
    for merge in model.merges {
        merges.push(match merge {
            Merge::Pair(a, b) => (a, b),
            Merge::Line(line) => pair(&line).ok_or_else(|| wrong(format!("merge `{line}` is not two tokens")))?,
        });
    }
    check(path, &model.vocab, path, &merges)?;
    let added = whole.get("added_tokens").cloned().unwrap_or_default();
    let pipeline = Pipeline::from_bytes(Value::Object(whole).to_string()).map_err(|error| wrong(error.to_string()))?;
    // An added token that the vocabulary has under another id would silently get that one.
    for token in added.as_array().into_iter().flatten() {
        if let (Some(content), Some(id)) = (token["content"].as_str(), token["id"].as_u64())
            && let Some(found) = pipeline.token_to_id(content)
            && u64::from(found) != id
        {
            return Err(wrong(format!("added token `{content}`: expected id {found}, found {id}")));
        }
    }
    Ok(pipeline)
}

/// Whether a normalizer holds SentencePiece's tables, which the `tokenizers` crate does not check.
fn is_precompiled(normalizer: &Value) -> bool {
    let nested = normalizer.get("normalizers").and_then(Value::as_array);
    normalizer.get("precompiled_charsmap").is_some()
        || normalizer.get("type").is_some_and(|kind| kind == "Precompiled")
        || nested.is_some_and(|all| all.iter().any(is_precompiled))
}

/// Reads vocab.json and merges.txt, with the cleaning and splitting of transformers' CLIPTokenizer.
fn from_parts(vocab_path: &Path, merges_path: &Path, specials: &Specials) -> Result<Pipeline> {
    let vocab: HashMap<String, u32> =
        serde_json::from_slice(&read(vocab_path)?).map_err(|error| Error::file(vocab_path, error.to_string()))?;
    let text = String::from_utf8(read(merges_path)?).map_err(|error| Error::file(merges_path, error.to_string()))?;
    let mut merges = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        if line.starts_with("#version") || line.is_empty() {
            continue;
        }
        merges.push(
            pair(line).ok_or_else(|| Error::file(merges_path, format!("line {number}: `{line}` is not two tokens")))?,
        );
    }
    check(vocab_path, &vocab, merges_path, &merges)?;

    let published = |token: &Option<AddedToken>, name: &str| {
        token.clone().unwrap_or_else(|| AddedToken::from(name.to_owned(), true))
    };
    let unknown = published(&specials.unk, EOT);
    let special =
        [published(&specials.bos, SOT), published(&specials.eos, EOT), unknown.clone(), published(&specials.pad, EOT)];
    // A special token that is not in the vocabulary would silently get a new id, beyond the model's embedding.
    for token in &special {
        if !vocab.contains_key(&token.content) {
            return Err(Error::file(vocab_path, format!("the special token `{}` is missing", token.content)));
        }
    }
    let vocab: Vocab = vocab.into_iter().collect();
    bundled::huggingface(vocab, merges, &unknown.content, &special)
        .map_err(|error| Error::file(vocab_path, error.to_string()))
}

/// The two tokens of a merge line.
fn pair(line: &str) -> Option<(String, String)> {
    let (a, b) = line.split_once(' ')?;
    (!a.is_empty() && !b.is_empty() && !b.contains(' ')).then(|| (a.to_owned(), b.to_owned()))
}

/// Every id belongs to one token, and every merge joins two tokens of the vocabulary to a third.
fn check(
    vocab_path: &Path,
    vocab: &HashMap<String, u32>,
    merges_path: &Path,
    merges: &[(String, String)],
) -> Result<()> {
    if vocab.is_empty() {
        return Err(Error::file(vocab_path, "the vocabulary is empty"));
    }
    let mut tokens = HashMap::with_capacity(vocab.len());
    for (token, &id) in vocab {
        if let Some(other) = tokens.insert(id, token) {
            let (a, b) = if other < token { (other, token) } else { (token, other) };
            return Err(Error::file(vocab_path, format!("the tokens `{a}` and `{b}` have the same id {id}")));
        }
    }
    for (number, (a, b)) in (1..).zip(merges) {
        for token in [a, b, &format!("{a}{b}")] {
            if !vocab.contains_key(token) {
                let reason = format!("merge {number}, `{a} {b}`: `{token}` is not in the vocabulary");
                return Err(Error::file(merges_path, reason));
            }
        }
    }
    Ok(())
}

/// The special tokens that a folder's tokenizer_config.json and special_tokens_map.json name, if it has them.
#[derive(Default)]
struct Specials {
    bos: Option<AddedToken>,
    eos: Option<AddedToken>,
    unk: Option<AddedToken>,
    pad: Option<AddedToken>,
}

impl Specials {
    fn read(folder: &Path) -> Result<Self> {
        let mut files = Vec::new();
        for name in ["tokenizer_config.json", "special_tokens_map.json"] {
            let path = folder.join(name);
            if path.exists() {
                let value: Value =
                    serde_json::from_slice(&read(&path)?).map_err(|error| Error::file(&path, error.to_string()))?;
                files.push((path, value));
            }
        }
        let find = |key: &str| {
            for (path, value) in &files {
                let named = match value.get(key) {
                    None | Some(Value::Null) => continue,
                    Some(Value::String(name)) => Some(AddedToken::from(name.clone(), true)),
                    Some(token) => described(token),
                };
                return match named {
                    Some(token) => Ok(Some(token)),
                    None => Err(Error::file(path, format!("`{key}` is neither a name nor a token"))),
                };
            }
            Ok(None)
        };
        Ok(Self { bos: find("bos_token")?, eos: find("eos_token")?, unk: find("unk_token")?, pad: find("pad_token")? })
    }
}

/// A token that is written as an object: its content and how it is found in a text.
fn described(token: &Value) -> Option<AddedToken> {
    let flag = |name| token.get(name).and_then(Value::as_bool).unwrap_or(false);
    Some(AddedToken {
        content: token.get("content")?.as_str()?.to_owned(),
        single_word: flag("single_word"),
        lstrip: flag("lstrip"),
        rstrip: flag("rstrip"),
        normalized: flag("normalized"),
        special: true,
    })
}

fn read(path: &Path) -> Result<Vec<u8>> {
    let size = std::fs::metadata(path).map_err(|error| Error::io(path, error))?.len();
    if size > LARGEST {
        return Err(Error::file(path, format!("expected a tokenizer file, found {size} bytes")));
    }
    std::fs::read(path).map_err(|error| Error::io(path, error))
}
