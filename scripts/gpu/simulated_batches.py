#!/usr/bin/env python3
"""Tells which batch fits into which GPU, from what tensors take on a simulated one.

    .venv/bin/python scripts/gpu/simulated_batches.py [--presets NAME ...] [--precisions f32 bf16] [--flags '...']

Each preset trains one step with two small batches on the simulated device of tests/simcuda, which this builds in
target/simcuda. Measured are the most bytes that tensors held at once; they grow with the batch on a straight line,
which is extended to other batches. Columns:

- taken: measured, with the two batches
- its own batch: extrapolated, for the batch of the preset in one piece
- N GB: the largest batch in one piece, extrapolated. Of the card's memory 2 % is not usable, and 1 GiB is set aside
  for the CUDA context, workspaces of cuDNN and cuBLAS, and what the allocator loses between blocks: an allowance, not
  measured
"""

import argparse
import os
import re
import subprocess
from pathlib import Path

from lab import ROOT, build_simulator
from simulated_memory import presets, take_step

CARDS_GB = [8, 12, 16, 24]
USABLE, ALLOWANCE_MIB = 0.98, 1024
# The others: 2 and 4.
BATCHES = {"demo": (16, 32), "ddpm256": (1, 2), "ddpm-cifar10": (4, 8), "improved-cifar10": (4, 8)}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = Path(os.environ.get("DDPM", ROOT / "target" / "release" / "ddpm"))
    parser.add_argument("--ddpm", type=Path, default=default, help="the program; default: $DDPM, else %(default)s")
    parser.add_argument("--presets", nargs="+", help="default: all")
    parser.add_argument("--precisions", nargs="+", default=["f32", "bf16"], help="default: f32 bf16")
    parser.add_argument("--flags", default="", help="more flags of `ddpm train`, as one text")
    return parser.parse_args()


def own_batches(ddpm: Path) -> dict[str, int]:
    """The batch of each preset, from the tables at the end of the help."""
    text = subprocess.run([ddpm, "train", "--help"], capture_output=True, text=True, check=True).stdout
    rows = re.findall(r"^ +(\S+) +\d+ +(\d+) +(?:lamb|adamw?) ", text, re.MULTILINE)
    return {preset: int(batch) for preset, batch in rows}


def main() -> None:
    args = arguments()
    build_simulator(args.ddpm)
    own = own_batches(args.ddpm)
    cards = " | ".join(f"{gb} GB" for gb in CARDS_GB)
    print(f"| preset | precision | batches | taken, MiB | its own batch | {cards} |")
    print("| --- | --- | ---: | ---: | ---: |" + " ---: |" * len(CARDS_GB), flush=True)
    for preset in args.presets or presets(args.ddpm):
        for precision in args.precisions:
            small = BATCHES.get(preset, (2, 4))
            flags = [*args.flags.split(), "--sample-every", "0"]
            taken = [take_step(args.ddpm, preset, precision, batch, flags)[1] for batch in small]
            an_image = (taken[1] - taken[0]) / (small[1] - small[0])
            once = taken[0] - small[0] * an_image
            usable = [gb * 1024 * USABLE - ALLOWANCE_MIB for gb in CARDS_GB]
            fits = " | ".join(str(max(0, int((mib - once) / an_image))) for mib in usable)
            gib = (once + own[preset] * an_image) / 1024
            both = f"{small[0]}, {small[1]} | {taken[0]:.0f}, {taken[1]:.0f}"
            print(f"| {preset} | {precision} | {both} | {own[preset]}: {gib:.1f} GiB | {fits} |", flush=True)


if __name__ == "__main__":
    main()
