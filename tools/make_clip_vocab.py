#!/usr/bin/env python3
"""Reduce the published CLIP vocabulary to the merges that CLIP uses: src/text/clip_merges.txt.gz.

    pip download --no-deps open-clip-torch==3.3.0
    python tools/make_clip_vocab.py open_clip_torch-3.3.0-py3-none-any.whl

The file bpe_simple_vocab_16e6.txt.gz holds 262 144 merges, of which CLIP uses the first 48 894 (after one header line).
The vocabulary is from OpenAI CLIP (MIT licence, Copyright (c) 2021 OpenAI); open_clip (MIT licence) redistributes it.
"""

import gzip
import sys
import zipfile
from pathlib import Path

MERGES = 49152 - 256 - 2

with zipfile.ZipFile(sys.argv[1]) as wheel:
    lines = gzip.decompress(wheel.read("open_clip/bpe_simple_vocab_16e6.txt.gz")).decode("utf-8").split("\n")
merges = lines[1 : 1 + MERGES]
assert len(merges) == MERGES and all(len(merge.split(" ")) == 2 for merge in merges)
out = Path(__file__).parent.parent / "src/text/clip_merges.txt.gz"
out.write_bytes(gzip.compress(("\n".join(merges) + "\n").encode("utf-8"), 9, mtime=0))
print(out, out.stat().st_size, "bytes,", MERGES, "merges")
