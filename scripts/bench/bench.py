#!/usr/bin/env python3
"""Times ddpm against the PyTorch reference (eager or compiled, fused Adam) and prints a Markdown table.

    scripts/bench/bench.sh [flags]        # builds ddpm first; DDPM_BIN names a built one, PYTHON a Python

Both sides get the same settings, threads and arithmetic (f32 on CPU and tf32 products on CUDA, unless
--precision is given; with bf16, PyTorch gets autocast and channels last).
They run in turn, ours, PyTorch, ours, PyTorch, each in a process of its own, --rounds times a row.

How to read a row:

- ms: median over the timed steps of all rounds. A training step is everything a real one does (batch,
  forward, backward, optimizer, EMA, reading the loss); a sampling step is one reverse step; the rows of
  optimizers are the part of a training step after the gradients: their norm, the optimizer, the EMA.
- ratio: PyTorch / ours, median of the ratios of each round; above 1, ours is faster.
- spread: smallest and largest ratio among the rounds. A row whose spread includes 1 shows no winner.
- peak memory: on a CPU the whole process at its largest, Python and libraries included; on CUDA the
  tensors. Its ratio is PyTorch / ours too; above 1, ours takes less.
- "start to first step": from starting `ddpm train` to its last line before the first step:
  start of the process, the images (32 px: drawn; 128 px: 400 JPEG files whose decoded images are in a --cache),
  the network, the speed probe. Best of 3; PyTorch has no counterpart.
"""

import argparse
import copy
import json
import os
import re
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
REFERENCE = ROOT / "scripts" / "reference" / "bench.py"

ADAM = {
    "optimizer": "adam",
    "lr": 1e-4,
    "beta1": 0.9,
    "beta2": 0.999,
    "eps": 1e-8,
    "weight_decay": 0.0,
    "lr_schedule": [[0, 1.0]],
    "adapt_norms": False,
    "ema": 0.9999,
}
LAMB = ADAM | {"optimizer": "lamb", "lr": 1e-3, "eps": 1e-7}

# The network of the celebahq128 preset.
MODEL_128 = {
    "height": 128,
    "width": 128,
    "channels": 3,
    "base_width": 128,
    "multipliers": [1, 1, 2, 2, 4, 4],
    "blocks": 1,
    "min_pixel": 4,
    "norm": "group",
    "norm_groups": 32,
    "norm_eps": 1e-6,
    "time_embedding": "trainable",
    "dropout": 0.0,
}
MODELS = {
    "demo": MODEL_128 | {"height": 32, "width": 32, "base_width": 32, "multipliers": [1, 2, 2], "norm_groups": 8},
    "64": MODEL_128 | {"height": 64, "width": 64, "base_width": 64, "multipliers": [1, 2, 2, 4], "norm_groups": 16},
    "128": MODEL_128,
}
# The network of keras-ddpm2, 92 M parameters; for updates, which involve no image.
MODEL_92M = {key: MODEL_128[key] for key in ("height", "width", "channels", "base_width", "multipliers", "norm_groups")}
MODEL_92M |= {"kind": "unet-concat", "blocks": 2, "norm_eps": 1e-6, "dropout": 0.0}
UPDATES = {"25 M": MODEL_128, "92 M": MODEL_92M}
BATCHES = {"cpu": {"demo": 32, "64": 16, "128": 2}, "cuda": {"demo": 32, "64": 16, "128": 64}}
# Timed steps a round: usual, --quick.
ITERS = {
    "cpu": {"demo": (10, 3), "64": (3, 2), "128": (2, 1), "25 M": (10, 3), "92 M": (5, 2)},
    "cuda": {"demo": (50, 10), "64": (50, 10), "128": (20, 5), "25 M": (50, 10), "92 M": (50, 10)},
}
WARMUP = {"cpu": (2, 1), "cuda": (5, 3)}

BASE = {
    "diffusion": {"timesteps": 1000, "schedule": "keras-ddpm", "loss": "sum"},
    "sample": {"sigma": "beta", "clip_x0": False},
    "train": {"accumulate": 1, "seed": 0},
    "data": {"flip": False},
}

SIZES = [*MODELS, "optimizer"]

FIRST_STEP = re.compile(r"\bsteps? to go\b")  # in the line before it

# Name, flags, and True if its images come from a folder with a cache instead of being drawn.
START = [
    ("32 px, demo", ["--preset", "demo"], False),
    ("128 px, celebahq128, batch 1, cached images", ["--preset", "celebahq128", "--batch", "1"], True),
]


class Failure(Exception):
    """An error to print without a traceback."""


def call(command: list) -> str:
    """Standard output of a command, or the last lines of its errors as a Failure."""
    command = [str(word) for word in command]
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except OSError as error:
        raise Failure(f"cannot run {command[0]}: {error.strerror}") from None
    if done.returncode != 0:
        words = (done.stderr.strip() or done.stdout.strip() or "no output").splitlines()[-8:]
        raise Failure(f"exit code {done.returncode} from: {shlex.join(command)}\n  " + "\n  ".join(words))
    return done.stdout


def find_ddpm() -> Path:
    path = Path(os.environ.get("DDPM_BIN") or ROOT / "target" / "release" / "ddpm").absolute()
    if not path.exists():
        raise Failure(f"no ddpm at {path}; run scripts/bench/bench.sh, which builds it, or set DDPM_BIN")
    return path


def find_python() -> str:
    return os.environ.get("PYTHON") or str(ROOT / ".venv" / "bin" / "python")


def torch_version(python: str) -> str:
    try:
        return call([python, "-c", "import numpy, safetensors.torch, torch; print(torch.__version__)"]).strip()
    except Failure as failure:
        hint = "PYTHON needs torch, numpy, safetensors and packaging; scripts/setup.sh installs them in .venv"
        raise Failure(f"{failure}\n{hint}") from None


def cuda_name(doctor: str) -> str | None:
    """The name of the first GPU if CUDA can be used, from the output of `ddpm doctor`."""
    lines = [line.split(maxsplit=1) for line in doctor.splitlines()]
    facts = {words[0]: words[1] for words in lines if len(words) == 2}
    if not facts.get("CUDA", "").startswith("can be used"):
        return None
    return facts.get("cuda:0", "unknown GPU").split(",")[0]


def cpu_name() -> str:
    try:
        info = Path("/proc/cpuinfo").read_text()
    except OSError:
        return "unknown CPU"
    names = [line.split(":", 1)[1].strip() for line in info.splitlines() if line.startswith("model name")]
    return names[0] if names else "unknown CPU"


def to_toml(config: dict) -> str:
    """TOML sections of plain values; numbers, strings, booleans and lists look the same in JSON and TOML."""
    sections = []
    for name, section in config.items():
        lines = [f"{key} = {json.dumps(value)}" for key, value in section.items()]
        sections.append("\n".join([f"[{name}]", *lines, ""]))
    return "\n".join(sections)


def rows(devices: list[str], sizes: list[str]) -> list[dict]:
    """The rows to measure, in the order of the table."""
    found = []
    for device in devices:
        for size in sizes:
            if size == "optimizer":
                forms = [ADAM, ADAM | {"foreach": True}, LAMB]
                cases = [("optimizer", name, UPDATES[name], form) for name in UPDATES for form in forms]
            else:
                kinds = [("train", ADAM), ("sample", ADAM)] + ([("train", LAMB)] if size == "demo" else [])
                cases = [(what, size, MODELS[size], optim) for what, optim in kinds]
            for what, name, model, optim in cases:
                config = copy.deepcopy(BASE | {"model": model, "optim": optim})
                config["train"]["batch"] = BATCHES[device].get(name, 1)
                found.append({"device": device, "size": name, "what": what, "config": config})
    return found


def name_of(row: dict) -> str:
    config = row["config"]
    optimizer = {"adam": "Adam", "lamb": "LAMB"}[config["optim"]["optimizer"]]
    if row["what"] == "optimizer":
        form = "fused" if optimizer == "Adam" and not config["optim"].get("foreach") else "foreach"
        return f"{row['device'].upper()}: {optimizer} and EMA, {row['size']} parameters, against {form}"
    optimizer = f", {optimizer}" if row["what"] == "train" else ""
    side, batch = config["model"]["height"], config["train"]["batch"]
    return f"{row['device'].upper()}: {row['what']} step, {side} px, batch {batch}{optimizer}"


def measure(row: dict, args: argparse.Namespace, ddpm: Path, python: str, folder: Path) -> None:
    """Runs both sides in turn; adds the lists "ours" and "pytorch" of their reports."""
    toml, run_json = folder / "config.toml", folder / "run.json"
    ours = copy.deepcopy(row["config"])
    ours["optim"].pop("foreach", None)
    toml.write_text(to_toml(ours))
    run_json.write_text(json.dumps(row["config"]))
    device = row["device"]
    iters = args.iters or ITERS[device][row["size"]][args.quick]
    precision = args.precision or {"cpu": "f32", "cuda": "tf32"}[device]
    shared = {"--what": row["what"], "--warmup": WARMUP[device][args.quick], "--iters": iters}
    shared |= {"--threads": args.threads, "--device": device}
    flags = [word for pair in shared.items() for word in pair]
    row["flags"], row["precision"] = shlex.join(map(str, flags)), precision
    theirs = ["--bf16", "--channels-last"] if precision == "bf16" else ["--precision", precision]
    theirs += ["--compile"] if args.against == "compile" else []
    theirs += ["--device", args.torch_device] if args.torch_device else []
    row["ours"], row["pytorch"] = [], []
    for index in range(args.rounds):
        print(f"{name_of(row)}: round {index + 1} of {args.rounds}", file=sys.stderr, flush=True)
        own = ["--precision", precision, *(["--layout", args.layout] if args.layout else [])]
        row["ours"].append(json.loads(call([ddpm, "bench", "--json", "--config", toml, *own, *flags])))
        row["pytorch"].append(json.loads(call([python, REFERENCE, "--config", run_json, *flags, *theirs])))


def summary(row: dict) -> dict:
    sides = ("ours", "pytorch")
    ms = {side: statistics.median(t for run in row[side] for t in run["ms_all"]) for side in sides}
    peak = {side: max(run["peak_bytes"] for run in row[side]) for side in sides}
    ratios = [theirs["ms_median"] / ours["ms_median"] for ours, theirs in zip(row["ours"], row["pytorch"])]
    return {"ms": ms, "peak_bytes": peak, "ratios": ratios}


def number(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def table_row(name: str, row: dict) -> str:
    s = summary(row)
    ms, peak, ratios = s["ms"], s["peak_bytes"], s["ratios"]
    memory_ratio = f"{peak['pytorch'] / peak['ours']:.2f}" if peak["ours"] else "–"
    cells = [name, number(ms["ours"]), number(ms["pytorch"])]
    cells += [f"{statistics.median(ratios):.2f}", f"{min(ratios):.2f}–{max(ratios):.2f}"]
    cells += [f"{peak[side] / 2**20:.0f} MiB" for side in ("ours", "pytorch")] + [memory_ratio]
    return f"| {' | '.join(cells)} |"


def cached_images(ddpm: Path, flags: list[str], folder: Path) -> list[str]:
    """Flags for a folder of images whose cache is made."""
    from photo_like import make

    data = ["--data", make(folder, "jpeg-178x218"), "--cache", folder / "images.cache"]
    with tempfile.TemporaryDirectory(dir=folder) as temp:
        run = ["--steps", 1, "--sample-every", 0, "--run", Path(temp) / "run", "--device", "cpu"]
        call([ddpm, "train", *flags, *data, *run])
    return data


def start_to_first_step(
    ddpm: Path, flags: list[str], device: str, args: argparse.Namespace, folder: Path
) -> list[float]:
    """Milliseconds from starting `ddpm train` to its last line before the first step."""
    times = []
    for _ in range(1 if args.quick else 3):
        with tempfile.TemporaryDirectory(dir=folder) as temp:
            run = Path(temp) / "run"
            command = [ddpm, "train", *flags, "--steps", 1, "--sample-every", 0, "--run", run]
            command += ["--device", device, "--threads", args.threads]
            began = time.perf_counter()
            with subprocess.Popen([str(part) for part in command], stderr=subprocess.PIPE, text=True) as process:
                for line in process.stderr:
                    if FIRST_STEP.search(line):
                        times.append((time.perf_counter() - began) * 1e3)
            if process.returncode:
                raise Failure(f"{ddpm} train failed with exit code {process.returncode}")
    return times


def comma_list(allowed: list[str]):
    def parse(text: str) -> list[str]:
        unknown = [word for word in text.split(",") if word not in allowed]
        if unknown:
            raise argparse.ArgumentTypeError(f"{unknown[0]!r} is not one of {', '.join(allowed)}")
        return text.split(",")

    return parse


def positive(text: str) -> int:
    if (value := int(text)) < 1:
        raise argparse.ArgumentTypeError("must be 1 or more")
    return value


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="1 round of few steps, to check that it works")
    parser.add_argument("--rounds", type=positive, help="turns of each side per row (default 5)")
    parser.add_argument("--iters", type=positive, help="timed steps a round (default: by size and device)")
    parser.add_argument("--device", choices=["cpu", "cuda"], help="default: cpu, and cuda if it can be used")
    parser.add_argument("--sizes", type=comma_list(SIZES), default=SIZES, help="of demo,64,128,optimizer")
    parser.add_argument("--threads", type=positive, default=len(os.sched_getaffinity(0)), help="default: all cores")
    parser.add_argument(
        "--precision", choices=["bf16", "tf32", "f32"], help="of both sides (default: tf32 on CUDA, f32 on CPU)"
    )
    parser.add_argument(
        "--against", choices=["eager", "compile"], default="eager", help="PyTorch eager, or torch.compile with max-autotune"
    )
    parser.add_argument("--layout", choices=["nchw", "nhwc"], help="of our side on CUDA; default: the program's")
    parser.add_argument("--torch-device", help="of PyTorch, if it is another: cpu, for ddpm on a simulated CUDA device")
    parser.add_argument("--no-start", action="store_true", help='leave out "start to first step"')
    parser.add_argument("--json", type=Path, metavar="FILE", help="save all numbers")
    args = parser.parse_args()
    args.rounds = args.rounds or (1 if args.quick else 5)
    return args


def run(args: argparse.Namespace) -> bool:
    """Prints the report row by row; returns whether every row was measured."""
    ddpm, python = find_ddpm(), find_python()
    gpu = cuda_name(call([ddpm, "doctor"]))
    if args.device == "cuda" and gpu is None:
        raise Failure("CUDA cannot be used; run `ddpm doctor` for the reason")
    devices = [args.device] if args.device else ["cpu"] + ["cuda"] * (gpu is not None)
    if args.precision == "tf32" and "cpu" in devices:
        raise Failure("--precision tf32 exists on CUDA only; give --device cuda")
    if args.json and not args.json.absolute().parent.is_dir():
        raise Failure(f"--json {args.json}: its folder does not exist")
    about = {"cpu": cpu_name(), "gpu": gpu if "cuda" in devices else None, "threads": args.threads}
    about["torch"] = torch_version(python) + ("" if args.against == "eager" else ", compiled")
    about["date"] = datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z")
    about["command"] = shlex.join(["scripts/bench/bench.sh", *sys.argv[1:]])

    hardware = about["cpu"] + (f"; {gpu}" if "cuda" in devices else "")
    hardware += f"; {args.precision}" if args.precision else ""
    print(f"{hardware}; {args.threads} threads; PyTorch {about['torch']}; {about['date']}; `{about['command']}`\n")
    print("| step | ours, ms | PyTorch, ms | ratio | spread | peak memory, ours | PyTorch | ratio |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |", flush=True)
    measured, starts, complete = [], [], True
    with tempfile.TemporaryDirectory(prefix="ddpm-bench-") as folder:
        for row in rows(devices, args.sizes):
            try:
                measure(row, args, ddpm, python, Path(folder))
                print(table_row(name_of(row), row), flush=True)
                measured.append(row | {"name": name_of(row), "summary": summary(row)})
            except Failure as failure:
                complete = False
                print(f"| {name_of(row)} | failed | | | | | | |", flush=True)
                print(f"bench: {name_of(row)}: {failure}", file=sys.stderr)
        for device in [] if args.no_start else devices:
            for name, flags, cached in START:
                name = f"{device.upper()}: start to first step, {name}"
                print(name, file=sys.stderr, flush=True)
                try:
                    flags = flags + (cached_images(ddpm, flags, Path(folder)) if cached else [])
                    times = start_to_first_step(ddpm, flags, device, args, Path(folder))
                    print(f"| {name} | {number(min(times))} | – | – | – | – | – | – |", flush=True)
                    starts.append({"name": name, "ms_all": times})
                except Failure as failure:
                    complete = False
                    print(f"| {name} | failed | | | | | | |", flush=True)
                    print(f"bench: {name}: {failure}", file=sys.stderr)
    print("\nratio = PyTorch / ours: above 1, ours is better; spread = smallest and largest ratio of a round.")
    if not args.no_start:
        print("start to first step = from starting `ddpm train` to its last line before the first step, best of 3.")
    if args.json:
        args.json.write_text(json.dumps({"about": about, "rows": measured, "starts": starts}, indent=1) + "\n")
    return complete


def main() -> int:
    try:
        return 0 if run(parse_args()) else 1
    except Failure as failure:
        print(f"bench: {failure}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
