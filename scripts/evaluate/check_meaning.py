#!/usr/bin/env python3
"""Do the distances mean something? Real images that are made worse step by step must come out further away at each step.

    .venv/bin/python scripts/evaluate/check_meaning.py DATA WEIGHTS.safetensors [--ddpm target/release/ddpm] [--images 5000]

DATA is a folder of IDX files (train_classifier.py says which); WEIGHTS what train_classifier.py has made of it. The set to
compare with is of the test images. Compared are as many images of the training set: as they are, blurred, with noise, and of
fewer and fewer classes. Each distance of each kind of damage must rise with it; the table is printed, and what does not rise
ends the script with exit code 1.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from scipy.ndimage import gaussian_filter
from train_classifier import read_idx

ROOT = Path(__file__).resolve().parents[2]
BLURS = (0.7, 1.0, 1.5)  # standard deviation in pixels
NOISES = (8, 20, 50)  # standard deviation in levels
CLASSES = (7, 4, 1)  # classes left of ten


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = Path(os.environ.get("DDPM", ROOT / "target" / "release" / "ddpm"))
    parser.add_argument("data", type=Path, metavar="DATA")
    parser.add_argument("weights", type=Path, metavar="WEIGHTS.safetensors")
    parser.add_argument("--ddpm", type=Path, default=default, help="the program; default: $DDPM, else %(default)s")
    parser.add_argument("--images", type=int, default=5000, metavar="N", help="of each set; default: %(default)s")
    return parser.parse_args()


def sets(images: np.ndarray, labels: np.ndarray, number: int):
    """Name of the damage, its size, and the images."""
    plain = images[:number]
    yield "none", 0, plain
    for sigma in BLURS:
        blurred = gaussian_filter(plain.astype(np.float64), (0, sigma, sigma))
        yield "blur", sigma, blurred.round().astype(np.uint8)
    drawn = np.random.default_rng(0).normal(size=plain.shape)
    for sigma in NOISES:
        yield "noise", sigma, (plain + sigma * drawn).clip(0, 255).round().astype(np.uint8)
    for classes in CLASSES:
        yield "classes left", classes, images[labels < classes][:number]


class Distances:
    def __init__(self, args: argparse.Namespace, folder: Path, reference: np.ndarray):
        self.args, self.folder = args, folder
        np.savez(folder / "b.npz", arr_0=reference)

    def of(self, images: np.ndarray) -> dict[str, float]:
        np.savez(self.folder / "a.npz", arr_0=images)
        small = self.run("fid", "--features", "small-cnn", "--weights", self.args.weights, "--metrics", "fid,kid,pr")
        return {
            "FID, small-cnn": small["fid"],
            "KID, small-cnn": small["kid"],
            "1 - precision": 1 - small["precision"],
            "1 - recall": 1 - small["recall"],
            "FID, random": self.run("fid", "--features", "random", "--metrics", "fid")["fid"],
            "SWD": self.run("swd")["mean"],
        }

    def run(self, *words: object) -> dict:
        command = [self.args.ddpm, "evaluate", *words, "--json", "--device", "cpu", "a.npz", "b.npz"]
        done = subprocess.run([str(word) for word in command], cwd=self.folder, capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(f"check_meaning: {' '.join(map(str, words))}: {done.stderr}")
        return json.loads(done.stdout)


# What each distance must see: precision alone is about quality, recall about variety; scaled by its own deviation, a set
# that is only brighter is not far by SWD.
MUST_RISE = {
    "FID, small-cnn": ("blur", "noise", "classes left"),
    "KID, small-cnn": ("blur", "noise", "classes left"),
    "1 - precision": ("blur", "noise"),
    "1 - recall": ("classes left",),
    "FID, random": ("blur", "noise"),
    "SWD": ("blur", "noise"),
}


def main() -> None:
    args = arguments()
    args.weights = args.weights.resolve()
    images = read_idx(args.data, "train-images-idx3-ubyte").numpy()
    labels = read_idx(args.data, "train-labels-idx1-ubyte").numpy()
    reference = read_idx(args.data, "t10k-images-idx3-ubyte").numpy()[: args.images]
    found: dict[str, list[tuple[float, dict]]] = {}
    with tempfile.TemporaryDirectory() as name:
        distances = Distances(args, Path(name), reference)
        print(f"| damage | | {' | '.join(MUST_RISE)} |\n| --- | ---: |{' ---: |' * len(MUST_RISE)}")
        for damage, size, changed in sets(images, labels, args.images):
            values = distances.of(changed)
            row = " | ".join(f"{values[column]:.4g}" for column in MUST_RISE)
            print(f"| {damage} | {size} | {row} |", flush=True)
            found.setdefault(damage, []).append(values)
    wrong = []
    for column, damages in MUST_RISE.items():
        for damage in damages:
            values = [found["none"][0][column], *(of[column] for of in found[damage])]
            if any(later <= earlier for earlier, later in zip(values, values[1:], strict=False)):
                wrong.append(f"{column} does not rise with {damage}: {values}")
    sys.exit("\n".join(wrong) or 0)


if __name__ == "__main__":
    main()
