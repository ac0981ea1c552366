"""A byte-level BPE tokenizer laid out like CLIP's, learnt from the captions."""

import json

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

SOT, EOT = "<|startoftext|>", "<|endoftext|>"
END_OF_WORD = "</w>"
# CLIP's words: contractions, runs of letters, single digits, runs of anything else.
WORDS = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
MERGES = 520


def pipeline(model):
    """CLIP's cleaning and splitting around a BPE model."""
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(WORDS), "removed", invert=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    return tokenizer


def byte_symbols():
    """The characters that stand for the 256 bytes, in CLIP's order."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) for byte in printable] + [chr(256 + i) for i in range(len(others))]


def learn(texts):
    """The tokenizer of `texts`. Its ids: bytes, bytes that end a word, merges, start of text, end of text."""
    learner = pipeline(models.BPE(end_of_word_suffix=END_OF_WORD))
    symbols = byte_symbols()
    trainer = trainers.BpeTrainer(
        vocab_size=256 + 60 + MERGES, end_of_word_suffix=END_OF_WORD, initial_alphabet=symbols, show_progress=False
    )
    learner.train_from_iterator(texts, trainer)
    merges = [tuple(merge) for merge in json.loads(learner.to_str())["model"]["merges"]]

    tokens = symbols + [symbol + END_OF_WORD for symbol in symbols] + [a + b for a, b in merges] + [SOT, EOT]
    vocabulary = {token: i for i, token in enumerate(dict.fromkeys(tokens))}
    tokenizer = pipeline(
        models.BPE(
            vocab=vocabulary, merges=merges, end_of_word_suffix=END_OF_WORD, unk_token=EOT, continuing_subword_prefix=""
        )
    )
    tokenizer.add_special_tokens([AddedToken(token, normalized=True, special=True) for token in (SOT, EOT)])
    tokenizer.decoder = decoders.ByteLevel()
    whole = json.loads(tokenizer.to_str())
    whole["post_processor"] = {
        "type": "RobertaProcessing",
        "sep": [EOT, vocabulary[EOT]],
        "cls": [SOT, vocabulary[SOT]],
        "trim_offsets": False,
        "add_prefix_space": False,
    }
    return Tokenizer.from_str(json.dumps(whole))
