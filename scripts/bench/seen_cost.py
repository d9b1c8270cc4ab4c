#!/usr/bin/env python3
"""Measures what the report and the events for TensorBoard cost a run while it is trained.

    .venv/bin/python scripts/bench/seen_cost.py [--rounds 5] [--steps 150] [--preset demo] [--ddpm target/release/ddpm]

Each round trains the preset anew with both (as by default), with the events alone, and with neither, in an order that
turns. A run's time is that of its last metrics line, without that of its first steps, so that starting does not count;
what is written beside training at each save does. No grids are drawn: they take longer than what is measured. Printed
are the time of each run as it ends, the medians, and the ratios of each round.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# Steps at the beginning that are not counted.
WARM_UP = 10
WAYS = {
    "neither": ["--report", "false", "--tensorboard", "false"],
    "events": ["--report", "false"],
    "both": [],
}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = Path(os.environ.get("DDPM", ROOT / "target" / "release" / "ddpm"))
    parser.add_argument("--ddpm", type=Path, default=default, help="the program; default: $DDPM, else %(default)s")
    parser.add_argument("--rounds", type=int, default=5, help="default: %(default)s")
    parser.add_argument("--steps", type=int, default=150, help="default: %(default)s")
    parser.add_argument("--preset", default="demo", help="default: %(default)s")
    parser.add_argument("--save-every", type=int, default=50, help="steps between saves; default: %(default)s")
    return parser.parse_args()


def ms_a_step(of: argparse.Namespace, flags: list[str]) -> float:
    folder = Path(tempfile.mkdtemp())
    try:
        run = folder / "run"
        every = str(of.save_every)
        command = [of.ddpm, "train", "--preset", of.preset, "--device", "cpu", "--run", run, "--steps", str(of.steps)]
        command += ["--save-every", every, "--sample-every", "0", *flags]
        subprocess.run(list(map(str, command)), check=True, capture_output=True)
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        secs = {line["step"]: line["secs"] for line in lines if "loss" in line}
        return 1000 * (secs[of.steps] - secs[WARM_UP]) / (of.steps - WARM_UP)
    finally:
        shutil.rmtree(folder)


def main() -> None:
    of = arguments()
    times: dict[str, list[float]] = {way: [] for way in WAYS}
    for number in range(of.rounds):
        order = list(WAYS)
        turn = number % len(order)
        for way in order[turn:] + order[:turn]:
            times[way].append(ms_a_step(of, WAYS[way]))
            print(f"  {way}: {times[way][-1]:.1f} ms a step", flush=True)
    print(f"{of.preset}, {of.rounds} rounds of {of.steps} steps, saves every {of.save_every}")
    for way, all_of_way in times.items():
        ratios = [one / neither for one, neither in zip(all_of_way, times["neither"])]
        shown = " ".join(f"{ratio:.3f}" for ratio in ratios)
        print(f"{way:8} {statistics.median(all_of_way):8.1f} ms a step, {statistics.median(ratios):.3f} of neither ({shown})")


if __name__ == "__main__":
    main()
