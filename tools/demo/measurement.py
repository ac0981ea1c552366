"""What the written model can do, measured through transformers and the fixtures' oracle on scenes it has not seen."""

import numpy as np
import torch
import torch.nn.functional as F
from oracle.clip import Clip
from oracle.methods import heatmap
from oracle.request import Job, Request
from transformers import AutoTokenizer

from .concepts import BACKGROUND
from .model import MEAN, STD

METHODS = (
    "grad-eclip",
    "grad-eclip:heads=single",
    "attention",
    "rollout",
    "chefer",
    "legrad",
    "grad-cam",
    "gradient",
    "gradient-x-input",
)
PROMPT = "a photo of {}"


def normalised(scenes):
    """Pixels (B,3,S,S) of scenes."""
    pixels = torch.from_numpy(np.stack([scene.pixels for scene in scenes])).float() / 255
    return ((pixels - torch.tensor(MEAN)) / torch.tensor(STD)).permute(0, 3, 1, 2)


def inside(grid, cell, box, margin):
    """(grid*grid) bool: the cells whose centre lies in the box, made larger by `margin` on all sides."""
    x, y, width, height = box
    centre = (torch.arange(grid) + 0.5) * cell
    rows = (centre >= y - margin) & (centre <= y + height + margin)
    columns = (centre >= x - margin) & (centre <= x + width + margin)
    return (rows[:, None] & columns).flatten()


def judged(heat, box, side, patch):
    """Of a map (cells) over a picture of `side` pixels: whether the cell with the maximum touches the box, whether its
    centre lies in it, and the positive heat inside and in all.

    On the pixel grid the margin of the first is that of a patch too, so that all methods play by one rule.
    """
    grid = round(len(heat) ** 0.5)
    touching, strict = (inside(grid, side / grid, box, margin) for margin in (patch / 2, 0))
    peak, heat = heat.argmax(), heat.clamp(min=0)
    return bool(touching[peak]), bool(strict[peak]), float(heat[strict].sum()), float(heat.sum())


def chance(box, side, patch):
    """What a random patch would get: hit, centre and energy."""
    areas = (inside(side // patch, patch, box, margin) for margin in (patch / 2, 0, 0))
    return tuple(float(area.float().mean()) for area in areas)


class Measurement:
    """A model folder and held-out scenes."""

    def __init__(self, folder, concepts, maker):
        self.folder, self.concepts, self.maker = folder, concepts, maker
        self.clip = Clip(str(folder), torch.float32)
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.side = self.clip.model.config.vision_config.image_size
        self.patch = self.clip.model.config.vision_config.patch_size

    def ids(self, prompts):
        return self.tokenizer(prompts, padding=True, return_tensors="pt")["input_ids"]

    def text_embeddings(self, prompts):
        """Unit embeddings (Q,E)."""
        return F.normalize(self.clip.text(self.ids(prompts)), dim=-1)

    @torch.no_grad()
    def image_embeddings(self, scenes):
        """Unit embeddings (B,E)."""
        parts = [normalised(scenes[i : i + 64]) for i in range(0, len(scenes), 64)]
        embeds = [self.clip.model.get_image_features(pixel_values=part).pooler_output for part in parts]
        return F.normalize(torch.cat(embeds), dim=-1)

    def zero_shot(self, each=4):
        """Top-1 and top-5 over all concepts, on `each` scenes of every single one, for two ways of prompting."""
        scenes = [self.maker.scene([concept]) for concept in range(len(self.concepts)) for _ in range(each)]
        truth = torch.tensor([scene.objects[0] for scene in scenes])
        images = self.image_embeddings(scenes)
        out = {"scenes": len(scenes), "each": each, "chance": 1 / len(self.concepts)}
        for key, prompts in (
            ("phrase", [PROMPT.format(concept.phrase) for concept in self.concepts]),
            ("name", [concept.name for concept in self.concepts]),
        ):
            best = (images @ self.text_embeddings(prompts).T).topk(5)[1] == truth[:, None]
            out[key] = {"top1": float(best[:, 0].float().mean()), "top5": float(best.any(1).float().mean())}
            if key == "phrase":
                wrong = torch.zeros(len(self.concepts)).index_add_(0, truth, (~best[:, 0]).float())
                out["weakest"] = [concept.name for concept, count in zip(self.concepts, wrong) if count > 1]
        return out

    def presence(self, scenes):
        """Scores of prompts for what is there and for what is not, on scenes of several objects and on empty ones."""
        texts = self.text_embeddings([PROMPT.format(concept.phrase) for concept in self.concepts])
        scores = self.image_embeddings(scenes) @ texts.T
        there = torch.zeros_like(scores, dtype=torch.bool)
        for row, scene in zip(there, scenes):
            row[scene.objects] = True
        present, absent = scores[there], scores[~there]
        empty = [self.maker.scene([]) for _ in range(200)]
        nothing = self.image_embeddings(empty) @ torch.cat([texts, self.text_embeddings([PROMPT.format(BACKGROUND)])]).T
        order = torch.cat([present, absent]).argsort().argsort().double()
        below = order[: len(present)].sum() - len(present) * (len(present) - 1) / 2
        return {
            "present": float(present.mean()),
            "present_5th_percentile": float(present.quantile(0.05)),
            "absent": float(absent.mean()),
            "absent_99th_percentile": float(np.quantile(absent.numpy(), 0.99)),
            "present_above_absent": float(below / (len(present) * len(absent))),
            "empty_best_concept": float(nothing[:, :-1].amax(1).mean()),
            "empty_says_background": float((nothing.argmax(1) == len(self.concepts)).float().mean()),
        }

    def crowds(self, scenes):
        """For each number of objects: the share of them among as many best prompts."""
        texts = self.text_embeddings([PROMPT.format(concept.phrase) for concept in self.concepts])
        scores = self.image_embeddings(scenes) @ texts.T
        found = {}
        for row, scene in zip(scores, scenes):
            count = len(scene.objects)
            best = set(row.topk(count)[1].tolist())
            found.setdefault(count, []).append(len(best & set(scene.objects)) / count)
        return {count: float(np.mean(shares)) for count, shares in sorted(found.items())}

    def pointing(self, scenes):
        """Each method's pointing game and the share of its energy inside the box, with chance.

        A hit: the cell with the maximum overlaps the object's box. `centre` is stricter: its centre lies in the box.
        """
        rows = {}
        for scene in scenes:
            prompts = [PROMPT.format(self.concepts[concept].phrase) for concept in scene.objects]
            job = Job(Request(texts=prompts), str(self.folder), None, self.ids(prompts), torch.float32)
            trace = job.forward(normalised([scene]))
            maps = {method: heatmap(method, job, trace)[0].detach() for method in METHODS}
            for i, box in enumerate(scene.boxes):
                for method, values in maps.items():
                    hit, centre, heat, total = judged(values[i], box, self.side, self.patch)
                    rows.setdefault(method, []).append((hit, centre, heat / max(total, 1e-12)))
                rows.setdefault("chance", []).append(chance(box, self.side, self.patch))
        table = {m: dict(zip(("hit", "centre", "energy"), np.mean(r, 0).tolist())) for m, r in rows.items()}
        return {"scenes": len(scenes), "objects": len(rows["chance"]), "methods": table}

    def all(self):
        """Every figure."""
        scenes = self.maker.crowd(500)
        return {
            "zero_shot": self.zero_shot(),
            "crowds": self.crowds(scenes),
            "presence": self.presence(scenes),
            "pointing": self.pointing(scenes),
        }
