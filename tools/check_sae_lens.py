#!/usr/bin/env python3
"""Loads SAELens folders in the sae-lens package and compares latents and reconstruction with `vitscope`.

    pip install sae-lens
    python tools/check_sae_lens.py --sae sae/topk --images scenes/test --out benches/results/sae_lens.json
    python tools/check_sae_lens.py --fixtures --out benches/results/sae_lens.json

The pictures go through transformers, their residual stream through sae-lens; and through `vitscope sae apply`. Both
sides compute in float64 unless --dtype says f32, so that rounding decides nothing. Our reconstruction is that of the
file's tensors and of our codes in float64; `vitscope sae inspect` states the FVU of the engine's own.
`--fixtures` first lets `vitscope sae convert` rewrite every SAE of the tests, whatever its format.
"""

import argparse
import datetime
import json
import platform
import re
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from demo.program import Program
from oracle.clip import DTYPES
from oracle.sae import Sae
from sae_training.activations import pictures, residual
from sae_training.machine import cpu, write_json
from safetensors.numpy import load_file

ROOT = Path(__file__).resolve().parent.parent
FIXTURES = ROOT / "tests/fixtures/clip"
# Of values of order 1 to 10: codes are written as float32.
TOLERANCE = {"f64": 1e-5, "f32": 1e-3}
# Where float32 decides otherwise: a latent at the edge of a top-k or threshold.
FLIPPED = {"f64": 0.0, "f32": 1e-3}


def codes(program, sae, images, dtype):
    """Our codes of the images, dense: (tokens, S)."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "codes.safetensors"
        options = ("--model", program.model, "--dtype", dtype, "--device", "cpu")
        program.run("sae", "apply", sae, *images, *options, "-o", file)
        stored = load_file(file)
    rows = np.repeat(np.arange(len(stored["indptr"]) - 1), np.diff(stored["indptr"]))
    out = np.zeros((len(stored["indptr"]) - 1, json.loads((sae / "cfg.json").read_text())["d_sae"]))
    out[rows, stored["indices"]] = stored["values"]
    return torch.from_numpy(out)


def fvu(x, y):
    return float((x - y).square().sum() / (x - x.mean(0)).square().sum())


@torch.no_grad()
def check(args, sae, model, images):
    """One folder: a row of the report."""
    from sae_lens import SAE

    program = Program(args.binary, model)
    said = json.loads(program.run("sae", "inspect", sae, *images, "--model", model, "--json"))["is"]
    layer = int(re.search(r"block (\d+)", said["hook"])[1])
    x = torch.cat([part.flatten(0, 1) for part in residual(model, images, layer, DTYPES[args.dtype])])
    theirs = SAE.load_from_disk(sae, dtype={"f64": "float64", "f32": "float32"}[args.dtype])
    z = theirs.encode(x)
    y = theirs.decode(z).double()
    x, z = x.double(), z.double()
    ours = codes(program, sae, images, args.dtype)
    rebuilt = Sae(sae, torch.float64).decode(ours, x)
    same = ((ours != 0) == (z != 0)).all(1)
    row = {
        "sae": sae.name,
        "architecture": theirs.cfg.architecture(),
        "activation": said["activation"],
        "class": type(theirs).__name__,
        "tokens": len(x),
        "l0": round(float((z != 0).sum(1).double().mean()), 3),
        "tokens_with_other_latents": int((~same).sum()),
        "latents_largest": float(z.abs().max()),
        "latents_difference": float((ours - z)[same].abs().max()),
        "reconstruction_largest": float(y.abs().max()),
        "reconstruction_difference": float((rebuilt - y)[same].abs().max()),
        "fvu_sae_lens": round(fvu(x, y), 4),
        "fvu_vitscope": float(said["FVU"]),
    }
    tolerance = TOLERANCE[args.dtype]
    row["equal"] = bool(
        (~same).double().mean() <= FLIPPED[args.dtype]
        and row["latents_difference"] <= tolerance * row["latents_largest"]
        and row["reconstruction_difference"] <= tolerance * row["reconstruction_largest"]
        and abs(row["fvu_sae_lens"] - row["fvu_vitscope"]) <= 1e-3 * max(1, row["fvu_vitscope"])
    )
    return row


def converted(binary, folder):
    """Every SAE of the tests, written anew by us: (folder, its model)."""
    for sae in sorted(FIXTURES.glob("sae_*")):
        out = folder / sae.name
        Program(binary, None).run("sae", "convert", sae, "--to", "saelens", "-o", out)
        config = json.loads((out / "cfg.json").read_text())
        if "hook_name" not in config["metadata"]:
            # A sparsify folder that does not name its place: the fixtures' own name says the block.
            config["metadata"]["hook_name"] = f"blocks.{sae.name[5]}.hook_resid_post"
            (out / "cfg.json").write_text(json.dumps(config))
        yield out, FIXTURES / f"tiny_{sae.name[4]}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sae", type=Path, action="append", default=[], help="a SAELens folder; may be repeated")
    parser.add_argument("--fixtures", action="store_true", help="also the SAEs of the tests")
    parser.add_argument("--model", default=ROOT / "src/demo", help="the model of --sae, as a folder")
    parser.add_argument("--images", type=Path, default=ROOT / "src/demo", help="a folder of pictures")
    parser.add_argument("--limit", type=int, default=16, help="the first so many pictures")
    parser.add_argument("--dtype", choices=TOLERANCE, default="f64")
    parser.add_argument("--binary", type=Path, default=ROOT / "target/release/vitscope")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    args = parser.parse_args()
    images = pictures(args.images)[: args.limit]
    with tempfile.TemporaryDirectory() as folder:
        jobs = [(sae, args.model) for sae in args.sae]
        jobs += converted(args.binary, Path(folder)) if args.fixtures else []
        rows = [check(args, *job, images) for job in jobs]
    report = {
        "date": datetime.date.today().isoformat(),
        "cpu": cpu(),
        "versions": {name: version(name) for name in ("sae-lens", "transformer-lens", "torch", "transformers")}
        | {"python": platform.python_version(), "vitscope": Program(args.binary, None).version()},
        "dtype": args.dtype,
        "pictures": len(images),
        "results": rows,
    }
    print(
        f"{'SAE':28}{'sae-lens class':16}{'tokens':>7}{'L0':>7}{'other':>7}{'latents':>10}{'rebuilt':>10}{'':>4}equal"
    )
    for row in rows:
        print(
            "{sae:28}{class:16}{tokens:7}{l0:7.1f}{tokens_with_other_latents:7}"
            "{latents_difference:10.1e}{reconstruction_difference:10.1e}    {equal}".format(**row)
        )
    if args.out:
        write_json(args.out, report)
    return 0 if all(row["equal"] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
