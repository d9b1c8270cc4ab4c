#!/usr/bin/env python3
"""Compares the memory estimate of `ddpm train` with the memory it uses, for every preset, on CPU.

    .venv/bin/python scripts/bench/memory.py [--presets NAME ...] [--batches N ...] [--precision f32]
                                      [--ddpm target/release/ddpm]

Each row is a run of three steps on eight built-in images in a folder of its own, with a checkpoint after every
step, so that its memory overlaps with that of the next step. Columns:

- estimate: printed by the program before its first step, of the whole process
- measured: the largest resident set of the process (getrusage), libraries included
- ratio: estimate / used
- above libraries: the same ratio, with the memory of a process that only loads libtorch subtracted from both

Fails if a ratio is not within 20 %. Rows whose estimate is above --limit are left out.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
UNITS = {"B": 1 / 2**20, "KiB": 1 / 2**10, "MiB": 1, "GiB": 2**10, "TiB": 2**20}
PRESETS = re.compile(r"\[possible values: ([^\]]+)\]")
ESTIMATE = re.compile(r"about ([\d.]+) (\w+) of memory")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = Path(os.environ.get("DDPM", ROOT / "target" / "release" / "ddpm"))
    parser.add_argument("--ddpm", type=Path, default=default, help="the program; default: $DDPM, else %(default)s")
    parser.add_argument("--presets", nargs="+", help="default: all")
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 2, 4], help="default: %(default)s")
    parser.add_argument("--precision", default="f32", help="f32, bf16 or auto; default: %(default)s")
    parser.add_argument("--limit", type=float, default=8.0, metavar="GIB", help="default: %(default)s")
    return parser.parse_args()


def presets(ddpm: Path) -> list[str]:
    """The names that the error about an unknown preset lists."""
    error = subprocess.run([ddpm, "train", "--preset", "unknown"], capture_output=True, text=True).stderr
    return PRESETS.search(error)[1].split(", ")


def peak(command: list[str], limit: float) -> tuple[float | None, float | None]:
    """The estimate, if any, and the largest resident set, in MiB; the latter is None if the estimate is above the limit."""
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        estimate = None
        for line in process.stderr:
            said.write(line)
            if found := ESTIMATE.search(line):
                estimate = float(found[1]) * UNITS[found[2]]
                if estimate > limit * 2**10:
                    process.kill()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = status
        if estimate is not None and estimate > limit * 2**10:
            return estimate, None
        if status != 0:
            said.seek(0)
            sys.exit(f"{' '.join(map(str, command))} failed:\n{said.read()}")
        return estimate, usage.ru_maxrss / 2**10


def main() -> None:
    args = arguments()
    if not args.ddpm.is_file():
        sys.exit(f"memory: no program at {args.ddpm}; build it with cargo build --release, or give --ddpm")
    _, libraries = peak([args.ddpm, "completions", "bash"], args.limit)
    print(f"MiB; a process that only loads libtorch: {libraries:.0f}\n")
    print("| preset | microbatch | estimate | measured | ratio | above libraries |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |", flush=True)
    failures = []
    for preset in args.presets or presets(args.ddpm):
        for batch in args.batches:
            with tempfile.TemporaryDirectory(prefix="memory-") as folder:
                flags = f"--batch {batch} --steps 3 --save-every 1 --keep 1 --sample-every 0 --builtin-images 8"
                command = [args.ddpm, "train", "--preset", preset, *flags.split()]
                command += ["--device", "cpu", "--precision", args.precision]
                estimate, used = peak([*command, "--run", f"{folder}/run"], args.limit)
            if used is None:
                print(f"| {preset} | {batch} | {estimate:.0f} | above --limit | | |", flush=True)
                continue
            ratio, above = estimate / used, (estimate - libraries) / (used - libraries)
            print(f"| {preset} | {batch} | {estimate:.0f} | {used:.0f} | {ratio:.2f} | {above:.2f} |", flush=True)
            if abs(ratio - 1) > 0.2:
                failures.append(f"{preset} {batch}: {ratio:.2f}")
    if failures:
        sys.exit("not within 20 %: " + ", ".join(failures))


if __name__ == "__main__":
    main()
