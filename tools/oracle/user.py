"""A fixture of somebody's own checkpoint, images and SAE."""

import os
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from .committed import tokenize
from .fixtures import build, metadata, write_safetensors
from .request import Request


def add_arguments(parser):
    group = parser.add_argument_group("a fixture of your own model")
    group.add_argument("--model", help="directory or Hugging Face id of a CLIP checkpoint; the weights stay there")
    group.add_argument("--image", action="append", default=[], metavar="FILE")
    group.add_argument("--text", action="append", default=[], metavar="T")
    group.add_argument(
        "--method", action="append", default=[], metavar="M", help="as for vitscope heatmap; default grad-eclip"
    )
    group.add_argument("--score", default="cosine")
    group.add_argument("--sae", help="sparsify or SAELens directory")
    group.add_argument("--layer", type=int, help="block whose output the SAE replaces")
    group.add_argument("--tokens", default="all")
    group.add_argument("--edit", action="append", default=[], metavar="E")
    group.add_argument("--splice", default="replace", choices=["replace", "keep-error"])
    group.add_argument("--through", default="exact", choices=["exact", "detached", "straight"])
    group.add_argument(
        "--draws", type=int, default=2, help="runs from which torch's own error is taken; more are surer and slower"
    )
    group.add_argument(
        "--keep", action="append", default=[], metavar="PATTERN", help="store only tensors of such names; default all"
    )
    group.add_argument("--all-tensors", action="store_true", help="also the insides of every block (large)")


def _from(out, model):
    """The model as the fixture names it: from the fixture's folder when both lie below the working directory."""
    here = Path.cwd().resolve()
    both_here = Path(model).is_relative_to(here) and out.resolve().is_relative_to(here)
    return os.path.relpath(model, out.resolve().parent) if both_here else model


def make_one(args, command):
    """Writes one fixture file. Returns the exit code."""
    out = Path(args.out)
    out = out if out.suffix == ".safetensors" else out.with_name(out.name + ".safetensors")
    if not args.image:
        raise ValueError("--image is missing")
    if out.exists() and not args.update:
        raise ValueError(f"{out} exists; say --update to replace it")
    model = str(Path(args.model).resolve()) if Path(args.model).exists() else args.model
    sae = str(Path(args.sae).resolve()) if args.sae else None
    named = _from(out, model)
    request = Request(
        texts=args.text, methods=args.method or ["grad-eclip"], score=args.score, sae=sae, layer=args.layer,
        tokens=args.tokens, edits=args.edit, splice=args.splice, through=args.through,
    )  # fmt: skip
    processor = CLIPImageProcessorPil.from_pretrained(model)
    images = [Image.open(path).convert("RGB") for path in args.image]
    pixels = torch.from_numpy(np.stack(processor(images, return_tensors="np")["pixel_values"])).float()
    tensors, errors, margin = build(
        request, pixels, tokenize(model, args.text), model, sae, args.all_tensors, args.keep or ("*",), args.draws
    )
    write_safetensors(out, tensors, metadata(request, named, errors, command, 0))
    print(f"{out}: {len(tensors)} tensors, {out.stat().st_size / 1e6:.1f} MB")
    if sae:
        print(f"smallest margin of an SAE decision: {margin:.1e} (under 1e-5, rounding may choose other latents)")
    return 0
