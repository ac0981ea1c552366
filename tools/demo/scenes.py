"""Scenes: a few sprites over a background, with the box of each."""

from dataclasses import dataclass, field

import numpy as np


@dataclass
class Scene:
    """A picture and what is in it. Later objects lie over earlier ones."""

    pixels: np.ndarray  # (S,S,3) uint8
    objects: list = field(default_factory=list)  # concept numbers
    boxes: list = field(default_factory=list)  # (x, y, width, height) in pixels


def overlap(a, b):
    """The common area of two boxes, as a share of the smaller one."""
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    return max(width, 0) * max(height, 0) / min(a[2] * a[3], b[2] * b[3])


class SceneMaker:
    """Draws random scenes of `side` pixels."""

    # Shares of scenes with 0, 1, 2, 3 and 4 objects.
    COUNTS = (0.04, 0.3, 0.32, 0.2, 0.14)
    # Places are drawn until the overlap is below the first number; an object that stays above the second is left out.
    FREE, CROWDED = 0.08, 0.3

    def __init__(self, sprites, backgrounds, side, rng):
        self.sprites, self.backgrounds, self.side, self.rng = sprites, backgrounds, side, rng
        levels = np.arange(256) - 128
        tones = [levels * rng.uniform(0.5, 1.1) + 128 + rng.uniform(-40, 40) for _ in range(64)]
        self.tones = np.clip(tones, 0, 255).astype(np.uint8)

    def draw_objects(self, count=None):
        """Random concept numbers, none twice."""
        if count is None:
            count = self.rng.choice(len(self.COUNTS), p=self.COUNTS)
        return self.rng.choice(len(self.sprites), count, replace=False).tolist()

    def background(self):
        """A random piece of a random background in a random tone: (S,S,3) uint8, a copy."""
        whole = self.backgrounds[self.rng.integers(len(self.backgrounds))]
        y, x = self.rng.integers(0, whole.shape[0] - self.side + 1, 2)
        piece = whole[y : y + self.side, x : x + self.side]
        if self.rng.random() < 0.5:
            piece = piece[:, ::-1]
        return self.tones[self.rng.integers(len(self.tones))].take(piece)

    def scene(self, objects):
        """A scene of these concepts, less those for which there was no room."""
        scene = Scene(self.background())
        for concept in objects:
            crowding, sprite, box = self.place(concept, scene.boxes)
            if crowding > self.CROWDED:
                continue
            x, y, width, height = box
            under = scene.pixels[y : y + height, x : x + width]
            alpha = sprite[..., 3:].astype(np.uint16)
            under[...] = (under * (255 - alpha) + 127) // 255 + sprite[..., :3]
            scene.objects.append(concept)
            scene.boxes.append(box)
        return scene

    def exactly(self, count, objects):
        """`count` scenes with exactly this many objects."""
        found = []
        while len(found) < count:
            scene = self.scene(self.draw_objects(objects))
            if len(scene.objects) == objects:
                found.append(scene)
        return found

    def crowd(self, count):
        """`count` scenes of 2, 3 and 4 objects, as many of each, less of 4 where it does not go even."""
        each = -(-count // 12) * 4
        return self.exactly(each, 2) + self.exactly(each, 3) + self.exactly(count - 2 * each, 4)

    def place(self, concept, boxes):
        """The best of twelve random places among `boxes`: its largest overlap, the sprite and its box."""
        best = None
        for _ in range(12):
            choices = self.sprites[concept]
            sprite = choices[self.rng.integers(len(choices))]
            height, width = sprite.shape[:2]
            x, y = (int(self.rng.integers(0, self.side - length + 1)) for length in (width, height))
            box = (x, y, width, height)
            crowding = max((overlap(box, other) for other in boxes), default=0.0)
            if best is None or crowding < best[0]:
                best = (crowding, sprite, box)
            if crowding < self.FREE:
                break
        return best


def patch_owners(scene, grid, patch, nothing):
    """(grid*grid): for each patch the concept in whose box its centre lies, the topmost one, or `nothing`."""
    owners = np.full((grid, grid), nothing)
    centres = (np.arange(grid) + 0.5) * patch
    for concept, (x, y, width, height) in zip(scene.objects, scene.boxes):
        rows = (centres >= y) & (centres <= y + height)
        columns = (centres >= x) & (centres <= x + width)
        owners[np.ix_(rows, columns)] = concept
    return owners.reshape(-1)
