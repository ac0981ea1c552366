#!/usr/bin/env python3
"""`vitscope sae train` beside the PyTorch reference: same activations, recipe, seed and steps, one after the other.

    python tools/compare_sae_training.py --images scenes/train --test-images scenes/test --work target/compare \\
        --out benches/results/sae_training.json

Harvests both folders of pictures into --work through `vitscope` (once), trains, and evaluates both results with the
same Python code on the activations of the test pictures. The two sides draw other random numbers from the same seed, so
one round tells little: --rounds takes further seeds. "No worse" means that our mean FVU is at most the reference's mean
plus two standard errors of the difference, and our mean L0 at most 2 % above the reference's.

Tokens per second are those of the steps alone: without harvest, start and writing. Processor seconds count both threads,
so that they hardly depend on what else the machine does; ours are those of the whole program.
"""

import os

# Threads that wait must give way soon, or one other busy process makes PyTorch many times slower. Read by OpenMP when
# torch is imported.
os.environ.setdefault("GOMP_SPINCOUNT", "5000")

import argparse
import datetime
import json
import platform
import resource
import shutil
import statistics
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import torch
from sae_training.activations import read_shards
from sae_training.machine import cpu, write_json
from sae_training.quality import quality
from sae_training.reference import Recipe, train

ROOT = Path(__file__).resolve().parent.parent
# The options of `vitscope sae train` that only one algorithm has, and the recipe's names for them.
OWN = {
    "topk": {"--k": "k", "--aux": "aux"},
    "batchtopk": {"--k": "k", "--aux": "aux"},
    "jumprelu": {
        "--l0": "l0",
        "--target-l0": "target",
        "--bandwidth": "bandwidth",
        "--threshold-init": "threshold_init",
    },
    "relu": {"--l1": "l1"},
}
SHARED = {
    "--algorithm": "algorithm",
    "--latents": "latents",
    "--steps": "steps",
    "--train-batch": "batch",
    "--lr": "rate",
    "--warm-up": "warm_up",
    "--decay": "decay",
    "--dead-after": "dead_after",
    "--center": "center",
    "--seed": "seed",
}


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, help="folder of pictures to train on; not needed once harvested")
    parser.add_argument("--test-images", type=Path, help="folder of other pictures; not needed once harvested")
    parser.add_argument("--work", type=Path, required=True, help="folder of the activations and the trained SAEs")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    parser.add_argument("--binary", type=Path, default=ROOT / "target/release/vitscope")
    parser.add_argument("--model", default="demo")
    parser.add_argument("--layer", type=int, default=3, help="block whose output is taken, from 0")
    parser.add_argument("--algorithm", nargs="+", choices=OWN, default=["topk", "jumprelu"])
    parser.add_argument("--latents", type=int, default=2048)
    parser.add_argument("--k", type=int, default=32, help="also the L0 that JumpReLU aims at")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--train-batch", type=int, default=4096)
    parser.add_argument("--lr", type=float)
    parser.add_argument("--l1", type=float, default=Recipe.l1)
    parser.add_argument("--bandwidth", type=float, default=0.3)
    parser.add_argument("--threshold-init", type=float, default=0.3)
    parser.add_argument("--seed", type=int, default=0, help="of the first round")
    parser.add_argument("--rounds", type=int, default=3, help="each with the next seed")
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args()


def vitscope(args, *words):
    environment = os.environ | {"RAYON_NUM_THREADS": str(args.threads)}
    words = [str(word) for word in (args.binary, "sae", "train", "-q", "--layer", args.layer, *words)]
    done = subprocess.run([*words, "--model", args.model], capture_output=True, text=True, env=environment)
    if done.returncode != 0:
        sys.exit(f"{' '.join(words)}: exit code {done.returncode}\n{done.stderr}")


def harvested(args, images, name):
    """The folder of activations of these pictures. The program harvests before it trains: one step is the least."""
    folder = args.work / name
    index = folder / "index.json"
    if not (index.exists() and json.loads(index.read_text())["complete"]):
        if images is None:
            sys.exit(f"{folder} holds no finished harvest: say which pictures to take")
        words = ["--cache", folder, "--latents", 16, "--k", 1, "--steps", 1, "--train-batch", 64]
        vitscope(args, images, *words, "-o", args.work / "unused")
        shutil.rmtree(args.work / "unused")
    return folder


def ours(args, recipe, cache, folder):
    """Trains with `vitscope`. Returns the SAE's folder, tokens a second and processor seconds."""
    values = asdict(recipe) | {"rate": recipe.rate}
    options = [word for option, name in (SHARED | OWN[recipe.algorithm]).items() for word in (option, values[name])]
    # The first line of the log is that of the first step.
    before = processor_seconds(resource.RUSAGE_CHILDREN)
    vitscope(args, "--cache", cache, *options, "--log-every", recipe.steps, "-o", folder)
    processor = processor_seconds(resource.RUSAGE_CHILDREN) - before
    made = folder / f"layer{args.layer}-{recipe.latents}"
    log = [json.loads(line) for line in (made / "log.jsonl").read_text().splitlines()]
    first, last = log[0], log[-1]
    return made, (last["tokens"] - first["tokens"]) / (last["seconds"] - first["seconds"]), processor


def processor_seconds(who):
    usage = resource.getrusage(who)
    return usage.ru_utime + usage.ru_stime


def reference(recipe, x, folder):
    """Trains with PyTorch. Returns the SAE's folder, tokens a second and processor seconds."""
    before = processor_seconds(resource.RUSAGE_SELF)
    trainer, speed = train(recipe, x)
    processor = processor_seconds(resource.RUSAGE_SELF) - before
    trainer.save(folder, None)
    return folder, speed, processor


def main():
    args = arguments()
    torch.set_num_threads(args.threads)
    cache, test = (harvested(args, i, n) for i, n in ((args.images, "train"), (args.test_images, "test")))
    x, held_out = read_shards(cache, args.layer), read_shards(test, args.layer)
    runs, load = [], [os.getloadavg()[0]]
    for number in range(args.rounds):
        for algorithm in args.algorithm:
            recipe = Recipe(
                algorithm=algorithm,
                latents=args.latents,
                steps=args.steps,
                batch=args.train_batch,
                seed=args.seed + number,
                lr=args.lr,
                warm_up=min(args.steps // 20, 1000),
                l1_warm_up=min(args.steps // 20, 1000),
                dead_after=max(args.steps * args.train_batch // 20, 10 * args.train_batch),
                k=args.k,
                target=args.k,
                l1=args.l1,
                bandwidth=args.bandwidth,
                threshold_init=args.threshold_init,
            )
            folder = args.work / f"{algorithm}-{recipe.seed}"
            shutil.rmtree(folder, ignore_errors=True)
            row = {"algorithm": algorithm, "recipe": asdict(recipe) | {"lr": recipe.rate}}
            made = {"vitscope": ours(args, recipe, cache, folder / "vitscope")}
            made["torch"] = reference(recipe, x, folder / "torch")
            for side, (sae, speed, processor) in made.items():
                figures = {"tokens_per_s": round(speed), "processor_s": round(processor, 1)}
                row[side] = quality(sae, held_out) | figures
            runs.append(row)
            print(json.dumps({key: row[key] for key in ("algorithm", "vitscope", "torch")}), file=sys.stderr)
    load.append(os.getloadavg()[0])
    report = {
        "date": datetime.date.today().isoformat(),
        "cpu": cpu(),
        "threads": args.threads,
        "load_before_after": [round(value, 2) for value in load],
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "vitscope": subprocess.run([args.binary, "--version"], capture_output=True, text=True).stdout.split()[1],
        },
        "model": args.model,
        "layer": args.layer,
        "tokens": {"train": len(x), "test": len(held_out)},
        "summary": [summary(algorithm, runs) for algorithm in args.algorithm],
        "runs": runs,
    }
    print_table(report)
    if args.out:
        write_json(args.out, report)
    return 0


def summary(algorithm, runs):
    """Means over the rounds with standard errors; medians of the speeds, and of the ratios of each round."""
    mine = [run for run in runs if run["algorithm"] == algorithm]
    row = {"algorithm": algorithm, "rounds": len(mine), "steps": mine[0]["recipe"]["steps"]}
    for key in ("fvu", "l0", "never_fired"):
        row[key] = {side: mean(run[side][key] for run in mine) for side in ("vitscope", "torch")}
    if len(mine) > 1:
        ours, theirs = row["fvu"]["vitscope"], row["fvu"]["torch"]
        error = (ours["standard_error"] ** 2 + theirs["standard_error"] ** 2) ** 0.5
        row["fvu_difference"] = {"mean": ours["mean"] - theirs["mean"], "standard_error": error}
        equal_l0 = row["l0"]["vitscope"]["mean"] <= 1.02 * row["l0"]["torch"]["mean"]
        row["no_worse"] = equal_l0 and row["fvu_difference"]["mean"] <= 2 * error
    for key in ("tokens_per_s", "processor_s"):
        row[key] = {side: statistics.median(run[side][key] for run in mine) for side in ("vitscope", "torch")}
    speed = [run["vitscope"]["tokens_per_s"] / run["torch"]["tokens_per_s"] for run in mine]
    processor = [run["torch"]["processor_s"] / run["vitscope"]["processor_s"] for run in mine]
    return row | {
        "speed_ratio": round(statistics.median(speed), 3),
        "processor_ratio": round(statistics.median(processor), 3),
    }


def mean(values):
    """The mean, with its standard error where there are several values."""
    values = list(values)
    row = {"mean": statistics.fmean(values)}
    if len(values) > 1:
        row["standard_error"] = statistics.stdev(values) / len(values) ** 0.5
    return row


def print_table(report):
    versions = ", ".join(f"{name} {version}" for name, version in report["versions"].items())
    print("{cpu}, {threads} threads, {date}, load {load_before_after}".format(**report) + f", {versions}\n")
    columns = (
        "algorithm",
        "L0 ours / torch",
        "FVU ours / torch",
        "no worse",
        "tokens/s ours / torch",
        "ratio",
        "CPU ratio",
    )
    print(f"| {' | '.join(columns)} |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for row in report["summary"]:
        l0, fvu, speed = (
            {side: row[key][side] for side in ("vitscope", "torch")} for key in ("l0", "fvu", "tokens_per_s")
        )
        fvu = [f"{value['mean']:.4f} ± {value.get('standard_error', float('nan')):.4f}" for value in fvu.values()]
        print(
            f"| {row['algorithm']} | {l0['vitscope']['mean']:.1f} / {l0['torch']['mean']:.1f} | {' / '.join(fvu)} "
            f"| {row.get('no_worse', 'one round')} | {speed['vitscope']:,.0f} / {speed['torch']:,.0f} "
            f"| {row['speed_ratio']:.2f} | {row['processor_ratio']:.2f} |"
        )


if __name__ == "__main__":
    sys.exit(main())
