"""Sparse decode in Triton: a program for each token, `rows` decoder rows read at once, sums in float32."""

import triton
import triton.language as tl


@triton.jit
def _kernel(value, index, w, out, K: tl.constexpr, D: tl.constexpr, WIDTH: tl.constexpr, ROWS: tl.constexpr):
    token = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, WIDTH)
    total = tl.zeros((WIDTH,), tl.float32)
    for first in range(0, K, ROWS):
        k = first + tl.arange(0, ROWS)
        latent = tl.load(index + token * K + k, mask=k < K, other=0).to(tl.int64)
        weight = tl.load(value + token * K + k, mask=k < K, other=0.0).to(tl.float32)
        rows = tl.load(w + latent[:, None] * D + column[None, :], mask=column[None, :] < D, other=0.0)
        total += tl.sum(weight[:, None] * rows.to(tl.float32), 0)
    tl.store(out + token * D + column, total.to(out.dtype.element_ty), mask=column < D)


def decode(value, index, w, out, warps, rows):
    """value, index (M,K), w (S,D) -> out (M,D)."""
    tokens, k = index.shape
    width = w.shape[1]
    _kernel[(tokens,)](value, index, w, out, k, width, triton.next_power_of_2(width), rows, num_warps=warps)
    return out
