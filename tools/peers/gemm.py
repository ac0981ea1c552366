"""The products of ViT-L/14: bare, by torch.mm, and with what stands around them, as torch.compile fuses it."""

import torch
import torch.nn.functional as F

from .bench import Work, quick_gelu, relative

BATCHES = (115, 64, 128)
# N and K of the forward; the reverse (dX) exchanges them.
SHAPES = {"qkv": (3072, 1024), "out": (1024, 1024), "up": (4096, 1024), "down": (1024, 4096)}


def bare(bench):
    """torch.mm on the eight shapes, all by turns."""
    for batch in (2,) if bench.tiny else BATCHES:
        rows = batch * (5 if bench.tiny else 257)
        for direction in ("forward", "reverse"):
            for shape, (n, k) in _shapes(bench).items():
                w = bench.random(n, k)
                x = bench.random(rows, k if direction == "forward" else n)  # (M,K) or (M,N)
                w = w.t() if direction == "forward" else w
                out = torch.full((rows, w.shape[1]), torch.nan, device=x.device, dtype=x.dtype)
                reference = x[-32:].double() @ w.double()
                bench.compare(
                    f"{shape} {direction} B={batch} M={rows} N={w.shape[1]} K={w.shape[0]}",
                    {"torch.mm": lambda x=x, w=w, out=out: lambda: torch.mm(x, w, out=out)},
                    Work(flop=2 * rows * n * k, bytes=2 * (rows * n + rows * k + n * k), images=batch),
                    check=lambda result, reference=reference: (relative(result[-32:], reference), 1e-2),
                    seconds=0.5,
                )


def fused(bench):
    """F.linear with a norm before it, or an activation or a residual after it: eager, compiled, and with the compiler's
    own products (max-autotune) as long as there is time."""
    batches = (2,) if bench.tiny else BATCHES
    for mode in ("default", "max-autotune-no-cudagraphs"):
        for batch in batches:
            for name, (shape, around) in _AROUND.items():
                _fused(bench, batch, name, shape, around, mode)


def _fused(bench, batch, name, shape, around, mode):
    n, k = _shapes(bench)[shape]
    rows = batch * (5 if bench.tiny else 257)
    x, w, b = bench.random(rows, k), bench.random(n, k, scale=k**-0.5), bench.random(n)
    other = bench.random(rows, n) if around is _residual else bench.random(2, k)
    wide = (x[-32:].double(), w.double(), b.double(), (other[-32:] if around is _residual else other).double())
    reference = around(*wide)
    contestants = {f"compiled {mode}": lambda: _call(bench.compiled(around, mode), x, w, b, other)}
    if mode == "default":
        contestants["bare torch.mm"] = lambda: lambda: torch.mm(x, w.t())
        contestants["eager"] = lambda: _call(around, x, w, b, other)
    torch._dynamo.reset()
    bench.compare(
        f"{name} B={batch} M={rows} N={n} K={k}",
        contestants,
        Work(flop=2 * rows * n * k, images=batch),
        check=lambda result: (relative(result[-32:], reference), 2e-2),
        # Another function, for its time alone; its own section checks it.
        unchecked=("bare torch.mm",),
        seconds=0.6,
        needs=8 if mode == "default" else 40,
    )


def _call(function, *arguments):
    def call():
        with torch.inference_mode():
            return function(*arguments)

    return call


def _gelu(x, w, b, _):
    return quick_gelu(F.linear(x, w, b))


def _residual(x, w, b, residual):
    return residual + F.linear(x, w, b)


def _norm(x, w, b, norm):
    return F.linear(F.layer_norm(x, x.shape[-1:], norm[0], norm[1]), w, b)


_AROUND = {
    "up + bias + quick-GELU": ("up", _gelu),
    "down + bias + residual": ("down", _residual),
    "out + bias + residual": ("out", _residual),
    "LayerNorm + qkv + bias": ("qkv", _norm),
}


def _shapes(bench):
    return {name: (n // 32, k // 32) for name, (n, k) in SHAPES.items()} if bench.tiny else SHAPES
