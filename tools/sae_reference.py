#!/usr/bin/env python3
"""Trains an SAE in plain PyTorch: what `vitscope sae train` is compared with.

    python tools/sae_reference.py --shards shards/train --test shards/test --algorithm topk --k 32 --out sae/topk

Shards are safetensors files with a tensor `x` (tokens, width), as harvest_activations.py writes them, or `vitscope sae
train --cache` (then say --layer). The result is a SAELens folder; quality.json in it holds
FVU and L0 on the test shards, the tokens a second and the recipe.
"""

import os

# Threads that wait must give way soon, or one other busy process makes PyTorch many times slower. Read by OpenMP when
# torch is imported.
os.environ.setdefault("GOMP_SPINCOUNT", "5000")

import argparse
import json
import sys
from dataclasses import asdict, fields
from pathlib import Path

import torch
from sae_training.activations import read_shards
from sae_training.quality import quality
from sae_training.reference import Recipe, train

CHOICES = {"algorithm": ("relu", "topk", "batchtopk", "jumprelu"), "center": ("geometric-median", "mean")}
TYPES = {"lr": float, "target": float}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=Path, required=True)
    parser.add_argument("--test", type=Path, required=True, help="shards that are not trained on")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--layer", type=int, help="of shards that `vitscope sae train --cache` wrote")
    parser.add_argument("--hook", help="name of the hooked place for the file, such as blocks.3.hook_resid_post")
    parser.add_argument("--threads", type=int, default=2)
    for field in fields(Recipe):
        kind = TYPES.get(field.name, type(field.default))
        option = "--" + field.name.replace("_", "-")
        parser.add_argument(option, type=kind, default=field.default, choices=CHOICES.get(field.name))
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    recipe = Recipe(**{field.name: getattr(args, field.name) for field in fields(Recipe)})

    def report(step, loss):
        print(f"step {step}: loss {loss:.4f}", file=sys.stderr)

    trainer, speed = train(recipe, read_shards(args.shards, args.layer), report=report)
    trainer.save(args.out, args.hook)
    result = quality(args.out, read_shards(args.test, args.layer)) | {
        "tokens_per_s": round(speed),
        "recipe": asdict(recipe),
    }
    (args.out / "quality.json").write_text(json.dumps(result, indent=1) + "\n")
    print("FVU {fvu:.4f}, L0 {l0:.1f}, never fired {never_fired:.1%}, {tokens_per_s} tokens/s".format(**result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
