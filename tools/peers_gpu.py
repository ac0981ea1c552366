#!/usr/bin/env python3
"""What PyTorch and Triton need on this GPU for the work of the engine's kernels and passes. Needs torch alone (Triton
comes with it), no weights and no pictures.

    python tools/peers_gpu.py --out benches/results/peers_gpu.json --seconds 480
    python tools/peers_gpu.py --only gemm,sdpa
    python tools/peers_gpu.py --device cpu --tiny --seconds 300        # a dry run without a GPU; its times mean nothing

Every contestant for the same work is checked first, then all run by turns, each with a cold L2; medians. Random data.
Sections run in a process of their own: one that hangs or loses the device is ended and the next goes on. The JSON is
rewritten after every row.
"""

import argparse
import datetime
import json
import os
import platform
import queue
import shlex
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from sae_training.machine import cpu, write_json

# By what they are worth; name: (share of the time, module and function, what it is).
SECTIONS = {
    "rates": (2, "rates.run", "copy rate and cube product"),
    "gemm": (3, "gemm.bare", "torch.mm on ViT-L/14's products"),
    "sdpa": (5, "attention.run", "scaled_dot_product_attention, every backend, forward and reverse"),
    "tower": (20, "passes.towers", "ViT-L/14: forward, gradient, Grad-ECLIP, Chefer"),
    "topk": (4, "sae.encode", "SAE encode: F.linear and topk"),
    "decode": (4, "sae.decode", "SAE decode: embedding_bag and gathers"),
    "fused": (8, "gemm.fused", "F.linear with norm, activation or residual, compiled"),
    "shares": (7, "shares.run", "LayerNorm's, GELU's and the residual's share of a forward"),
    "others": (10, "passes.others", "the passes of ViT-L/14@336, B/32 and B/16"),
    "autotune": (6, "passes.autotuned", "ViT-L/14 with max-autotune, more batches"),
}
# A worker that is this much beyond its section's time is ended.
GRACE = 40.0


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="JSON file, rewritten after every row")
    parser.add_argument("--only", help=f"sections, by commas: {', '.join(SECTIONS)}")
    parser.add_argument("--seconds", type=float, default=480, help="for everything")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="the smallest sizes, for a dry run")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", help=argparse.SUPPRESS)
    args = parser.parse_args()
    names = args.only.split(",") if args.only else list(SECTIONS)
    unknown = [name for name in names if name not in SECTIONS]
    if unknown:
        parser.error(f"no section {', '.join(unknown)}")
    if args.device == "cpu" and not args.tiny:
        parser.error("--device cpu is a dry run: say --tiny")
    if args.work:
        return work(args, names)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    report = Report(args)
    supervise(args, names, report)
    report.print()
    return 0 if any(row["state"] in ("timed", "profiled") for row in report.rows) else 1


class Report:
    """What the workers said."""

    def __init__(self, args):
        self.path = args.out
        self.head = {
            "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
            "command": shlex.join(["python", "tools/peers_gpu.py", *sys.argv[1:]]),
            "dry_run": args.device == "cpu",
        }
        self.sections, self.rows = [], []

    def add(self, said):
        """One message of a worker: what it runs on, a section's begin or end, or a row."""
        what = said.pop("say")
        if what == "machine":
            self.head |= said
        elif what == "row":
            self.rows.append(said)
        elif what == "begin":
            self.sections.append({**said, "state": "begun"})
        else:
            self.sections[-1] |= said
        self.save()

    def save(self):
        if self.path:
            write_json(self.path, {**self.head, "sections": self.sections, "rows": self.rows})

    def print(self):
        print(", ".join(f"{k} {v}" for k, v in self.head.items() if not isinstance(v, dict)))
        print("; ".join(f"{k}: {v}" for k, v in self.head.get("settings", {}).items()))
        for section in self.sections:
            print(f"\n{section['section']}: {section['state']}, {section.get('spent', 0):.0f} s")
            rows = [row for row in self.rows if row["section"] == section["section"]]
            for case in dict.fromkeys(row["case"] for row in rows):
                print(f"  {case}")
                for row in rows:
                    if row["case"] == case:
                        print(f"    {row['name']:44} {_cells(row)}")


def _cells(row):
    if row["state"] == "profiled":
        return ", ".join(f"{kind} {share:.1%}" for kind, share in row["shares"].items())
    if row["state"] != "timed":
        return row["state"]
    cells = [f"{row['seconds_median'] * 1e6:11.1f} us"]
    cells += [f"{row[key]:9.1f} {unit}" for key, unit in _UNITS.items() if key in row]
    return " ".join(cells)


_UNITS = {"tflops": "TFLOP/s", "gbs": "GB/s", "images_per_s": "images/s"}


def supervise(args, names, report):
    """Runs the sections in a worker. When that ends or hangs in one of them, another goes on with those after it."""
    end = time.monotonic() + args.seconds
    while names and end - time.monotonic() > 5:
        command = [sys.executable, os.path.abspath(__file__), "--work", "yes", "--only", ",".join(names)]
        command += ["--seconds", str(end - time.monotonic()), "--device", args.device, "--seed", str(args.seed)]
        command += ["--tiny"] if args.tiny else []
        # A process group of its own, because the compiler starts helpers.
        worker = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, process_group=0)
        try:
            names = _listen(worker, names, end, report)
        finally:
            _end(worker)
    for name in names:
        report.add({"say": "begin", "section": name})
        report.add({"say": "end", "state": "skipped: out of time"})


def _listen(worker, names, end, report):
    """Passes on what the worker says until it ends or its section's time is over; the sections that are left."""
    lines = queue.Queue()

    def read():
        for line in worker.stdout:
            lines.put(line)
        lines.put(None)

    threading.Thread(target=read, daemon=True).start()
    # Importing torch and starting the device belong to no section.
    limit, current = time.monotonic() + 120, None
    while True:
        try:
            line = lines.get(timeout=max(0.0, min(limit, end) - time.monotonic()))
        except queue.Empty:
            if current:
                report.add({"say": "end", "state": "ended: it took too long"})
                return names[names.index(current) + 1 :]
            return []
        if line is None:
            code = worker.wait()
            if current:
                report.add({"say": "end", "state": f"ended: the worker died with {code}"})
                return names[names.index(current) + 1 :]
            if names:
                print(f"the worker ended with {code} before its first section", file=sys.stderr)
            return []
        if not line.startswith('{"say"'):
            continue  # some libraries print
        said = json.loads(line)
        what, section = said["say"], said.get("section")
        report.add(said)
        if what == "begin":
            limit, current = time.monotonic() + said["seconds"] + GRACE, section
            print(f"{section}: {SECTIONS[section][2]}, {said['seconds']:.0f} s", file=sys.stderr)
        elif what == "end":
            names, current = names[names.index(current) + 1 :], None


def _end(worker):
    try:
        os.killpg(worker.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    worker.wait()


def work(args, names):
    """The worker: runs sections in this process and says what happens, a line of JSON each."""
    end = time.monotonic() + args.seconds
    if args.device == "cpu":
        os.environ["TRITON_INTERPRET"] = "1"
    import importlib

    import torch

    from peers.bench import Bench

    def say(what, **more):
        print(json.dumps({"say": what, **more}), flush=True)

    torch.manual_seed(args.seed)
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    bench = Bench(args.device, args.tiny, lambda row: say("row", **row))
    say("machine", **machine(args, torch, bench))
    for place, name in enumerate(names):
        weight, where, _ = SECTIONS[name]
        share = weight / sum(SECTIONS[n][0] for n in names[place:])
        seconds = max(0.0, (end - 5 - time.monotonic()) * share)
        module, function = where.split(".")
        say("begin", section=name, seconds=round(seconds, 1), clocks=clocks(args))
        start = time.monotonic()
        bench.begin(name, seconds)
        try:
            getattr(importlib.import_module(f"peers.{module}"), function)(bench)
            state = "done"
        except torch.OutOfMemoryError as reason:  # of the inputs, which all contestants share
            state = f"failed: {reason}"[:200]
        say("end", state=state, spent=round(time.monotonic() - start, 1), clocks_after=clocks(args))
        bench.free()
        torch._dynamo.reset()
    return 0


def machine(args, torch, bench):
    try:
        import triton

        version = triton.__version__
    except ImportError:
        version = "absent"
    about = {"device": cpu(), "driver": "none"}
    if args.device == "cuda":
        about = {"device": torch.cuda.get_device_name(0), "driver": _smi("driver_version")}
    about |= {"torch": torch.__version__, "cuda": torch.version.cuda, "triton": version, "seed": args.seed}
    about |= {"python": platform.python_version()}
    about["settings"] = {
        "type": "bf16, sums in f32 (torch's default for reduced precision within products)",
        "data": "normal random values",
        "time": "medians of interleaved rounds by events; building, compiling and two first calls are not in them",
        "cold L2": f"{bench.clock.flushed >> 20} MiB overwritten before every call",
        "compile": "fullgraph, static shapes",
        "flops": "2 a multiply-add; of attention's reverse five products",
        "weights": "need no gradient",
    }
    return about


def clocks(args):
    """SM clock, power and temperature as they are."""
    return _smi("clocks.sm,power.draw,temperature.gpu") if args.device == "cuda" else "none"


def _smi(query):
    command = ["nvidia-smi", "--id=0", f"--query-gpu={query}", "--format=csv,noheader"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10).stdout.strip()
    except (OSError, subprocess.TimeoutExpired) as reason:
        return str(reason)


if __name__ == "__main__":
    sys.exit(main())
