"""The list of committed fixtures, and the command that makes them all."""

import hashlib
import json
import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import torch
from transformers import AutoTokenizer

from . import tiny
from .fixtures import build, metadata, write_safetensors
from .request import Job, Request
from .tiny import SaeSpec

COMMAND = "python tools/make_fixtures.py --out tests/fixtures"
# Smallest relative distance of a pre-activation to a decision, so that f32 rounding flips none; and to one where a value
# jumps, so that float16 flips none: PyTorch's error there is then one of rounding, not of another choice.
MARGIN, JUMP_MARGIN = 1e-4, 4e-3

SAES = {
    s.name: s
    for s in [
        SaeSpec("sae_a0_sparsify", "tiny_a", 0, "sparsify"),
        SaeSpec("sae_a1_sparsify", "tiny_a", 1, "sparsify", dtype=torch.float32),
        SaeSpec("sae_a2_sparsify", "tiny_a", 2, "sparsify"),
        SaeSpec("sae_a1_relu", "tiny_a", 1, "standard", dtype=torch.float32),
        SaeSpec("sae_a1_relu_old", "tiny_a", 1, "standard-old", norm="layer_norm", dtype=torch.float16),
        SaeSpec("sae_a1_relu_constant_norm", "tiny_a", 1, "standard", norm="constant_norm_rescale"),
        SaeSpec("sae_a1_topk_rescale", "tiny_a", 1, "topk", rescale=True),
        SaeSpec("sae_a1_topk_layer_norm", "tiny_a", 1, "topk", norm="layer_norm", subtract=False),
        SaeSpec("sae_a1_jumprelu", "tiny_a", 1, "jumprelu", subtract=False),
        SaeSpec("sae_a1_batchtopk", "tiny_a", 1, "batchtopk"),
        SaeSpec("sae_a1_gated", "tiny_a", 1, "gated"),
        SaeSpec("sae_b2_topk", "tiny_b", 2, "topk", latents=96, k=10),
    ]
}


@dataclass
class Case:
    """One fixture. In `edits` and `score`, {p0} {p1} .. are the latents that fire most, {s0} {s1} .. ones that fire on
    few of the tokens in scope, {n0} {n1} .. ones that never fire."""

    name: str
    model: str = "tiny_a"
    images: int = 1
    texts: int = 2
    sae: str | None = None
    layer: int | None = None
    request: dict = field(default_factory=dict)
    deep: bool = False  # also the insides of the blocks
    keep: tuple = ("*",)  # patterns of the tensors to store
    seed: int = 100


_SHORT = ["grad-eclip", "chefer:from=0"]
_MIXED = ["zero:{p0},{p1}", "scale:{p2}=2.5", "set:{s0}=4.0", "add:{n0}=1.5"]
_TOKEN_METHODS = [
    "grad-eclip", "grad-eclip:heads=single", "attention", "attention:layer=0", "rollout", "rollout:from=-1", "chefer",
    "chefer:from=-1", "legrad", "legrad:from=0", "grad-cam",
]  # fmt: skip
_PIXEL_METHODS = ["gradient", "gradient-x-input", "integrated-gradients:steps=8", "smoothgrad:sigma=0"]


_KIND = ("embed", "score", "sae.z", "d.sae.*", "map.*")
_SPLICE = ("embed", "score", "sae.x", "d.sae.*", "map.*")


def cases():
    yield Case("a_full", deep=True, sae="sae_a1_sparsify", layer=1, request=dict(methods=_TOKEN_METHODS, edits=_MIXED))
    yield Case(
        "b_full", model="tiny_b", deep=True, texts=3, sae="sae_b2_topk", layer=2,
        keep=("x0", "block.[23].x", "block.3.[qlau]*", "sae.z", "sae.x", "cls", "*embed", "cos", "score",
              "d.sae.*", "d.block.[23].x", "d.block.3.[qau]*", "d.x0", "d.pixels", "map.*"),
        request=dict(methods=_TOKEN_METHODS, score="softmax", edits=_MIXED, splice="keep-error"),
    )  # fmt: skip
    yield Case(
        "a_batch", images=2, keep=("embed", "cos", "score", "sae.z", "map.*"), sae="sae_a1_sparsify", layer=1,
        request=dict(methods=_TOKEN_METHODS, score="logit", edits=_MIXED),
    )  # fmt: skip
    plain = ("embed", "text_embed", "cos", "score", "d.x0", "map.*")
    yield Case("a_plain", texts=4, keep=plain, request=dict(methods=_TOKEN_METHODS, score="logit"))
    yield Case("b_plain", model="tiny_b", texts=1, keep=plain, request=dict(methods=_TOKEN_METHODS))
    yield Case(
        "c_gelu_tanh", model="tiny_c", deep=True,
        keep=("x0", "block.*.u", "block.*.x", "*embed", "cos", "score", "d.block.*.u", "d.x0", "map.*"),
        request=dict(methods=_TOKEN_METHODS + ["gradient"]),
    )  # fmt: skip
    yield Case("a_pixels", texts=1, keep=("score", "d.pixels", "map.*"), request=dict(methods=_PIXEL_METHODS))
    for kind in (
        "relu",
        "relu_old",
        "relu_constant_norm",
        "topk_rescale",
        "topk_layer_norm",
        "jumprelu",
        "batchtopk",
        "gated",
    ):
        request = dict(methods=_SHORT, edits=["scale:{p0}=-1.5", "add:{n0}=1.5"])
        yield Case(f"a_kind_{kind}", sae=f"sae_a1_{kind}", layer=1, keep=_KIND, request=request)
    for splice in ("replace", "keep-error"):
        for through in ("exact", "detached", "straight"):
            name = f"{splice.replace('-', '_')}_{through}"
            request = dict(methods=_SHORT, edits=_MIXED, splice=splice, through=through)
            keep = _SPLICE if through == "exact" else ("embed", "score", "d.sae.*", "map.*")
            yield Case(f"a_{name}", sae="sae_a1_sparsify", layer=1, keep=keep, request=request)
            # The input norm matters where the gradient goes through the encoder.
            if name in ("replace_exact", "keep_error_exact", "keep_error_detached"):
                yield Case(
                    f"a_{name}_layer_norm", sae="sae_a1_topk_layer_norm", layer=-2, keep=_SPLICE, request=request
                )
                yield Case(
                    f"a_{name}_constant_norm", sae="sae_a1_relu_constant_norm", layer=1, keep=_SPLICE, request=request
                )
    for tokens in ("cls", "patches", "patches:0,3,7"):
        name = "list" if ":" in tokens else tokens
        request = dict(methods=_SHORT, edits=["scale:{p0}=3.0", "set:{n0}=2.0"], tokens=tokens)
        yield Case(f"a_tokens_{name}", sae="sae_a1_sparsify", layer=1, keep=_SPLICE, request=request)
    for name, edits in {
        "none": [],
        "order": ["set:{s0},{n0}=4.0", "add:{p0},{n1}=1.5", "scale:{n1},{n0}=-2.0", "zero:{s0}", "add:{s0}=0.5"],
        "keep": ["set:{n0}=3.0", "keep:{p0},{n0},{s0}"],
    }.items():
        yield Case(
            f"a_edit_{name}", sae="sae_a1_sparsify", layer=1, keep=_SPLICE, request=dict(methods=_SHORT, edits=edits)
        )
    request = dict(methods=_TOKEN_METHODS, edits=_MIXED)
    yield Case("a_hook_first", sae="sae_a0_sparsify", layer=0, keep=_SPLICE, request=request)
    yield Case("a_hook_last", sae="sae_a2_sparsify", layer=-1, keep=_SPLICE, request=request)
    request = dict(methods=["gradient", "integrated-gradients:steps=8"], edits=["scale:{p0}=2.0"], splice="keep-error")
    yield Case("a_hook_pixels", texts=1, sae="sae_a1_relu", layer=1, keep=("score", "map.*"), request=request)
    request = dict(methods=_SHORT + ["grad-eclip:heads=single", "gradient"], score="latent:{p0}")
    yield Case(
        "a_latent_middle",
        texts=0,
        sae="sae_a1_sparsify",
        layer=1,
        keep=("score", "d.sae.x_in", "map.*"),
        request=request,
    )
    request = dict(request, tokens="cls", edits=["zero:{p0}"])
    yield Case(
        "a_latent_last_cls",
        texts=0,
        sae="sae_a2_sparsify",
        layer=2,
        keep=("score", "d.sae.x_in", "map.*"),
        request=request,
    )


def make_all(out, update):
    """Makes every committed fixture under out/clip. Returns the exit code."""
    out = Path(out) / "clip"
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".clip-") as temporary:
        new = Path(temporary) / "clip"
        _generate(new)
        moved = _compare(out, new)
        for line in moved:
            print(line)
        if moved and out.exists() and not update:
            print(f"{len(moved)} files differ from {out}; say --update to replace them")
            return 1
        if out.exists():
            shutil.rmtree(out)
        new.rename(out)
    total = sum(f.stat().st_size for f in out.rglob("*") if f.is_file())
    print(f"{out}: {total / 1e6:.2f} MB, {len(moved)} files moved")
    return 0


def _generate(out):
    for spec in tiny.MODELS.values():
        tiny.build_model(spec, out / spec.name)
    all_cases = list(cases())
    seeds, margins = {}, {}
    for name, spec in SAES.items():
        # Another seed where some pre-activation of some fixture stands too near to a decision.
        users = [c for c in all_cases if c.sae == name]
        for seed in range(1, 2000):
            tiny.build_sae(spec, out / spec.model, out / name, seed)
            found = [_margins(out, c) for c in users]
            margins[name] = min((margin for margin, _ in found), default=1.0)
            if margins[name] > MARGIN and all(jump > JUMP_MARGIN for _, jump in found):
                seeds[name] = seed
                break
        else:
            raise RuntimeError(f"{name}: no seed keeps margins of {MARGIN} and {JUMP_MARGIN}")
        print(f"{name}: seed {seeds[name]}, smallest margin {margins[name]:.1e}", flush=True)
    for case in all_cases:
        request, pixels, ids = _prepare(out, case)
        sae = out / case.sae if case.sae else None
        tensors, errors, margin = build(request, pixels, ids, out / case.model, sae, case.deep, case.keep)
        if margin <= MARGIN:
            raise RuntimeError(f"{case.name}: margin {margin:.1e}")
        write_safetensors(
            out / f"{case.name}.safetensors", tensors, metadata(request, case.model, errors, COMMAND, case.seed)
        )
        size = (out / f"{case.name}.safetensors").stat().st_size
        worst = max(e["f32"]["rms"] / e["rms"] for e in errors.values() if e["rms"] > 0)
        print(
            f"{case.name}: {len(tensors)} tensors, {size / 1000:.0f} kB, f32 relative error up to {worst:.1e}",
            flush=True,
        )
    files = sorted(f for f in out.rglob("*") if f.is_file())
    manifest = {
        "command": COMMAND,
        "torch": torch.__version__.split("+")[0],
        "seeds": {
            "models": {m.name: m.seed for m in tiny.MODELS.values()},
            "saes": seeds,
            "fixtures": {c.name: c.seed for c in all_cases},
        },
        "margins": {name: float(f"{m:.2g}") for name, m in margins.items()},
        "sha256": {str(f.relative_to(out)): _sha256(f) for f in files},
    }
    (out / "MANIFEST.json").write_text(json.dumps(manifest, indent=1) + "\n")


def _prepare(out, case):
    """Request, pixels and text ids of a case, with the latents' places filled in."""
    texts = tiny.TEXTS[: case.texts]
    pixels = tiny.make_pixels(tiny.MODELS[case.model], case.images, case.seed)
    ids = tokenize(out / case.model, texts)
    request = Request(texts=texts, sae=case.sae, layer=case.layer, **case.request)
    if case.sae:
        bare = Request(texts=texts, sae=case.sae, layer=case.layer, tokens=request.tokens, score="latent:0")
        z = Job(bare, out / case.model, out / case.sae, ids, torch.float64).forward(pixels).sae["z"]
        names = places(z)
        request.edits = [e.format(**names) for e in request.edits]
        request.score = request.score.format(**names)
    return request, pixels, ids


def places(z):
    """Names of latents by how they fire in z (B,T,S), as a `Case` has them."""
    total, count = z.sum((0, 1)), (z != 0).sum((0, 1))  # (S,)
    loud = total.argsort(descending=True, stable=True).tolist()
    some = [i for i in reversed(loud) if count[i] > 0]
    never = [i for i in range(len(count)) if count[i] == 0]
    names = {f"p{i}": loud[i] for i in range(4)} | {f"s{i}": some[i] for i in range(2)}
    return names | {f"n{i}": n for i, n in enumerate(never[:2])}


def _margins(out, case):
    try:
        request, pixels, ids = _prepare(out, case)
    except KeyError:
        return 0.0, 0.0  # no latent that never fires
    job = Job(request, out / case.model, out / case.sae, ids, torch.float64)
    job.tensors(pixels, deep=False)
    return job.sae.margin, job.sae.jump_margin


def tokenize(model, texts):
    """Ids (Q,context) as transformers' tokenizer gives them, padded to the model's context; None without texts."""
    if not texts:
        return None
    tokenizer = AutoTokenizer.from_pretrained(model)
    length = min(tokenizer.model_max_length, _context(model))
    return tokenizer(texts, padding="max_length", truncation=True, max_length=length, return_tensors="pt").input_ids


def _context(model):
    from transformers import CLIPConfig

    return CLIPConfig.from_pretrained(model).text_config.max_position_embeddings


def _sha256(file):
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _compare(old, new):
    """One line for each file that is new, gone or has other bytes."""
    names = sorted(
        {str(f.relative_to(root)) for root in (old, new) if root.exists() for f in root.rglob("*") if f.is_file()}
    )
    lines = []
    for name in names:
        a, b = old / name, new / name
        if not a.exists() or not b.exists():
            lines.append(f"{'new ' if b.exists() else 'gone'} {name}")
        elif a.read_bytes() != b.read_bytes():
            lines.append(f"moved {name}{_movement(a, b)}")
    return lines


def _movement(a, b):
    """How far the tensors of two versions of a file lie apart."""
    if a.suffix != ".safetensors":
        return ""
    from safetensors.torch import load_file

    a, b = load_file(a), load_file(b)
    text = ""
    for name in sorted(a.keys() | b.keys()):
        if name not in a or name not in b or a[name].shape != b[name].shape:
            text += f"\n    {name}: other shape or name"
        elif not torch.equal(a[name], b[name]):
            text += f"\n    {name}: by up to {float((a[name].double() - b[name].double()).abs().max()):.2e}"
    return text
