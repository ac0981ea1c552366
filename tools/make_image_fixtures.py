"""Writes tests/fixtures/images: small picture files of every pixel type, and what Pillow makes of them.

    python tools/make_image_fixtures.py [--out tests/fixtures/images]
    python tools/make_image_fixtures.py --resize-only       # with a Pillow of version 12

`expected.json` holds, per file, the size and SHA-256 of `Image.open(f).convert("RGB")`, the same after
`ImageOps.exif_transpose`, and for decoders that are not bit-exact by nature (JPEG, lossy WebP) a tolerance in grey
levels together with a PNG of Pillow's pixels. `resize.json` holds hashes of resized synthetic pictures, for the installed
Pillow's order of passes (the other order's are kept), `processor.json` hashes of what transformers' CLIP image
processor gives. Needs Pillow 13, numpy and transformers; the resize part runs with any Pillow.
"""

import argparse
import hashlib
import json
import struct
import zlib
from pathlib import Path

import numpy as np
import PIL
from PIL import Image, ImageOps


def picture(width, height, channels=3, seed=0):
    """Smooth, with some noise: compresses well enough and has no symmetry."""
    y, x = np.mgrid[0:height, 0:width]
    planes = [(3 * x + 5 * y + 40 * c + 30 * np.sin(x / (5 + c)) + 20 * np.cos(y / 7)) for c in range(channels)]
    noise = np.random.default_rng(seed).integers(0, 8, (height, width, channels))
    return ((np.stack(planes, -1) + noise) % 256).astype(np.uint8)


def png_chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def raw_png(samples, bits, colour, extra=b""):
    """A PNG of a type that Pillow cannot write. samples: (height, width * channels) integers of `bits` bits."""
    height = samples.shape[0]
    if bits == 16:
        rows = [r.astype(">u2").tobytes() for r in samples]
        channels = {0: 1, 2: 3, 4: 2, 6: 4}[colour]
        width = samples.shape[1] // channels
    else:
        width = samples.shape[1]
        rows = []
        for r in samples:
            flat = np.unpackbits(r.astype(np.uint8)[:, None], axis=1)[:, 8 - bits :].reshape(-1)
            rows.append(np.packbits(flat).tobytes())
    head = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + r for r in rows), 9)
    return (
        b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", head) + extra + png_chunk(b"IDAT", data) + png_chunk(b"IEND", b"")
    )


def write_all(out):
    rgb = Image.fromarray(picture(37, 23))
    rgba = Image.fromarray(picture(21, 34, 4, 1), "RGBA")
    grey = Image.fromarray(picture(30, 19, 1, 2)[..., 0])
    la = Image.fromarray(picture(26, 17, 2, 3), "LA")
    bits = Image.fromarray(picture(29, 18, 1, 4)[..., 0]).convert("1")
    palette = rgb.quantize(61)
    cmyk = Image.fromarray(picture(40, 27, 4, 5), "CMYK")
    rng = np.random.default_rng(6)

    rgb.save(out / "rgb.png")
    rgba.save(out / "rgba.png")
    grey.save(out / "grey.png")
    la.save(out / "la.png")
    bits.save(out / "bits.png")
    palette.save(out / "palette.png")
    palette.save(out / "palette_transparent.png", transparency=bytes(range(0, 61 * 4, 4)))
    rgb.save(out / "rgb_transparent_colour.png", transparency=rgb.getpixel((3, 3)))
    ramp = np.concatenate([np.arange(0, 520, 4), rng.integers(0, 65536, 130)]).reshape(13, 20)
    (out / "grey16.png").write_bytes(raw_png(ramp, 16, 0))
    (out / "la16.png").write_bytes(raw_png(rng.integers(0, 65536, (9, 2 * 11)), 16, 4))
    (out / "rgb16.png").write_bytes(raw_png(rng.integers(0, 65536, (9, 3 * 11)), 16, 2))
    (out / "rgba16.png").write_bytes(raw_png(rng.integers(0, 65536, (9, 4 * 11)), 16, 6))
    (out / "grey2.png").write_bytes(raw_png(rng.integers(0, 4, (7, 13)), 2, 0))
    (out / "grey4.png").write_bytes(raw_png(rng.integers(0, 16, (7, 13)), 4, 0))
    plte = png_chunk(b"PLTE", rng.integers(0, 256, 48, dtype=np.uint8).tobytes())
    (out / "palette4.png").write_bytes(raw_png(rng.integers(0, 16, (7, 13)), 4, 3, plte))
    (out / "grey16_transparent.png").write_bytes(raw_png(ramp, 16, 0, png_chunk(b"tRNS", b"\0\x10")))
    exif = Image.Exif()
    for orientation in range(1, 9):
        exif[0x0112] = orientation
        Image.fromarray(picture(8, 5)).save(out / f"exif{orientation}.png", exif=exif)

    rgb.save(out / "rgb.bmp")
    grey.save(out / "grey.bmp")
    bits.save(out / "bits.bmp")
    palette.save(out / "palette.bmp")
    rgba.save(out / "rgba.bmp")

    palette.save(out / "palette.gif")
    grey.save(out / "grey.gif")
    palette.save(out / "transparent.gif", transparency=7)
    palette.save(out / "interlaced.gif", interlace=1)
    frames = [Image.fromarray(picture(24, 16, 3, s)).quantize(16) for s in range(3)]
    frames[0].save(out / "animated.gif", save_all=True, append_images=frames[1:], duration=50)

    # A first frame that does not cover the screen, with and without a transparent colour.
    for name in ["palette", "transparent"]:
        data = bytearray((out / f"{name}.gif").read_bytes())
        data[6:10] = struct.pack("<HH", 45, 28)
        (out / f"{name}_partial.gif").write_bytes(data)

    rgb.save(out / "rgb.tif")
    rgb.save(out / "rgb_lzw.tif", compression="tiff_lzw")
    rgb.save(out / "rgb_deflate.tif", compression="tiff_adobe_deflate")
    grey.save(out / "grey.tif")
    rgba.save(out / "rgba.tif")
    bits.save(out / "bits.tif")
    cmyk.save(out / "cmyk.tif")
    Image.fromarray(ramp.astype(np.uint16)).save(out / "grey16.tif")
    rgb.save(out / "rotated.tif", tiffinfo={274: 6})
    palette.save(out / "palette.tif")
    palette.save(out / "palette_lzw.tif", compression="tiff_lzw")
    cmyk.save(out / "cmyk_lzw.tif", compression="tiff_lzw")

    rgb.save(out / "lossless.webp", lossless=True)
    rgba.save(out / "rgba_lossless.webp", lossless=True)
    rgb.save(out / "lossy.webp", quality=80)

    rgb.save(out / "rgb.jpg", quality=90, subsampling=0)
    grey.save(out / "grey.jpg", quality=90)
    rgb.save(out / "progressive.jpg", quality=90, progressive=True)
    cmyk.save(out / "cmyk.jpg", quality=95, subsampling=0)
    (out / "cmyk_without_adobe.jpg").write_bytes(strip_adobe((out / "cmyk.jpg").read_bytes()))
    (out / "ycck.jpg").write_bytes(as_ycck((out / "cmyk.jpg").read_bytes()))
    exif[0x0112] = 6
    rgb.save(out / "exif6.jpg", quality=90, subsampling=0, exif=exif)


def adobe_segment(data):
    at = data.index(b"\xff\xee")
    return at, at + 2 + struct.unpack(">H", data[at + 2 : at + 4])[0]


def strip_adobe(data):
    start, end = adobe_segment(data)
    return data[:start] + data[end:]


def as_ycck(data):
    """The same components, declared as YCCK: another picture, but a valid file."""
    _, end = adobe_segment(data)
    return data[: end - 1] + b"\x02" + data[end:]


TOLERANCE = {"progressive.jpg": 4, "lossy.webp": 1}


RESIZES = [
    (640, 480, 298, 224), (333, 999, 224, 672), (100, 2000, 32, 640), (17, 400, 64, 50), (37, 23, 224, 139),
    (224, 224, 224, 224), (300, 200, 300, 50), (300, 200, 51, 200), (1000, 3, 7, 3), (1, 1, 5, 9), (3, 1000, 40, 41),
    (255, 257, 256, 256), (5, 7, 1, 1), (640, 1480, 630, 470),
]  # fmt: skip


def synthetic(width, height):
    y, x, c = np.mgrid[0:height, 0:width, 0:3]
    return ((7 * x + 13 * y + 29 * c + (x * y) % 31) % 256).astype(np.uint8)


def write_resizes(path):
    order = "pillow13" if int(PIL.__version__.split(".")[0]) >= 13 else "pillow12"
    document = json.loads(path.read_text()) if path.exists() else {}
    document[order] = [
        {"from": [w, h], "to": [tw, th], "filter": name, "sha256": digest(image.resize((tw, th), code).tobytes())}
        for w, h, tw, th in RESIZES
        for image in [Image.fromarray(synthetic(w, h))]
        for name, code in [("bicubic", Image.Resampling.BICUBIC), ("bilinear", Image.Resampling.BILINEAR)]
    ]
    path.write_text(json.dumps(document, indent=1) + "\n")


PROCESSORS = [
    {},
    {"size": {"shortest_edge": 40}, "crop_size": {"height": 33, "width": 47}},
    {"size": {"height": 31, "width": 50}, "do_center_crop": False, "resample": 2},
    {"do_resize": False, "crop_size": {"height": 61, "width": 44}, "image_mean": [0.5] * 3, "image_std": [0.5] * 3},
    {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}, "do_normalize": False},
    {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}, "do_rescale": False},
]


def write_processors(path):
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    cases = []
    for settings in PROCESSORS:
        processor = CLIPImageProcessorPil(**settings)
        for w, h in [(75, 50), (31, 64), (60, 43), (47, 47), (20, 131)]:
            pixels = processor(Image.fromarray(synthetic(w, h)), return_tensors="np")["pixel_values"][0]
            pixels = np.ascontiguousarray(pixels, dtype="<f4")
            cases.append({"settings": settings, "from": [w, h], "shape": list(pixels.shape)})
            cases[-1]["sha256"] = digest(pixels.tobytes())
    path.write_text(json.dumps({"pillow": PIL.__version__, "cases": cases}) + "\n")


def digest(data):
    return hashlib.sha256(data).hexdigest()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("tests/fixtures/images"))
    parser.add_argument("--resize-only", action="store_true")
    options = parser.parse_args()
    out = options.out
    out.mkdir(parents=True, exist_ok=True)
    write_resizes(out / "resize.json")
    if options.resize_only:
        return
    write_processors(out / "processor.json")
    write_all(out)
    expected = {}
    for path in sorted(out.iterdir()):
        if path.suffix == ".json" or path.name.endswith(".expected.png"):
            continue
        image = Image.open(path).convert("RGB")
        upright = ImageOps.exif_transpose(Image.open(path)).convert("RGB")
        entry = {"width": image.width, "height": image.height}
        entry["sha256"] = digest(image.tobytes())
        entry["upright_sha256"] = digest(upright.tobytes())
        if path.suffix == ".jpg" or path.name in TOLERANCE:
            entry["tolerance"] = TOLERANCE.get(path.name, 2)
            image.save(out / f"{path.name}.expected.png")
        expected[path.name] = entry
    document = {"pillow": PIL.__version__, "files": expected}
    (out / "expected.json").write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
