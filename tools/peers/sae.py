"""An SAE of width D = 1024: encode by F.linear and topk, decode by gathers of decoder rows."""

import torch
import torch.nn.functional as F

from .bench import Work, relative

WIDTH = 1024
IMAGES = 65  # 65 x 257 = 16705 rows


def encode(bench):
    """Pre-activations, then the K largest of each row; both parts alone beside their sum."""
    rows, width = (10, 32) if bench.tiny else (IMAGES * 257, WIDTH)
    for latents in (64,) if bench.tiny else (65536, 8192, 131072):
        x, w, b = bench.random(rows, width), bench.random(latents, width, scale=width**-0.5), bench.random(latents)
        work = Work(flop=2 * rows * latents * width, images=rows / 257)
        with torch.inference_mode():
            pre = F.linear(x, w, b)
        sample = x[:32].double() @ w.double().t() + b.double()
        bench.compare(
            f"pre-activations M={rows} S={latents}",
            {
                "bare torch.mm": lambda: lambda: torch.mm(x, w.t()),
                "F.linear": lambda: _quiet(lambda: F.linear(x, w, b)),
            },
            work,
            check=lambda result: (relative(result[:32], sample), 1e-2),
            unchecked=("bare torch.mm",),
        )
        for k in (4,) if bench.tiny else (64, 32, 256):
            bench.compare(
                f"top-k M={rows} S={latents} K={k}",
                {
                    "F.linear + topk": lambda: _quiet(lambda: F.linear(x, w, b).topk(k, dim=-1, sorted=False)),
                    "topk alone": lambda: _quiet(lambda: pre.topk(k, dim=-1, sorted=False)),
                },
                work,
                check=lambda result: (_misses(result, pre[:32], k), 0.0),
                seconds=1.5,
                needs=5,
            )
        del pre


def _misses(result, pre, k):
    """Values that are not where the indices say, or not the largest: a count over the first rows."""
    values, indices = (t[: len(pre)] for t in result)
    wrong = (pre.gather(-1, indices) != values).sum()
    largest = pre.sort(dim=-1, descending=True).values[:, :k]
    return float(wrong + (values.sort(dim=-1, descending=True).values != largest).sum())


def decode(bench):
    """Sum of K decoder rows by their values, for every token: latents uniform, and as uneven as trained ones."""
    tokens, width, latents = (10, 32, 64) if bench.tiny else (IMAGES * 257, WIDTH, 65536)
    w = bench.random(latents, width)  # (S,D)
    for k in (4,) if bench.tiny else (64, 32, 256):
        for law in ("uniform", "Zipf"):
            index = _indices(bench, law, tokens, latents, k)  # (M,K) i32
            wide = index.long()
            value = bench.random(tokens, k).abs_()
            reference = torch.einsum("mk,mkd->md", value[:8].double(), w[wide[:8]].double())
            contestants = {
                "embedding_bag": lambda: _quiet(
                    lambda: F.embedding_bag(index, w, mode="sum", per_sample_weights=value)
                ),
                "index, bmm": lambda: _quiet(lambda: torch.bmm(value[:, None], w[wide])[:, 0]),
            }
            for warps, rows in ((4, 1), (4, 4), (2, 4), (1, 1), (1, 4), (8, 8)):
                name = f"Triton gather, {warps} warps, {rows} rows at once"
                contestants[name] = lambda warps=warps, rows=rows: _triton(value, index, w, warps, rows)
            bench.compare(
                f"decode {law} M={tokens} S={latents} K={k}",
                contestants,
                # The gathered bytes; how many of them come from the L2 depends on the law.
                Work(flop=2 * tokens * k * width, bytes=2 * tokens * (k + 1) * width, images=tokens / 257),
                check=lambda result: (relative(result[:8], reference), 1e-2),
            )


def _triton(value, index, w, warps, rows):
    from .gather import decode as gather

    out = torch.full((len(index), w.shape[1]), torch.nan, device=w.device, dtype=w.dtype)
    return lambda: gather(value, index, w, out, warps, rows)


def _indices(bench, law, tokens, latents, k):
    """(M,K) latents of each token. Zipf: latent j with a frequency of about 1/j, in a random order of latents."""
    if law == "uniform":
        picks = torch.randint(latents, (tokens, k), device=bench.device)
    else:
        share = torch.rand(tokens, k, device=bench.device)
        order = torch.randperm(latents, device=bench.device)
        picks = order[(latents**share).long().clamp_(max=latents) - 1]
    return picks.int()


def _quiet(function):
    def call():
        with torch.inference_mode():
            return function()

    return call
