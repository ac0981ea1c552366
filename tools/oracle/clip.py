"""transformers' CLIPModel in a chosen type, with every named tensor of one forward kept in the autograd graph.

Nothing is derived by hand here: values come from the published model code through hooks, gradients from autograd.
Sizes: B images, T tokens (CLS first), P patches, D width, H heads, F MLP width, E joint embedding, Q texts.
"""

from dataclasses import dataclass, field

import torch
from torch import nn
from transformers import CLIPModel
from transformers.models.clip import modeling_clip
from transformers.utils import logging

logging.disable_progress_bar()

DTYPES = {"f64": torch.float64, "f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}


def _attention(module, query, key, value, attention_mask, scaling, dropout=0.0, **_):
    """Eager attention whose softmax is as wide as the model. transformers always takes the softmax in float32,
    which would make a float64 reference wrong in the eighth digit."""
    scores = torch.matmul(query, key.transpose(-1, -2)) * scaling
    if attention_mask is not None:
        scores = scores + attention_mask
    wide = torch.float64 if query.dtype == torch.float64 else torch.float32
    probs = nn.functional.softmax(scores, dim=-1, dtype=wide).to(query.dtype)
    return torch.matmul(probs, value).transpose(1, 2).contiguous(), probs


modeling_clip.eager_attention_forward = _attention


@dataclass
class Block:
    """What one block computed."""

    h: torch.Tensor = None  # (B,T,D) layer_norm1
    q: torch.Tensor = None  # (B,T,D) not scaled
    k: torch.Tensor = None  # (B,T,D)
    v: torch.Tensor = None  # (B,T,D)
    lse: torch.Tensor = None  # (B,H,T) log-sum-exp over keys of the scaled scores
    probs: torch.Tensor = None  # (B,H,T,T)
    attn: torch.Tensor = None  # (B,T,D) heads side by side, before out_proj
    x_mid: torch.Tensor = None  # (B,T,D)
    u: torch.Tensor = None  # (B,T,F) before the activation
    x_in: torch.Tensor = None  # (B,T,D) input of the block
    x: torch.Tensor = None  # (B,T,D) output of the block, before any splice
    x_out: torch.Tensor = None  # (B,T,D) residual stream after the block, after the splice where there is one


@dataclass
class Trace:
    """What one forward computed."""

    pixels: torch.Tensor  # (B,3,R,R) leaf
    blocks: list
    x0: torch.Tensor = None  # (B,T,D)
    cls: torch.Tensor = None  # (B,D) post_layernorm of the CLS token
    embed: torch.Tensor = None  # (B,E)
    sae: dict = field(default_factory=dict)  # z, z_edit, entries (B,T,S)


class Clip:
    """A CLIP model that never trains. `path` is a directory or a Hugging Face id."""

    def __init__(self, path, dtype):
        self.dtype = dtype
        self.model = CLIPModel.from_pretrained(path, attn_implementation="eager", dtype=torch.float32)
        self.model = self.model.to(dtype).eval().requires_grad_(False)
        self.vision = self.model.vision_model
        self.layers = self.vision.encoder.layers

    def embed_tokens(self, x):
        """Any tokens (...,D) -> joint embedding (...,E): post_layernorm, then the projection."""
        return self.model.visual_projection(self.vision.post_layernorm(x))

    @torch.no_grad()
    def text(self, ids):
        """ids (Q,context) -> un-normalised text embeddings (Q,E)."""
        return self.model.get_text_features(input_ids=ids).pooler_output

    def logit_scale(self):
        return self.model.logit_scale.exp()

    def run(self, pixels, splice=None, single_head=None):
        """One forward of pixels (B,3,R,R). `splice` is (layer, function x -> (x', dict)); `single_head` names a block
        whose attention is computed with one head of width D."""
        pixels = pixels.detach().to(self.dtype).requires_grad_(True)
        trace = Trace(pixels, [Block() for _ in self.layers])
        handles = [self.vision.pre_layrnorm.register_forward_hook(_keep(trace, "x0"))]
        for index, (layer, block) in enumerate(zip(self.layers, trace.blocks)):
            attn = layer.self_attn
            handles += [
                layer.layer_norm1.register_forward_pre_hook(_keep_input(block, "x_in")),
                layer.layer_norm1.register_forward_hook(_keep(block, "h")),
                attn.q_proj.register_forward_hook(_keep(block, "q")),
                attn.k_proj.register_forward_hook(_keep(block, "k")),
                attn.v_proj.register_forward_hook(_keep(block, "v")),
                attn.out_proj.register_forward_pre_hook(_keep_input(block, "attn")),
                attn.register_forward_hook(_keep_attention(block)),
                layer.layer_norm2.register_forward_pre_hook(_keep_input(block, "x_mid")),
                layer.mlp.fc1.register_forward_hook(_keep(block, "u")),
                layer.register_forward_hook(
                    _block_end(trace, block, splice[1] if splice and splice[0] == index else None)
                ),
            ]
        heads = None
        if single_head is not None:
            attn = self.layers[single_head].self_attn
            heads = (attn.num_heads, attn.head_dim, attn.scale)
            attn.num_heads, attn.head_dim, attn.scale = 1, attn.embed_dim, attn.embed_dim**-0.5
        try:
            trace.cls = self.vision(pixel_values=pixels).pooler_output
            trace.embed = self.model.visual_projection(trace.cls)
        finally:
            for handle in handles:
                handle.remove()
            if heads:
                attn.num_heads, attn.head_dim, attn.scale = heads
        return trace


def _keep(store, name):
    def hook(_module, _inputs, output):
        setattr(store, name, output)

    return hook


def _keep_input(store, name):
    def hook(_module, inputs):
        setattr(store, name, inputs[0])

    return hook


def _keep_attention(block):
    def hook(module, _inputs, output):
        block.probs = output[1]
        with torch.no_grad():
            q, k = (t.unflatten(-1, (-1, module.head_dim)).transpose(1, 2) for t in (block.q, block.k))
            scores = torch.matmul(q, k.transpose(-1, -2)) * module.scale
            wide = scores if scores.dtype == torch.float64 else scores.float()
            block.lse = wide.logsumexp(-1)

    return hook


def _block_end(trace, block, splice):
    def hook(_module, _inputs, output):
        block.x = block.x_out = output
        if splice is not None:
            block.x_out, trace.sae = splice(output)
        return block.x_out

    return hook


def gradients(target, tensors):
    """d target / d each tensor; zeros where the target does not depend on it."""
    if not target.requires_grad:
        return [torch.zeros_like(t) for t in tensors]
    grads = torch.autograd.grad(target, tensors, retain_graph=True, allow_unused=True)
    return [torch.zeros_like(t) if g is None else g for g, t in zip(grads, tensors)]
