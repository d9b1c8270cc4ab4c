"""Parts of check.py: speed against PyTorch, of choices against each other, and as a share of what the device can do.

The rows against PyTorch come from scripts/bench/bench.py, whose header says how to read them. `layouts` comes before
the others, which time with the layout that it found the faster one.
"""

import copy
import json
import subprocess
import sys
from pathlib import Path

from lab import ROOT, Failure, Lab

sys.path.insert(0, str(ROOT / "scripts" / "bench"))
from bench import BASE, REFERENCE, rows  # noqa: E402

BENCH = ROOT / "scripts" / "bench" / "bench.py"


def against_pytorch(lab: Lab, precision: str, *words: str, sizes: str = "128") -> bool:
    command = [sys.executable, BENCH, "--device", "cuda", "--no-start", "--precision", precision, *words]
    command += lab.layout_flags(precision)
    if lab.simulated:
        sizes = "demo" if sizes == "128" else sizes
        command += ["--torch-device", "cpu", "--quick", "--iters", "1"]
    ok = subprocess.run([*command, "--sizes", sizes, "--rounds", "1"]).returncode == 0
    print(flush=True)
    return ok


def eager(lab: Lab) -> bool:
    return against_pytorch(lab, "bf16")


def compile(lab: Lab) -> bool:
    return against_pytorch(lab, "bf16", "--against", "compile")


def precisions(lab: Lab) -> bool:
    return all([against_pytorch(lab, precision) for precision in ("tf32", "f32")])


def optimizers(lab: Lab) -> bool:
    return against_pytorch(lab, "f32", sizes="optimizer")


def compile_ahead(lab: Lab) -> bool:
    """Compiles what `compile` times, once, into the cache that it then finds."""
    config = lab.folder / "ahead.json"
    for row in rows(["cuda"], ["demo" if lab.simulated else "128"]):
        config.write_text(json.dumps(copy.deepcopy(BASE) | row["config"]))
        command = [sys.executable, REFERENCE, "--config", config, "--what", row["what"], "--device", lab.torch_device]
        flags = ["--bf16", "--channels-last", "--compile", "--warmup", "1", "--iters", "1"]
        subprocess.run([*command, *flags], check=True)
    return True


def phases(lab: Lab) -> bool:
    """The program's own words: time of each part, and speeds beside the device's fastest product and copy."""
    for what, flags in (("train", ["--phases"]), ("sample", [])):
        words = ["--what", what, "--precision", "bf16", *lab.layout_flags("bf16"), *flags]
        iters = ["--warmup", lab.size(5, 1), "--iters", lab.size(10, 1)]
        print(f"```\n{lab.cuda('bench', *lab.main, *words, *iters).printed.strip()}\n```", flush=True)
    print("\nThe goal is 60 % of the fastest matrix product.")
    return True


def layouts(lab: Lab) -> bool:
    """Both layouts; later parts use the faster one, f32 that of tf32. And what `auto` chooses in a run."""
    if not lab.has_flag("train", "--layout"):
        print("Skipped: this program has no `train --layout`.")
        return True
    print("| precision | layout | ms a training step | peak of tensors, MiB |\n| --- | --- | ---: | ---: |", flush=True)
    for precision, alike in (("bf16", []), ("tf32", ["f32"])):
        ms = {layout: time_layout(lab, layout, precision) for layout in ("nchw", "nhwc")}
        if lab.has_flag("bench", "--layout"):
            for one in (precision, *alike):
                lab.choose_layout(one, min(ms, key=ms.get))
    automatic = ["--precision", "bf16", "--layout", "auto", *short_run(lab, "auto", 200)]
    said = lab.cuda("train", *lab.main, *automatic).said
    chosen = [line for line in said.splitlines() if "layout" in line or "nhwc" in line or "nchw" in line]
    print("\n`train --layout auto` says: " + ("; ".join(chosen) or "nothing of its choice"))
    return True


def time_layout(lab: Lab, layout: str, precision: str) -> float:
    """Prints a row; milliseconds a step."""
    if lab.has_flag("bench", "--layout"):
        found = lab.bench("--layout", layout, precision=precision)
        ms, peak = found["ms_median"], f"{found['peak_bytes'] / 2**20:.0f}"
    else:
        name = f"{layout}-{precision}"
        steps = short_run(lab, name, lab.size(30, 5))
        lab.cuda("train", *lab.main, *steps, "--precision", precision, "--layout", layout)
        ms, peak = last_step_ms(lab.folder / f"speed-{name}"), "–"
    print(f"| {precision} | {layout} | {ms:.2f} | {peak} |", flush=True)
    return ms


def short_run(lab: Lab, name: str, steps: int) -> list[object]:
    return ["--builtin-images", 256, "--steps", steps, "--sample-every", 0, "--run", lab.folder / f"speed-{name}"]


def last_step_ms(run: Path) -> float:
    """From the images a second of the last steps, which a run smooths."""
    config = (run / "config.toml").read_text()
    batch = int(next(line.split("=")[1] for line in config.splitlines() if line.startswith("batch =")))
    last = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    return 1e3 * batch / last["images_per_sec"]


def choices(lab: Lab) -> bool:
    """What a flag costs a training step in bf16, against the same step without it; and what a checkpoint costs."""
    print("| network | flags | ms a training step | times the plain one | peak of tensors, MiB |")
    print("| --- | --- | ---: | ---: | ---: |", flush=True)
    flags = [[], ["--plain-blocks"], ["--checkpoint-blocks"], ["--deterministic"], ["--draws", "batch"]]
    cases = [("main job", lab.layout_flags("bf16"), flags)]
    if not lab.simulated:
        cases += [("ddpm-cifar10", ["--preset", "ddpm-cifar10"], [[], ["--draws", "batch"]])]
    ok = all([compare_flags(lab, *case) for case in cases])
    every = lab.size(10, 2)
    said = lab.cuda("train", *lab.main, *short_run(lab, "saving", lab.size(30, 5)), "--save-every", every).said
    pauses = [line.strip() for line in said.splitlines() if "pause for a checkpoint" in line]
    print(f"\nSaved every {every} steps: {'; '.join(pauses) or 'no pause that the program speaks of'}")
    return ok


def compare_flags(lab: Lab, name: str, network: list[str], cases: list[list[str]]) -> bool:
    """A row for each of `cases`, the first of which is plain; whether all of them ran."""
    plain, ok = None, True
    for flags in cases:
        label = " ".join(flags) or "–"
        try:
            found = lab.bench(*network, *flags)
        except Failure as failure:
            print(f"| {name} | {label} | FAILED | | |", flush=True)
            print(failure, file=sys.stderr)
            ok = False
            continue
        ms, peak = found["ms_median"], found["peak_bytes"] / 2**20
        plain = plain or ms
        print(f"| {name} | {label} | {ms:.2f} | {ms / plain:.2f} | {peak:.0f} |", flush=True)
    return ok
