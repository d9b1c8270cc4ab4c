#!/usr/bin/env python3
"""Made tests/runs/jpegs/pictures: a small JPEG of every kind, from Pillow 12.3 (libjpeg-turbo 3.1.4.1).

    .venv/bin/python tests/runs/jpegs/make_pictures.py NEW_FOLDER

Another Pillow may write other bytes; the run beside it was trained on those that are there.
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image

OUT = Path(sys.argv[1])
OUT.mkdir(parents=True)


def picture(number, width, height, mode="RGB"):
    """A few soft blobs of colour on a slope; none is like another."""
    rng = np.random.default_rng(number)
    y, x = np.mgrid[0:height, 0:width] / max(width, height)
    pixels = np.stack([x * a + y * b for a, b in rng.uniform(0, 120, (3, 2))], -1)
    for _ in range(5):
        cx, cy, radius = rng.uniform((0, 0, 0.1), (1, 1, 0.4))
        pixels += np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / radius**2)[..., None] * rng.uniform(-150, 200, 3)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).convert(mode)


turned = Image.Exif()
turned[0x0112] = 6  # orientation: its top is to the right
# Sides of 64 pixels and more are eight times those of the network: decoded at a quarter.
picture(0, 16, 16).save(OUT / "420.jpg", quality=80, subsampling=2)
picture(1, 17, 13).save(OUT / "444-odd.jpg", quality=80, subsampling=0)
picture(2, 23, 31).save(OUT / "progressive.jpg", quality=80, subsampling=2, progressive=True)
picture(3, 21, 19, "L").save(OUT / "grey.jpg", quality=80)
picture(4, 25, 18).save(OUT / "turned.jpg", quality=80, subsampling=1, exif=turned)
picture(5, 20, 22, "CMYK").save(OUT / "cmyk.jpg", quality=80)
picture(6, 75, 67).save(OUT / "large.jpg", quality=50, subsampling=2, restart_marker_blocks=3)
picture(7, 66, 81).save(OUT / "large-progressive.jpg", quality=50, subsampling=0, progressive=True)
picture(8, 71, 69, "L").save(OUT / "large-grey.jpg", quality=50)
picture(9, 90, 67).save(OUT / "large-turned.jpg", quality=50, subsampling=2, exif=turned)
