"""The demo scenes: arranged by hand, drawn larger than the model sees them, over backgrounds it was not trained on."""

import json
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFont

from . import backgrounds
from .measurement import PROMPT
from .sprites import STRIKE, glyph, premultiplied, scaled, turned

SIDE = 288


@dataclass(frozen=True)
class Thing:
    """A concept with its centre, longer side in pixels, and angle in degrees."""

    concept: str
    x: int
    y: int
    side: int
    angle: float = 0
    glyph: int = 0


def wash(top, bottom):
    """A vertical change from one colour to another, (SIDE,SIDE,3)."""
    along = np.linspace(0, 1, SIDE)[:, None, None]
    return np.broadcast_to(np.array(top) * (1 - along) + np.array(bottom) * along, (SIDE, SIDE, 3))


def photograph(name, x, y, side):
    """A square of a photograph, (SIDE,SIDE,3)."""
    return np.asarray(backgrounds.photo(name).crop((x, y, x + side, y + side)).resize((SIDE, SIDE), Image.BICUBIC))


SCENES = {
    "picnic": (
        lambda: wash((186, 214, 236), (118, 158, 84)),
        (
            Thing("cat", 74, 196, 112),
            Thing("pizza", 214, 214, 92, 12),
            Thing("umbrella", 196, 78, 108),
            Thing("banana", 66, 66, 78, -15),
        ),
    ),
    "street": (
        lambda: photograph("gravel.png", 60, 60, 288),
        (
            Thing("car", 84, 70, 106),
            Thing("dog", 212, 210, 104),
            Thing("guitar", 76, 206, 110),
            Thing("traffic light", 222, 70, 96),
        ),
    ),
    "space": (
        lambda: photograph("hubble_deep_field.jpg", 300, 300, 288),
        (
            Thing("rocket", 74, 84, 110),
            Thing("flying saucer", 210, 86, 98, 10),
            Thing("moon", 206, 212, 92),
            Thing("earth", 82, 216, 88),
        ),
    ),
    "kitchen": (
        lambda: photograph("coffee.png", 20, 20, 190),
        (
            Thing("strawberry", 70, 74, 82),
            Thing("pineapple", 206, 200, 104),
            Thing("birthday cake", 84, 210, 100),
            Thing("butterfly", 214, 68, 92, -10),
        ),
    ),
}


def draw(concepts, font_path, background, things):
    """The picture, and the box (x, y, width, height) of each thing."""
    font = ImageFont.truetype(str(font_path), STRIKE)
    by_name = {concept.name: concept for concept in concepts}
    pixels = background.round().astype(np.uint8) if background.dtype != np.uint8 else background.copy()
    boxes = []
    for thing in things:
        drawing = scaled(glyph(font, by_name[thing.concept].glyphs[thing.glyph]), thing.side)
        if thing.angle:
            drawing = turned(drawing, thing.angle)
        width, height = drawing.size
        x, y = thing.x - width // 2, thing.y - height // 2
        sprite = premultiplied(drawing).round().astype(np.uint16)
        under = pixels[y : y + height, x : x + width]
        under[...] = (under * (255 - sprite[..., 3:]) + 127) // 255 + sprite[..., :3]
        boxes.append((x, y, width, height))
    return pixels, boxes


def write(folder, concepts, font_path, tokenizer):
    """Writes each scene as a PNG, and scenes.json with the prompt, its ids by transformers' `tokenizer`, and the box of
    each thing."""
    phrases = {concept.name: concept.phrase for concept in concepts}
    listed = []
    for name, (background, things) in SCENES.items():
        pixels, boxes = draw(concepts, font_path, background(), things)
        Image.fromarray(pixels).save(folder / f"{name}.png", optimize=True)
        objects = []
        for thing, box in zip(things, boxes):
            prompt = PROMPT.format(phrases[thing.concept])
            objects.append(
                {"concept": thing.concept, "prompt": prompt, "ids": tokenizer(prompt)["input_ids"], "box": box}
            )
        listed.append({"name": name, "file": f"{name}.png", "size": [SIDE, SIDE], "objects": objects})
    lines = ",\n".join(json.dumps(entry) for entry in listed)
    (folder / "scenes.json").write_text(f"[\n{lines}\n]\n")
