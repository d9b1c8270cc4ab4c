#!/usr/bin/env python3
"""Compares `ddpm evaluate fid` with pytorch-fid and torch-fidelity, from image files to numbers; fails if one differs.

    .venv/bin/python scripts/parity/check_fid.py [--ddpm target/release/ddpm] [--images 64] [--rounds 1] [--against N]

Two folders of PNG files of random waves, and Inception weights drawn at random, which all three programs read from one file:
nothing is downloaded. FID in the dialect of pytorch-fid is held against pytorch-fid; FID, KID, Inception score, precision and
recall in the dialect of TensorFlow against torch-fidelity. Statistics that `ddpm evaluate statistics` writes are given to
pytorch-fid.

How to read the output: each number of both programs and their relative difference, of which 1e-3 is allowed: features
differ by 1e-5, and with fewer images than features that is most of what small eigenvalues are. Then the seconds of the
whole FID, ours and pytorch-fid's in turns with as many threads, and their ratio (with --images 1000 and more it means something).
With --against N that is all: FID of --images files against the saved statistics of N others, as one judges a model.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "features"))
TOLERANCE = 1e-3


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = Path(os.environ.get("DDPM", ROOT / "target" / "release" / "ddpm"))
    parser.add_argument("--ddpm", type=Path, default=default, help="the program; default: $DDPM, else %(default)s")
    parser.add_argument("--images", type=int, default=64, metavar="N", help="images of a folder; default: %(default)s")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), metavar="N")
    parser.add_argument(
        "--against", type=int, metavar="N", help="only the whole FID, against saved statistics of N images"
    )
    parser.add_argument("--rounds", type=int, default=1, metavar="N", help="of timing; default: %(default)s")
    return parser.parse_args()


def write_images(folder: Path, number: int, seed: int, most_waves: int) -> None:
    """PNG files of 40 by 32 pixels, each the sum of a few waves in each channel."""
    folder.mkdir()
    drawn = np.random.default_rng(seed)
    y, x = np.meshgrid(np.linspace(0, 1, 40), np.linspace(0, 1, 32), indexing="ij")
    for i in range(number):
        image = np.zeros((40, 32, 3))
        for channel in range(3):
            for _ in range(drawn.integers(1, most_waves + 1)):
                up, along, phase = drawn.uniform(-5, 5, 3)
                image[..., channel] += np.sin(2 * np.pi * (up * y + along * x) + phase)
        Image.fromarray((127.5 + 40 * image).clip(0, 255).astype(np.uint8)).save(folder / f"{i:05}.png")


class Programs:
    def __init__(self, args: argparse.Namespace, weights: Path):
        self.args, self.weights = args, weights

    def ours(self, *words: object) -> dict:
        own = ["--device", "cpu", "--threads", self.args.threads, "--weights", self.weights]
        done = subprocess.run(
            [str(word) for word in [self.args.ddpm, "evaluate", *words, *own]], capture_output=True, text=True, check=False
        )
        if done.returncode:
            sys.exit(f"check_fid: ddpm evaluate failed: {done.stderr}")
        return json.loads(done.stdout) if "--json" in words else {}

    def pytorch_fid(self, a: Path, b: Path) -> float:
        from pytorch_fid import fid_score

        return float(fid_score.calculate_fid_given_paths([str(a), str(b)], 32, "cpu", 2048, num_workers=0))

    def fidelity(self, a: Path, b: Path) -> dict:
        from torch_fidelity import calculate_metrics

        return calculate_metrics(
            input1=str(a), input2=str(b), cuda=False, isc=True, fid=True, kid=True, prc=True, verbose=False, cache=False,
            feature_extractor="inception-v3-compat", feature_extractor_weights_path=str(self.weights),
            kid_subset_size=min(1000, self.args.images), save_cpu_ram=True,
        )  # fmt: skip


def compare(rows: list[tuple[str, float, float]]) -> bool:
    good = True
    print(f"{'':40} {'ddpm':>14} {'peer':>14}  relative difference")
    for name, own, peer in rows:
        apart = abs(own - peer) / max(abs(peer), 1e-6)
        good &= apart <= TOLERANCE
        print(f"{name:40} {own:14.8g} {peer:14.8g}  {apart:.1e} {'' if apart <= TOLERANCE else 'TOO LARGE'}")
    return good


def timed(work) -> tuple[float, object]:
    start = time.monotonic()
    result = work()
    return time.monotonic() - start, result


def compare_whole_fid(programs: Programs, a: Path, b: Path) -> tuple[float, tuple[str, float, float]]:
    """How many times as long pytorch-fid takes, and what both find."""
    own_secs, own = timed(lambda: programs.ours("fid", a, b, "--metrics", "fid", "--json"))
    peer_secs, peer = timed(lambda: programs.pytorch_fid(a, b))
    ratio = peer_secs / own_secs
    print(f"whole FID of {a.name} and {b.name}: ddpm {own_secs:.1f} s, pytorch-fid {peer_secs:.1f} s, {ratio:.2f} times", flush=True)
    return ratio, ("FID, pytorch-fid", own["fid"], peer)


def main() -> None:
    args = arguments()
    if not args.ddpm.is_file():
        sys.exit(f"check_fid: no program at {args.ddpm}; build it with cargo build --release, or give --ddpm")
    import reference

    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        state = reference.random_weights(folder / "weights.pth")
        reference.fid.load_state_dict_from_url = lambda url, progress=True: state
        programs = Programs(args, folder / "weights.pth")
        a, b = folder / "a", folder / "b"
        write_images(a, args.images, 1, 3)
        write_images(b, args.against or args.images, 2, 5)
        if args.against:
            programs.ours("statistics", b, "--out", folder / "b.npz")
            _, found = zip(*[compare_whole_fid(programs, a, folder / "b.npz") for _ in range(args.rounds)])
            sys.exit(0 if compare(list(found)) else 1)
        ratios, found = zip(*[compare_whole_fid(programs, a, b) for _ in range(args.rounds)])
        own_fid = found[0][1]
        tf = programs.ours("fid", a, b, "--dialect", "tf", "--json")
        fidelity = programs.fidelity(a, b)
        programs.ours("statistics", b, "--out", folder / "b.npz")
        by_statistics = programs.pytorch_fid(a, folder / "b.npz")
        good = compare(
            [
                *found,
                ("FID with our statistics, pytorch-fid", own_fid, by_statistics),
                ("FID, torch-fidelity", tf["fid"], fidelity["frechet_inception_distance"]),
                ("KID, torch-fidelity", tf["kid"], fidelity["kernel_inception_distance_mean"]),
                ("Inception score, torch-fidelity", tf["inception_score"], fidelity["inception_score_mean"]),
                ("its deviation, torch-fidelity", tf["inception_score_std"], fidelity["inception_score_std"]),
                ("precision, torch-fidelity", tf["precision"], fidelity["precision"]),
                ("recall, torch-fidelity", tf["recall"], fidelity["recall"]),
            ]
        )
        ratios = sorted(ratios)
        print(f"pytorch-fid takes {ratios[len(ratios) // 2]:.2f} times as long ({ratios[0]:.2f} to {ratios[-1]:.2f})")
    sys.exit(0 if good else "check_fid: differences above are too large")


if __name__ == "__main__":
    main()
