"""Activations: from a model through transformers, and as shards, safetensors files with a tensor `x` (n,D)."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from oracle.clip import Clip

PICTURES = (".png", ".jpg", ".jpeg", ".webp")


def pictures(folder):
    """The pictures of a folder in the order of their names."""
    return sorted(path for path in Path(folder).iterdir() if path.suffix.lower() in PICTURES)


@torch.no_grad()
def residual(model, images, layer, dtype=torch.float32, batch=32):
    """The output of block `layer` for each batch of images: tensors (B,T,D), CLS first."""
    clip, processor = Clip(str(model), dtype), CLIPImageProcessorPil.from_pretrained(model)
    for start in range(0, len(images), batch):
        opened = [Image.open(path).convert("RGB") for path in images[start : start + batch]]
        pixels = torch.from_numpy(np.stack(processor(opened, return_tensors="np")["pixel_values"]))
        out = clip.vision(pixel_values=pixels.to(dtype), output_hidden_states=True)
        # hidden_states[0] is the embedding; [l + 1] is the output of block l.
        yield out.hidden_states[layer + 1 if layer >= 0 else layer]


def write_shards(folder, parts, tokens=131072):
    """Writes rows as f32 shards of about `tokens` each. Returns how many tokens."""
    folder.mkdir(parents=True, exist_ok=True)
    waiting, count, total = [], 0, 0

    def flush():
        save_file({"x": torch.cat(waiting)}, folder / f"{len(list(folder.iterdir())):05}.safetensors")

    for part in parts:
        waiting.append(part.flatten(0, 1).float())
        count, total = count + waiting[-1].shape[0], total + waiting[-1].shape[0]
        if count >= tokens:
            flush()
            waiting, count = [], 0
    if waiting:
        flush()
    return total


def read_shards(folder, layer=None):
    """All rows of the shards in a folder (n,D) in f32, in the order of the files' names. Of a cache of `vitscope sae
    train` those of one layer."""
    files = sorted(Path(folder).glob("*.safetensors" if layer is None else f"layer{layer}-*.safetensors"))
    if not files:
        raise SystemExit(f"{folder}: no shards")
    return torch.cat([load_file(file)["x"].float() for file in files])
