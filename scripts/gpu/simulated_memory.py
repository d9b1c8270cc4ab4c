#!/usr/bin/env python3
"""Compares the memory that `ddpm train` foretells for a CUDA device with what its tensors take, without a GPU.

    .venv/bin/python scripts/gpu/simulated_memory.py [--presets NAME ...] [--precisions f32 bf16] [--batch N]

Each row is one step on the simulated device of tests/simcuda, which this builds in target/simcuda. Columns:

- estimate: printed by the program before its first step, of tensors
- taken: the most bytes that tensors held at once
- ratio: estimate / taken

Fails if a ratio is not within 10 %.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from lab import ROOT, SIMULATOR, build_simulator, told_mib

PRESETS = re.compile(r"\[possible values: ([^\]]+)\]")

# Images a step: enough that the network's maps outweigh its weights, few enough for a CPU. Others: 8.
BATCHES = {"ddpm256": 1, "keras-ddpm": 4, "keras-ddpm2": 4, "lucidrains": 4, "keras-gau": 4}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = Path(os.environ.get("DDPM", ROOT / "target" / "release" / "ddpm"))
    parser.add_argument("--ddpm", type=Path, default=default, help="the program; default: $DDPM, else %(default)s")
    parser.add_argument("--presets", nargs="+", help="default: all")
    parser.add_argument("--precisions", nargs="+", default=["f32", "bf16"], help="default: f32 bf16")
    parser.add_argument("--batch", type=int, help="images a step; default: 1 to 8, by preset")
    parser.add_argument("--flags", default="", help="more flags of `ddpm train`, as one text")
    return parser.parse_args()


def presets(ddpm: Path) -> list[str]:
    """The names that the error about an unknown preset lists."""
    error = subprocess.run([ddpm, "train", "--preset", "unknown"], capture_output=True, text=True).stderr
    return PRESETS.search(error)[1].split(", ")


def take_step(ddpm: Path, preset: str, precision: str, batch: int, flags: list[str]) -> tuple[float, float]:
    """Trains one step of a batch in one piece; estimate and bytes taken, in MiB."""
    with tempfile.TemporaryDirectory(prefix="memory-") as folder:
        report = Path(folder) / "report.json"
        environment = {
            "LD_LIBRARY_PATH": str(SIMULATOR / "torch" / "lib"),
            "SIMCUDA_MEMORY": str(64 << 30),
            "SIMCUDA_POISON": "0",
            "SIMCUDA_REPORT": str(report),
        }
        command = [ddpm, "train", "--preset", preset, "--device", "cuda", "--precision", precision, "--steps", "1"]
        command += ["--batch", str(batch), "--accumulate", "1", "--builtin-images", "32"]
        command += ["--run", f"{folder}/run", *flags]
        done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment})
        if done.returncode != 0:
            sys.exit(f"{' '.join(map(str, command))} failed:\n{done.stderr}")
        return told_mib(done.stderr), json.loads(report.read_text())["peak_bytes"] / 2**20


def main() -> None:
    args = arguments()
    build_simulator(args.ddpm)
    # A grid swaps the weights.
    flags = [*args.flags.split(), *"--sample-every 1 --sample-images 1 --sample-steps 2".split()]
    print("| preset | precision | microbatch | estimate, MiB | taken, MiB | ratio |")
    print("| --- | --- | ---: | ---: | ---: | ---: |", flush=True)
    failures = []
    for preset in args.presets or presets(args.ddpm):
        batch = args.batch or BATCHES.get(preset, 8)
        for precision in args.precisions:
            estimate, taken = take_step(args.ddpm, preset, precision, batch, flags)
            ratio = estimate / taken
            print(f"| {preset} | {precision} | {batch} | {estimate:.0f} | {taken:.0f} | {ratio:.2f} |", flush=True)
            if abs(ratio - 1) > 0.1:
                failures.append(f"{preset} {precision}: {ratio:.2f}")
    if failures:
        sys.exit("not within 10 %: " + ", ".join(failures))


if __name__ == "__main__":
    main()
