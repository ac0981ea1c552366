"""The two ceilings of this very card: memory by a large copy, the tensor cores by a cube."""

import torch

from .bench import Work, relative


def run(bench):
    size = 1 << 16 if bench.tiny else 4 << 30
    source = bench.random(size // 2)  # bf16
    target = torch.full_like(source, torch.nan)
    bench.compare(
        f"copy {size >> 20} MiB",
        {"copy_": lambda: lambda: target.copy_(source)},
        Work(bytes=2 * size),
        check=lambda result: (0.0 if torch.equal(result, source) else 1.0, 0.5),
        seconds=2.0,
    )
    del source, target
    for n in (64, 128) if bench.tiny else (8192, 4096):
        a, b = bench.random(n, n), bench.random(n, n)
        out = torch.full_like(a, torch.nan)
        reference = a[:32].double() @ b.double()
        bench.compare(
            f"cube {n}",
            {"torch.mm": lambda: lambda: torch.mm(a, b, out=out)},
            Work(flop=2 * n**3),
            check=lambda result: (relative(result[:32], reference), 1e-2),
            seconds=3.0,
        )
