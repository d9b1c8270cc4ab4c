#!/usr/bin/env python3
"""Compares `ddpm` with the programs whose checkpoints it reads; prints each difference and fails if one is too large.

    python scripts/parity/check_peers.py [--ddpm target/release/ddpm] [--only GROUP ...]

    shapes      diffusers' UNet2DModel in many shapes and file layouts: predictions, and export back
    images      diffusers' schedulers: images from the same noise, DDPM and DDIM from our exported folder
    lucidrains  denoising-diffusion-pytorch: predictions, images, and export back; also its network with classes
    families    pesser, w86763777, improved and guided diffusion: predictions and round trips, by reference_nets
    openai      networks with classes that `ddpm` has trained, exported to guided-diffusion
    stored      weights/peers: predictions and round trips

Networks are small, random and new, with fixed seeds; nothing is downloaded. The packages are in
scripts/requirements.txt. `refuses or agrees` marks cases that `ddpm` need not support: an error passes, a wrong answer fails.
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
GROUPS = ("shapes", "images", "lucidrains", "families", "openai", "stored")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = Path(os.environ.get("DDPM", ROOT / "target" / "release" / "ddpm"))
    parser.add_argument("--ddpm", type=Path, default=default, help="the program; default: $DDPM, else %(default)s")
    parser.add_argument("--only", nargs="+", choices=GROUPS, default=GROUPS, metavar="GROUP", help=", ".join(GROUPS))
    parser.add_argument("--peers", type=Path, default=ROOT / "weights" / "peers", help="the stored files")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="write the files here and leave them")
    return parser.parse_args()


def check(groups: list[str], table: Table, ddpm: Ddpm, peers: Path) -> None:
    """Runs the groups, and imports the packages of these only."""
    if "shapes" in groups or "images" in groups:
        from peers.diffusers_cases import check_images, check_shapes

        if "shapes" in groups:
            check_shapes(table, ddpm)
        if "images" in groups:
            check_images(table, ddpm)
    if "lucidrains" in groups:
        from peers.guided_cases import check_guided
        from peers.lucidrains_cases import check_lucidrains

        check_lucidrains(table, ddpm)
        check_guided(table, ddpm)
    from peers.families_cases import check_families, check_stored

    if "families" in groups:
        check_families(table, ddpm)
    if "openai" in groups:
        from peers.openai_cases import check_openai

        check_openai(table, ddpm)
    if "stored" in groups:
        check_stored(table, ddpm, peers)


def main() -> None:
    args = arguments()
    if not args.ddpm.is_file():
        sys.exit(f"check_peers: no program at {args.ddpm}; build it with cargo build --release, or give --ddpm")
    torch.set_num_threads(1)  # as the program: the networks are too small for two
    start, table = time.monotonic(), Table()
    with tempfile.TemporaryDirectory(prefix="peers-") as temporary:
        folder = args.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        check(args.only, table, Ddpm(args.ddpm, folder), args.peers)
    print(f"{table.rows} checks in {time.monotonic() - start:.0f} s")
    if table.failures:
        sys.exit(
            f"{len(table.failures)} of {table.rows} checks failed:\n" + "\n".join(f"  {f}" for f in table.failures)
        )
    print("all checks passed")


if __name__ == "__main__":
    main()
