#!/usr/bin/env python3
"""ViT-B/32 on the CPU beside its peers: PyTorch and ONNX Runtime, interleaved with ours, random weights and pixels.

    python tools/peers_cpu.py --out benches/results/peers_cpu.json

Two passes: `forward` (pixels to image embedding) and `gradient` (forward, then the gradient of a cosine score with
respect to the pixels; the weights are frozen). In every round each contestant runs once, warmed up first, and gives
the median of its repeats; the table holds the median of the rounds.
"""

import argparse
import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

from sae_training.machine import cpu

ROOT = Path(__file__).resolve().parent.parent
BINARY = ROOT / "target" / "release" / "vitscope"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="JSON file to write")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--repeat", type=int, default=5, help="timed runs of each contestant in each round")
    parser.add_argument("--without-ours", action="store_true", help="peers alone")
    parser.add_argument("--binary", type=Path, default=BINARY)
    args = parser.parse_args()
    if not args.without_ours and not args.binary.exists():
        print(
            f"{args.binary} is not there: build it with `cargo build --release`, or say --without-ours", file=sys.stderr
        )
        return 2
    # Before the libraries read them.
    os.environ["OMP_NUM_THREADS"] = os.environ["RAYON_NUM_THREADS"] = str(args.threads)

    versions, contestants = _contestants(args)
    load = [os.getloadavg()[0]]
    if load[0] > 1:
        print(f"the machine is busy (load {load[0]:.1f}): the ratios may hold, the numbers do not", file=sys.stderr)
    rows = {}
    for number in range(args.rounds):
        for run in contestants:
            for name, seconds in run().items():
                rows.setdefault(name, []).append(seconds)
        print(f"round {number + 1} of {args.rounds}", file=sys.stderr)
    load.append(os.getloadavg()[0])
    report = _report(args, versions, rows, load)
    _print(report)
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        part = args.out.with_name(args.out.name + ".part")
        part.write_text(json.dumps(report, indent=1) + "\n")
        os.replace(part, args.out)
    return 0


def _contestants(args):
    """Versions, and functions that each time one contestant and return {(name, pass): median seconds of a batch}."""
    import onnxruntime
    import torch
    import transformers
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    torch.manual_seed(0)
    torch.set_num_threads(args.threads)
    model = CLIPVisionModelWithProjection(CLIPVisionConfig(projection_dim=512)).eval().requires_grad_(False)
    if model.config._attn_implementation != "sdpa":
        raise RuntimeError(f"attention is {model.config._attn_implementation}, not sdpa")
    half = CLIPVisionModelWithProjection(model.config).eval().requires_grad_(False)
    half.load_state_dict(model.state_dict())
    half = half.to(torch.bfloat16)
    pixels = torch.randn(args.batch_size, 3, 224, 224)
    text = torch.nn.functional.normalize(torch.randn(512), dim=-1)

    def forward(net, x):
        with torch.inference_mode():
            return net(pixel_values=x).image_embeds

    def gradient(net, x):
        x = x.detach().requires_grad_(True)
        embed = torch.nn.functional.normalize(net(pixel_values=x).image_embeds, dim=-1)
        (embed @ text.to(x.dtype)).sum().backward()
        return x.grad

    session = _onnx_session(model, pixels, args.threads)
    feed = {session.get_inputs()[0].name: pixels.numpy()}
    # A wrong answer is not worth timing.
    difference = float((torch.from_numpy(session.run(None, feed)[0]) - forward(model, pixels)).abs().max())
    if not difference < 1e-3:
        raise RuntimeError(f"ONNX Runtime differs from PyTorch by {difference}")

    narrow = pixels.bfloat16()
    contestants = [
        lambda: {("PyTorch f32", "forward"): _median(lambda: forward(model, pixels), args.repeat)},
        lambda: {("ONNX Runtime f32", "forward"): _median(lambda: session.run(None, feed), args.repeat)},
        lambda: {("PyTorch bf16", "forward"): _median(lambda: forward(half, narrow), args.repeat)},
        lambda: {("PyTorch f32", "gradient"): _median(lambda: gradient(model, pixels), args.repeat)},
        lambda: {("PyTorch bf16", "gradient"): _median(lambda: gradient(half, narrow), args.repeat)},
    ]
    if not args.without_ours:
        contestants.insert(1, lambda: _ours(args, "forward"))
        contestants.append(lambda: _ours(args, "gradient"))
    versions = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "onnxruntime": onnxruntime.__version__,
    }
    return versions, contestants


def _onnx_session(model, pixels, threads):
    import onnxruntime
    import torch

    class Embed(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, pixels):
            return self.model(pixel_values=pixels).image_embeds

    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "vit.onnx")
        warnings.simplefilter("ignore")  # the exporter's notes on its own age
        torch.onnx.export(Embed(), (pixels,), path, opset_version=17, input_names=["pixels"], dynamo=False)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        # Idle threads must not spin on the cores while the others are timed.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def _median(call, repeat):
    call()
    call()
    times = []
    for _ in range(repeat):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def _ours(args, which):
    """One run of our own benchmark command, in a process of its own."""
    command = [args.binary, "bench", "--model", "random:ViT-B-32", "--batch-size", args.batch_size, "--pass", which]
    command = [str(c) for c in command + ["--repeat", args.repeat, "--json"]]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        said = f"{' '.join(command)}: exit code {done.returncode}\n{done.stderr}"
        raise SystemExit(said + "\nsay --without-ours to time the peers alone")
    rows = {}
    for line in filter(None, done.stdout.splitlines()):
        row = json.loads(line)
        if row["batch"] != args.batch_size:
            raise SystemExit(f"vitscope bench timed batch {row['batch']}, not {args.batch_size}")
        rows["vitscope f32", row["pass"]] = row["seconds_median"]
    return rows


def _report(args, versions, rows, load):
    results = []
    for (name, which), seconds in rows.items():
        middle = statistics.median(seconds)
        base = rows.get(("PyTorch f32", which))
        results.append(
            {
                "name": name,
                "pass": which,
                "seconds_median": round(middle, 5),
                "seconds_rounds": [round(s, 5) for s in seconds],
                "images_per_s": round(args.batch_size / middle, 2),
                # Round by round, so that a slow spell of the machine hits both sides.
                "speed_vs_pytorch_f32": round(statistics.median(b / s for b, s in zip(base, seconds)), 3)
                if base
                else None,
            }
        )
    results.sort(key=lambda r: (r["pass"], -r["images_per_s"]))
    return {
        "model": "ViT-B/32, random weights",
        "batch": args.batch_size,
        "threads": args.threads,
        "rounds": args.rounds,
        "repeat": args.repeat,
        "cpu": cpu(),
        "date": datetime.date.today().isoformat(),
        "versions": versions,
        "load_before_after": [round(x, 2) for x in load],
        "results": results,
    }


def _speed(base, seconds):
    """Median of the rounds' ratios: a slow spell of the machine hits both sides of a round."""
    return round(statistics.median(b / s for b, s in zip(base, seconds)), 3) if base else None


def _print(report):
    print("{model}, batch {batch}, {threads} threads, {rounds} rounds of {repeat}".format(**report))
    versions = ", ".join(f"{name} {version}" for name, version in report["versions"].items())
    print("{cpu}, {date}, load {load_before_after}".format(**report) + f", {versions}")
    print(f"{'pass':10}{'':20}{'ms / batch':>12}{'images/s':>12}{'vs PyTorch f32':>16}")
    for row in report["results"]:
        ratio = row["speed_vs_pytorch_f32"] or float("nan")
        head = f"{row['pass']:10}{row['name']:20}"
        print(f"{head}{row['seconds_median'] * 1000:12.1f}{row['images_per_s']:12.1f}{ratio:15.2f}x")


if __name__ == "__main__":
    sys.exit(main())
