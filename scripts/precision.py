#!/usr/bin/env python3
"""Trains the demo in f32 and in bf16 and prints both loss curves side by side, and the loss on faces that neither saw.

    .venv/bin/python scripts/precision.py [--steps 2000] [--seed N] [--device cpu] [--threads N] [ddpm]

Both runs have the same pictures, order, time steps and noise. The held-out loss is the mean of 100 steps in f32 at
no learning rate, from the averaged weights, on faces drawn with another seed: the same for both.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
HELD_OUT = ["--seed", "20261123", "--steps", "100", "--lr", "1e-30", "--precision", "f32"]


def losses(run: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (run / "metrics.jsonl").read_text().splitlines()]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ddpm", type=Path, nargs="?", default=ROOT / "target" / "release" / "ddpm")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--seed", default="0", help="of both runs; each gives a pair of its own; default: %(default)s")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", default="2")
    args = parser.parse_args()
    where = ["--device", args.device, "--threads", args.threads, "--sample-every", "0"]
    curves, held_out = {}, {}
    with tempfile.TemporaryDirectory() as folder:

        def train(run: Path, *flags: str) -> list[float]:
            command = [args.ddpm, "train", "--preset", "demo", *where, *flags, "--run", run]
            done = subprocess.run([str(word) for word in command], stderr=subprocess.PIPE, text=True)
            if done.returncode:
                raise SystemExit(done.stderr)
            return losses(run)

        for precision in ("f32", "bf16"):
            run = Path(folder) / precision
            print(f"training in {precision}", file=sys.stderr, flush=True)
            flags = ["--steps", str(args.steps), "--seed", args.seed, "--precision", precision]
            curves[precision] = train(run, *flags)
            held_out[precision] = statistics.mean(train(Path(folder) / f"on-{precision}", *HELD_OUT, "--init-from", run))

    print(f"| demo, {args.device}, seed {args.seed} | f32 | bf16 | bf16 / f32 |\n| --- | ---: | ---: | ---: |")
    part = max(1, args.steps // 10)
    rows = [(f"loss, steps {i + 1} to {i + part}", slice(i, i + part)) for i in range(0, args.steps, part)]
    for name, where_ in rows:
        f32, bf16 = (statistics.mean(curves[p][where_]) for p in ("f32", "bf16"))
        print(f"| {name} | {f32:.1f} | {bf16:.1f} | {bf16 / f32:.4f} |")
    f32, bf16 = held_out["f32"], held_out["bf16"]
    print(f"| held-out loss after them | {f32:.2f} | {bf16:.2f} | {bf16 / f32:.4f} |")
    return 0 if abs(bf16 / f32 - 1) < 0.01 else 1


if __name__ == "__main__":
    sys.exit(main())
