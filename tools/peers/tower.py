"""CLIP's image tower as a function of its weights, and heatmap methods on it, in plain PyTorch.

The formulas are transformers' CLIPModel's (pre-norm blocks, quick-GELU, CLS pooled), with q, k and v from one product.
Every block goes through the same functions, so that torch.compile can see a block or the whole tower.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F

from .bench import quick_gelu


@dataclass(frozen=True)
class Shape:
    resolution: int
    patch: int
    width: int
    layers: int
    heads: int
    embed: int

    @property
    def tokens(self):
        return (self.resolution // self.patch) ** 2 + 1

    def flop(self):
        """FLOP of a forward of one image, products and attention."""
        t, d = self.tokens, self.width
        block = 2 * t * 12 * d * d + 4 * t * t * d
        return self.layers * block + 2 * (t - 1) * 3 * self.patch**2 * d + 2 * d * self.embed


SHAPES = {
    "ViT-L/14": Shape(224, 14, 1024, 24, 16, 768),
    "ViT-B/32": Shape(224, 32, 768, 12, 12, 512),
    "ViT-B/16": Shape(224, 16, 768, 12, 12, 512),
    "ViT-L/14@336": Shape(336, 14, 1024, 24, 16, 768),
}
TINY = Shape(16, 8, 32, 3, 2, 16)


class Block(NamedTuple):
    """Weights of a block; products are (N,K)."""

    ln1: torch.Tensor  # (2,D) weight and bias
    qkv: torch.Tensor  # (3D,D)
    qkv_bias: torch.Tensor
    out: torch.Tensor  # (D,D)
    out_bias: torch.Tensor
    ln2: torch.Tensor  # (2,D)
    up: torch.Tensor  # (4D,D)
    up_bias: torch.Tensor
    down: torch.Tensor  # (D,4D)
    down_bias: torch.Tensor


class Tower:
    """Random weights of a size that keeps activations and gradients at about one. None of them needs a gradient."""

    def __init__(self, shape, bench, dtype):
        d = shape.width

        def product(n, k):
            return bench.random(n, k, dtype=torch.float32, scale=k**-0.5).to(dtype)

        def bias(n):
            return bench.random(n, dtype=torch.float32, scale=0.1).to(dtype)

        def norm():
            return torch.stack([1 + bias(d).float(), bias(d).float()]).to(dtype)

        self.shape, self.dtype = shape, dtype
        self.patch = product(d, 3 * shape.patch**2).view(d, 3, shape.patch, shape.patch)
        self.cls = bias(d)
        self.position = bias(shape.tokens * d).view(shape.tokens, d)
        self.ln_pre, self.ln_post = norm(), norm()
        self.projection = product(shape.embed, d)
        self.blocks = [
            Block(
                norm(), product(3 * d, d), bias(3 * d), product(d, d), bias(d),
                norm(), product(4 * d, d), bias(4 * d), product(d, 4 * d), bias(d),
            )
            for _ in range(shape.layers)
        ]  # fmt: skip

    def to(self, dtype):
        """The same weights in another type."""
        other = Tower.__new__(Tower)
        other.shape, other.dtype = self.shape, dtype
        for name in ("patch", "cls", "position", "ln_pre", "ln_post", "projection"):
            setattr(other, name, getattr(self, name).to(dtype))
        other.blocks = [Block(*(t.to(dtype) for t in block)) for block in self.blocks]
        return other

    def tokens(self, pixels):
        """pixels (B,3,R,R) -> x0 (B,T,D)"""
        x = F.conv2d(pixels, self.patch, stride=self.shape.patch).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls.expand(len(x), 1, -1), x], dim=1) + self.position
        return layer_norm(x, self.ln_pre)

    def embed(self, cls):
        """The CLS token after the last block (B,D) -> (B,E)"""
        return F.linear(layer_norm(cls, self.ln_post), self.projection)

    def forward(self, pixels):
        """pixels (B,3,R,R) -> (B,E)"""
        x = self.tokens(pixels)
        for block in self.blocks:
            x = block_forward(x, block, self.shape.heads)
        return self.embed(x[:, 0])

    def score(self, pixels, text):
        """Cosine with a text (E), summed over the images, which do not mix."""
        return cosine(self.forward(pixels), text).sum()


def layer_norm(x, norm):
    return F.layer_norm(x, x.shape[-1:], norm[0], norm[1])


def cosine(embed, text):
    return F.cosine_similarity(embed.float(), text.float(), dim=-1)


def heads_of(x, block, heads):
    """q, k, v (B,H,T,d) of x (B,T,D)"""
    qkv = F.linear(layer_norm(x, block.ln1), block.qkv, block.qkv_bias)
    return qkv.unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)


def after_attention(x, o, block):
    """x (.., D) and the heads' outputs side by side (.., D) -> the block's output"""
    x = x + F.linear(o, block.out, block.out_bias)
    h = F.linear(layer_norm(x, block.ln2), block.up, block.up_bias)
    return x + F.linear(quick_gelu(h), block.down, block.down_bias)


def side_by_side(o):
    return o.transpose(1, 2).flatten(2)  # (B,H,T,d) -> (B,T,D)


def block_forward(x, block, heads):
    return after_attention(x, side_by_side(F.scaled_dot_product_attention(*heads_of(x, block, heads))), block)


def probabilities(x, block, heads):
    """P (B,H,T,T) and v (B,H,T,d)"""
    q, k, v = heads_of(x, block, heads)
    return torch.softmax(q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5, dim=-1), v


def from_probabilities(x, p, v, block):
    return after_attention(x, side_by_side(p @ v), block)


class Methods:
    """Heatmaps of (B,P) for one text, as fast as PyTorch lets them be without a kernel of one's own. `compiled` is
    applied to the functions in them."""

    def __init__(self, tower, text, compiled=lambda function: function):
        self.tower, self.text = tower, text
        self.trunk = compiled(self._trunk)
        self.tail = compiled(self._tail)
        self.probabilities = compiled(probabilities)
        self.from_probabilities = compiled(from_probabilities)
        self.score = compiled(tower.score)

    def gradient(self, pixels):
        """d score / d pixels (B,3,R,R)"""
        pixels = pixels.detach().requires_grad_(True)
        return torch.autograd.grad(self.score(pixels, self.text), pixels)[0]

    def grad_eclip(self, pixels):
        """Grad-ECLIP (ICML 2024): only the CLS row of the last block needs a gradient, so nothing else is kept."""
        with torch.no_grad():
            x = self.trunk(pixels)
            return self.tail(x)

    def _trunk(self, pixels):
        x = self.tower.tokens(pixels)
        for block in self.tower.blocks[:-1]:
            x = block_forward(x, block, self.tower.shape.heads)
        return x

    def _tail(self, x):
        block = self.tower.blocks[-1]
        q, k, v = heads_of(x, block, self.tower.shape.heads)
        o = side_by_side(F.scaled_dot_product_attention(q[:, :, :1], k, v))[:, 0]  # (B,D)

        def score(o):
            return cosine(self.tower.embed(after_attention(x[:, 0], o, block)), self.text).sum()

        g = torch.func.grad(score)(o)  # (B,D)
        q, k, v = (side_by_side(t) for t in (q[:, :, :1], k[:, :, 1:], v[:, :, 1:]))
        kappa = F.cosine_similarity(q, k, dim=-1)  # (B,P)
        low, high = kappa.amin(-1, keepdim=True), kappa.amax(-1, keepdim=True)
        return ((kappa - low) / (high - low) * (v @ g[:, :, None])[..., 0]).relu()

    def chefer(self, pixels):
        """Chefer et al. (ICCV 2021): P is kept, one reverse pass, and the CLS row of the relevance alone, from the last
        block to the first."""
        kept = self._attend(pixels)
        score = cosine(self.tower.embed(kept.pop()[:, 0]), self.text).sum()
        gradients = torch.autograd.grad(score, kept)
        row = torch.zeros(len(pixels), self.tower.shape.tokens, device=pixels.device)
        row[:, 0] = 1
        for p, dp in zip(reversed(kept), reversed(gradients)):
            row = row + (row[:, None] @ (p * dp).relu().mean(1).float())[:, 0]
        return row[:, 1:]

    def chefer_published(self, pixels):
        """The same by its definition, with the whole matrix (B,T,T). For checks."""
        kept = self._attend(pixels)
        score = cosine(self.tower.embed(kept.pop()[:, 0]), self.text).sum()
        gradients = torch.autograd.grad(score, kept)
        relevance = torch.eye(self.tower.shape.tokens, device=pixels.device).expand(len(pixels), -1, -1)
        for p, dp in zip(kept, gradients):
            relevance = relevance + (p * dp).relu().mean(1).float() @ relevance
        return relevance[:, 0, 1:]

    def _attend(self, pixels):
        """P of every block, and the last block's output."""
        with torch.no_grad():
            x = self.tower.tokens(pixels)
        kept = []
        for block in self.tower.blocks:
            p, v = self.probabilities(x, block, self.tower.shape.heads)
            if not p.requires_grad:
                p = p.requires_grad_(True)
            x = self.from_probabilities(x, p, v, block)
            kept.append(p)
        return [*kept, x]


def pixels(shape, bench, batch, dtype):
    return bench.random(batch, 3, shape.resolution, shape.resolution, dtype=dtype)


def unit(shape, bench, dtype):
    """A text's embedding (E)"""
    text = bench.random(shape.embed, dtype=torch.float32)
    return (text / math.sqrt(shape.embed)).to(dtype)
