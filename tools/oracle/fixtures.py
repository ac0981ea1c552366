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


def build(request, pixels, text_ids, model_path, sae_path, deep=True, keep=("*",)):
    """Runs the request in four types. Returns the float64 tensors to store, the errors of torch in the other three, and
    the smallest margin of any decision of the SAE (top-k boundary, threshold) relative to the rms of what it decides on.

    Tensors whose name fits none of the patterns `keep` are not stored."""
    runs, margin = {}, math.inf
    for kind, dtype in DTYPES.items():
        job = Job(request, model_path, sae_path, text_ids, dtype)
        runs[kind] = {n: t.double() for n, t in job.tensors(pixels, deep).items() if any(fnmatch.fnmatch(n, p) for p in keep)}
        if kind == "f64" and job.sae:
            margin = job.sae.margin
        del job
    exact = runs.pop("f64")
    bad = [name for name, t in exact.items() if not t.isfinite().all()]
    if bad:
        raise ValueError(f"not finite in float64: {', '.join(bad)}")
    errors = {}
    for name, t in exact.items():
        errors[name] = {"rms": _number(_rms(t)), "max": _number(t.abs().max())}
        for kind, run in runs.items():
            difference = run[name] - t
            errors[name][kind] = {"max": _number(difference.abs().max()), "rms": _number(_rms(difference))}
    tensors = dict(exact, pixels=pixels.float())
    if text_ids is not None:
        tensors["text_ids"] = text_ids
    return tensors, errors, margin


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
    return t.square().mean().sqrt()


def _number(value):
    """Four digits are plenty for a bound; what is not finite (16-bit overflow) is null."""
    value = float(value)
    return float(f"{value:.4g}") if math.isfinite(value) else None
