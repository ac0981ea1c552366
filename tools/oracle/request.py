"""A request (what `vitscope heatmap` is asked) carried out in one floating-point type."""

from dataclasses import asdict, dataclass, field
from functools import lru_cache

import torch

from .clip import Clip, gradients
from .methods import heatmap
from .sae import Sae, latent_gradient, make_splice, parse_edit


@dataclass
class Request:
    """The `request` entry of a fixture's metadata. `sae` is a path relative to the fixture file."""

    texts: list = field(default_factory=list)
    methods: list = field(default_factory=list)
    score: str = "cosine"
    sae: str | None = None
    layer: int | None = None
    tokens: str = "all"
    edits: list = field(default_factory=list)
    splice: str = "replace"
    through: str = "exact"

    def as_dict(self):
        return asdict(self)


_clip = lru_cache(maxsize=8)(Clip)  # the committed set asks for the same two models again and again


class Job:
    """A request on one model in one type. `sae_path` is where the SAE really lies."""

    def __init__(self, request, model_path, sae_path, text_ids, dtype):
        self.request = request
        self.clip = _clip(str(model_path), dtype)
        self.text_ids = text_ids
        self.text_embed = self.clip.text(text_ids) if text_ids is not None else None  # (Q,E)
        self.latent = None
        self.sae = Sae(sae_path, dtype) if sae_path else None
        self.layer = None
        if self.sae:
            count = len(self.clip.layers)
            if request.layer is None or not -count <= request.layer < count:
                raise ValueError(f"layer {request.layer} of {count}")
            self.layer = request.layer % count
            self.edits = [parse_edit(e, self.sae.w_dec.shape[0]) for e in request.edits]
        if request.score.startswith("latent:"):
            if not self.sae:
                raise ValueError("a latent score needs an SAE")
            self.latent = int(request.score.removeprefix("latent:"))
        elif request.score not in ("cosine", "logit", "softmax"):
            raise ValueError(f"score {request.score}")
        elif text_ids is None:
            raise ValueError("this score needs a text")

    def forward(self, pixels, single_head=None):
        splice = None
        if self.sae:
            r = self.request
            splice = (self.layer, make_splice(self.sae, self.edits, r.tokens, r.splice, r.through))
        return self.clip.run(pixels, splice, single_head)

    def cos(self, trace):
        """Cosine of each image and text (B,Q)."""
        return _unit(trace.embed) @ _unit(self.text_embed).T

    def score(self, trace):
        """The explained number of each image and text (B,Q); of a latent (B,1)."""
        if self.latent is not None:
            return trace.sae["z"][..., self.latent].sum(1, keepdim=True)
        cos = self.cos(trace)
        if self.request.score == "cosine":
            return cos
        logits = self.clip.logit_scale() * cos
        return logits if self.request.score == "logit" else logits.softmax(-1)

    def tensors(self, pixels, deep=True):
        """Every named tensor of the fixture contract. `deep=False` leaves out the insides of the blocks."""
        trace = self.forward(pixels)
        score = self.score(trace)
        out = {"x0": trace.x0}
        for index, b in enumerate(trace.blocks):
            if deep:
                inner = {
                    "h": b.h,
                    "qkv": torch.cat([b.q, b.k, b.v], -1),
                    "lse": b.lse,
                    "attn": b.attn,
                    "x_mid": b.x_mid,
                    "u": b.u,
                }
                out |= {f"block.{index}.{name}": t for name, t in inner.items()}
            out[f"block.{index}.x"] = b.x
        if self.sae:
            out |= {"sae.z": trace.sae["z"], "sae.z_edit": trace.sae["z_edit"], "sae.x": trace.blocks[self.layer].x_out}
        out |= {"cls": trace.cls, "embed": trace.embed}
        if self.text_embed is not None:
            out |= {"text_embed": self.text_embed, "cos": self.cos(trace)}
        out["score"] = score
        out |= self._reverse(trace, score, deep)
        for method in self.request.methods:
            out[f"map.{method}"] = heatmap(method, self, trace)
        return {name: t.detach() for name, t in out.items()}

    def _reverse(self, trace, score, deep):
        """Gradients of the sum over images of the first text's score."""
        wanted = {"d.embed": trace.embed}
        for index, b in enumerate(trace.blocks):
            wanted[f"d.block.{index}.x"] = b.x_out
            if deep:
                wanted |= {
                    f"d.block.{index}.{name}": getattr(b, name) for name in ("u", "x_mid", "attn", "q", "k", "v")
                }
        wanted |= {"d.x0": trace.x0, "d.pixels": trace.pixels}
        if self.sae:
            wanted["d.sae.x_in"] = trace.blocks[self.layer].x
        out = dict(zip(wanted, gradients(score[:, 0].sum(), list(wanted.values()))))
        if deep:
            for index in range(len(trace.blocks)):
                parts = [out.pop(f"d.block.{index}.{name}") for name in "qkv"]
                out[f"d.block.{index}.qkv"] = torch.cat(parts, -1)
        if self.sae:
            out["d.sae.z"] = latent_gradient(self.sae, trace.sae, out[f"d.block.{self.layer}.x"])
        return out


def _unit(x):
    return x / x.norm(dim=-1, keepdim=True)
