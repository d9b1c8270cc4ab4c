#!/usr/bin/env python3
"""What guidance does to the images of a class-conditional network: how right, how real and how varied they are.

    .venv/bin/python scripts/evaluate/guidance_curve.py RUN WEIGHTS.safetensors DATA [-n 1000] [--guidance 1,1.5,2,3,5]

RUN is the network: a run folder or a checkpoint. DATA holds labelled images as train_classifier.py takes them (IDX files, or
a folder for each class), WEIGHTS is what that script has made of them, and their classes are RUN's in the same order. For
each strength of guidance, as many images of each class are sampled from the same noise, and compared with test images. A
Markdown table is printed:

- accuracy: share of the images that the classifier takes for the class that was asked for
- FID, precision, recall: those of `ddpm evaluate fid --features small-cnn`, to the test images that are not in the last row
- spread: how different images of one class are: the trace of the covariance of their features, as a mean over the
  classes, divided by that of the test images of the last row

The last row is of test images, the first of each class in the same number: what a perfect network would have. FID depends on
the number of images, so compare rows of one number only.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors import safe_open
from train_classifier import read_data, scaled

ROOT = Path(__file__).resolve().parents[2]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = Path(os.environ.get("DDPM", ROOT / "target" / "release" / "ddpm"))
    parser.add_argument("run", type=Path, metavar="RUN")
    parser.add_argument("weights", type=Path, metavar="WEIGHTS.safetensors")
    parser.add_argument("data", type=Path, metavar="DATA")
    parser.add_argument("-n", "--images", type=int, default=1000, metavar="N", help="of each row; default: %(default)s")
    parser.add_argument("--guidance", default="1,1.5,2,3,5", metavar="S,…", help="default: %(default)s")
    parser.add_argument("--sampler", default="dpmpp-2m-sde", help="default: %(default)s")
    parser.add_argument("--steps", type=int, default=20, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    parser.add_argument("--device", default="auto", help="default: %(default)s")
    parser.add_argument("--precision", default="f32", help="default: %(default)s")
    parser.add_argument("--ddpm", type=Path, default=default, help="the program; default: $DDPM, else %(default)s")
    return parser.parse_args()


class Classifier:
    """The network of src/evaluate/features/small_cnn.rs."""

    def __init__(self, path: Path):
        with safe_open(path, "pt") as file:
            self.shape = json.loads(file.metadata()["small-cnn"])
            self.tensors = {name: file.get_tensor(name) for name in file.keys()}

    def __call__(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Features and classes of u8 images [N, C, size, size]."""
        seen = [self.of_batch(scaled(batch)) for batch in images.split(500)]
        return torch.cat([features for features, _ in seen]).double(), torch.cat([found for _, found in seen])

    def of_batch(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        for index in range(len(self.shape["widths"])):
            weight, bias = (self.tensors[f"blocks.{index}.{part}"] for part in ("weight", "bias"))
            x = F.conv2d(x if index == 0 else F.max_pool2d(x, 2), weight, bias, padding=1).relu()
        features = x.mean((2, 3))
        return features, F.linear(features, self.tensors["head.weight"], self.tensors["head.bias"]).argmax(1)


class Program:
    """`ddpm`, in a folder of its own."""

    def __init__(self, args: argparse.Namespace, folder: Path):
        self.args, self.folder = args, folder

    def json(self, *words: object) -> dict:
        return json.loads(self.run(*words, "--json"))

    def run(self, *words: object) -> str:
        command = [str(word) for word in (self.args.ddpm.resolve(), *words)]
        done = subprocess.run(command, cwd=self.folder, capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(f"guidance_curve: {' '.join(command)}: {done.stderr}")
        return done.stdout

    def sample(self, guidance: float, images: int) -> torch.Tensor:
        """Images of all classes in turn, u8 [N, C, H, W]."""
        args, to = self.args, f"guidance-{guidance}"
        self.run("sample", args.run, "-n", images, "--class", "all", "--guidance", guidance, "--sampler", args.sampler,
                 "--steps", args.steps, "--seed", args.seed, "--device", args.device, "--precision", args.precision,
                 "--batch", 100, "--separate", to)  # fmt: skip
        files = sorted((self.folder / to).glob("*.png"))
        arrays = [np.atleast_3d(np.array(Image.open(file))) for file in files]
        return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2)

    def distances(self, images: torch.Tensor) -> dict:
        """To what `reference` has written."""
        write_images(self.folder / "images.npz", images)
        return self.json("evaluate", "fid", "images.npz", "reference.npz", "--features", "small-cnn", "--metrics", "fid,pr",
                         "--weights", self.args.weights, "--device", "cpu", "--precision", "f32")  # fmt: skip


def write_images(path: Path, images: torch.Tensor) -> None:
    np.savez(path, arr_0=images.permute(0, 2, 3, 1).contiguous().numpy())


def even_part(labels: torch.Tensor, of_each: int, classes: int) -> torch.Tensor:
    """True for the first `of_each` of each class, [N] bool."""
    chosen = torch.zeros(len(labels), dtype=torch.bool)
    for label in range(classes):
        places = (labels == label).nonzero()[:, 0]
        if len(places) < 2 * of_each:
            sys.exit(
                f"guidance_curve: {len(places)} test images of class {label}, wanted {2 * of_each}: half to compare "
                "with; give a smaller -n"
            )
        chosen[places[:of_each]] = True
    return chosen


def spread(features: torch.Tensor, labels: torch.Tensor, classes: int) -> float:
    """Trace of the covariance within a class, as a mean over the classes."""
    return sum(features[labels == label].var(0).sum().item() for label in range(classes)) / classes


def main() -> None:
    args = arguments()
    args.weights, args.run = args.weights.resolve(), args.run.resolve()
    classifier = Classifier(args.weights)
    classes, size = classifier.shape["classes"], classifier.shape["size"]
    of_each = max(2, args.images // classes)
    [_, (test, test_labels)], _ = read_data(SimpleNamespace(data=args.data, size=size))
    real = even_part(test_labels, of_each, classes)
    strengths = [float(strength) for strength in args.guidance.split(",")]
    with tempfile.TemporaryDirectory() as name:
        program = Program(args, Path(name))
        found = program.json("inspect", args.run)["config"]["model"].get("classes")
        if found != classes:
            sys.exit(f"guidance_curve: the network has {found or 'no'} classes, the classifier {classes}")
        write_images(Path(name) / "reference.npz", test[~real])
        print(f"{of_each * classes} images a row, {args.sampler} at {args.steps} steps, {args.precision}; "
              f"compared with {int((~real).sum())} test images\n")  # fmt: skip
        print("| guidance | accuracy | FID | precision | recall | spread |")
        print("| ---: | ---: | ---: | ---: | ---: | ---: |", flush=True)
        features, seen = classifier(test[real])
        of_real = spread(features, test_labels[real], classes)

        def row(title: str, images: torch.Tensor, wanted: torch.Tensor) -> None:
            distances = program.distances(images)
            features, seen = classifier(images)
            values = [f"{100 * (seen == wanted).double().mean():.1f} %", f"{distances['fid']:.2f}"]
            values += [f"{distances[share]:.3f}" for share in ("precision", "recall")]
            values += [f"{spread(features, wanted, classes) / of_real:.2f}"]
            print(f"| {title} | {' | '.join(values)} |", flush=True)

        began = time.monotonic()
        wanted = torch.arange(of_each * classes) % classes
        for strength in strengths:
            row(f"{strength:g}", program.sample(strength, len(wanted)), wanted)
        seconds = time.monotonic() - began
        row("test images", test[real], test_labels[real])
    print(f"\n{seconds:.0f} s for the sampled rows", file=sys.stderr)


if __name__ == "__main__":
    main()
