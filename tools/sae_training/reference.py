"""The reference: SAE training as one writes it in PyTorch, with autograd.

Everything is dense but the decoder of TopK: there embedding_bag over the kept latents takes 0.2 s of processor time a
step with its backward pass and the encoder, a matrix product with the scattered latents 0.34 s (N = 4096, D = 128,
S = 2048, K = 32).

Sizes: N tokens a step, D width, S latents, K active ones.
"""

import json
import math
import time
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from safetensors.torch import save_file


@dataclass(frozen=True)
class Recipe:
    """What decides a run, beside the activations."""

    algorithm: str = "topk"  # relu, topk, batchtopk, jumprelu
    latents: int = 2048
    steps: int = 1000
    batch: int = 4096  # tokens a step
    seed: int = 0
    lr: float | None = None  # default 1e-3 sqrt(2048 / S)
    warm_up: int = 100
    decay: float = 0.2  # the last share of the steps, over which the rate falls to 0
    center: str = "geometric-median"  # or mean
    dead_after: int = 1_000_000  # tokens
    k: int = 32
    aux: float = 1 / 32
    k_aux: int = 512  # at most: no more than D / 2, no more than there are dead latents
    l1: float = 1e-3
    l1_warm_up: int = 200
    l0: float = 1.0  # coefficient
    target: float | None = None  # L0 aimed at: l0 (L0 / target - 1)^2 in place of l0 L0
    bandwidth: float = 0.001  # of the straight-through estimator, in scaled units
    threshold_init: float = 0.001

    @property
    def rate(self):
        return 1e-3 * math.sqrt(2048 / self.latents) if self.lr is None else self.lr

    def rate_at(self, step):
        """Linear warm-up, constant, linear to nought."""
        left = (self.steps - step) / (self.decay * self.steps) if self.decay > 0 else 1
        warm = (step + 1) / self.warm_up if self.warm_up > 0 else 1
        return self.rate * min(1, warm, left)


class JumpRelu(torch.autograd.Function):
    """h [h > theta] for h (N,S) after a ReLU and theta (S), with the straight-through estimator of Rajamanoharan et al.
    2024 (arXiv 2407.14435)."""

    @staticmethod
    def forward(ctx, h, theta, bandwidth):
        ctx.save_for_backward(h, theta)
        ctx.bandwidth = bandwidth
        return h * (h > theta)

    @staticmethod
    def backward(ctx, grad):
        h, theta = ctx.saved_tensors
        near = ((h - theta) / ctx.bandwidth).abs() < 0.5
        return grad * (h > theta), -(theta / ctx.bandwidth) * (near * grad).sum(0), None


class Step(torch.autograd.Function):
    """[h > theta], with the same estimator; nothing goes back to h."""

    @staticmethod
    def forward(ctx, h, theta, bandwidth):
        ctx.save_for_backward(h, theta)
        ctx.bandwidth = bandwidth
        return (h > theta).to(h.dtype)

    @staticmethod
    def backward(ctx, grad):
        h, theta = ctx.saved_tensors
        near = ((h - theta) / ctx.bandwidth).abs() < 0.5
        return None, -(near * grad).sum(0) / ctx.bandwidth, None


def geometric_median(x, steps=100, tolerance=1e-6):
    """The point with the least sum of distances to the rows of x (n,D), by Weiszfeld's steps from the mean."""
    point = x.mean(0)
    for _ in range(steps):
        weight = 1 / (x - point).norm(dim=1).clamp(min=1e-8)
        moved = (weight[:, None] * x).sum(0) / weight.sum()
        if (moved - point).norm() <= tolerance * moved.norm():
            return moved
        point = moved
    return point


def largest(h, count):
    """The numbers and values (N,K) of the `count` largest of each row of h (N,S), after a ReLU."""
    values, index = h.topk(count, dim=1, sorted=False)
    return index, values.relu()


def decoded(z, rows):
    """Latents, dense or sparse, times decoder rows (S,D)."""
    if isinstance(z, tuple):
        return F.embedding_bag(z[0], rows, per_sample_weights=z[1], mode="sum")
    return z @ rows


def fired(z):
    """The latents above 0 in any row: a mask (S), or numbers."""
    return z[0][z[1] > 0] if isinstance(z, tuple) else (z > 0).any(0)


class Trainer:
    """One SAE in training, on activations divided by one number."""

    def __init__(self, recipe, sample):
        torch.manual_seed(recipe.seed)
        self.recipe, width = recipe, sample.shape[1]
        self.scale = ((sample - sample.mean(0)).square().sum(1).mean() / width).sqrt()
        sample = sample / self.scale
        decoder = F.normalize(torch.randn(recipe.latents, width), dim=1)
        median = geometric_median(sample) if recipe.center == "geometric-median" else sample.mean(0)
        self.w_enc = decoder.clone().requires_grad_(True)  # (S,D)
        self.w_dec = decoder.requires_grad_(True)  # (S,D)
        self.b_enc = torch.zeros(recipe.latents, requires_grad=True)
        self.b_dec = median.requires_grad_(True)
        parameters = [self.w_enc, self.w_dec, self.b_enc, self.b_dec]
        if recipe.algorithm == "jumprelu":
            start = math.log(recipe.threshold_init)
            self.log_theta = torch.full((recipe.latents,), start, requires_grad=True)
            parameters.append(self.log_theta)
        self.optimiser = torch.optim.Adam(parameters, lr=recipe.rate, betas=(0.9, 0.999), eps=1e-8)
        self.silent = torch.zeros(recipe.latents, dtype=torch.long)  # tokens since a latent's last firing
        self.threshold, self.done = None, 0

    def latents(self, h):
        """The latents, as z (N,S) or as the kept ones' numbers and values (N,K), and the loss of their number."""
        r, nothing = self.recipe, h.new_zeros(())
        if r.algorithm == "topk":
            return largest(h, r.k), nothing
        if r.algorithm == "batchtopk":
            values, index = h.flatten().topk(r.k * len(h), sorted=False)
            values = values.relu()
            least = values.detach()[values > 0].min()
            self.threshold = least if self.threshold is None else 0.999 * self.threshold + 0.001 * least
            return torch.zeros(h.numel()).scatter(0, index, values).view_as(h), nothing
        if r.algorithm == "relu":
            z = h.relu()
            coefficient = r.l1 * min(1, (self.done + 1) / max(r.l1_warm_up, 1))
            return z, coefficient * z.sum(1).mean()
        h, theta = h.relu(), self.log_theta.exp()
        count = Step.apply(h, theta, r.bandwidth).sum(1).mean()
        loss = r.l0 * (count if r.target is None else (count / r.target - 1).square())
        return JumpRelu.apply(h, theta, r.bandwidth), loss

    def auxiliary(self, error, h):
        """What the dead latents make of the error (Gao et al. 2024, arXiv 2406.04093)."""
        dead = self.silent >= self.recipe.dead_after
        count = min(self.recipe.k_aux, error.shape[1] // 2, int(dead.sum()))
        if count == 0:
            return error.new_zeros(())
        rebuilt = decoded(largest(h[:, dead], count), self.w_dec[dead])
        loss = (error - rebuilt).square().sum() / (error - error.mean(0)).square().sum()
        return self.recipe.aux * loss.nan_to_num(0, 0, 0)

    def step(self, x):
        """One step on x (N,D), not scaled."""
        x = x / self.scale
        for group in self.optimiser.param_groups:
            group["lr"] = self.recipe.rate_at(self.done)
        h = (x - self.b_dec) @ self.w_enc.T + self.b_enc
        z, sparsity = self.latents(h)
        error = x - (decoded(z, self.w_dec) + self.b_dec)
        loss = error.square().mean() + sparsity
        if self.recipe.algorithm in ("topk", "batchtopk"):
            loss = loss + self.auxiliary(error.detach(), h)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        with torch.no_grad():
            grad, rows = self.w_dec.grad, self.w_dec
            grad -= (grad * rows).sum(1, keepdim=True) * rows
            self.optimiser.step()
            rows /= rows.norm(dim=1, keepdim=True)
            self.silent += len(x)
            self.silent[fired(z)] = 0
        self.done += 1
        return float(loss.detach())

    @torch.no_grad()
    def save(self, folder, hook):
        """Writes a SAELens folder whose latents have the units of the stream."""
        s, kind = self.scale, self.recipe.algorithm
        tensors = {"W_enc": self.w_enc.T, "W_dec": self.w_dec, "b_enc": self.b_enc * s, "b_dec": self.b_dec * s}
        if kind == "jumprelu":
            tensors["threshold"] = self.log_theta.exp() * s
        if kind == "batchtopk":
            tensors["threshold"] = (self.threshold * s).expand(self.recipe.latents)
        config = {
            "architecture": {"relu": "standard", "topk": "topk"}.get(kind, "jumprelu"),
            "d_in": self.w_dec.shape[1],
            "d_sae": self.recipe.latents,
            "dtype": "float32",
            "device": "cpu",
            "apply_b_dec_to_input": True,
            "normalize_activations": "none",
            "reshape_activations": "none",
        }
        if kind == "topk":
            config |= {"k": self.recipe.k, "rescale_acts_by_decoder_norm": False}
        config["metadata"] = {"sae_lens_version": "6.0.0"} | ({"hook_name": hook} if hook else {})
        folder.mkdir(parents=True, exist_ok=True)
        save_file(
            {name: tensor.detach().float().contiguous().clone() for name, tensor in tensors.items()},
            folder / "sae_weights.safetensors",
            metadata={"format": "pt"},
        )
        (folder / "cfg.json").write_text(json.dumps(config, indent=1) + "\n")


def batches(x, size, seed):
    """Endless shuffled batches of the rows of x, each epoch in an order of its own."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        order = torch.randperm(len(x), generator=generator)
        for start in range(0, len(x) - size + 1, size):
            yield x[order[start : start + size]]


def train(recipe, x, sample_tokens=65536, report=None):
    """Trains on the rows of x (n,D). Returns the trainer and the tokens a second of its steps."""
    if len(x) < recipe.batch:
        raise SystemExit(f"{len(x)} tokens are too few for batches of {recipe.batch}")
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(recipe.seed))
    trainer = Trainer(recipe, x[order[:sample_tokens]])
    source, started = batches(x, recipe.batch, recipe.seed), time.perf_counter()
    while trainer.done < recipe.steps:
        loss = trainer.step(next(source))
        if report and trainer.done % 100 == 0:
            report(trainer.done, loss)
    return trainer, recipe.steps * recipe.batch / (time.perf_counter() - started)
