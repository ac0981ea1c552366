#!/usr/bin/env python3
"""Write tests/fixtures/tokenizer.json and the folder tests/fixtures/tokenizer/ from the reference tokenizers.

    pip install torch transformers regex
    pip download --no-deps open-clip-torch==3.3.0
    python tools/make_tokenizer_fixtures.py open_clip_torch-3.3.0-py3-none-any.whl

Expected ids are those of open_clip's SimpleTokenizer (with the special tokens of openai/CLIP and without ftfy) and of
transformers' CLIPTokenizer, cut to a context of 77. `--random N` sets how many random texts follow the fixed ones.
"""

import argparse
import gzip
import html
import io
import json
import random
import shutil
import sys
import types
import zipfile
from pathlib import Path

from tokenizers import Tokenizer
from transformers import CLIPTokenizer

SOT, EOT = "<|startoftext|>", "<|endoftext|>"
FIXTURES = Path(__file__).parent.parent / "tests/fixtures"

TEXTS = [
    "", " ", "a", "A", "!", "a photo of a cat", "a photo of a dog", "A Photo  of a\tDog!", "hello world!", "a diagram",
    "a dog in a car waiting for traffic lights", "xxx123", "x1y2z3", "2024", "3.14159", "1,000,000", "1st 2nd 3rd",
    "it's 2024, isn't it?", "don't", "DON'T", "we'll they've I'm you'd he's we're", "rock 'n' roll", "'s", "''s", "!'s",
    "x's's", "'tis the season", "dogs' bowls", "o'clock", "don’t", "“quoted”", "l'été", "'ſ 's ſ",
    "naïve café", "nai\u0308ve cafe\u0301", "ÀÉÎÕÜ", "Straße", "İstanbul", "ΟΔΟΣ ΣΑΣ", "Привет, мир", "日本語", "한국어", "中文字符",
    "한국", "ภาษาไทย", "हिन्दी", "العربية", "עברית", "Tiếng Việt", "Ωmega K", "ǅ ǈ", "ﬁne ﬂow", "ｆｕｌｌ",
    "emoji 😀", "😀😃😄", "👨‍👩‍👧‍👦", "🇩🇪🇫🇷", "👍🏽 ok", "❤️", "©®™", "→←", "€100", "½ ¼ ²", "Ⅷ ⅳ", "١٢٣", "一二三",
    "&lt;b&gt; AT&amp;T", "&amp;lt;", "&amp;amp;lt;", "&copy 2024", "&notit;", "&#39;s", "&#x41;&#66;", "&#128512;", "&unknown;", "a & b",
    "&#1;x", "&nbsp;x&nbsp;", "&Eacute;t&eacute;", "tom&jerry;", "AT&T", "&#", "&;", "&&amp;&",
    "a\nb\r\nc", "a\u00a0b", "a\u3000b", "a\u2028b", "a\u200bb", "a\u0085b", "a\x1cb", "a\x00b", "\ufeffx", "a\x0bb\x0cc",
    "...", "--", "a-b_c/d\\e", "http://example.com/?q=1&r=2", "user@example.com", "#hashtag @name", "(a) [b] {c}", "C++ C# .NET",
    "supercalifragilisticexpialidocious", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "thethethethe", "ßßß", "\U0010ffff", "e\u0301\u0302\u0303",
    "<|startoftext|>", "a <|endoftext|> b", "!<|endoftext|>", "a<|endoftext|>b", "<|ENDOFTEXT|> <|StartOfText|>", "<|endoftext|><|endoftext|>",
    "<|endoftext|", "< |endoftext|>", "<start_of_text> a", "word " * 100, "a " * 75, "b " * 76, "!" * 400, "é" * 90,
]

UNESCAPE = [
    "", "plain", "&", "&&", "&amp", "&amp;", "&ampx", "&lt&gt", "&LT;", "&Lt;", "&notit;", "&notin;", "&not", "&no", "&unknown;", "&unknown",
    "&copy2024", "&eacute", "&eacutex", "&Eacute;", "&hellip", "&hellip;", "&CounterClockwiseContourIntegral;",
    "&CounterClockwiseContourIntegralx;", "&NotEqualTilde;", "&acE;", "&amp;amp;", "&am&amp;", "& amp;", "&#", "&#;", "&#x", "&#x;", "&#xg;",
    "&#0;", "&#1;", "&#8;", "&#9;", "&#10;", "&#11;", "&#12;", "&#13;", "&#14;", "&#31;", "&#32;", "&#127;", "&#128;", "&#129;", "&#x9f;",
    "&#160;", "&#xfdd0;", "&#xfdef;", "&#xfffe;", "&#xffff;", "&#x1ffff;", "&#x10ffff;", "&#x110000;", "&#xd800;", "&#xdfff;",
    "&#99999999999999999999;", "&#x41", "&#X41;", "&#65x", "&#65;;", "&#x41g", "&#０;", "&é;", "&a", "&gt&gt;&gtx", "&frac12;&frac1", "&Aacute&aacute;",
    "&" + "a" * 40 + ";", "&lt" + "a" * 40 + ";", "&lt" + "é" * 40 + ";", "x&y=1&lang=en&region=3", "&quot&apos&apos;",
]

TINY_TEXTS = [
    "", "a photo of a cat", "A Photo of the DOGS!", "the man and the woman", "it's 2024, isn't it?", "naïve café", "nai\u0308ve cafe\u0301",
    "日本", "a <|endoftext|> b", "with the", "that there", "&lt; &amp;", "x" * 90, "  spaces\t here ",
]


def random_texts(count):
    draw = random.Random(7)
    letters = "abcdefghijklmnopqrstuvwxyz" * 3 + "ABCDEXYZ" + " " * 20 + "0123456789" + "'''!?.,;:-_/&<>|()\"" + "éüñçøſßΣσİκ" + "\t\n" + "日本😀\u0301\u200d½"
    pieces = ["'s", "'LL", "n't", "&amp;", "&#39;", "&lt", EOT, SOT, "the ", "photo of ", "1990s", " \u00a0 "]
    for _ in range(count):
        yield "".join(draw.choice(pieces) if draw.random() < 0.1 else draw.choice(letters) for _ in range(draw.randrange(1, 40)))


def byte_symbols():
    kept = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in kept]
    return [chr(byte) for byte in kept] + [chr(256 + n) for n in range(len(others))]


def open_clip_tokenizer(wheel):
    """open_clip's class from its source, with the names of the specials in openai/CLIP and ftfy.fix_text as identity."""
    sys.modules["ftfy"] = types.SimpleNamespace(fix_text=lambda text: text)
    source = wheel.read("open_clip/tokenizer.py").decode("utf-8")
    for old, new in [
        ("'<start_of_text>', '<end_of_text>'", f"'{SOT}', '{EOT}'"),
        ('"|".join(special_tokens)', '"|".join(map(re.escape, special_tokens))'),
        ("gzip.open(bpe_path)", "gzip.open(BPE)"),
        ("_tokenizer = SimpleTokenizer()", "_tokenizer = None"),
    ]:
        assert source.count(old) == 1, old
        source = source.replace(old, new)
    module = {"BPE": io.BytesIO(wheel.read("open_clip/bpe_simple_vocab_16e6.txt.gz")), "__file__": "", "__name__": "open_clip_tokenizer"}
    exec(compile(source, "open_clip/tokenizer.py", "exec"), module)
    return module["SimpleTokenizer"]()


def tiny_folder(merges):
    """A vocabulary of 300 in both file forms, with its special tokens at the front and `!` as padding."""
    symbols = [chr(code) for code in range(33, 127) if not chr(code).isupper()] + list("Ã©¯")
    vocab = [SOT, EOT] + symbols + [symbol + "</w>" for symbol in symbols]
    used = []
    for a, b in merges:
        if len(vocab) == 300:
            break
        if a in vocab and b in vocab:
            used.append((a, b))
            vocab.append(a + b)
    tokenizer = CLIPTokenizer(vocab={token: i for i, token in enumerate(vocab)}, merges=used, pad_token="!")
    root = FIXTURES / "tokenizer"
    shutil.rmtree(root, ignore_errors=True)
    whole, parts = root / "whole", root / "parts"
    tokenizer.save_pretrained(whole)
    parts.mkdir()
    tokenizer.backend_tokenizer.model.save(str(parts))
    shutil.copy(whole / "tokenizer_config.json", parts)
    readers = [tokenizer, CLIPTokenizer.from_pretrained(whole), CLIPTokenizer.from_pretrained(parts)]
    raw = Tokenizer.from_file(str(whole / "tokenizer.json"))
    cases = []
    for text in TINY_TEXTS:
        ids = [reader(text, max_length=77, truncation=True)["input_ids"] for reader in readers]
        assert ids[0] == ids[1] == ids[2], text
        full = raw.encode(text).ids
        assert ids[0] == (full if len(full) <= 77 else full[:76] + [1]), text
        cases.append({"text": text, "ids": ids[0], "tokens": tokenizer.convert_ids_to_tokens(ids[0])})
    return cases


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("wheel")
    parser.add_argument("--random", type=int, default=20)
    args = parser.parse_args()
    wheel = zipfile.ZipFile(args.wheel)
    lines = gzip.decompress(wheel.read("open_clip/bpe_simple_vocab_16e6.txt.gz")).decode("utf-8").split("\n")
    merges = [tuple(line.split(" ")) for line in lines[1 : 49152 - 256 - 2 + 1]]
    symbols = byte_symbols()
    vocab = symbols + [symbol + "</w>" for symbol in symbols] + ["".join(merge) for merge in merges] + [SOT, EOT]
    huggingface = CLIPTokenizer(vocab={token: i for i, token in enumerate(vocab)}, merges=merges)
    openai = open_clip_tokenizer(wheel)

    cases = []
    for text in [*TEXTS, *random_texts(args.random)]:
        ids = openai(text, 77)[0].tolist()
        length = max(i for i, token in enumerate(ids) if token == 49407) + 1
        assert not any(ids[length:])
        cases.append({"text": text, "openai": ids[:length], "huggingface": huggingface(text, max_length=77, truncation=True)["input_ids"]})
    fixture = {
        "cases": cases,
        "unescape": [[text, html.unescape(text)] for text in UNESCAPE],
        "tiny": tiny_folder(merges),
    }
    FIXTURES.mkdir(exist_ok=True)
    with open(FIXTURES / "tokenizer.json", "w", encoding="utf-8") as out:
        # One case a line.
        groups = []
        for key, group in fixture.items():
            rows = ",\n".join(json.dumps(case, separators=(",", ":")) for case in group)
            groups.append(f'"{key}":[\n{rows}\n]')
        out.write("{\n" + ",\n".join(groups) + "\n}\n")
    print(len(cases), "texts")


main()
