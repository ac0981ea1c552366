"""What the demo model was trained on, and what it has never seen: sprites and backgrounds of each side."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from . import backgrounds, sprites
from .scenes import SceneMaker

FONT = Path("/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf")
BACKGROUND_SIDE = 144


@dataclass(frozen=True)
class Split:
    """One side: how many sprites a concept and how many backgrounds it has, and what the backgrounds are made of."""

    purpose: str
    sprites: int
    backgrounds: int
    photos: tuple
    photo_share: float


SPLITS = {
    "train": Split("training", 96, 2500, backgrounds.TRAINING, 0.5),
    "held-out": Split("held-out", 12, 400, backgrounds.HELD_OUT, 0.6),
}


def generator(seed, purpose):
    """An independent random generator for each purpose."""
    return np.random.default_rng([seed, *purpose.encode()])


def maker(name, font, concepts, side, seed, scene_seed=None):
    """Scenes whose sprites and backgrounds no other split sees. `seed` is that of the model's training: it decides
    sprites and backgrounds. `scene_seed` decides which of them meet, and is `seed` if not given."""
    split = SPLITS[name]
    drawn = sprites.bank(font, concepts, side, split.sprites, generator(seed, split.purpose + " sprites"))
    rng = generator(seed, split.purpose + " backgrounds")
    behind = backgrounds.bank(split.backgrounds, BACKGROUND_SIDE, split.photos, split.photo_share, rng)
    rng = generator(seed if scene_seed is None else scene_seed, split.purpose + " scenes")
    return SceneMaker(drawn, behind, side, rng)
