"""Fixture files: float64 values of every named tensor, with PyTorch's own error in f32, bf16 and f16 beside them."""

import fnmatch
import json
import math
import os
import struct
from pathlib import Path

import torch

from .clip import DTYPES
from .request import Job

_TAGS = {torch.float64: "F64", torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16", torch.int64: "I64"}


def write_safetensors(path, tensors, metadata):
    """Like safetensors' own writer, but with the same bytes for the same input: its metadata order is random."""
    # Wide types first, so that every tensor is aligned to its own width.
    names = sorted(tensors, key=lambda n: (-tensors[n].element_size(), n))
    header, offset = {"__metadata__": dict(sorted(metadata.items()))} if metadata else {}, 0
    for name in names:
        t = tensors[name]
        end = offset + t.numel() * t.element_size()
        header[name] = {"dtype": _TAGS[t.dtype], "shape": list(t.shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    with open(part, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name in names:
            t = tensors[name].detach().contiguous().reshape(-1)
            file.write(t.view(torch.uint8).numpy().tobytes() if t.numel() else b"")
    os.replace(part, path)


def build(request, pixels, text_ids, model_path, sae_path, deep=True, keep=("*",), draws=12):
    """Runs the request in four types. Returns the float64 tensors to store, the errors of torch in the other three,
    and the smallest margin of any decision of the SAE (top-k boundary, threshold) relative to the rms of what it
    decides on.

    Tensors whose name fits none of the patterns `keep` are not stored. A rounding error is a random number, and of a
    tensor with one element a single draw may happen to be nought; where bfloat16 decides about a latent otherwise than
    float64, it is a throw of dice. So the errors are the largest of `draws` draws, the picture itself and neighbours of
    it."""

    def run(kind, pixels):
        job = Job(request, model_path, sae_path, text_ids, DTYPES[kind])
        tensors = job.tensors(pixels, deep)
        kept = {n: t.double() for n, t in tensors.items() if any(fnmatch.fnmatchcase(n, p) for p in keep)}
        return kept, job.sae.margin if job.sae else math.inf

    exact, margin = run("f64", pixels)
    bad = [name for name, t in exact.items() if not t.isfinite().all()]
    if bad:
        raise ValueError(f"not finite in float64: {', '.join(bad)}")
    errors = {name: {"rms": _rms(t), "max": float(t.abs().max())} for name, t in exact.items()}
    for draw in range(draws):
        near = pixels if draw == 0 else _neighbour(pixels, draw)
        wide = exact if draw == 0 else run("f64", near)[0]
        for kind in ("f32", "bf16", "f16"):
            for name, t in run(kind, near)[0].items():
                difference = t - wide[name]
                worst = errors[name].setdefault(kind, {"max": 0.0, "rms": 0.0})
                # A value that is not finite stays: NaN compares false.
                worst["max"] = _larger(worst["max"], float(difference.abs().max()))
                worst["rms"] = _larger(worst["rms"], _rms(difference))
    tensors = dict(exact, pixels=pixels.float())
    if text_ids is not None:
        tensors["text_ids"] = text_ids
    return tensors, _rounded(errors), margin


def _neighbour(pixels, seed):
    """Pixels a hair away. Where they are values of bfloat16 their neighbours are too."""
    noise = torch.randn(pixels.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float32)
    near = pixels * (1 + noise / 256)
    return bf16(near) if torch.equal(bf16(pixels), pixels) else near


def bf16(t):
    """Nearest value that bfloat16 and float16 both hold exactly, for magnitudes under 65504; as float32."""
    t = t.to(torch.bfloat16).float()
    return torch.where(t.abs() < 2.0**-16, torch.zeros_like(t), t)


def metadata(request, model, errors, command, seed):
    """The metadata of a fixture file: strings, JSON where they are not one word."""
    return {
        "vitscope_fixture": "1",
        "model": model,
        "request": json.dumps(request.as_dict()),
        "errors": json.dumps(errors, separators=(",", ":")),
        "torch": torch.__version__.split("+")[0],
        "command": command,
        "seed": str(seed),
    }


def _rms(t):
    return float(t.square().mean().sqrt())


def _larger(a, b):
    return a if a > b or math.isnan(a) else b


def _rounded(value):
    """Four digits are plenty for a bound; what is not finite (16-bit overflow) is null."""
    if isinstance(value, dict):
        return {k: _rounded(v) for k, v in value.items()}
    return float(f"{value:.4g}") if math.isfinite(value) else None
