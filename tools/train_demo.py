#!/usr/bin/env python3
"""Makes the demo model and its scenes: everything in src/demo/ but mod.rs.

    pip install torch==2.11.0 transformers==5.17.0 tokenizers safetensors pillow numpy scikit-image
    apt-get install fonts-noto-color-emoji
    python tools/train_demo.py --work target/demo

Every outcome is drawn from --seed, by step and not by the clock. The run is saved to --work as it goes; the same
command takes it up again, with the same result as if it had not stopped. On two CPU cores it takes under an hour.
A model below the floors is not written unless --force says so, and then its card says it too.
"""

import os

# Threads that wait must give way soon, or one other busy process makes a step eight times slower. Read by OpenMP when
# torch is imported.
os.environ.setdefault("GOMP_SPINCOUNT", "5000")

import argparse
import hashlib
import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from demo import backgrounds, captions, card, export, showcase, sprites, tokenizer
from demo import concepts as concept_list
from demo.measurement import Measurement
from demo.model import Sizes
from demo.splits import FONT, generator, maker
from demo.training import Batches, Recipe, Trainer

ROOT = Path(__file__).resolve().parent.parent
# The least that a model must reach: zero-shot top-1 over all concepts, and the pointing game of Grad-ECLIP.
FLOORS = {"top1": 0.90, "hit": 0.92}


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--font", type=Path, default=FONT, help="Noto Color Emoji with bitmaps (CBDT)")
    parser.add_argument("--work", type=Path, required=True, help="folder of the unfinished run")
    parser.add_argument("--out", type=Path, default=ROOT / "src/demo", help="folder to write the demo to")
    parser.add_argument("--steps", type=int, default=Recipe.steps)
    parser.add_argument("--seed", type=int, default=Recipe.seed)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--save-every", type=int, default=200, help="steps between two saved states")
    parser.add_argument("--shared-machine", action="store_true", help="let the card say that other work slowed the run")
    parser.add_argument("--force", action="store_true", help="write the model even if it is below the floors")
    return parser.parse_args()


def learn_tokenizer(concepts, rng):
    """The tokenizer of many captions and of prompts for every concept."""
    phrases = [concept.phrase for concept in concepts] + [concept_list.BACKGROUND]
    texts = [captions.single(rng, phrase) for phrase in phrases for _ in range(20)]
    for _ in range(40_000):
        named = rng.choice(len(concepts), rng.integers(1, 5), replace=False)
        texts.append(captions.caption(rng, [phrases[i] for i in named]))
    return tokenizer.learn(texts)


def train(trainer, work, save_every):
    """Runs to the last step, from the saved state if there is one."""
    state = work / "state.pt"
    if state.exists():
        trainer.load(state)
        print(f"going on from step {trainer.step}", file=sys.stderr)
    with (work / "log.jsonl").open("a") as log:
        while trainer.step < trainer.recipe.steps:
            trainer.advance()
            if trainer.step % 25 == 0:
                print(trainer.report(), file=log, flush=True)
                print(trainer.report(), file=sys.stderr)
            if trainer.step % save_every == 0 or trainer.step == trainer.recipe.steps:
                trainer.save(state)


def main():
    args = arguments()
    torch.set_num_threads(args.threads)
    torch.set_flush_denormal(True)
    # Sums in a fixed order, without the costly poisoning of new memory.
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False
    args.work.mkdir(parents=True, exist_ok=True)
    concepts = concept_list.read()

    vocabulary = learn_tokenizer(concepts, generator(args.seed, "tokenizer"))
    sizes = Sizes(vocabulary=vocabulary.get_vocab_size())
    recipe = replace(Recipe(), steps=args.steps, seed=args.seed)

    batches = Batches(recipe, maker("train", args.font, concepts, sizes.image, args.seed), concepts, vocabulary, sizes)
    trainer = Trainer(recipe, sizes, batches, args.device)
    train(trainer, args.work, args.save_every)

    made = args.work / "model"
    export.write(made, trainer.average, vocabulary)
    held_out = maker("held-out", args.font, concepts, sizes.image, args.seed)
    pixels = torch.from_numpy(np.stack([held_out.scene(held_out.draw_objects(2)).pixels for _ in range(8)]))
    prompts = [captions.single(held_out.rng, concept.phrase) for concept in concepts]
    difference = export.check(made, trainer.average, batches.texts, pixels, prompts)
    print(
        f"transformers on float16 against training: image {difference[0]:.1e}, text {difference[1]:.1e}",
        file=sys.stderr,
    )

    # One picture at a time is too little work for two threads: they would wait for each other.
    torch.set_num_threads(1)
    measurement = Measurement(made, concepts, held_out)
    figures = measurement.all()
    (args.work / "figures.json").write_text(json.dumps(figures, indent=1) + "\n")
    reached = {
        "top1": figures["zero_shot"]["phrase"]["top1"],
        "hit": figures["pointing"]["methods"]["grad-eclip"]["hit"],
    }
    print(json.dumps(reached), file=sys.stderr)
    if any(reached[key] < floor for key, floor in FLOORS.items()) and not args.force:
        sys.exit(f"not written: the floors are {FLOORS}. The model lies in {made}; --force writes it nevertheless")

    facts = {
        "parameters": sum(p.numel() for p in trainer.model.parameters()),
        "concepts": len(concepts),
        "background": concept_list.name(concept_list.BACKGROUND),
        "training": ", ".join(backgrounds.TRAINING),
        "held_out": ", ".join(backgrounds.HELD_OUT),
        "minutes": trainer.seconds / 60,
        "shared": " on a machine busy with other work" if args.shared_machine else "",
        "torch": torch.__version__,
        "device": "CPU" if args.device == "cpu" else torch.cuda.get_device_name(),
        "font_version": sprites.font_version(args.font),
        "font_hash": hashlib.sha256(args.font.read_bytes()).hexdigest(),
    }
    args.out.mkdir(parents=True, exist_ok=True)
    for file in made.iterdir():
        shutil.copyfile(file, args.out / file.name)
    showcase.write(args.out, concepts, args.font, measurement.tokenizer)
    (args.out / "concepts.txt").write_text("".join(concept.name + "\n" for concept in concepts))
    (args.out / "README.md").write_text(card.text(sizes, recipe, figures, FLOORS, facts))


if __name__ == "__main__":
    main()
