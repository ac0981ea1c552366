"""scaled_dot_product_attention through each backend, forward and reverse, and the product of matrices that keeps P.

q, k, v are (B,H,T,d) views of one (B,T,3,H,d) tensor, as a fused projection leaves them. The reverse is dq, dk, dv.
"""

import contextlib

import torch
import torch.nn.functional as F
from torch.nn import attention
from torch.nn.attention import SDPBackend, sdpa_kernel

from .bench import Work, relative

HEADS = 16
BACKENDS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "cuDNN": SDPBackend.CUDNN_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "math": SDPBackend.MATH,
}
# Tokens and head size: L/14 first, then the others by their use.
SHAPES = ((257, 64), (50, 64), (197, 64), (577, 64), (257, 80), (50, 80), (197, 80), (577, 80))


def run(bench):
    batch, heads = (2, 2) if bench.tiny else (115, HEADS)
    for tokens, size in ((5, 16),) if bench.tiny else SHAPES:
        case = f"T={tokens} d={size} B={batch} H={heads}"
        q, k, v, do = _inputs(bench, batch, heads, tokens, size)
        with torch.no_grad():
            sample = [t[:2].double() for t in (q, k, v)]
        reference = _matmul(*sample)
        scores = 2 * batch * heads * tokens * tokens * size  # FLOP of one of the products
        moved = 2 * batch * heads * tokens * size  # bytes of q
        bench.compare(
            f"forward {case}",
            {name: lambda scope=scope, f=f: _forward(scope, f, q, k, v) for name, scope, f in _contestants(bench)},
            Work(flop=2 * scores, bytes=4 * moved, images=batch),
            check=lambda result: (relative(result[:2], reference), 2e-2),
            seconds=0.5,
            needs=4,
        )
        sample = [t.requires_grad_(True) for t in sample]
        gradients = torch.autograd.grad(_matmul(*sample), sample, do[:2].double())
        bench.compare(
            f"reverse {case}",
            {name: lambda scope=scope, f=f: _reverse(scope, f, q, k, v, do) for name, scope, f in _contestants(bench)},
            Work(flop=5 * scores, bytes=8 * moved, images=batch),
            check=lambda result: (max(relative(r[:2], g) for r, g in zip(result, gradients)), 3e-2),
            seconds=0.5,
            needs=4,
        )


def _contestants(bench):
    """(name, context in which it runs, function of q, k, v)"""
    for name, backend in BACKENDS.items():
        yield name, lambda backend=backend: sdpa_kernel(backend), F.scaled_dot_product_attention
    yield "default choice", contextlib.nullcontext, F.scaled_dot_product_attention
    yield "matmul, softmax, matmul", contextlib.nullcontext, _matmul
    # Newer flash kernels live in packages of their own, which may not be there.
    for name in attention.list_flash_attention_impls():
        yield f"flash {name}", lambda name=name: _flash(name), F.scaled_dot_product_attention


@contextlib.contextmanager
def _flash(name):
    attention.activate_flash_attention_impl(name)
    try:
        with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
            yield
    finally:
        attention.restore_flash_attention_impl()


def _matmul(q, k, v):
    return torch.softmax(q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5, dim=-1) @ v


def _forward(scope, function, q, k, v):
    def call():
        with torch.inference_mode(), scope():
            return function(q, k, v)

    return call


def _reverse(scope, function, q, k, v, do):
    with scope():
        leaves = [t.detach().requires_grad_(True) for t in (q, k, v)]
        out = function(*leaves)

    def call():
        with scope():
            return torch.autograd.grad(out, leaves, do, retain_graph=True)

    return call


def _inputs(bench, batch, heads, tokens, size):
    qkv = bench.random(batch, tokens, 3, heads, size)
    q, k, v = (qkv[:, :, i].transpose(1, 2) for i in range(3))
    do = bench.random(batch, tokens, heads, size).transpose(1, 2)
    return q, k, v, do
