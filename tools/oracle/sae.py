"""Sparse autoencoders: the two published directory layouts, the splice and the edits, in plain dense PyTorch.

Layouts: EleutherAI sparsify (cfg.json + sae.safetensors) and SAELens (cfg.json + sae_weights.safetensors).
Sizes: B images, T tokens, D width, S latents.
"""

import json
import math
from pathlib import Path

import torch
from safetensors.torch import load_file

NORM_EPS = 1e-5  # SAELens layer_norm


class Sae:
    """One SAE in one type. `kind`: relu, topk, jumprelu, gated. `norm`: none, layer_norm, constant_norm_rescale."""

    def __init__(self, path, dtype):
        path = Path(path)
        self.cfg = json.loads((path / "cfg.json").read_text())
        self.norm, self.rescale, self.k = "none", False, None
        # Smallest relative distance of any pre-activation to a decision, over all calls; and of those decisions where
        # the latent's value jumps: the boundary of a top-k, a threshold above zero.
        self.margin = self.jump_margin = math.inf
        if (path / "sae.safetensors").exists():
            self._sparsify(load_file(path / "sae.safetensors"))
        elif (path / "sae_weights.safetensors").exists():
            self._sae_lens(load_file(path / "sae_weights.safetensors"))
        else:
            raise ValueError(f"{path}: neither sae.safetensors nor sae_weights.safetensors")
        for name, value in vars(self).items():
            if isinstance(value, torch.Tensor):
                setattr(self, name, value.to(dtype))
        if self.rescale:
            self.row_norm = self.w_dec.norm(dim=-1)  # (S,)

    def _sparsify(self, t):
        if self.cfg.get("activation", "topk") != "topk" or self.cfg.get("skip_connection") or self.cfg.get("transcode"):
            raise ValueError("only plain top-k sparsify autoencoders")
        self.kind, self.k, self.subtract = "topk", self.cfg["k"], True
        self.w_enc, self.b_enc = t["encoder.weight"], t["encoder.bias"]  # (S,D) (S,)
        self.w_dec, self.b_dec = t["W_dec"], t["b_dec"]  # (S,D) (D,)

    def _sae_lens(self, t):
        cfg = self.cfg
        # Configurations older than version 6 call things differently.
        architecture = cfg.get("architecture", "standard")
        if cfg.get("activation_fn_str", cfg.get("activation_fn")) == "topk":
            architecture, cfg["k"] = "topk", cfg["activation_fn_kwargs"]["k"]
        self.kind = {"standard": "relu", "topk": "topk", "jumprelu": "jumprelu", "gated": "gated"}[architecture]
        self.subtract = cfg.get("apply_b_dec_to_input", True)
        self.norm = cfg.get("normalize_activations") or "none"
        if self.norm not in ("none", "layer_norm", "constant_norm_rescale"):
            raise ValueError(f"normalize_activations {self.norm}")
        self.w_enc, self.w_dec, self.b_dec = t["W_enc"].T.contiguous(), t["W_dec"], t["b_dec"]
        if self.kind == "gated":
            self.b_gate, self.b_mag, self.r_mag = t["b_gate"], t["b_mag"], t["r_mag"]
        else:
            self.b_enc = t["b_enc"]
        if self.kind == "topk":
            self.k, self.rescale = cfg["k"], bool(cfg.get("rescale_acts_by_decoder_norm"))
        if self.kind == "jumprelu":
            self.threshold = t["threshold"]

    def norm_in(self, x):
        """x (B,T,D) -> normalised input, and (scale, shift) of the way back."""
        if self.norm == "layer_norm":
            mean = x.mean(-1, keepdim=True)
            centred = x - mean
            std = centred.std(-1, keepdim=True)
            return centred / (std + NORM_EPS), (std, mean)
        if self.norm == "constant_norm_rescale":
            factor = math.sqrt(x.shape[-1]) / x.norm(dim=-1, keepdim=True)
            return x * factor, (1 / factor, None)
        return x, (None, None)

    def encode(self, x):
        """x (B,T,D) -> latents (B,T,S), dense."""
        u = self.norm_in(x)[0]
        u = u - self.b_dec if self.subtract else u
        if self.kind == "gated":
            gate = u @ self.w_enc.T + self.b_gate
            magnitude = u @ (self.w_enc * self.r_mag.exp()[:, None]).T + self.b_mag
            self._note(gate.abs(), gate, jumps=True)
            self._note(torch.where(gate > 0, magnitude.abs(), math.inf), magnitude)
            return (gate > 0).to(u.dtype) * magnitude.relu()
        h = u @ self.w_enc.T + self.b_enc
        if self.rescale:
            h = h * self.row_norm
        if self.kind == "topk":
            values, index = h.topk(self.k, dim=-1)
            if self.k < h.shape[-1]:
                edges = h.topk(self.k + 1, dim=-1).values.relu()[..., -2:]
                # Two candidates under zero are both dropped by the ReLU: no decision there.
                self._note(torch.where(edges[..., :1] > 0, edges[..., :1] - edges[..., 1:], math.inf), h, jumps=True)
            self._note(values.abs(), h)
            return torch.zeros_like(h).scatter(-1, index, values.relu())
        if self.kind == "jumprelu":
            self._note((h - self.threshold).abs(), h, jumps=True)
            self._note(h.abs(), h)
            return h.relu() * (h > self.threshold).to(h.dtype)
        self._note(h.abs(), h)
        return h.relu()

    def _note(self, distance, values, jumps=False):
        relative = distance.detach().min() / values.detach().square().mean().sqrt()
        self.margin = min(self.margin, float(relative))
        if jumps:
            self.jump_margin = min(self.jump_margin, float(relative))

    def directions(self, z, x):
        """The linear part of the decoder: z (B,T,S) -> (B,T,D), in the units of x, without biases."""
        z = z / self.row_norm if self.rescale else z
        scale = self.norm_in(x)[1][0]
        y = z @ self.w_dec
        return y if scale is None else y * scale

    def decode(self, z, x):
        """z (B,T,S) -> reconstruction (B,T,D) of x."""
        z = z / self.row_norm if self.rescale else z
        y = z @ self.w_dec + self.b_dec
        scale, shift = self.norm_in(x)[1]
        y = y if scale is None else y * scale
        return y if shift is None else y + shift


def token_scope(tokens, count):
    """`all`, `cls`, `patches` or `patches:0,3` -> mask (T,) over `count` tokens."""
    mask = torch.zeros(count, dtype=torch.bool)
    name, _, rest = tokens.partition(":")
    if name == "all" and not rest:
        mask[:] = True
    elif name == "cls" and not rest:
        mask[0] = True
    elif name == "patches" and not rest:
        mask[1:] = True
    elif name == "patches":
        for patch in (int(i) for i in rest.split(",")):
            if not 0 <= patch < count - 1:
                raise ValueError(f"patch {patch} of {count - 1}")
            mask[1 + patch] = True
    else:
        raise ValueError(f"tokens {tokens}")
    return mask


def parse_edit(text, latents):
    """`zero:3,5`, `scale:7=2.5`, `set:1=4.0`, `add:9=1.5`, `keep:1,2` -> (name, ids, value or None)."""
    name, _, rest = text.partition(":")
    ids, _, value = rest.partition("=")
    if name not in ("zero", "scale", "set", "add", "keep") or (name in ("zero", "keep")) == bool(value):
        raise ValueError(f"edit {text}")
    ids = [int(i) for i in ids.split(",")]
    if not all(0 <= i < latents for i in ids):
        raise ValueError(f"edit {text}: {latents} latents")
    return name, ids, float(value) if value else None


def apply_edits(z, edits, scope):
    """Edits in the order given, on the tokens of `scope` (T,). Returns z' and which latents set or add touched (S,)."""
    touched = torch.zeros(z.shape[-1], dtype=torch.bool)
    scope = scope[:, None]  # (T,1)
    for name, ids, value in edits:
        here = torch.zeros(z.shape[-1], dtype=torch.bool)
        here[ids] = True
        if name == "keep":
            z = torch.where(scope & ~here, torch.zeros_like(z), z)
            continue
        here = scope & here  # (T,S)
        if name == "zero":
            z = torch.where(here, torch.zeros_like(z), z)
        elif name == "scale":
            z = torch.where(here, z * value, z)
        elif name == "set":
            z = torch.where(here, torch.full_like(z, value), z)
        else:
            z = torch.where(here, z + value, z)
        if name in ("set", "add"):
            touched[ids] = True
    return z, touched


def make_splice(sae, edits, tokens, mode, through):
    """The function x -> (x', named latents) that stands at the hooked block's output."""
    if mode not in ("replace", "keep-error") or through not in ("exact", "detached", "straight"):
        raise ValueError(f"splice {mode}, through {through}")

    def splice(x):
        scope = token_scope(tokens, x.shape[1])
        z = torch.where(scope[:, None], sae.encode(x), torch.zeros((), dtype=x.dtype))
        z_edit, touched = apply_edits(z, edits, scope)
        if mode == "replace":
            y = sae.decode(z_edit, x)
        else:
            y = x + sae.directions(z_edit - z, x)
        if through == "straight":
            y = y.detach() + (x - x.detach())
        elif through == "detached" and mode == "keep-error":
            # The error x - decode(z) is a constant: the value above, the gradient of decode(z') alone.
            model_part = sae.decode(z_edit, x)
            y = y.detach() + (model_part - model_part.detach())
        y = torch.where(scope[:, None], y, x)
        entries = scope[:, None] & ((z != 0) | touched)
        return y, {"z": z, "z_edit": z_edit, "entries": entries, "x_in": x}

    return splice


def latent_gradient(sae, kept, dx):
    """d score / d z' (B,T,S) for the gradient dx (B,T,D) at x', zero where the sparse code has no entry. The same in
    all `through` modes: it asks what the decoder does with z', not how the gradient goes on below the splice."""
    z = kept["z_edit"].detach().requires_grad_(True)
    (dz,) = torch.autograd.grad(sae.decode(z, kept["x_in"].detach()), z, dx)
    return torch.where(kept["entries"], dz, torch.zeros_like(dz))
