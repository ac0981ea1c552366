"""Where a forward of ViT-L/14 spends its time on the device, by the profiler: eager by operation, compiled by
kernel."""

import torch
from torch.profiler import ProfilerActivity, profile

from . import tower
from .bench import short

BATCH = 115
# The first that fits counts. A compiled kernel's name lists what was fused into it, also of the product before it.
FUSED = (
    ("LayerNorm", ("layer_norm", "layernorm")),
    ("GELU", ("gelu", "sigmoid", "mul")),
    ("residual", ("add",)),
)
KINDS = (
    ("attention", ("attention", "flash", "fmha", "sdpa")),
    ("products", ("gemm", "addmm", "aten::mm", "nvjet", "cutlass", "cublas", "xmma", "splitk", "triton_tem")),
    ("patch embedding", ("conv", "cat")),
    *FUSED,
)


def run(bench):
    shape = tower.TINY if bench.tiny else tower.SHAPES["ViT-L/14"]
    batch = 2 if bench.tiny else BATCH
    one = tower.Tower(shape, bench, torch.bfloat16)
    pixels = tower.pixels(shape, bench, batch, torch.bfloat16)
    for name, by, build in (
        ("eager", "operation", lambda: one.forward),
        ("compiled default", "kernel", lambda: bench.compiled(one.forward, "default")),
    ):
        case = f"ViT-L/14 forward B={batch}"
        if bench.left() < (0 if bench.tiny else 10 if name == "eager" else 60):
            bench.row(case, name, "skipped: out of time")
            continue
        try:
            torch._dynamo.reset()
            rows = _profile(bench, build(), pixels, by)
        except (RuntimeError, ValueError, TypeError, AttributeError) as reason:
            bench.row(case, name, f"failed: {short(reason)}")
            bench.recover()
            continue
        total = sum(seconds for _, seconds, _ in rows) or 1.0
        shares = {}
        for key, seconds, _ in rows:
            shares[kind(key)] = shares.get(kind(key), 0.0) + seconds / total
        shares = {key: round(share, 4) for key, share in sorted(shares.items(), key=lambda s: -s[1])}
        largest = [{"name": k[:120], "seconds": s, "calls": n} for k, s, n in rows[:25]]
        bench.row(case, name, "profiled", device_seconds=total, shares=shares, largest=largest)


def kind(name):
    lower = name.lower()
    kinds = FUSED if lower.startswith(("triton_poi", "triton_per", "triton_red")) else KINDS
    return next((label for label, words in kinds if any(word in lower for word in words)), "rest")


def _profile(bench, function, pixels, by, repeat=3):
    """(name, seconds of one forward, calls), the largest first. `by`: operation, or kernel (on a GPU alone)."""
    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if bench.device.type == "cuda" else [])
    with torch.inference_mode():
        for _ in range(2):
            function(pixels)
        bench.settle()
        with profile(activities=activities) as profiled:
            for _ in range(repeat):
                function(pixels)
            bench.settle()
    rows = []
    for event in profiled.key_averages():
        if event.is_user_annotation or event.key.startswith(("##", "Torch-Compiled Region")):
            continue  # spans around what is counted already
        on_device = event.device_type != torch.autograd.DeviceType.CPU
        if bench.device.type == "cuda":
            if on_device != (by == "kernel"):
                continue
            time = event.self_device_time_total
        else:
            time = event.self_cpu_time_total
        if time > 0:
            rows.append((event.key, time / 1e6 / repeat, event.count // repeat))
    return sorted(rows, key=lambda row: -row[1])
