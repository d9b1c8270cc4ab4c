#!/usr/bin/env python3
"""Compares our samplers with diffusers' schedulers; prints each difference and fails if one is too large.

    .venv/bin/python scripts/parity/check_samplers.py [--ddpm target/release/ddpm] [--peers DIR]

One small network of weights/peers, used as a prediction of eps or v, with the same noise and time steps on both sides: DDIM,
DPM-Solver++(2M) with and without noise, UniPC, Heun and DDPM with fewer steps, clipped and not. Conventions that differ
are listed in scripts/parity/peers/sampler_cases.py. Nothing is downloaded.
"""

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

import torch

from peers.checking import Ddpm, Table

ROOT = Path(__file__).resolve().parents[2]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = Path(os.environ.get("DDPM", ROOT / "target" / "release" / "ddpm"))
    parser.add_argument("--ddpm", type=Path, default=default, help="the program; default: $DDPM, else %(default)s")
    parser.add_argument("--peers", type=Path, default=ROOT / "weights" / "peers", help="the stored files")
    return parser.parse_args()


def main() -> None:
    args = arguments()
    if not args.ddpm.is_file():
        sys.exit(f"check_samplers: no program at {args.ddpm}; build it with cargo build --release, or give --ddpm")
    from peers.sampler_cases import check_samplers

    torch.set_num_threads(1)  # as the program: the network is too small for two
    start, table = time.monotonic(), Table()
    with tempfile.TemporaryDirectory(prefix="samplers-") as folder:
        check_samplers(table, Ddpm(args.ddpm, Path(folder)), args.peers)
    print(f"{table.rows} checks in {time.monotonic() - start:.0f} s")
    if table.failures:
        sys.exit(
            f"{len(table.failures)} of {table.rows} checks failed:\n" + "\n".join(f"  {f}" for f in table.failures)
        )
    print("all checks passed")


if __name__ == "__main__":
    main()
