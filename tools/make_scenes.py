#!/usr/bin/env python3
"""Scenes like those of the demo model's training, or like those it was measured on, as PNG files with boxes.

    python tools/make_scenes.py --count 3000 --seed 1 --out scenes/train
    python tools/make_scenes.py --count 600 --seed 1 --split held-out --out scenes/test

Beside the pictures stand scenes.json, for each file its objects with concept, prompt and box (x, y, width, height), and
captions.csv, which names the objects of each in one text, for `vitscope sae eval --captions`.
"""

import argparse
import csv
import json
import sys
from pathlib import Path

from demo import captions
from demo import concepts as concept_list
from demo.measurement import PROMPT
from demo.model import Sizes
from demo.splits import FONT, SPLITS, maker
from PIL import Image


def write(folder, scenes, concepts):
    """Writes each scene as a PNG, scenes.json and captions.csv. Returns what scenes.json lists."""
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise SystemExit(f"{folder} is not empty")
    digits = len(str(len(scenes) - 1))
    listed = []
    for number, scene in enumerate(scenes):
        file = f"{number:0{digits}}.png"
        Image.fromarray(scene.pixels).save(folder / file)
        objects = [
            {"concept": concepts[i].name, "prompt": PROMPT.format(concepts[i].phrase), "box": box}
            for i, box in zip(scene.objects, scene.boxes)
        ]
        listed.append({"file": file, "objects": objects})
    lines = ",\n".join(map(json.dumps, listed))
    (folder / "scenes.json").write_text(f"[\n{lines}\n]\n")
    with (folder / "captions.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(("image", "caption"))
        for entry, scene in zip(listed, scenes):
            phrases = [concepts[i].phrase for i in scene.objects] or [concept_list.BACKGROUND]
            rows.writerow((entry["file"], PROMPT.format(captions.joined(phrases))))
    return listed


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--out", type=Path, required=True, help="a new folder")
    parser.add_argument("--seed", type=int, default=1, help="of the scenes; the model was trained on those of seed 0")
    parser.add_argument("--split", choices=SPLITS, default="train", help="whose sprites and backgrounds")
    parser.add_argument("--objects", type=int, help="exactly so many in each scene [default: 0 to 4, as in training]")
    parser.add_argument("--model-seed", type=int, default=0, help="the --seed of train_demo.py: that of the banks")
    parser.add_argument("--font", type=Path, default=FONT, help="Noto Color Emoji with bitmaps (CBDT)")
    args = parser.parse_args()
    concepts = concept_list.read()
    drawn = maker(args.split, args.font, concepts, Sizes.image, args.model_seed, args.seed)
    if args.objects is None:
        scenes = [drawn.scene(drawn.draw_objects()) for _ in range(args.count)]
    else:
        scenes = drawn.exactly(args.count, args.objects)
    listed = write(args.out, scenes, concepts)
    print(f"{len(listed)} scenes with {sum(len(entry['objects']) for entry in listed)} objects in {args.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
