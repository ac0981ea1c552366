#!/usr/bin/env python3
"""Measures the demo model through the program itself, on scenes that the model has not seen.

    python tools/measure_demo.py pointing --out benches/results/demo_pointing.json
    python tools/measure_demo.py zeroing --sae src/demo/sae --out benches/results/demo_zeroing.json

`pointing`: the pointing game of every method on scenes of 2 to 4 objects, and how the map of an absent concept looks
beside those of the objects. `zeroing`: five of an SAE's latents, chosen on scenes of training's sprites and backgrounds
for what they contribute to A's score, are zeroed on held-out scenes of A and B. Tables in Markdown go to stdout.
"""

import argparse
import datetime
import json
import os
import sys
import tempfile
from pathlib import Path

import torch
from demo import concepts as concept_list
from demo import pointing, zeroing
from demo.model import Sizes
from demo.program import Program
from demo.splits import FONT, maker
from make_scenes import write
from sae_training.machine import cpu, write_json

ROOT = Path(__file__).resolve().parent.parent


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--out", type=Path, help="JSON file to write")
    shared.add_argument("--seed", type=int, default=2, help="of scenes, pairs and random latents")
    shared.add_argument("--model", default="demo", help="as for vitscope heatmap")
    shared.add_argument("--model-seed", type=int, default=0, help="the --seed of train_demo.py")
    shared.add_argument("--font", type=Path, default=FONT, help="Noto Color Emoji with bitmaps (CBDT)")
    shared.add_argument("--binary", type=Path, default=ROOT / "target/release/vitscope")
    which = parser.add_subparsers(dest="which", required=True)
    game = which.add_parser("pointing", parents=[shared])
    game.add_argument("--scenes", type=int, default=500)
    game.add_argument("--slow-every", type=int, default=5, help="slow methods see one scene in so many")
    zero = which.add_parser("zeroing", parents=[shared])
    zero.add_argument("--sae", type=Path, required=True)
    zero.add_argument("--pairs", type=int, default=20)
    zero.add_argument("--scenes", type=int, default=10, help="of each pair")
    zero.add_argument("--selection", type=int, default=10, help="scenes of each pair to choose the latents on")
    zero.add_argument("--draws", type=int, default=3, help="of random latents for each pair")
    zero.add_argument(
        "--contrast", type=float, default=0, help="how much a contribution to B's score counts against a latent"
    )
    zero.add_argument("--splice", default="keep-error", choices=("keep-error", "replace"))
    return parser.parse_args()


def run_pointing(args, program, concepts, folder):
    made = maker("held-out", args.font, concepts, Sizes.image, args.model_seed, args.seed)
    scenes = write(folder / "scenes", made.crowd(args.scenes), concepts)
    report = pointing.measure(program, scenes, folder / "scenes", concepts, Sizes, args.slow_every, args.seed)
    return report, pointing.table(report), {"scenes": args.scenes}


def run_zeroing(args, program, concepts, folder):
    pairs = zeroing.draw_pairs(concepts, args.pairs, args.seed)

    def scenes(split, count, seed):
        made = maker(split, args.font, concepts, Sizes.image, args.model_seed, seed)
        for number, pair in enumerate(pairs):
            at = folder / split / str(number)
            yield at, write(at, zeroing.scenes_of(made, pair, count), concepts)

    selection = list(scenes("train", args.selection, args.seed))
    measured = list(scenes("held-out", args.scenes, args.seed))
    options = ["--sae", args.sae, "--splice", args.splice]
    report = zeroing.measure(
        program, pairs, concepts, selection, measured, Sizes, args.contrast, options, args.draws, args.seed
    )
    config = json.loads((args.sae / "cfg.json").read_text())
    facts = {
        "sae": {key: config.get(key) for key in ("architecture", "d_sae", "k")}
        | {"hook_name": config.get("metadata", {}).get("hook_name")},
        "splice": args.splice,
        "method": zeroing.METHOD,
        "contrast": args.contrast,
        "pairs_of_concepts": args.pairs,
        "scenes_each": args.scenes,
        "selection_scenes_each": args.selection,
        "draws_of_random_latents": args.draws,
    }
    return report, zeroing.table(report), facts


def main():
    args = arguments()
    # One map at a time is too little work for two threads.
    torch.set_num_threads(1)
    os.environ.pop("VITSCOPE_MODEL", None)
    program, concepts = Program(args.binary, args.model), concept_list.read()
    run = {"pointing": run_pointing, "zeroing": run_zeroing}[args.which]
    with tempfile.TemporaryDirectory() as folder:
        report, table, facts = run(args, program, concepts, Path(folder))
    report = {
        "date": datetime.date.today().isoformat(),
        "cpu": cpu(),
        "vitscope": program.version(),
        "model": args.model,
        "seed": args.seed,
        **facts,
        **report,
    }
    print(table)
    if args.out:
        write_json(args.out, report)
    return 0


if __name__ == "__main__":
    sys.exit(main())
