#!/usr/bin/env python3
"""Compares builds of the program, or environments of one, in the time and peak memory of training and sampling steps.

    .venv/bin/python scripts/bench/compare_builds.py --build NAME='[VARIABLE=VALUE ...] PROGRAM' --build ... \\
                                              [--presets NAME ...] [--batch 1] [--iters 5] [--rounds 3]

For example two memory allocators, one of them preloaded:

    --build glibc=target/release/ddpm --build mimalloc='LD_PRELOAD=libmimalloc.so target/release/ddpm'

Every figure comes from a process of its own (`ddpm bench`, one preset, `--what train` and `--what sample`). Rounds take
turns between the builds, so that a busy minute affects all of them. Columns, each relative to the first build:

- time: the shortest median step of a round; the shortest, as other programs can only make a step longer
- peak: the largest resident set of the process (getrusage), libraries included; the median over rounds

The last rows are geometric means.
"""

import argparse
import json
import math
import os
import re
import shlex
import statistics
import subprocess
import sys

PRESETS = re.compile(r"\[possible values: ([^\]]+)\]")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    build = {"action": "append", "required": True, "metavar": "NAME=COMMAND"}
    parser.add_argument("--build", **build, help="the first is the measure")
    parser.add_argument("--presets", nargs="+", help="default: all")
    parser.add_argument("--batch", type=int, default=1, help="default: %(default)s")
    parser.add_argument("--iters", type=int, default=5, help="steps timed in a process; default: %(default)s")
    parser.add_argument("--rounds", type=int, default=3, help="default: %(default)s")
    return parser.parse_args()


def parse_build(text: str) -> tuple[str, list[str]]:
    """The name, and a command that sets the environment and runs the program."""
    name, _, command = text.partition("=")
    if not command:
        sys.exit(f"--build {text}: expected NAME=COMMAND")
    return name, ["env", *shlex.split(command)]


def presets(build: list[str]) -> list[str]:
    """The names that the error about an unknown preset lists."""
    error = subprocess.run([*build, "train", "--preset", "unknown"], capture_output=True, text=True).stderr
    return PRESETS.search(error)[1].split(", ")


def measure(command: list[str]) -> tuple[float, float]:
    """Milliseconds of the median step, and the peak in MiB."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"{shlex.join(command)} failed with exit code {process.returncode}")
    return json.loads(output)["ms_median"], usage.ru_maxrss / 2**10


def main() -> None:
    args = arguments()
    builds = dict(map(parse_build, args.build))
    first = next(iter(builds))
    print("| preset | step | " + " | ".join(f"{name}: ms, ratio | MiB, ratio" for name in builds) + " |")
    print("| --- | --- |" + " ---: | ---: |" * len(builds), flush=True)
    ratios = {(what, name): [] for what in ("train", "sample") for name in builds}
    for preset in args.presets or presets(builds[first]):
        for what in ("train", "sample"):
            flags = f"bench --what {what} --preset {preset} --batch {args.batch} --iters {args.iters}"
            flags = [*flags.split(), "--device", "cpu", "--json"]
            turn = lambda: {name: measure([*build, *flags]) for name, build in builds.items()}
            rounds = [turn() for _ in range(args.rounds)]
            best = {name: min(one[name][0] for one in rounds) for name in builds}
            peak = {name: statistics.median(one[name][1] for one in rounds) for name in builds}
            cells = []
            for name in builds:
                ratio = best[name] / best[first], peak[name] / peak[first]
                ratios[what, name].append(ratio)
                cells.append(f"{best[name]:.1f}, {ratio[0]:.2f} | {peak[name]:.0f}, {ratio[1]:.2f}")
            print(f"| {preset} | {what} | " + " | ".join(cells) + " |", flush=True)
    for what in ("train", "sample"):
        mean = lambda column: math.exp(statistics.fmean(map(math.log, column)))
        means = [map(mean, zip(*ratios[what, name])) for name in builds]
        print(f"| all | {what} | " + " | ".join(f"{time:.2f} | {peak:.2f}" for time, peak in means) + " |")


if __name__ == "__main__":
    main()
