"""Emoji as small pictures in many sizes, angles and tints.

A sprite is an array (h,w,4) of uint8 whose colours are already multiplied by their alpha.
"""

import struct

import numpy as np
from PIL import Image, ImageDraw, ImageFont

# Noto Color Emoji holds bitmaps of this one size.
STRIKE = 109


def font_version(path):
    """The revision in the font's `head` table."""
    data = path.read_bytes()
    for i in range(struct.unpack_from(">H", data, 4)[0]):
        tag, _, offset, _ = struct.unpack_from(">4sIII", data, 12 + 16 * i)
        if tag == b"head":
            return f"{struct.unpack_from('>i', data, offset + 4)[0] / 65536:.3f}"
    raise ValueError(f"{path} has no `head` table")


def glyph(font, character):
    """The drawing of one character, cut to what is not transparent."""
    image = Image.new("RGBA", (180, 180))
    ImageDraw.Draw(image).text((20, 20), character, font=font, embedded_color=True)
    box = image.getchannel("A").getbbox()
    if box is None:
        raise ValueError(f"the font has no drawing for {character!r}")
    return image.crop(box)


def premultiplied(image):
    """An RGBA picture as floats (h,w,4) with its colours multiplied by alpha."""
    pixels = np.asarray(image).astype(np.float32)
    pixels[..., :3] *= pixels[..., 3:] / 255
    return pixels


def scaled(image, side):
    """Resized so that the longer side is `side`. Pillow weighs colours by alpha when it resizes or turns RGBA."""
    factor = side / max(image.size)
    size = tuple(max(2, round(length * factor)) for length in image.size)
    return image.resize(size, Image.BOX if factor < 0.6 else Image.BILINEAR)


def turned(image, angle):
    """Turned by `angle` degrees, cut to what is visible."""
    image = image.rotate(angle, Image.BICUBIC, expand=True)
    return image.crop(image.getchannel("A").point(lambda alpha: 255 * (alpha > 20)).getbbox())


def variant(image, canvas, rng):
    """One sprite of a drawing, for a picture of `canvas` pixels a side."""
    if rng.random() < 0.5:
        image = image.transpose(Image.FLIP_LEFT_RIGHT)
    side = canvas * np.exp(rng.uniform(np.log(0.18), np.log(0.45)))
    if 2 * side < max(image.size):
        image = scaled(image, 2 * side)
    if rng.random() < 0.7:
        image = turned(image, rng.uniform(-25, 25))
    pixels = premultiplied(scaled(image, side))
    pixels[..., :3] *= rng.uniform(0.85, 1.1) * rng.uniform(0.92, 1.08, 3)
    # A colour above its alpha would shine through the background.
    pixels[..., :3] = np.minimum(pixels[..., :3], pixels[..., 3:])
    return pixels.round().astype(np.uint8)


def bank(font_path, concepts, canvas, count, rng):
    """`count` sprites of each concept, shared evenly among its glyphs."""
    font = ImageFont.truetype(str(font_path), STRIKE)
    sprites = []
    for concept in concepts:
        drawings = [glyph(font, character) for character in concept.glyphs]
        sprites.append([variant(drawings[i % len(drawings)], canvas, rng) for i in range(count)])
    return sprites
