#!/usr/bin/env python3
"""Times training steps of several ranks on this machine: against PyTorch's DistributedDataParallel, and against one process.

    .venv/bin/python scripts/bench/bench_ranks.py [flags]     # needs target/release/ddpm; DDPM_BIN names another

All run the network of the celebahq128 preset (25 M parameters; --size and --base-width change it) in f32, with one thread a
process, in turn, --rounds times. Rank and process by itself compute the same --local-batch, so the batch of all ranks
together is --ranks times as large. Four ways:

- ddpm: `ddpm bench` under torchrun, ranks on Gloo.
- ddp: the PyTorch reference (scripts/reference/) in DistributedDataParallel with Gloo, under the same torchrun.
- alone: `ddpm bench` in one process, the other cores idle.
- side by side: as many such processes at once, which know nothing of each other. They share the memory's bandwidth and the
  clock that the cores can hold, as ranks do; what ranks take longer than these is the price of the group.

How to read the output: medians over the steps of all rounds, and the smallest and largest of the rounds' ratios.
"""

import argparse
import copy
import json
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
from datetime import datetime
from pathlib import Path

from bench import ADAM, BASE, MODEL_128, REFERENCE, ROOT, Failure, cpu_name, find_ddpm, positive, to_toml, torch_version

PYTHON = ROOT / ".venv" / "bin" / "python"
TORCHRUN = ROOT / ".venv" / "bin" / "torchrun"


class Ways:
    """The four ways; each method returns milliseconds of steps, and what else it was told."""

    def __init__(self, args: argparse.Namespace, folder: Path):
        self.args, self.ddpm = args, find_ddpm()
        self.configs = {}
        for name, ranks in [("alone", 1), ("all", args.ranks)]:
            config = copy.deepcopy(BASE | {"model": MODEL_128, "optim": ADAM})
            config["model"] |= {"height": args.size, "width": args.size, "base_width": args.base_width}
            config["train"]["batch"] = args.local_batch * ranks
            toml, run_json = folder / f"{name}.toml", folder / f"{name}.json"
            # Ranks draw the noise of each image by itself.
            toml.write_text(to_toml(config | {"train": config["train"] | {"draws": "image"}}))
            run_json.write_text(json.dumps(config))
            self.configs[name] = (toml, run_json)
        self.flags = ["--what", "train", "--warmup", args.warmup, "--iters", args.iters, "--threads", 1, "--device", "cpu"]

    def own(self, name: str) -> list:
        toml, _ = self.configs[name]
        return [self.ddpm, "bench", "--json", "--precision", "f32", "--config", toml, *self.flags]

    def together(self, command: list) -> dict:
        """What rank 0 of a torchrun prints."""
        return run([[TORCHRUN, "--standalone", "--no-python", "--nproc-per-node", self.args.ranks, "--", *command]])[0]

    def ranks(self) -> dict:
        return self.together([*self.own("all"), "--reduce", self.args.reduce])

    def ddp(self) -> dict:
        _, run_json = self.configs["all"]
        return self.together([PYTHON, REFERENCE, "--config", run_json, *self.flags])

    def alone(self) -> dict:
        return run([self.own("alone")])[0]

    def side_by_side(self) -> dict:
        found = run([self.own("alone")] * self.args.ranks)
        # The slowest, as a group would wait for it.
        return max(found, key=lambda one: one["ms_median"])


def run(commands: list[list]) -> list[dict]:
    """Runs commands at the same time; returns the JSON that each prints."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    texts = [[str(word) for word in command] for command in commands]
    begun = [
        subprocess.Popen(text, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment) for text in texts
    ]
    found = []
    for text, process in zip(texts, begun):
        said, errors = process.communicate()
        if process.returncode != 0:
            last = "\n  ".join(errors.strip().splitlines()[-8:])
            raise Failure(f"exit code {process.returncode} from: {shlex.join(text)}\n  {last}")
        found.append(json.loads(said.strip().splitlines()[-1]))
    return found


def measure(ways: Ways, rounds: int) -> dict[str, list[dict]]:
    found = {"ddpm": [], "ddp": [], "alone": [], "side by side": []}
    methods = {"ddpm": ways.ranks, "ddp": ways.ddp, "alone": ways.alone, "side by side": ways.side_by_side}
    only = ways.args.only
    for number in range(rounds):
        for name, method in methods.items():
            if only and name not in only:
                continue
            found[name].append(method())
            print(f"round {number + 1} of {rounds}: {name} {found[name][-1]['ms_median']:.0f} ms", file=sys.stderr, flush=True)
    return found


def report(found: dict[str, list[dict]], args: argparse.Namespace) -> None:
    images = {name: args.local_batch * (args.ranks if name != "alone" else 1) for name in found}
    print("| way | processes | ms a step | images/s |\n| --- | ---: | ---: | ---: |")
    for name, runs in found.items():
        if runs:
            ms = statistics.median(step for run in runs for step in run["ms_all"])
            processes = 1 if name == "alone" else args.ranks
            print(f"| {name} | {processes} | {ms:.0f} | {images[name] / ms * 1e3:.2f} |")
    print()
    for name, text in [
        ("ddp", "throughput of ddpm / that of DistributedDataParallel"),
        ("side by side", "step of ranks / step of processes side by side"),
        ("alone", "step of ranks / step of one process alone"),
    ]:
        pairs = list(zip(found["ddpm"], found[name]))
        if pairs:
            ratios = [theirs["ms_median"] / ours["ms_median"] for ours, theirs in pairs]
            ratios = ratios if name == "ddp" else [1 / ratio for ratio in ratios]
            print(f"{text}: {statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})")
    told = [run["ranks"] for run in found["ddpm"]]
    if told:
        middle = {name: statistics.median(ranks[name] for ranks in told) for name in told[0] if name.endswith("_ms")}
        words = ", ".join(f"{name.removesuffix('_ms')} {ms:.0f} ms" for name, ms in middle.items())
        print(f"ddpm, a step: {words}; sends {told[0]['bytes_sent'] / 1e6:.1f} MB")


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=positive, default=2)
    parser.add_argument("--local-batch", type=positive, default=1, help="images of a rank in a step (default 1)")
    parser.add_argument("--size", type=positive, default=128, help="of images, in pixels (default 128)")
    parser.add_argument("--base-width", type=positive, default=128, help="of the network (default 128)")
    parser.add_argument("--reduce", choices=["f32", "bf16", "ordered"], default="f32", help="of ddpm (default f32)")
    parser.add_argument("--rounds", type=positive, default=5)
    parser.add_argument("--warmup", type=positive, default=1)
    parser.add_argument("--iters", type=positive, default=4, help="timed steps of each way in a round (default 4)")
    parser.add_argument("--only", action="append", help="only this way; may be given several times")
    return parser.parse_args()


def main() -> int:
    args = parse_args()
    try:
        load = os.getloadavg()[0]
        date = datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z")
        command = shlex.join(["scripts/bench/bench_ranks.py", *sys.argv[1:]])
        cores = len(os.sched_getaffinity(0))
        print(f"{cpu_name()}, {cores} cores, load {load:.1f} before; PyTorch {torch_version(str(PYTHON))}; {date}; `{command}`\n")
        with tempfile.TemporaryDirectory(prefix="ddpm-ranks-") as folder:
            report(measure(Ways(args, Path(folder)), args.rounds), args)
    except Failure as failure:
        print(f"bench_ranks: {failure}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
