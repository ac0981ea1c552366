"""Training: contrastive between scenes and texts, with boxes as labels for single patches."""

import json
import math
import time
from dataclasses import asdict, dataclass

import numpy as np
import torch
import torch.nn.functional as F

from . import captions
from .concepts import BACKGROUND
from .model import Clip
from .muon import Muon
from .scenes import patch_owners


@dataclass(frozen=True)
class Recipe:
    """What decides the outcome of a training run, beside the data."""

    steps: int = 5600
    batch: int = 128
    rate: float = 2e-3
    warm_up: int = 150
    # The rate is constant until the last part of the run, then falls to 2 %. A longer or shorter run shares all that
    # comes before with this one, so a run can be given another length at any time before.
    decay: float = 0.35
    weight_decay: float = 0.1
    clip_norm: float = 1.0
    averaging: float = 0.998
    # Before the last steps, which see whole pictures, only some patches are kept: those in a box with eight times the
    # weight of others.
    whole: float = 0.09
    kept: float = 0.3
    box_weight: float = 8.0
    # The most patches that the patch loss looks at in each step: in boxes, and on the background.
    box_patches: int = 3000
    background_patches: int = 1200
    hard_negatives: float = 0.5
    partial_captions: float = 0.3
    seed: int = 0

    def rate_at(self, step):
        """The learning rate of a step."""
        left = (self.steps - step) / (self.decay * self.steps)
        return self.rate * min(1, (step + 1) / self.warm_up) * (0.02 + 0.98 * min(1, left))

    @property
    def decay_start(self):
        return math.floor((1 - self.decay) * self.steps)


def multi_positive(logits, positives):
    """Cross-entropy of each row against the uniform distribution over its positives; rows without any are left out."""
    count = positives.sum(1)
    target = positives / count.clamp(min=1)[:, None]
    return -(target * logits.log_softmax(1)).sum(1)[count > 0].mean()


def symmetric(logits, positives):
    """The mean of the loss over rows and over columns."""
    return (multi_positive(logits, positives) + multi_positive(logits.T, positives.T)) / 2


class Texts:
    """Encodes texts and remembers them."""

    def __init__(self, tokenizer):
        self.tokenizer, self.known = tokenizer, {}

    def encode(self, texts):
        """Ids (B,T) padded with end-of-text, and where the first end-of-text stands (B)."""
        if len(self.known) > 200_000:
            self.known.clear()
        for text in texts:
            if text not in self.known:
                self.known[text] = self.tokenizer.encode(text).ids
        rows = [self.known[text] for text in texts]
        ids = np.full((len(rows), max(map(len, rows))), rows[0][-1])
        for i, row in enumerate(rows):
            ids[i, : len(row)] = row
        return torch.from_numpy(ids), torch.tensor([len(row) - 1 for row in rows])


@dataclass
class Batch:
    """B scenes, B captions and a prompt for each of C concepts and the background.

    Captions are longer than prompts: apart, they need less padding.
    """

    pixels: torch.Tensor  # (B,S,S,3) uint8
    owners: torch.Tensor  # (B,P): the concept of each patch, C on the background
    captions: tuple  # ids (B,T), where each ends (B)
    prompts: tuple  # the same for (C+1) prompts
    positives: torch.Tensor  # (B,B+C+1): 1 where the image holds all that the text names


class Batches:
    """Makes batches from one random generator."""

    def __init__(self, recipe, maker, concepts, tokenizer, sizes):
        self.recipe, self.maker, self.sizes, self.rng = recipe, maker, sizes, maker.rng
        self.phrases = [concept.phrase for concept in concepts] + [BACKGROUND]
        self.nothing = len(concepts)
        self.texts = Texts(tokenizer)

    def scene_objects(self, previous):
        """The concepts of a scene; of a hard negative, those of the scene before it with one replaced."""
        if previous is None or len(previous) < 2 or self.rng.random() >= self.recipe.hard_negatives:
            return self.maker.draw_objects()
        objects = list(previous)
        objects[self.rng.integers(len(objects))] = int(self.rng.integers(self.nothing))
        objects = list(dict.fromkeys(objects))
        self.rng.shuffle(objects)
        return objects

    def named(self, objects):
        """Those that the caption names, in its order. An empty picture is a picture of the background."""
        if not objects:
            return [self.nothing]
        count = len(objects)
        if count > 1 and self.rng.random() < self.recipe.partial_captions:
            count = int(self.rng.integers(1, count))
        return self.rng.permutation(objects)[:count].tolist()

    def next(self):
        B, columns = self.recipe.batch, self.nothing + 1
        pixels = np.empty((B, self.sizes.image, self.sizes.image, 3), np.uint8)
        owners = np.empty((B, self.sizes.grid**2), np.int64)
        holds, names = np.zeros((2, B, columns), np.float32)
        texts, previous = [], None
        for i in range(B):
            scene = self.maker.scene(self.scene_objects(previous if i % 2 else None))
            previous = scene.objects
            pixels[i] = scene.pixels
            owners[i] = patch_owners(scene, self.sizes.grid, self.sizes.patch, self.nothing)
            named = self.named(scene.objects)
            texts.append(captions.caption(self.rng, [self.phrases[concept] for concept in named]))
            holds[i, scene.objects or [self.nothing]] = 1
            names[i, named] = 1
        prompts = [captions.single(self.rng, phrase) for phrase in self.phrases]
        held = holds @ names.T > names.sum(1) - 0.5
        positives = torch.from_numpy(np.concatenate([held.astype(np.float32), holds], 1))
        pixels, owners = torch.from_numpy(pixels), torch.from_numpy(owners)
        return Batch(pixels, owners, self.texts.encode(texts), self.texts.encode(prompts), positives)

    def kept_patches(self, owners):
        """Patches (B,K) drawn without replacement, those in boxes more often. One batch in five keeps twice as many."""
        weight = np.where(owners.numpy() < self.nothing, self.recipe.box_weight, 1.0)
        share = self.recipe.kept * (1 if self.rng.random() < 0.8 else 2)
        order = np.argsort(-(self.rng.random(weight.shape) ** (1 / weight)), 1)
        return torch.from_numpy(order[:, : int(weight.shape[1] * share)])

    def labelled_patches(self, owners):
        """Rows and columns in `owners` (B,K) for the patch loss."""
        owners = owners.numpy()
        chosen = []
        for wanted, count in (
            (owners < self.nothing, self.recipe.box_patches),
            (owners == self.nothing, self.recipe.background_patches),
        ):
            places = np.argwhere(wanted)
            chosen.append(places[self.rng.permutation(len(places))[:count]])
        return torch.from_numpy(np.concatenate(chosen)).unbind(1)


class Trainer:
    """A run that can be saved and taken up again."""

    def __init__(self, recipe, sizes, batches, device):
        torch.manual_seed(recipe.seed)
        self.recipe, self.batches, self.device = recipe, batches, device
        self.model, self.average = (Clip(sizes).to(device) for _ in range(2))
        self.average.load_state_dict(self.model.state_dict())
        self.average.requires_grad_(False)
        inside = {p for n, p in self.model.named_parameters() if "_layers." in n and p.ndim == 2}
        outside = [p for p in self.model.parameters() if p not in inside]
        self.optimisers = [
            Muon([p for p in self.model.parameters() if p in inside], recipe.rate, recipe.weight_decay),
            torch.optim.AdamW(
                [
                    {"params": [p for p in outside if p.ndim > 1], "weight_decay": recipe.weight_decay},
                    {"params": [p for p in outside if p.ndim < 2], "weight_decay": 0.0},
                ],
                lr=recipe.rate,
                betas=(0.9, 0.98),
                eps=1e-6,
                foreach=True,
            ),
        ]
        self.step, self.seconds, self.smooth = 0, 0.0, {}

    def losses(self, batch):
        """The three terms, and the share of images whose best single prompt is right."""
        B = len(batch.pixels)
        kept, owners = None, batch.owners
        if self.step < (1 - self.recipe.whole) * self.recipe.steps:
            kept = self.batches.kept_patches(owners)
            owners = owners.gather(1, kept)
        rows, columns = self.batches.labelled_patches(owners)
        to = lambda tensor: tensor.to(self.device)  # noqa: E731
        with torch.autocast(self.device, torch.bfloat16):
            x = self.model.tokens(to(batch.pixels), None if kept is None else to(kept))
            images = self.model.project(x[:, 0])
            texts = torch.cat([self.model.texts(*map(to, part)) for part in (batch.captions, batch.prompts)])
        patches = self.model.project(x[to(rows), to(columns) + 1].float())
        images, texts, patches = (F.normalize(z.float(), dim=-1) for z in (images, texts, patches))
        scale, positives = self.model.logit_scale.exp(), to(batch.positives)
        logits = scale * images @ texts.T
        losses = {
            "captions": symmetric(logits[:, :B], positives[:, :B]),
            "concepts": symmetric(logits[:, B:], positives[:, B:]),
            "patches": F.cross_entropy(scale * patches @ texts[B:].T, to(owners[rows, columns])),
        }
        best = logits[:, B:].argmax(1, keepdim=True)
        return losses, positives[:, B:].gather(1, best).mean()

    def advance(self):
        """One step."""
        started = time.perf_counter()
        losses, right = self.losses(self.batches.next())
        for optimiser in self.optimisers:
            for group in optimiser.param_groups:
                group["lr"] = self.recipe.rate_at(self.step)
            optimiser.zero_grad(set_to_none=True)
        sum(losses.values()).backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.clip_norm)
        for optimiser in self.optimisers:
            optimiser.step()
        with torch.no_grad():
            self.model.logit_scale.clamp_(max=math.log(100))
            pace = 1 - min(self.recipe.averaging, (self.step + 1) / (self.step + 10))
            torch._foreach_lerp_(list(self.average.parameters()), list(self.model.parameters()), pace)
        self.step += 1
        self.seconds += time.perf_counter() - started
        for key, value in (*losses.items(), ("right", right)):
            value = value.item()
            self.smooth[key] = value + 0.98 * (self.smooth.get(key, value) - value)

    def report(self):
        """The state of the run in one line of JSON."""
        values = {key: round(value, 4) for key, value in self.smooth.items()}
        return json.dumps({"step": self.step, "seconds": round(self.seconds, 1), **values})

    def save(self, path):
        """Writes everything that the rest of the run depends on."""
        state = {
            "recipe": asdict(self.recipe),
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimisers": [optimiser.state_dict() for optimiser in self.optimisers],
            "random": self.batches.rng.bit_generator.state,
            "step": self.step,
            "seconds": self.seconds,
            "smooth": self.smooth,
        }
        unfinished = path.with_suffix(".part")
        torch.save(state, unfinished)
        unfinished.replace(path)

    def load(self, path):
        """Takes up a run. Its length may be another one if neither's rate has begun to fall."""
        state = torch.load(path, map_location=self.device, weights_only=False)
        theirs, ours = Recipe(**state["recipe"]), self.recipe
        same = asdict(theirs) | {"steps": 0} == asdict(ours) | {"steps": 0}
        early = state["step"] <= min(theirs.decay_start, ours.decay_start)
        if not same or not (early or theirs.steps == ours.steps):
            raise ValueError(f"{path} belongs to another run: {theirs}")
        self.model.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        for optimiser, saved in zip(self.optimisers, state["optimisers"]):
            optimiser.load_state_dict(saved)
        self.batches.rng.bit_generator.state = state["random"]
        self.step, self.seconds, self.smooth = state["step"], state["seconds"], state["smooth"]
