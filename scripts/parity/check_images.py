#!/usr/bin/env python3
"""Compares decoded images with Pillow's, over generated files of every layout of JPEG and damage to them.

    .venv/bin/python scripts/parity/check_images.py [--only KIND] [--write-gate]

Each file must come out as Pillow decodes it, or be refused; a damaged one must be refused. The tolerance is a mean
error of 3 levels of 255: decoders differ in how they round the inverse DCT and blend subsampled colour, by less than
1 level here, while a wrong layout, colour space or missing part is off by 5 to 120. Ends with exit code 1 if a file is
wrong and nothing was said. Needs pillow, numpy and safetensors; --write-gate makes tests/faults/jpeg.
"""

import argparse
import io
import subprocess
import sys
import tempfile
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image
from safetensors.numpy import load_file, save_file

import jpeg_set

ROOT = Path(__file__).resolve().parents[2]
GATE = ROOT / "tests" / "faults" / "jpeg"
TOLERANCE = 3
# Shrunk, images of a few pixels hold means that reach over their border; another colour space is off by 30 and more.
SHRUNK_TOLERANCE = 10
# Of each kind of name, how many go into the gate.
GATE_KINDS = {"layout": 20, "colour": 12, "cut": 3, "cut-end": 3, "zeros": 2, "zeros-end": 2, "pasted": 2, "between": 2}
GATE_KINDS |= {"between-end": 2, "noend": 2, "trailer": 1, "arithmetic": 1, "twelve-bits": 1}


def pillow(data: bytes) -> np.ndarray | None:
    """`[height, width, 3]` RGB, or None if Pillow refuses the file."""
    try:
        image = Image.open(io.BytesIO(data))
        image.load()
        return np.asarray(image.convert("RGB"))
    except (OSError, SyntaxError, ValueError):
        return None


def ours(files: dict, *flags: str) -> tuple:
    """Decoded images and reasons for refusing, by name."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "files"
        folder.mkdir()
        for name, data in files.items():
            (folder / f"{name}.jpg").write_bytes(data)
        out = Path(place) / "out.safetensors"
        command = ["cargo", "run", "--release", "--quiet", "--example", "decode_folder", "--", folder, out, *flags]
        run = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
        lines = (line.split("\t", 1) for line in run.stdout.splitlines())
        refused = {name.removesuffix(".jpg"): reason for name, reason in lines}
        return {name.removesuffix(".jpg"): image for name, image in load_file(out).items()}, refused


def must_be_refused(name: str) -> bool:
    return name.split("_")[0].split("-")[0] in jpeg_set.MUST_BE_REFUSED


def error(a: np.ndarray, b: np.ndarray) -> float:
    """Mean difference; infinite for another size."""
    return float(abs(a.astype(int) - b.astype(int)).mean()) if a.shape == b.shape else float("inf")


def judge(name: str, wanted: np.ndarray | None, got: np.ndarray | None) -> str:
    if got is None:
        return "refused, rightly" if must_be_refused(name) or wanted is None else "refused, though Pillow reads it"
    if must_be_refused(name):
        return "WRONG: damaged and not refused"
    if wanted is None:
        # Pillow wants the end marker; a file that is otherwise whole may pass.
        return "read, though Pillow refuses it"
    return "as Pillow" if error(wanted, got) <= TOLERANCE else "WRONG: other pixels"


def shrunk_agrees(files: dict, whole: dict) -> Counter:
    """`--resize fast` to an eighth against area, which decodes in full, for files that are large enough to be shrunk."""
    large = {name: files[name] for name, image in whole.items() if min(image.shape[:2]) >= 16}
    (fast, refused), (area, _) = ours(large, "fast"), ours(large, "area")
    counts = Counter({"WRONG: shrunk is refused, whole is not": len(refused)} if refused else {})
    for name, image in fast.items():
        difference = error(area[name], image)
        counts["shrunk as whole" if difference <= SHRUNK_TOLERANCE else f"WRONG: {name}: {difference:.1f}"] += 1
    return counts


def write_gate(files: dict, wanted: dict) -> None:
    GATE.mkdir(parents=True, exist_ok=True)
    for old in GATE.iterdir():
        old.unlink()
    by_kind = {}
    for name in files:
        by_kind.setdefault(name.split("_")[0], []).append(name)
    pixels = {}
    for kind, count in GATE_KINDS.items():
        names = by_kind[kind]
        for name in [names[i * len(names) // count] for i in range(count)]:
            (GATE / f"{name}.jpg").write_bytes(files[name])
            if wanted[name] is not None and not must_be_refused(name):
                pixels[f"{name}.jpg"] = np.ascontiguousarray(wanted[name])
    save_file(pixels, GATE / "pillow.safetensors")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", help="files whose name begins so")
    parser.add_argument("--write-gate", action="store_true", help="make tests/faults/jpeg, and nothing else")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    files = {name: data for name, data in jpeg_set.files() if name.startswith(arguments.only or "")}
    wanted = {name: pillow(data) for name, data in files.items()}
    if arguments.write_gate:
        return write_gate(files, wanted)
    found, refused = ours(files)
    table, wrong, worst = {}, [], 0.0
    for name in files:
        verdict = judge(name, wanted[name], found.get(name))
        table.setdefault(name.split("_")[0], Counter())[verdict] += 1
        if verdict == "as Pillow":
            worst = max(worst, error(wanted[name], found[name]))
        if verdict.startswith("WRONG"):
            wrong.append(f"{name}: {verdict}")
    for kind, counts in table.items():
        print(f"{kind:14}", ", ".join(f"{count} {verdict}" for verdict, count in counts.most_common()))
    print("largest mean error of a file read:", round(worst, 2))
    print("reasons:", Counter(reason.rsplit(": ", 1)[-1] for reason in refused.values()).most_common(12))
    shrunk = shrunk_agrees(files, found)
    print("shrunk:", dict(shrunk))
    wrong += [f"shrunk: {verdict}: {count}" for verdict, count in shrunk.items() if verdict.startswith("WRONG")]
    print(f"{len(files)} files, {len(wrong)} wrong and unsaid", *wrong[:20], sep="\n")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
