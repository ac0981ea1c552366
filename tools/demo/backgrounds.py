"""Backgrounds: crops of photographs, gradients, noise, some with flat shapes on top."""

from importlib.resources import files

import numpy as np
from PIL import Image

# Photographs that ship inside the scikit-image wheel, all CC0, public domain or without known restrictions.
# HELD_OUT is never trained on.
TRAINING = (
    "astronaut.png",
    "rocket.jpg",
    "brick.png",
    "grass.png",
    "camera.png",
    "coins.png",
    "moon.png",
    "retina.jpg",
)
HELD_OUT = ("coffee.png", "chelsea.png", "gravel.png", "hubble_deep_field.jpg")


def photo(name):
    """A photograph of scikit-image by its file name."""
    with files("skimage.data").joinpath(name).open("rb") as file:
        return Image.open(file).convert("RGB")


def smooth_noise(rng, side, least, most):
    """Random colours on a coarse grid, interpolated: (side,side,3)."""
    cells = int(rng.integers(least, most))
    grid = rng.integers(0, 256, (cells, cells, 3)).astype(np.uint8)
    return np.asarray(Image.fromarray(grid).resize((side, side), Image.BICUBIC)).astype(np.float32)


def photo_crop(rng, photos, side):
    """A square of a photograph, at times turned or with its colour channels exchanged."""
    image = photos[rng.integers(len(photos))]
    width, height = image.size
    crop = int(np.exp(rng.uniform(np.log(90), np.log(min(width, height)))))
    x, y = int(rng.integers(0, width - crop + 1)), int(rng.integers(0, height - crop + 1))
    image = image.crop((x, y, x + crop, y + crop)).resize((side, side), Image.BILINEAR)
    pixels = np.rot90(np.asarray(image), rng.integers(4) if rng.random() < 0.3 else 0).astype(np.float32)
    return pixels[..., rng.permutation(3)] if rng.random() < 0.5 else pixels


def gradient(rng, x, y):
    """A linear change from one colour to another, mostly with noise over it."""
    start, end = rng.uniform(0, 255, (2, 3))
    angle = rng.uniform(0, 2 * np.pi)
    along = np.cos(angle) * x + np.sin(angle) * y
    along = (along - along.min()) / (along.max() - along.min())
    pixels = start + (end - start) * along[..., None]
    if rng.random() < 0.6:
        pixels += (smooth_noise(rng, len(x), 3, 40) - 128) * rng.uniform(0.05, 0.4)
    return pixels


def with_shapes(rng, pixels, x, y):
    """A few ellipses and rectangles of one colour each."""
    for _ in range(rng.integers(1, 5)):
        dx, dy = x - rng.uniform(), y - rng.uniform()
        rx, ry = rng.uniform(0.05, 0.3, 2)
        inside = (dx / rx) ** 2 + (dy / ry) ** 2 < 1 if rng.random() < 0.5 else (abs(dx) < rx) & (abs(dy) < ry)
        pixels = np.where(inside[..., None], rng.uniform(0, 255, 3), pixels)
    return pixels


def bank(count, side, photo_names, photo_share, rng):
    """`count` backgrounds (count,side,side,3) of uint8."""
    photos = [photo(name) for name in photo_names]
    y, x = np.mgrid[0:side, 0:side] / side
    out = np.empty((count, side, side, 3), np.uint8)
    for i in range(count):
        kind = rng.random()
        if kind < photo_share:
            pixels = photo_crop(rng, photos, side)
        elif kind < photo_share + 0.55 * (1 - photo_share):
            pixels = gradient(rng, x, y)
        else:
            pixels = smooth_noise(rng, side, 2, 30) * rng.uniform(0.4, 1) + rng.uniform(0, 120, 3)
        if rng.random() < 0.3:
            pixels = with_shapes(rng, pixels, x, y)
        out[i] = np.clip(pixels, 0, 255)
    return out
