#!/usr/bin/env python3
"""Measures the distance of each solver's images from those of all T steps; prints a Markdown table.

    .venv/bin/python scripts/bench/compare_samplers.py runs/NAME [flags]

All samplers start from the same x_T, so a solver without noise has a right answer: the result of DDIM with all T steps.
A row is a solver and a spacing; a number is the root mean square distance of the pixels from that
answer, in [-1, 1] (2 / 255 = 0.0078 is one grey level), over all images. Evaluations of the network are the cost of
sampling: one a step, but two for heun except at the last. The best spacing of each solver and number of
steps is bold.

With --check-answer the last line is the distance of the answer itself from heun's with all T steps, which is of second
order: smaller differences do not show which solver is better.

Samplers with noise (ddpm, ddim with --eta, analytic, dpmpp-2m-sde) end at other images by nature and are not compared.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor

ROOT = Path(__file__).resolve().parents[2]
SPACINGS = ("leading", "trailing", "linspace", "log-snr", "karras")
SOLVERS = {
    "ddim": ["--sampler", "ddim"],
    "dpmpp-2m": ["--sampler", "dpmpp-2m"],
    "heun": ["--sampler", "heun"],
    "unipc": ["--sampler", "unipc"],
    "unipc, order 3": ["--sampler", "unipc", "--order", "3"],
}
ALL_STEPS = ["--stride", "1"]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = Path(os.environ.get("DDPM", ROOT / "target" / "release" / "ddpm"))
    parser.add_argument("checkpoint", type=Path, help="checkpoint, weights file or run folder")
    parser.add_argument("--ddpm", type=Path, default=default, help="the program; default: $DDPM, else %(default)s")
    parser.add_argument("-n", "--number", type=int, default=32, metavar="N", help="images; default: %(default)s")
    parser.add_argument("--steps", type=int, nargs="+", default=[5, 10, 20, 50], metavar="N", help="numbers of steps")
    parser.add_argument("--solvers", nargs="+", choices=SOLVERS, default=list(SOLVERS), metavar="S")
    parser.add_argument("--spacings", nargs="+", choices=SPACINGS, default=list(SPACINGS), metavar="S")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--clip-x0", choices=("true", "false"), help="default: as in the model's settings")
    parser.add_argument("--check-answer", action="store_true", help="compare the answer with heun's; 2 T evaluations")
    return parser.parse_args()


class Images:
    """Samples images of one checkpoint, all from the same x_T."""

    def __init__(self, args: argparse.Namespace, folder: Path):
        self.file = folder / "pictures.safetensors"
        self.command = [args.ddpm, "sample", args.checkpoint, "-n", args.number, "--batch", args.number]
        self.command += ["--seed", args.seed, "--precision", "f32", "--force", "--out-tensor", self.file]
        if args.clip_x0:
            self.command.append(f"--clip-x0={args.clip_x0}")

    def of(self, *flags: object) -> Tensor:
        command = [str(word) for word in (*self.command, *flags)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"compare_samplers: {' '.join(command)}\n{done.stderr.strip()[-1500:]}")
        return load_file(self.file)["pictures"].double()


def rms(a: Tensor, b: Tensor) -> float:
    return (a - b).square().mean().sqrt().item()


def evaluations(solver: str, steps: int) -> int:
    return 2 * steps - 1 if solver == "heun" else steps


def print_solver(solver: str, errors: dict[str, list[float]], counts: list[int]) -> None:
    """`errors` has a number for each of `counts`, for each spacing."""
    best = [min(column) for column in zip(*errors.values())]
    asked = ", ".join(str(evaluations(solver, n)) for n in counts)
    for spacing, row in errors.items():
        cells = [f"**{e:.4f}**" if e == b else f"{e:.4f}" for e, b in zip(row, best)]
        print(f"| {solver} | {spacing} | {asked} | {' | '.join(cells)} |", flush=True)


def main() -> None:
    args = arguments()
    if not args.ddpm.is_file():
        sys.exit(f"compare_samplers: no program at {args.ddpm}; build it with cargo build --release, or give --ddpm")
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="samplers-") as folder:
        images = Images(args, Path(folder))
        wanted = images.of(*SOLVERS["ddim"], *ALL_STEPS)
        print(f"| solver | spacing | evaluations | {' | '.join(f'{n} steps' for n in args.steps)} |")
        print(f"| --- | --- | --- |{' ---: |' * len(args.steps)}")
        for solver in args.solvers:
            errors = {}
            for spacing in args.spacings:
                ours = (images.of(*SOLVERS[solver], "--steps", n, "--spacing", spacing) for n in args.steps)
                errors[spacing] = [rms(image, wanted) for image in ours]
            print_solver(solver, errors, args.steps)
        print(f"\n{args.number} images, {time.monotonic() - start:.0f} s")
        if args.check_answer:
            apart = rms(images.of(*SOLVERS["heun"], *ALL_STEPS), wanted)
            print(f"ddim and heun with all T steps: {apart:.4f} apart")


if __name__ == "__main__":
    main()
