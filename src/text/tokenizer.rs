//! The tokenizer: a text to the ids that the text tower reads.

use std::path::{Path, PathBuf};

use tokenizers::{Model, OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer, Tokenizer as Pipeline};

use super::bundled::{self, EOT, SOT};
use super::clean::{self, Cleaning};
use super::folder::{self, Loaded};
use crate::{Error, Result};

/// Byte-level BPE with the tokens that CLIP puts around a text.
#[derive(Debug)]
pub struct Tokenizer {
    source: PathBuf,
    pipeline: Pipeline,
    cleaning: Cleaning,
    sot: u32,
    eot: u32,
    pad: u32,
    /// One above the largest id.
    end: usize,
}

/// A text as token ids.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Encoded {
    /// `(context)`: start of text, the text, end of text, padding.
    pub ids: Vec<u32>,
    /// How many ids come before the padding, start and end of text included.
    pub len: usize,
    /// The text was longer than the context and lost its end.
    pub truncated: bool,
}

impl Tokenizer {
    /// The published CLIP vocabulary of 49 408 tokens, for a checkpoint that brings none.
    ///
    /// Texts are padded with 0 under [`Cleaning::OpenAi`] and with the end-of-text token under [`Cleaning::HuggingFace`],
    /// as the programs named there do.
    pub fn bundled(cleaning: Cleaning) -> Result<Self> {
        let source = PathBuf::from(bundled::SOURCE);
        let pipeline = bundled::pipeline(cleaning).map_err(|error| Error::file(&source, error.to_string()))?;
        let id = |token| {
            pipeline.token_to_id(token).ok_or_else(|| Error::file(&source, format!("the token `{token}` is missing")))
        };
        let (sot, eot) = (id(SOT)?, id(EOT)?);
        let pad = match cleaning {
            Cleaning::OpenAi => 0,
            Cleaning::HuggingFace => eot,
        };
        Ok(Self::new(cleaning, Loaded { source, pipeline, sot, eot, pad }))
    }

    /// The tokenizer of a Hugging Face folder: tokenizer.json, or else vocab.json and merges.txt. The names of the special
    /// tokens are read from tokenizer_config.json and special_tokens_map.json where they are present.
    ///
    /// `Ok(None)` if the folder brings no tokenizer. A damaged one is an [`Error::File`] that names its file.
    pub fn open(folder: &Path) -> Result<Option<Self>> {
        Ok(folder::load(folder)?.map(|loaded| Self::new(Cleaning::HuggingFace, loaded)))
    }

    /// The tokenizer of a tokenizer.json that is already in memory, such as the one embedded in the program. `label` stands
    /// for its path in errors.
    ///
    /// # Errors
    /// [`Error::File`] if it is damaged.
    pub fn from_bytes(label: &str, tokenizer_json: &[u8]) -> Result<Self> {
        Ok(Self::new(Cleaning::HuggingFace, folder::embedded(label, tokenizer_json)?))
    }

    fn new(cleaning: Cleaning, loaded: Loaded) -> Self {
        let Loaded { source, pipeline, sot, eot, pad } = loaded;
        let end = pipeline.get_vocab(true).into_values().max().map_or(0, |id| id as usize + 1);
        Self { source, pipeline, cleaning, sot, eot, pad, end }
    }

    /// The file it was read from, or the words "bundled CLIP vocabulary".
    pub fn source(&self) -> &Path {
        &self.source
    }

    /// The cleaning rule. Under [`Cleaning::HuggingFace`] a tokenizer.json may bring its own cleaning, which is then used.
    pub fn cleaning(&self) -> Cleaning {
        self.cleaning
    }

    /// How many tokens there are.
    pub fn vocab_size(&self) -> usize {
        self.pipeline.get_vocab_size(true)
    }

    /// The start-of-text id.
    pub fn sot(&self) -> u32 {
        self.sot
    }

    /// The end-of-text id.
    pub fn eot(&self) -> u32 {
        self.eot
    }

    /// The padding id.
    pub fn pad(&self) -> u32 {
        self.pad
    }

    /// That every id fits a token embedding of `max` rows, else an [`Error::File`] that names the tokenizer.
    pub fn check_vocabulary(&self, max: usize) -> Result<()> {
        if self.end <= max {
            return Ok(());
        }
        let last = self.end - 1;
        Err(Error::file(&self.source, format!("does not fit the model: token id {last}, vocabulary of {max} tokens")))
    }

    /// Start of text, the tokens of `text`, end of text, cut to `context` ids (the last one becomes the end of text) or
    /// padded to them. The context is at least 2.
    pub fn encode(&self, text: &str, context: usize) -> Result<Encoded> {
        if context < 2 {
            return Err(Error::usage(format!(
                "a context of {context} has no room for the start and the end of a text"
            )));
        }
        let tokens = match self.cleaning {
            Cleaning::OpenAi => self.openai_tokens(text),
            Cleaning::HuggingFace => self.pipeline.encode_fast(text, false).map(|encoding| encoding.get_ids().to_vec()),
        };
        let tokens = tokens.map_err(|error| Error::file(&self.source, format!("text `{text}`: {error}")))?;
        let kept = tokens.len().min(context - 2);
        let mut ids = Vec::with_capacity(context);
        ids.push(self.sot);
        ids.extend(&tokens[..kept]);
        ids.push(self.eot);
        let len = ids.len();
        ids.resize(context, self.pad);
        Ok(Encoded { ids, len, truncated: kept < tokens.len() })
    }

    /// The tokens of a text as openai/CLIP finds them: a special token is one only where it stands as a word of its own.
    fn openai_tokens(&self, text: &str) -> tokenizers::Result<Vec<u32>> {
        let mut words = PreTokenizedString::from(clean::openai(text));
        if let Some(splitter) = self.pipeline.get_pre_tokenizer() {
            splitter.pre_tokenize(&mut words)?;
        }
        let mut ids = Vec::new();
        for (word, ..) in words.get_splits(OffsetReferential::Normalized, OffsetType::None) {
            match word {
                SOT => ids.push(self.sot),
                EOT => ids.push(self.eot),
                _ => ids.extend(self.pipeline.get_model().tokenize(word)?.iter().map(|token| token.id)),
            }
        }
        Ok(ids)
    }

    /// The vocabulary's strings for `ids`, for display: bytes as their symbols, `</w>` at the end of a word, and `#id` for
    /// an id that is not in the vocabulary.
    pub fn tokens(&self, ids: &[u32]) -> Vec<String> {
        ids.iter().map(|&id| self.pipeline.id_to_token(id).unwrap_or_else(|| format!("#{id}"))).collect()
    }
}

/// At which token the text tower is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EotPooling {
    /// At the first of the largest ids (openai/CLIP, open_clip, and transformers' older configurations).
    ArgMax,
    /// At the first token with this id (transformers).
    First(u32),
}

impl EotPooling {
    /// The rule of transformers for a text configuration's `eos_token_id`: 2 stands in all configurations that were
    /// written before the id was in use, and means [`EotPooling::ArgMax`].
    pub fn of_config(eos_token_id: u32) -> Self {
        if eos_token_id == 2 { Self::ArgMax } else { Self::First(eos_token_id) }
    }

    /// The position in `ids`. An [`Error::Usage`] if there is none: no ids, or no such id among them (where transformers
    /// would silently read the first token).
    pub fn position(&self, ids: &[u32]) -> Result<usize> {
        match self {
            Self::ArgMax => {
                let largest = ids.iter().max().ok_or_else(|| Error::usage("a text of no tokens"))?;
                Ok(ids.iter().position(|id| id == largest).unwrap_or_default())
            }
            Self::First(eot) => ids.iter().position(|id| id == eot).ok_or_else(|| {
                Error::usage(format!(
                    "the end-of-text id {eot} of the model's configuration is not among the token ids"
                ))
            }),
        }
    }
}
