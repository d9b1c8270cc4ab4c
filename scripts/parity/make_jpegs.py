#!/usr/bin/env python3
"""Makes weights/golden/jpeg: one small image as JPEG files of every kind that decoding distinguishes.

    .venv/bin/python scripts/parity/make_jpegs.py

Soft shapes and stripes in all colours, 93 x 75 pixels, so that no side is a whole number of blocks.
"""

import math
from pathlib import Path

from PIL import Image

OUT = Path(__file__).resolve().parents[2] / "weights" / "golden" / "jpeg"
WIDTH, HEIGHT = 93, 75

KINDS = {
    "444.jpg": {"subsampling": "4:4:4"},
    "422.jpg": {"subsampling": "4:2:2"},
    "420.jpg": {"subsampling": "4:2:0"},
    "420_restarts.jpg": {"subsampling": "4:2:0", "restart_marker_blocks": 3},
    "grey.jpg": {"mode": "L"},
    "grey_restarts.jpg": {"mode": "L", "restart_marker_rows": 1},
    "progressive.jpg": {"progressive": True},
    "cmyk.jpg": {"mode": "CMYK"},
    "rgb.jpg": {"keep_rgb": True},
}


def colour(x: int, y: int) -> tuple:
    wave = math.sin(x / 5) * 30 + math.sin(x * y / 300) * 20
    return tuple(round(128 + wave + 70 * math.sin(x / a + y / b)) for a, b in [(19, 31), (-23, 17), (41, -13)])


def main() -> None:
    OUT.mkdir(parents=True, exist_ok=True)
    image = Image.new("RGB", (WIDTH, HEIGHT))
    image.putdata([colour(x, y) for y in range(HEIGHT) for x in range(WIDTH)])
    for name, options in KINDS.items():
        mode = options.pop("mode", "RGB")
        image.convert(mode).save(OUT / name, quality=85, optimize=False, **options)


if __name__ == "__main__":
    main()
