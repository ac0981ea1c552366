//! The published CLIP vocabulary, and the word splitting around it.
//!
//! Byte-level BPE with 49 408 tokens: the 256 bytes, the same at the end of a word, 48 894 merges, start and end of text.

use std::io::Read;

use flate2::read::GzDecoder;
use tokenizers::models::bpe::{BPE, Merges, Vocab};
use tokenizers::normalizers::{Lowercase, NFC, Replace, Sequence as Normalizers, replace::ReplacePattern};
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence as PreTokenizers;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{AddedToken, NormalizerWrapper, SplitDelimiterBehavior, Tokenizer as Pipeline};

use super::clean::Cleaning;

/// What the errors of the bundled vocabulary name as their file.
pub(super) const SOURCE: &str = "bundled CLIP vocabulary";
/// The published start-of-text token.
pub(super) const SOT: &str = "<|startoftext|>";
/// The published end-of-text token, which is also the unknown token and, in transformers, the padding.
pub(super) const EOT: &str = "<|endoftext|>";

/// The merges of OpenAI CLIP (MIT licence, Copyright (c) 2021 OpenAI), one a line, best first. Made by
/// tools/make_clip_vocab.py; the licence stands in clip_merges.LICENSE.
static MERGES: &[u8] = include_bytes!("clip_merges.txt.gz");

/// The words of a text. Whitespace lies between them; digits stand alone.
const WORDS: &str = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+";

/// The pipeline of the published vocabulary.
pub(super) fn pipeline(cleaning: Cleaning) -> tokenizers::Result<Pipeline> {
    let mut text = String::new();
    GzDecoder::new(MERGES).read_to_string(&mut text)?;
    let merges: Merges =
        text.lines().filter_map(|line| line.split_once(' ')).map(|(a, b)| (a.to_owned(), b.to_owned())).collect();

    // In order of code points the symbols stand in the order of their ids.
    let mut symbols: Vec<char> = ByteLevel::alphabet().into_iter().collect();
    symbols.sort_unstable();
    let tokens = symbols.iter().map(char::to_string);
    let tokens = tokens.chain(symbols.iter().map(|symbol| format!("{symbol}</w>")));
    let tokens = tokens.chain(merges.iter().map(|(a, b)| format!("{a}{b}")));
    let tokens = tokens.chain([SOT.to_owned(), EOT.to_owned()]);
    let vocab: Vocab = tokens.zip(0..).collect();

    match cleaning {
        Cleaning::OpenAi => openai(vocab, merges),
        Cleaning::HuggingFace => {
            huggingface(vocab, merges, EOT, &[SOT, EOT].map(|token| AddedToken::from(token, true)))
        }
    }
}

/// The pipeline of openai/CLIP, for text that is cleaned already. The two specials are ordinary words of it: the caller
/// looks them up.
fn openai(vocab: Vocab, merges: Merges) -> tokenizers::Result<Pipeline> {
    let model = BPE::builder().vocab_and_merges(vocab, merges).end_of_word_suffix("</w>".into()).build()?;
    let mut pipeline = Pipeline::new(model);
    let words: Vec<PreTokenizerWrapper> =
        vec![split(&format!("(?i){WORDS}"))?.into(), ByteLevel::new(false, true, false).into()];
    pipeline.with_pre_tokenizer(Some(PreTokenizers::new(words)));
    Ok(pipeline)
}

/// The pipeline of transformers' CLIPTokenizer around a vocabulary. `special` tokens are found before any cleaning.
pub(super) fn huggingface(
    vocab: Vocab,
    merges: Merges,
    unknown: &str,
    special: &[AddedToken],
) -> tokenizers::Result<Pipeline> {
    let model = BPE::builder()
        .vocab_and_merges(vocab, merges)
        .end_of_word_suffix("</w>".into())
        .unk_token(unknown.to_owned())
        .build()?;
    let mut pipeline = Pipeline::new(model);
    let space = Replace::new(ReplacePattern::Regex(r"\s+".into()), " ")?;
    let normalizers: Vec<NormalizerWrapper> = vec![NFC.into(), space.into(), Lowercase.into()];
    pipeline.with_normalizer(Some(Normalizers::new(normalizers)))?;
    let words: Vec<PreTokenizerWrapper> = vec![split(WORDS)?.into(), ByteLevel::new(false, true, true).into()];
    pipeline.with_pre_tokenizer(Some(PreTokenizers::new(words)));
    pipeline.add_special_tokens(special.to_vec())?;
    Ok(pipeline)
}

/// Keeps what `words` matches and drops the rest.
fn split(words: &str) -> tokenizers::Result<Split> {
    Split::new(SplitPattern::Regex(words.into()), SplitDelimiterBehavior::Removed, true)
}
