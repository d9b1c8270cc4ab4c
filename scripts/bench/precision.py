#!/usr/bin/env python3
"""Trains the demo in f32 and in bf16; prints both loss curves side by side, and the loss on faces that neither saw.

    .venv/bin/python scripts/bench/precision.py [--steps 2000] [--seed N] [--chance] [--device cpu] [--threads N] [ddpm]

Both runs have the same images, order, time steps and noise. With --chance the second run is in f32 too, with a
learning rate larger by a millionth: it shows how far two nearly equal runs diverge by chance. The held-out loss is the
mean of 100 steps in f32 with no learning rate to speak of, from the EMA weights, on faces drawn with another seed.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DEMO_LR = 1e-2  # of the preset
HELD_OUT = ["--seed", "20261123", "--steps", "100", "--lr", "1e-30", "--precision", "f32"]


def losses(run: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (run / "metrics.jsonl").read_text().splitlines()]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ddpm", type=Path, nargs="?", default=ROOT / "target" / "release" / "ddpm")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--seed", default="0", help="of both runs; each gives a pair of its own; default: %(default)s")
    parser.add_argument("--chance", action="store_true", help="f32 against f32 with a learning rate a millionth larger")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", default="2")
    args = parser.parse_args()
    where = ["--device", args.device, "--threads", args.threads, "--sample-every", "0"]
    other = ("f32 again", "f32", DEMO_LR * (1 + 1e-6)) if args.chance else ("bf16", "bf16", DEMO_LR)
    sides = [("f32", "f32", DEMO_LR), other]
    curves, held_out = {}, {}
    with tempfile.TemporaryDirectory() as folder:

        def train(run: Path, *flags) -> list[float]:
            command = [args.ddpm, "train", "--preset", "demo", *where, *flags, "--run", run]
            done = subprocess.run([str(word) for word in command], stderr=subprocess.PIPE, text=True)
            if done.returncode:
                raise SystemExit(done.stderr)
            return losses(run)

        for index, (side, precision, lr) in enumerate(sides):
            run = Path(folder) / str(index)
            print(f"training in {side}", file=sys.stderr, flush=True)
            flags = ["--precision", precision, "--lr", lr]
            curves[side] = train(run, "--steps", args.steps, "--seed", args.seed, *flags)
            held_out[side] = statistics.mean(train(Path(folder) / f"on-{index}", *HELD_OUT, "--init-from", run))

    print(f"| demo, {args.device}, seed {args.seed} | f32 | {other[0]} | {other[0]} / f32 |\n| --- | ---: | ---: | ---: |")
    part = max(1, args.steps // 10)
    for first in range(0, args.steps, part):
        one, two = (statistics.mean(curve[first : first + part]) for curve in curves.values())
        print(f"| loss, steps {first + 1} to {first + part} | {one:.1f} | {two:.1f} | {two / one:.4f} |")
    one, two = held_out.values()
    print(f"| held-out loss after them | {one:.2f} | {two:.2f} | {two / one:.4f} |")
    return 0 if abs(two / one - 1) < 0.01 else 1


if __name__ == "__main__":
    sys.exit(main())
