#!/usr/bin/env python3
"""Makes folders of photo-like images, for timing decoders: the same files on every machine with the same libraries.

    .venv/bin/python scripts/bench/photo_like.py DIR [--share 1.0]

An image is a sum of the things that make photographs slow to decode: large shapes with sharp edges, textures whose power
falls with frequency as that of natural scenes does, and the noise of a sensor, stronger in some parts than in others.
At quality 90 that is 1.4 to 3 bits a pixel, as in files of cameras and face data sets.

There is one folder per kind, see KINDS. JPEG at quality 90 with halved colour (4:2:0), as most are; PNG with Pillow's usual effort.
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

SEED = 20260

# Name of the folder: width, height, suffix, number of files.
KINDS = {
    "jpeg-178x218": (178, 218, "jpg", 400),  # as CelebA's
    "jpeg-512x512": (512, 512, "jpg", 200),
    "jpeg-1024x1024": (1024, 1024, "jpg", 80),  # as CelebA-HQ's
    "jpeg-1920x1280": (1920, 1280, "jpg", 40),  # as a camera's
    "png-256x256": (256, 256, "png", 200),
    "png-1024x1024": (1024, 1024, "png", 40),
}


def texture(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Noise whose amplitude falls as one over the frequency, mean 0 and deviation 1."""
    fy, fx = np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None]
    frequency = np.hypot(fy, fx)
    frequency[0, 0] = 1
    shape = frequency.shape
    spectrum = (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)) / frequency**1.4
    spectrum[0, 0] = 0
    noise = np.fft.irfft2(spectrum, s=(height, width))
    return (noise / noise.std()).astype(np.float32)


def shapes(rng: np.random.Generator, height: int, width: int, count: int = 12) -> np.ndarray:
    """Ellipses of flat colour on a ground, each with a sharp edge: `[height, width, 3]` in levels."""
    y, x = np.mgrid[:height, :width].astype(np.float32)
    out = np.empty((height, width, 3), np.float32)
    out[:] = rng.uniform(60, 190, 3)
    for _ in range(count):
        cy, cx = rng.uniform(0, height), rng.uniform(0, width)
        ry, rx = rng.uniform(0.05, 0.4, 2) * min(height, width)
        out[((y - cy) / ry) ** 2 + ((x - cx) / rx) ** 2 < 1] = rng.uniform(20, 235, 3)
    return out


def photo(rng: np.random.Generator, height: int, width: int) -> Image.Image:
    light, colour = texture(rng, height, width), texture(rng, height, width)
    image = shapes(rng, height, width)
    image += 22 * light[:, :, None] + 8 * colour[:, :, None] * np.array([1, -0.3, -1], np.float32)
    # Rough in some parts and smooth in others, as skin beside hair.
    roughness = np.clip(0.5 + 1.5 * texture(rng, height, width), 0, 6)
    image += roughness[:, :, None] * rng.standard_normal((height, width, 1), np.float32)
    image += 0.8 * rng.standard_normal((height, width, 3), np.float32)
    return Image.fromarray(np.clip(image + 0.5, 0, 255).astype(np.uint8))


def make(folder: Path, kind: str, share: float = 1.0) -> Path:
    """Writes the images of one kind unless they are there; returns their folder."""
    width, height, ending, count = KINDS[kind]
    out = folder / kind / "all"  # torchvision requires a folder for each class
    out.mkdir(parents=True, exist_ok=True)
    for number in range(max(2, round(count * share))):
        path = out / f"{number:04}.{ending}"
        if path.exists():
            continue
        rng = np.random.default_rng([SEED, list(KINDS).index(kind), number])
        options = {"quality": 90, "subsampling": "4:2:0"} if ending == "jpg" else {}
        photo(rng, height, width).save(path, **options)
    return out.parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--share", type=float, default=1.0, help="fraction of the usual number of images; default: %(default)s")
    args = parser.parse_args()
    for kind, (width, height, _, _) in KINDS.items():
        files = list(make(args.folder, kind, args.share).glob("*/*"))
        size = sum(file.stat().st_size for file in files) / len(files)
        print(f"{kind}: {len(files)} files of {size / 1e3:.0f} kB, {8 * size / width / height:.2f} bits a pixel")


if __name__ == "__main__":
    main()
