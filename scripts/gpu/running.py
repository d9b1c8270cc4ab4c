"""Parts of check.py: the device, and training that is killed and goes on."""

import json
import statistics
import subprocess
import time
from pathlib import Path

from lab import Failure, Lab

STEPS, SAVE_EVERY = 300, 50


def doctor(lab: Lab) -> bool:
    done = lab.end("doctor")
    print(f"```\n{done.printed.strip()}\n{done.said.strip()}\n```")
    return any(line.split()[:4] == ["CUDA", "can", "be", "used,"] for line in done.printed.splitlines())


def resume(lab: Lab) -> bool:
    """A run that is killed with SIGKILL must end with the bytes of one that was left alone, and its loss must fall."""
    small = ["--size", 16, "--base-width", 8, "--norm-groups", 2, "--batch", 4] if lab.simulated else []
    steps = lab.size(STEPS, 60)
    settings = ["--preset", "demo", *small, "--deterministic", "--save-every", lab.size(SAVE_EVERY, 10)]
    settings += ["--sample-every", 0, "--steps", steps, "--device", "cuda"]
    whole, killed = lab.folder / "whole", lab.folder / "killed"
    lab.ok("train", *settings, "--run", whole)
    kill(lab.start("train", *settings, "--run", killed), killed)
    lab.ok("train", "--run", killed, "--deterministic", "--device", "cuda", "--steps", steps)
    wrong = differences(whole, killed, f"checkpoints/step-{steps:08}.safetensors")
    print(f"- killed after its first checkpoint and resumed, {steps} steps: {wrong or 'the bytes of a run left alone'}")
    losses = [line["loss"] for line in metrics(whole)]
    tenth = len(losses) // 10
    first, last = statistics.mean(losses[:tenth]), statistics.mean(losses[-tenth:])
    verdict = "" if last < first else ": IT DOES NOT FALL"
    print(f"- mean loss of the first and the last {tenth} steps: {first:.4g}, {last:.4g}{verdict}")
    return not wrong and last < first


def metrics(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def kill(process: subprocess.Popen, run: Path) -> None:
    """SIGKILL soon after the first checkpoint."""
    while not (run / "checkpoints" / "latest").exists():
        if process.poll() is not None:
            raise Failure(f"the run to be killed ended by itself: {process.communicate()[1].strip()}")
        time.sleep(0.005)
    time.sleep(0.05)
    process.kill()
    process.communicate()
    if process.returncode == 0:
        raise Failure("the run to be killed was done before the signal: nothing was resumed")


def differences(whole: Path, killed: Path, checkpoint: str) -> str:
    """What differs between the runs; empty if nothing does."""
    wrong = []
    if (whole / checkpoint).read_bytes() != (killed / checkpoint).read_bytes():
        wrong.append("THE LAST CHECKPOINT DIFFERS")
    ours, theirs = ([(m["step"], m["loss"], m["grad_norm"]) for m in metrics(run)] for run in (whole, killed))
    if ours != theirs:
        wrong.append("LOSSES OR GRADIENT NORMS DIFFER")
    return ", ".join(wrong)
