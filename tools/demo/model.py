"""CLIP in PyTorch, written to train fast on a CPU. Names of modules are those of transformers.

Letters in shapes: B images or texts, T tokens, P patches, D width, H heads, F hidden width of the MLP, E embedding.
"""

import math
from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F
from torch import nn

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class Sizes:
    """The sizes of a CLIP pair."""

    vocabulary: int
    image: int = 112
    patch: int = 8
    width: int = 128
    layers: int = 5
    heads: int = 4
    text_width: int = 96
    text_layers: int = 2
    text_heads: int = 3
    context: int = 48
    embedding: int = 96

    @property
    def grid(self):
        return self.image // self.patch

    as_dict = asdict


class Attention(torch.autograd.Function):
    """softmax(q k^T + mask) v for scaled q; keeps only the probabilities.

    On a CPU the backward pass of PyTorch's own attention costs as much as all the rest of a step.
    """

    @staticmethod
    def forward(ctx, q, k, v, mask):
        logits = torch.bmm(q, k.transpose(1, 2))
        if mask is not None:
            logits += mask
        probabilities = torch.softmax(logits, -1).to(q.dtype)
        ctx.save_for_backward(q, k, v, probabilities)
        return torch.bmm(probabilities, v)

    @staticmethod
    def backward(ctx, grad):
        q, k, v, probabilities = ctx.saved_tensors
        grad = grad.to(q.dtype)
        dp = torch.bmm(grad, v.transpose(1, 2))
        dl = torch._softmax_backward_data(dp, probabilities, -1, probabilities.dtype)
        return torch.bmm(dl, k), torch.bmm(dl.transpose(1, 2), q), torch.bmm(probabilities.transpose(1, 2), grad), None


class Block(nn.Module):
    """One transformer block, started as CLIP starts its own."""

    def __init__(self, width, heads, layers):
        super().__init__()
        self.heads = heads
        self.layer_norm1, self.layer_norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (nn.Linear(width, width) for _ in range(4))
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        inward = width**-0.5 * (2 * layers) ** -0.5
        deviations = {part: width**-0.5 for part in (self.q_proj, self.k_proj, self.v_proj)}
        deviations |= {self.out_proj: inward, self.fc1: (2 * width) ** -0.5, self.fc2: inward}
        for linear, deviation in deviations.items():
            nn.init.normal_(linear.weight, std=deviation)
            nn.init.zeros_(linear.bias)

    def forward(self, x, mask=None):
        B, T, D = x.shape
        parts = (self.q_proj, self.k_proj, self.v_proj)
        weight, bias = (torch.cat([getattr(part, kind) for part in parts]) for kind in ("weight", "bias"))
        qkv = F.linear(self.layer_norm1(x), weight, bias).view(B, T, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        q, k, v = (part.reshape(B * self.heads, T, -1) for part in qkv)  # each (B*H,T,D/H)
        out = Attention.apply(q * (D // self.heads) ** -0.5, k, v, mask)
        x = x + self.out_proj(out.view(B, self.heads, T, -1).transpose(1, 2).reshape(B, T, D))
        return x + self.mlp(self.layer_norm2(x))

    def mlp(self, x):
        """fc2(quick_gelu(fc1(x))). quick_gelu(u) = u sigmoid(1.702 u) = silu(1.702 u) / 1.702, and both factors are
        cheaper on the weights than on the tokens."""
        u = F.linear(x, 1.702 * self.fc1.weight, 1.702 * self.fc1.bias)
        return F.linear(F.silu(u), self.fc2.weight / 1.702, self.fc2.bias)


class Clip(nn.Module):
    """An image tower and a text tower."""

    def __init__(self, sizes):
        super().__init__()
        self.sizes = s = sizes
        D, C = s.width, s.text_width
        self.patch_embedding = nn.Linear(3 * s.patch**2, D, bias=False)
        self.class_embedding = nn.Parameter(torch.randn(D) * D**-0.5)
        self.position_embedding = nn.Parameter(torch.randn(s.grid**2 + 1, D) * 0.5 * D**-0.5)
        self.pre_layrnorm, self.post_layernorm = nn.LayerNorm(D), nn.LayerNorm(D)
        self.vision_layers = nn.ModuleList(Block(D, s.heads, s.layers) for _ in range(s.layers))
        self.visual_projection = nn.Linear(D, s.embedding, bias=False)
        self.token_embedding = nn.Embedding(s.vocabulary, C)
        self.text_position_embedding = nn.Parameter(torch.randn(s.context, C) * 0.01)
        self.text_layers = nn.ModuleList(Block(C, s.text_heads, s.text_layers) for _ in range(s.text_layers))
        self.final_layer_norm = nn.LayerNorm(C)
        self.text_projection = nn.Linear(C, s.embedding, bias=False)
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))
        nn.init.normal_(self.patch_embedding.weight, std=(3 * s.patch**2) ** -0.5)
        nn.init.normal_(self.visual_projection.weight, std=D**-0.5)
        nn.init.normal_(self.token_embedding.weight, std=0.02)
        nn.init.normal_(self.text_projection.weight, std=C**-0.5)
        self.register_buffer("mean", torch.tensor(MEAN), persistent=False)
        self.register_buffer("deviation", torch.tensor(STD), persistent=False)

    def tokens(self, pixels, kept=None):
        """Residual (B,1+K,D) after the last block, of pixels (B,S,S,3) uint8; of the patches `kept` (B,K), if given."""
        s, B = self.sizes, len(pixels)
        patches = pixels.view(B, s.grid, s.patch, s.grid, s.patch, 3).permute(0, 1, 3, 2, 4, 5)
        patches = patches.reshape(B, s.grid**2, -1)
        positions = self.position_embedding[1:]
        if kept is not None:
            patches = patches.gather(1, kept[..., None].expand(-1, -1, patches.shape[-1]))
            positions = positions[kept]
        patches = (patches.view(B, -1, s.patch**2, 3).float() / 255 - self.mean) / self.deviation
        # The convolution's weight has the colour before row and column.
        x = self.patch_embedding(patches.transpose(2, 3).flatten(2)) + positions
        first = (self.class_embedding + self.position_embedding[0]).expand(B, 1, -1)
        x = self.pre_layrnorm(torch.cat([first.to(x.dtype), x], 1))
        for block in self.vision_layers:
            x = block(x)
        return x

    def project(self, x):
        """Embeddings (...,E), not normalised, of residuals (...,D)."""
        return self.visual_projection(self.post_layernorm(x))

    def texts(self, ids, ends):
        """Embeddings (B,E), not normalised, of ids (B,T) whose end-of-text tokens stand at `ends` (B)."""
        T = ids.shape[1]
        x = self.token_embedding(ids) + self.text_position_embedding[:T]
        dtype = torch.bfloat16 if torch.is_autocast_enabled(ids.device.type) else x.dtype
        mask = torch.full((T, T), -math.inf, dtype=dtype, device=ids.device).triu(1)
        for block in self.text_layers:
            x = block(x, mask)
        return self.text_projection(self.final_layer_norm(x[torch.arange(len(ids), device=ids.device), ends]))
