//! The tokenizer against open_clip and transformers (tools/make_tokenizer_fixtures.py), and against damaged files.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use proptest::prelude::*;
use serde::Deserialize;
use vitscope::Error;
use vitscope::text::{Cleaning, EotPooling, Tokenizer};

#[derive(Deserialize)]
struct Fixture {
    cases: Vec<Case>,
    tiny: Vec<TinyCase>,
}

#[derive(Deserialize)]
struct Case {
    text: String,
    openai: Vec<u32>,
    huggingface: Vec<u32>,
}

#[derive(Deserialize)]
struct TinyCase {
    text: String,
    ids: Vec<u32>,
    tokens: Vec<String>,
}

static FIXTURE: LazyLock<Fixture> =
    LazyLock::new(|| serde_json::from_str(&fs::read_to_string(fixtures().join("tokenizer.json")).unwrap()).unwrap());
static OPENAI: LazyLock<Tokenizer> = LazyLock::new(|| Tokenizer::bundled(Cleaning::OpenAi).unwrap());
static HUGGINGFACE: LazyLock<Tokenizer> = LazyLock::new(|| Tokenizer::bundled(Cleaning::HuggingFace).unwrap());

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

/// The ids before the padding, after checking that the rest is padding.
fn ids(tokenizer: &Tokenizer, text: &str) -> Vec<u32> {
    let encoded = tokenizer.encode(text, 77).unwrap();
    assert_eq!(encoded.ids.len(), 77);
    let (ids, padding) = encoded.ids.split_at(encoded.len);
    assert!(padding.iter().all(|&id| id == tokenizer.pad()), "{text:?}");
    ids.to_vec()
}

#[test]
fn golden_ids() {
    let around = |ids: &[u32]| [&[49406], ids, &[49407]].concat();
    let both: [(&str, &[u32]); 12] = [
        ("a photo of a cat", &[320, 1125, 539, 320, 2368]),
        ("a photo of a dog", &[320, 1125, 539, 320, 1929]),
        ("A Photo  of a\tDog!", &[320, 1125, 539, 320, 1929, 256]),
        ("hello world!", &[3306, 1002, 256]),
        ("a diagram", &[320, 22697]),
        ("", &[]),
        ("a dog in a car waiting for traffic lights", &[320, 1929, 530, 320, 1615, 2680, 556, 3399, 3073]),
        ("it's 2024, isn't it?", &[585, 568, 273, 271, 273, 275, 267, 2923, 713, 585, 286]),
        ("don't", &[847, 713]),
        ("naïve café", &[1097, 35689, 563, 15304]),
        ("日本語", &[39121, 44353, 34002, 508]),
        ("xxx123", &[8352, 272, 273, 274]),
    ];
    for (text, expected) in both {
        assert_eq!(ids(&OPENAI, text), around(expected), "{text:?}");
        assert_eq!(ids(&HUGGINGFACE, text), around(expected), "{text:?}");
    }
    assert_eq!(ids(&OPENAI, "emoji 😀"), around(&[16327, 7334]));
    assert_eq!(ids(&OPENAI, "&lt;b&gt; AT&amp;T"), around(&[283, 321, 285, 536, 261, 339]));
    assert_ne!(ids(&HUGGINGFACE, "&lt;b&gt; AT&amp;T"), around(&[283, 321, 285, 536, 261, 339]));
}

#[test]
fn bundled_equals_the_references() {
    for case in &FIXTURE.cases {
        assert_eq!(ids(&OPENAI, &case.text), case.openai, "open_clip: {:?}", case.text);
        assert_eq!(ids(&HUGGINGFACE, &case.text), case.huggingface, "transformers: {:?}", case.text);
    }
}

#[test]
fn bundled_vocabulary() {
    for tokenizer in [&*OPENAI, &*HUGGINGFACE] {
        assert_eq!((tokenizer.vocab_size(), tokenizer.sot(), tokenizer.eot()), (49408, 49406, 49407));
        tokenizer.check_vocabulary(49408).unwrap();
        let error = tokenizer.check_vocabulary(49407).unwrap_err();
        assert_eq!(error.exit_code(), 3);
        assert!(error.to_string().contains("49407"), "{error}");
    }
    assert_eq!((OPENAI.pad(), HUGGINGFACE.pad()), (0, 49407));
    let tokens = OPENAI.tokens(&[49406, 320, 1097, 35689, 49407, 49408]);
    assert_eq!(tokens, ["<|startoftext|>", "a</w>", "na", "Ã¯", "<|endoftext|>", "#49408"]);
}

#[test]
fn cut_to_the_context() {
    let text = "a photo of a cat";
    let whole = OPENAI.encode(text, 7).unwrap();
    assert_eq!((&*whole.ids, whole.len, whole.truncated), (&[49406, 320, 1125, 539, 320, 2368, 49407][..], 7, false));
    let cut = OPENAI.encode(text, 6).unwrap();
    assert_eq!((&*cut.ids, cut.len, cut.truncated), (&[49406, 320, 1125, 539, 320, 49407][..], 6, true));
    assert_eq!(OPENAI.encode(text, 2).unwrap().ids, [49406, 49407]);
    assert!(matches!(OPENAI.encode(text, 1), Err(Error::Usage(_))));
}

#[test]
fn pooling() {
    // A literal end of text in a prompt pools there.
    let encoded = OPENAI.encode("a <|endoftext|> b", 10).unwrap();
    assert_eq!(EotPooling::ArgMax.position(&encoded.ids).unwrap(), 2);
    assert_eq!(EotPooling::First(49407).position(&encoded.ids).unwrap(), 2);
    // Padding with the end of text does not move it.
    let encoded = HUGGINGFACE.encode("a cat", 10).unwrap();
    assert_eq!(EotPooling::First(49407).position(&encoded.ids).unwrap(), encoded.len - 1);
    // The rules differ where the end of text is not the largest id.
    assert_eq!(EotPooling::ArgMax.position(&[0, 9, 5, 9, 1, 1]).unwrap(), 1);
    assert_eq!(EotPooling::First(1).position(&[0, 9, 5, 9, 1, 1]).unwrap(), 4);
    assert_eq!(EotPooling::of_config(2), EotPooling::ArgMax);
    assert_eq!(EotPooling::of_config(49407), EotPooling::First(49407));
    assert!(EotPooling::First(7).position(&[0, 9]).unwrap_err().to_string().contains('7'));
    assert!(EotPooling::ArgMax.position(&[]).is_err());
}

#[test]
fn folders() {
    for (form, file) in [("whole", "tokenizer.json"), ("parts", "vocab.json")] {
        let folder = fixtures().join("tokenizer").join(form);
        let tokenizer = Tokenizer::open(&folder).unwrap().unwrap();
        assert_eq!(tokenizer.source(), folder.join(file));
        assert_eq!(tokenizer.cleaning(), Cleaning::HuggingFace);
        assert_eq!((tokenizer.sot(), tokenizer.eot(), tokenizer.pad()), (0, 1, 2));
        assert_eq!(tokenizer.vocab_size(), 300);
        tokenizer.check_vocabulary(300).unwrap();
        assert!(tokenizer.check_vocabulary(299).is_err());
        for case in &FIXTURE.tiny {
            assert_eq!(ids(&tokenizer, &case.text), case.ids, "{form}: {:?}", case.text);
            assert_eq!(tokenizer.tokens(&case.ids), case.tokens);
        }
    }
    let empty = tempfile::tempdir().unwrap();
    assert!(Tokenizer::open(empty.path()).unwrap().is_none());
}

/// A copy of a fixture folder with one file changed (or removed, where `change` gives None).
fn changed(form: &str, name: &str, change: impl Fn(&str) -> Option<String>) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(fixtures().join("tokenizer").join(form)).unwrap() {
        let entry = entry.unwrap();
        let text = fs::read_to_string(entry.path()).unwrap();
        let text = if entry.file_name() == name { change(&text) } else { Some(text) };
        if let Some(text) = text {
            fs::write(copy.path().join(entry.file_name()), text).unwrap();
        }
    }
    copy
}

#[test]
fn special_tokens_by_what_the_file_puts_around_a_text() {
    // Other names, and no tokenizer_config.json that tells them.
    let folder = changed("whole", "tokenizer.json", |text| {
        Some(text.replace("<|startoftext|>", "<s>").replace("<|endoftext|>", "</s>"))
    });
    let error = Tokenizer::open(folder.path()).unwrap_err().to_string();
    assert!(error.contains("tokenizer.json: the vocabulary has no start-of-text token"), "{error}");
    fs::remove_file(folder.path().join("tokenizer_config.json")).unwrap();
    let tokenizer = Tokenizer::open(folder.path()).unwrap().unwrap();
    assert_eq!((tokenizer.sot(), tokenizer.eot(), tokenizer.pad()), (0, 1, 1));
    // A token written as an object.
    fs::write(folder.path().join("special_tokens_map.json"), r#"{"pad_token": {"content": "!", "lstrip": false}}"#)
        .unwrap();
    assert_eq!(Tokenizer::open(folder.path()).unwrap().unwrap().pad(), 2);
}

#[test]
fn merges_written_as_lines() {
    let folder = changed("whole", "tokenizer.json", |text| {
        let mut json: serde_json::Value = serde_json::from_str(text).unwrap();
        for merge in json["model"]["merges"].as_array_mut().unwrap() {
            *merge = format!("{} {}", merge[0].as_str().unwrap(), merge[1].as_str().unwrap()).into();
        }
        Some(json.to_string())
    });
    let tokenizer = Tokenizer::open(folder.path()).unwrap().unwrap();
    for case in &FIXTURE.tiny {
        assert_eq!(ids(&tokenizer, &case.text), case.ids, "{:?}", case.text);
    }
}

#[test]
fn truncation_and_padding_of_the_file_are_not_used() {
    let folder = changed("whole", "tokenizer.json", |text| {
        let mut json: serde_json::Value = serde_json::from_str(text).unwrap();
        json["truncation"] = serde_json::json!(
            {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0});
        json["padding"] = serde_json::json!({"strategy": {"Fixed": 9}, "direction": "Left", "pad_to_multiple_of": null,
            "pad_id": 5, "pad_type_id": 0, "pad_token": "x"});
        Some(json.to_string())
    });
    let tokenizer = Tokenizer::open(folder.path()).unwrap().unwrap();
    for case in &FIXTURE.tiny {
        assert_eq!(ids(&tokenizer, &case.text), case.ids, "{:?}", case.text);
    }
}

#[test]
fn damaged_files_are_refused_by_name() {
    type Change = fn(&str) -> Option<String>;
    let cases: [(&str, &str, Change, &str); 15] = [
        ("whole", "tokenizer.json", |text| Some(text[..text.len() / 2].into()), "EOF"),
        ("whole", "tokenizer.json", |_| Some(String::new()), "EOF"),
        ("whole", "tokenizer.json", |_| Some("{}".into()), "`model` is missing"),
        ("whole", "tokenizer.json", |text| Some(text.replace("\"BPE\"", "\"WordPiece\"")), "WordPiece"),
        ("whole", "tokenizer.json", |text| Some(text.replace("\"dropout\": null", "\"dropout\": 0.5")), "dropout"),
        ("whole", "tokenizer.json", |text| Some(text.replace("\"NFC\"", "\"Precompiled\"")), "Precompiled"),
        (
            "whole",
            "tokenizer.json",
            |text| Some(text.replacen("\"id\": 1,", "\"id\": 7,", 1)),
            "expected id 1, found 7",
        ),
        ("whole", "tokenizer.json", |text| Some(text.replace("\"the</w>\":", "\"thx</w>\":")), "`the</w>`"),
        ("whole", "tokenizer_config.json", |_| Some("{\"bos_token\": 3}".into()), "bos_token"),
        ("parts", "vocab.json", |text| Some(text.replacen(":5,", ":4,", 1)), "same id 4"),
        ("parts", "vocab.json", |text| Some(text.replacen(":5,", ":-5,", 1)), "-5"),
        ("parts", "vocab.json", |text| Some(text.replace("<|endoftext|>", "</s>")), "<|endoftext|>"),
        ("parts", "merges.txt", |text| Some(format!("{text}a\n")), "`a` is not two tokens"),
        ("parts", "merges.txt", |text| Some(format!("{text}the zzz\n")), "`zzz` is not in the vocabulary"),
        // Both halves are tokens, what they join to is longer than any token.
        (
            "parts",
            "merges.txt",
            |text| Some(format!("{text}<|startoftext|> <|startoftext|>\n")),
            "not in the vocabulary",
        ),
    ];
    for (form, name, change, reason) in cases {
        let folder = changed(form, name, change);
        let error = Tokenizer::open(folder.path()).unwrap_err();
        assert!(matches!(&error, Error::File { path, .. } if path.ends_with(name)), "{error}");
        assert!(error.to_string().contains(reason), "{reason}: {error}");
    }
    for name in ["vocab.json", "merges.txt"] {
        let folder = changed("parts", name, |_| None);
        let error = Tokenizer::open(folder.path()).unwrap_err().to_string();
        assert!(error.contains(name), "{error}");
    }
    let folder = changed("parts", "merges.txt", |_| None);
    fs::write(folder.path().join("merges.txt"), b"\xff\xfe").unwrap();
    assert!(Tokenizer::open(folder.path()).unwrap_err().to_string().contains("merges.txt"));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_text_gives_a_context_of_ids(text in "(\\PC|\\s|&#?x?[0-9a-z]{0,4};?|<\\|endoftext\\|>|'[a-z]|.){0,40}", context in 2usize..90) {
        for tokenizer in [&*OPENAI, &*HUGGINGFACE] {
            let encoded = tokenizer.encode(&text, context).unwrap();
            prop_assert_eq!(encoded.ids.len(), context);
            prop_assert_eq!(encoded.ids[0], tokenizer.sot());
            prop_assert!(encoded.ids.contains(&tokenizer.eot()));
            prop_assert_eq!(encoded.ids[encoded.len - 1], tokenizer.eot());
            prop_assert!(!encoded.truncated || encoded.len == context);
            prop_assert!(encoded.ids.iter().all(|&id| id < 49408));
        }
    }

    #[test]
    fn mutated_files_do_not_panic(
        file in prop::sample::select(vec![("whole", "tokenizer.json"), ("parts", "vocab.json"), ("parts", "merges.txt")]),
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let (form, name) = file;
        let folder = changed(form, name, |text| Some(text.into()));
        let path = folder.path().join(name);
        let mut bytes = fs::read(&path).unwrap();
        for (index, byte) in edits {
            let at = index.index(bytes.len());
            bytes[at] = byte;
        }
        fs::write(&path, bytes).unwrap();
        if let Ok(Some(tokenizer)) = Tokenizer::open(folder.path()) {
            // Ids or an error, both are fine.
            let _ = tokenizer.encode("a photo of the naïve cats, isn't it?", 77);
        }
    }
}
