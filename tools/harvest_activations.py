#!/usr/bin/env python3
"""Residual activations of a folder of pictures, through transformers, as shards for sae_reference.py.

    python tools/harvest_activations.py --images scenes/train --layer -2 --out shards/train

Rows are tokens, CLS first, picture after picture in the order of their names.
"""

import argparse
import sys
from pathlib import Path

import torch
from sae_training.activations import pictures, residual, write_shards

ROOT = Path(__file__).resolve().parent.parent


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=ROOT / "src/demo", help="folder or Hugging Face id of a CLIP")
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--layer", type=int, default=-2, help="block whose output is taken, from 0, or from the end")
    parser.add_argument("--out", type=Path, required=True, help="a new folder")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    tokens = write_shards(args.out, residual(args.model, pictures(args.images), args.layer))
    print(f"{tokens} tokens in {args.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
