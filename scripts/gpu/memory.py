"""Parts of check.py: waits, memory that is told and taken, and what is said when it runs out."""

import json
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

from lab import Failure, Lab, together, told_mib

# Steps of two runs, so that what both do once does not count.
TRAIN_STEPS, SAMPLE_STEPS = (12, 52), (4, 12)
WAITS_A_STEP = 0.15  # losses are read at every tenth step: 0.1, and one more in forty steps
OFF_BY = 0.1

TINY = "--preset demo --size 16 --base-width 8 --norm-groups 2 --builtin-images 16 --batch 4 --sample-every 0".split()
# Of a device that is too small for 64 images of it.
SMALL = "--preset demo --base-width 16 --norm-groups 4".split()
SMALL_DEVICE_BYTES = 40_000_000


def waits(lab: Lab) -> bool:
    """Waits of a step: the difference between a long and a short run. On a simulated device its own count of them."""
    preload = counter(lab)
    if preload is None:
        print("Skipped: without a C compiler (`cc` or `gcc`) waits are not counted.")
        return True
    counts: dict[tuple, float] = {}

    def count(key: tuple, *words: object) -> None:
        file = lab.temporary("waits") / "counted"
        report = file.with_suffix(".json")
        lab.cuda(*words, LD_PRELOAD=str(preload), WAITS_FILE=str(file), SIMCUDA_REPORT=str(report))
        if lab.simulated:
            counts[key] = json.loads(report.read_text())["waits"]
        elif file.exists():
            counts[key] = int(file.read_text())
        else:
            raise Failure("the program has ended without a count of its waits")

    def train(precision: str, steps: int) -> None:
        run = lab.folder / f"waits-{precision}-{steps}"
        count(("train", precision, steps), "train", *TINY, "--precision", precision, "--steps", steps, "--run", run)

    def sample(steps: int) -> None:
        run, image = lab.folder / f"waits-f32-{TRAIN_STEPS[0]}", lab.folder / f"{steps}.png"
        words = ["-n", 2, "--precision", "f32", "--sampler", "ddim", "--steps", steps, "--out", image]
        count(("sample", "f32", steps), "sample", run, *words)

    pairs = [(precision, steps) for precision in ("f32", "bf16") for steps in TRAIN_STEPS]
    for jobs in ([partial(train, *pair) for pair in pairs], [partial(sample, steps) for steps in SAMPLE_STEPS]):
        for failure in together(jobs):
            if failure is not None:
                raise failure
    print("| step | precision | steps | waits in all | waits a step | at most |")
    print("| --- | --- | ---: | ---: | ---: | ---: |")
    trained = [print_waits(counts, "train", precision, TRAIN_STEPS, WAITS_A_STEP) for precision in ("f32", "bf16")]
    return all([*trained, print_waits(counts, "sample", "f32", SAMPLE_STEPS, 0)])


def print_waits(counts: dict, what: str, precision: str, steps: tuple[int, int], most: float) -> bool:
    short, long = (counts[what, precision, n] for n in steps)
    a_step = (long - short) / (steps[1] - steps[0])
    ok = a_step <= most
    verdict = "" if ok else " FAILED"
    print(f"| {what} | {precision} | {steps[0]}, {steps[1]} | {short}, {long} | {a_step:.3f}{verdict} | {most} |")
    return ok


def counter(lab: Lab) -> Path | None:
    """The library that counts waits, compiled; None without a compiler."""
    compiler, library = shutil.which("cc") or shutil.which("gcc"), lab.folder / "waits.so"
    if compiler is None:
        return None
    source = Path(__file__).with_name("waits.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl"], check=True, stdout=sys.stderr)
    return library


class Watch:
    """The most memory of the first GPU that nvidia-smi sees in use, beyond what was before: tensors and all else."""

    def __enter__(self) -> "Watch":
        self.process, self.lines = None, []
        if shutil.which("nvidia-smi"):
            command = "nvidia-smi -i 0 --query-gpu=memory.used --format=csv,noheader,nounits -lms 100".split()
            self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        return self

    def __exit__(self, *_) -> None:
        if self.process is not None:
            self.process.terminate()
            self.lines = [line.strip() for line in self.process.communicate()[0].splitlines()]

    def mib(self) -> int | None:
        seen = [int(line) for line in self.lines if line.isdigit()]
        return max(seen) - seen[0] if len(seen) > 1 else None


def memory(lab: Lab) -> bool:
    """Told by `train` before its first step, taken by the tensors of `bench` at most, and by all on the device."""
    print("| network | precision | told, MiB | tensors, MiB | told / tensors | seen by nvidia-smi, MiB |")
    print("| --- | --- | ---: | ---: | ---: | ---: |", flush=True)
    main = SMALL if lab.simulated else lab.main
    ok = all([told_and_taken(lab, main, precision) for precision in ("bf16", "f32")])
    print()
    batch = lab.size(256, 32)
    for more in ([], ["--checkpoint-blocks"]):
        words = [*main, *more, "--batch", batch, "--precision", "bf16", "--warmup", 1, "--iters", 2, "--json"]
        done = lab.end("bench", *words, "--device", "cuda")
        taken = done.last_words()
        if done.code == 0:
            taken = f"{json.loads(done.printed)['peak_bytes'] / 2**30:.2f} GiB of tensors"
        print(f"- batch {batch} in one piece, bf16, {' '.join(more) or 'as usual'}: {taken}", flush=True)
    return ok


def told_and_taken(lab: Lab, flags: list[str], precision: str) -> bool:
    """Prints a row; whether the two are near."""
    name = f"{' '.join(flags).removeprefix('--preset ')} | {precision}"
    once = ["--builtin-images", 64, "--sample-every", 0, "--steps", 1, "--accumulate", 1, "--force"]
    run = lab.temporary("told") / "run"
    try:
        told = told_mib(lab.cuda("train", *flags, "--precision", precision, *once, "--run", run).said)
        with Watch() as watch:
            done = lab.cuda("bench", *flags, "--precision", precision, "--warmup", 2, "--iters", 3, "--json")
    except Failure as failure:
        print(f"| {name} | FAILED | | | |", flush=True)
        print(failure, file=sys.stderr)
        return False
    shutil.rmtree(run)
    taken, seen = json.loads(done.printed)["peak_bytes"] / 2**20, watch.mib()
    ok = abs(told / taken - 1) <= OFF_BY
    ratio = f"{told / taken:.2f}{'' if ok else ' FAILED'}"
    print(f"| {name} | {told:.0f} | {taken:.0f} | {ratio} | {'–' if seen is None else seen} |", flush=True)
    return ok


def out_of_memory(lab: Lab) -> bool:
    """Refused, forced and split by itself: the batch that does not fit, and what the program says of it."""
    flags = SMALL if lab.simulated else lab.main
    device = {"SIMCUDA_MEMORY": str(SMALL_DEVICE_BYTES)} if lab.simulated else {}
    once = [*flags, "--precision", lab.size("bf16", "f32"), "--builtin-images", 64, "--sample-every", 0, "--steps", 1]
    batch = lab.size(4096, 64)
    ok = True
    for name, more, wanted in (
        ("refused", [], ["should fit: --accumulate", "or --batch auto"]),
        ("forced", ["--force"], ["error: out of memory: ", "should fit: --accumulate"]),
    ):
        words = ["train", *once, "--batch", batch, *more, "--run", lab.folder / f"memory-{name}", "--device", "cuda"]
        done = lab.end(*words, **device)
        lacking = [text for text in wanted if text not in done.said]
        ok &= says(f"batch {batch}, {name}", done.code == 1 and not lacking, done.last_words())
    config = lab.folder / "batch.toml"
    config.write_text(f"[train]\nbatch = {lab.size(2048, 64)}\n")
    words = ["train", *once, "--batch", "auto", "--config", config, "--run", lab.folder / "memory-auto"]
    done = lab.end(*words, "--device", "cuda", **device)
    said = [line for line in done.said.splitlines() if "--batch auto" in line] or [done.last_words()]
    return ok & says(f"batch {lab.size(2048, 64)} by --batch auto", done.code == 0, "\n".join(said))


def says(what: str, ok: bool, said: str) -> bool:
    print(f"- {what}: {'as it should' if ok else 'FAILED'}\n\n```\n{said}\n```\n", flush=True)
    return ok
