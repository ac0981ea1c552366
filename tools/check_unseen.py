#!/usr/bin/env python3
"""Compares `vitscope` with PyTorch in float64 on models that nobody has seen before.

    python tools/check_unseen.py --seed 3

Draws random models (width, heads, blocks, patch, picture, activation, MLP, type; towers of image and text alike), has
transformers save them, and makes two SAEs for each: one in sparsify's layout and one in SAELens'. The program explains
random pictures with every method: without an SAE, and with edits in several splices, scopes and scores. Every score
and raw map, with the edits and without, must lie within --bound of the oracle's, in relative L2.
"""

import argparse
import random
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from demo.program import Program
from oracle import tiny
from oracle.clip import DTYPES
from oracle.committed import places, tokenize
from oracle.request import Job, Request
from PIL import Image
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

ROOT = Path(__file__).resolve().parent.parent
METHODS = [
    "grad-eclip", "grad-eclip:heads=single", "attention", "rollout", "chefer", "legrad", "grad-cam", "gradient",
    "gradient-x-input", "integrated-gradients:steps=4", "smoothgrad:sigma=0",
]  # fmt: skip
ACTIVATIONS = ["quick_gelu", "gelu", "gelu_pytorch_tanh"]
SAE_LENS = ["standard", "topk", "jumprelu", "batchtopk", "gated"]
EDITS = ["zero:{p0}", "scale:{p1},{p2}=-1.5", "set:{s0}=4.0", "add:{p3}=1.5"]
TEXTS = tiny.TEXTS[:2]
MARGIN = 1e-5  # of every decision of an SAE, relative to the pre-activations' rms: float32 rounding flips none
# Score, splice, through and tokens; {p1} is a latent that fires often.
CASES = [
    ("cosine", "replace", "exact", "all"),
    ("logit", "keep-error", "exact", "patches"),
    ("softmax", "keep-error", "detached", "all"),
    ("cosine", "replace", "straight", "patches:0,3,5"),
    ("latent:{p1}", "replace", "exact", "all"),
]


def draw(rng, name, activation):
    """A random model."""
    heads, text_heads, layers = rng.choice((2, 3, 5)), rng.choice((1, 2, 3)), rng.randint(2, 5)
    width, text_width = heads * rng.choice((8, 14, 18, 28)), text_heads * rng.choice((10, 12, 16))
    patch, cells = rng.choice((4, 5, 9, 14)), rng.randint(3, 7)
    shared = dict(hidden_act=activation, layer_norm_eps=rng.choice((1e-5, 1e-6)))
    return tiny.Model(
        name,
        seed=rng.randrange(10**6),
        vision=dict(
            hidden_size=width, num_attention_heads=heads, num_hidden_layers=layers, patch_size=patch,
            intermediate_size=int(width * rng.uniform(1, 4.5)), image_size=patch * cells + rng.choice((0, 1)), **shared,
        ),
        text=dict(
            hidden_size=text_width, num_attention_heads=text_heads, num_hidden_layers=rng.randint(1, 3),
            intermediate_size=int(text_width * rng.uniform(1, 4.5)), eos_token_id=rng.choice((1, 2)), bos_token_id=0,
            pad_token_id=1, **shared,
        ),
        embed=rng.randint(12, 40),
        dtype=rng.choice((torch.float32, torch.float16, torch.bfloat16)),
    )  # fmt: skip


def picture(rng, path):
    """Smooth random colours with noise, of any shape."""
    size = rng.randint(40, 120), rng.randint(40, 120)
    values = np.random.default_rng(rng.randrange(10**6))
    coarse = Image.fromarray(values.integers(0, 256, (5, 5, 3), dtype=np.uint8)).resize(size, Image.Resampling.BICUBIC)
    noise = values.integers(-20, 21, (size[1], size[0], 3))
    Image.fromarray((np.asarray(coarse).astype(int) + noise).clip(0, 255).astype(np.uint8)).save(path)


class Subject:
    """A model, pictures, and the program that explains them."""

    def __init__(self, program, folder, images):
        self.program, self.folder, self.images = program, folder, images
        self.ids = tokenize(folder, TEXTS)
        pictures = [Image.open(path) for path in images]
        pixels = CLIPImageProcessorPil.from_pretrained(folder)(pictures, return_tensors="np")["pixel_values"]
        self.pixels = torch.from_numpy(np.stack(pixels)).float()

    def filled(self, request, sae):
        """The request with the latents' places filled in."""
        bare = replace(request, score="latent:0", methods=[], edits=[])
        names = places(Job(bare, self.folder, sae, self.ids, torch.float64).forward(self.pixels).sae["z"])
        edits = [edit.format(**names) for edit in request.edits]
        return replace(request, edits=edits, score=request.score.format(**names))

    def oracle(self, request, sae, dtype="f64"):
        """{(method, image, text): (score, map)}, and the smallest margin of a decision of the SAE."""
        job = Job(request, self.folder, sae, self.ids, DTYPES[dtype])
        tensors = job.tensors(self.pixels, deep=False)
        top = len(job.clip.layers) - 1 if job.latent is None else job.layer
        out = {}
        for method in request.methods:
            score, heat = tensors["score"], tensors[f"map.{method}"]
            if method.endswith("heads=single"):
                score = job.score(job.forward(self.pixels, single_head=top)).detach()
            for b, path in enumerate(self.images):
                for q in range(score.shape[1]):
                    out[method, path.name, q] = score[b, q].reshape(1), heat[b, q]
        return out, job.sae.margin if job.sae else 1.0

    def compare(self, request, sae, dtype):
        """The largest relative L2 distance of a score or map, torch's own in the same type, and where; None where the
        oracle's own choice of latents hangs by a thread."""
        expected, margin = self.oracle(request, sae)
        before, margin_before = self.oracle(replace(request, edits=[]), sae) if request.edits else (None, 1.0)
        if min(margin, margin_before) <= MARGIN:
            return None
        options = ["--device", "cpu", "--dtype", dtype, "--score", request.score]
        for method in request.methods:
            options += ["--method", method]
        if sae:
            options += ["--sae", sae, "--layer", request.layer, "--tokens", request.tokens]
            options += ["--splice", request.splice, "--through", request.through]
        for edit in request.edits:
            options += ["--edit", edit]
        texts = [] if request.score.startswith("latent:") else TEXTS
        maps = self.program.heatmap(self.images, texts, *options)
        if len(maps) != len(expected):
            sys.exit(f"{len(maps)} maps instead of {len(expected)}")
        own = self.oracle(request, sae, dtype)[0]
        own_before = self.oracle(replace(request, edits=[]), sae, dtype)[0] if before else None
        distances = []
        for one in maps:
            key = one.method, one.image, TEXTS.index(one.text) if texts else 0
            runs = [("", expected, own, one.score, one.heat)]
            if before:
                runs.append((" before", before, own_before, one.score_before, one.heat_before))
            for when, reference, torchs, score, heat in runs:
                parts = zip(("score", "map"), (torch.tensor([score]), heat), reference[key], torchs[key])
                for name, ours, exact, theirs in parts:
                    distances.append((distance(ours, exact), distance(theirs, exact), f"{name}{when} {key}"))
        return max(distances)


def distance(ours, reference):
    """Relative L2; of a reference that is nought, whether ours is."""
    difference, size = float((ours.double() - reference).norm()), float(reference.norm())
    return difference / size if size else float(difference > 0)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0, help="other models, SAEs and pictures for every seed")
    parser.add_argument("--models", type=int, default=2, help="how many")
    parser.add_argument("--images", type=int, default=2, help="pictures for each model")
    parser.add_argument("--bound", type=float, default=2e-4)
    parser.add_argument("--dtype", choices=("f32", "f64"), default="f32")
    parser.add_argument("--binary", type=Path, default=ROOT / "target/release/vitscope")
    args = parser.parse_args()
    torch.set_num_threads(1)  # products this small are slower on several
    rng = random.Random(args.seed)
    activations, kinds = rng.sample(ACTIVATIONS, len(ACTIVATIONS)), rng.sample(SAE_LENS, len(SAE_LENS))
    worst = 0.0
    with tempfile.TemporaryDirectory() as root:
        for number in range(args.models):
            folder = Path(root) / f"model_{number}"
            spec = draw(rng, folder.name, activations[number % len(activations)])
            tiny.MODELS[spec.name] = spec
            tiny.build_model(spec, folder)
            images = [Path(root) / f"picture_{number}_{i}.png" for i in range(args.images)]
            for path in images:
                picture(rng, path)
            subject = Subject(Program(args.binary, folder), folder, images)
            print(f"model {number}: {spec.vision}, embed {spec.embed}, {spec.dtype}", flush=True)
            kind = kinds[number % len(kinds)]
            for what, (value, torchs, where) in checks(subject, Path(root), spec, kind, rng, args.dtype):
                worst = max(worst, value)
                print(f"  {value:8.1e} (torch {torchs:.1e})  {what}: {where}", flush=True)
    print(f"worst relative L2: {worst:.1e} (bound {args.bound:.0e})")
    return 0 if worst <= args.bound else 1


def checks(subject, root, spec, sae_lens, rng, dtype):
    """What was asked, and the worst of its answers: without an SAE and with one of each layout."""
    yield "no SAE", subject.compare(Request(texts=TEXTS, methods=METHODS), None, dtype)
    for kind in ("sparsify", sae_lens):
        layer = rng.randrange(spec.vision["num_hidden_layers"])
        for case in CASES:
            what = f"{kind} after block {layer}: {', '.join(case)}"
            yield what, spliced(subject, root, spec, kind, layer, case, dtype)


def spliced(subject, root, spec, kind, layer, case, dtype):
    """One case with an SAE of which no decision hangs by a thread."""
    score, splice, through, tokens = case
    methods = [m for m in METHODS if m != "legrad" or not score.startswith("latent:")]
    request = Request(
        texts=TEXTS, methods=methods, score=score, layer=layer, tokens=tokens, edits=EDITS, splice=splice,
        through=through,
    )  # fmt: skip
    sae = root / f"sae_{spec.name}"
    shape = tiny.SaeSpec(sae.name, spec.name, layer, kind, dtype=torch.float32)
    for seed in range(1, 50):
        tiny.build_sae(shape, subject.folder, sae, seed)
        try:
            filled = subject.filled(request, sae)
        except IndexError:
            continue  # too few latents fire
        if (found := subject.compare(filled, sae, dtype)) is not None:
            for file in sae.iterdir():
                file.unlink()
            return found
    sys.exit(f"{kind}: no SAE of 50 keeps a margin of {MARGIN}")


if __name__ == "__main__":
    sys.exit(main())
