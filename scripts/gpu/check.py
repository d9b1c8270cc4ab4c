#!/usr/bin/env python3
"""Checks ddpm on a machine with an NVIDIA GPU in under 8 minutes; prints one report in Markdown.

    DDPM_BIN=./ddpm python3 scripts/gpu/check.py >report.md
    scripts/gpu/check.py networks samplers        # these parts only
    scripts/gpu/check.py --simulated              # without a GPU, with sizes for a CPU: speeds mean nothing

Needs a built `ddpm` ($DDPM_BIN, else target/release/ddpm) and a Python with torch 2.11 for CUDA, numpy, safetensors and
packaging; ddpm then uses that torch's libtorch. To a machine without this project travel what git tracks in scripts/
and weights/peers, and the program without its symbols, which must stay below 40 MiB (the report says its size):

    strip -o ddpm target/release/ddpm
    git archive --add-file=ddpm -o check.tar.gz HEAD scripts weights/peers
    tar xf check.tar.gz && DDPM_BIN=./ddpm python3 scripts/gpu/check.py >report.md       # there

First come the parts that say whether numbers are right, then what the rest leans on, then speed. Each ends in "ok" or
"FAILED", and is stopped at a limit of its own; the others run in any case. At the deadline what runs is stopped, and
the rest is named as not reached. Parts that neither time nor fill the memory run beside each other, and beside them
PyTorch compiles what the part `compile` times. The exit code is 0 only if every part asked for is ok.
"""

import argparse
import importlib.util
import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from lab import ROOT, SIMULATOR, Failure, Lab, build_simulator

MODULES = ["torch", "numpy", "safetensors", "packaging"]
TORCH = "2.11."
LOG_LINES = 20
SLOWER = 6  # a part on the simulated device, even with its small sizes


@dataclass(frozen=True)
class Part:
    """A function of a module here, run in a process of its own."""

    name: str
    title: str
    module: str
    limit_secs: int
    alone: bool = False
    """Whether it times, or fills the memory, so that nothing may run beside it."""


PARTS = [
    Part("doctor", "Doctor", "running", 40),
    Part("networks", "Every kind of network on CUDA, on the CPU and in PyTorch", "parity", 90),
    Part("samplers", "Every sampler on CUDA, on the CPU and in PyTorch", "parity", 60),
    Part("resume", "Kill and exact resume with --deterministic", "running", 60),
    Part("ranks", "Two ranks on two GPUs against one process", "ranks", 90),
    Part("main-job", "The main job against PyTorch", "parity", 75),
    Part("waits", "Times that the host waits for the device", "memory", 50),
    Part("memory", "Memory told and taken", "memory", 70, alone=True),
    Part("out-of-memory", "Out of memory", "memory", 50, alone=True),
    Part("layouts", "Layouts", "speed", 70, alone=True),
    Part("eager", "Speed in bf16 against PyTorch eager, channels last", "speed", 110, alone=True),
    Part("phases", "Share of the roofline", "speed", 40, alone=True),
    Part("compile", "Speed in bf16 against torch.compile, max-autotune", "speed", 170, alone=True),
    Part("choices", "What choices cost", "speed", 70, alone=True),
    Part("precisions", "Speed in tf32 and f32 against PyTorch eager", "speed", 100, alone=True),
    Part("optimizers", "Speed of the optimizers against PyTorch", "speed", 70, alone=True),
]
NAMES = [part.name for part in PARTS]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"default: all: {', '.join(NAMES)}")
    parser.add_argument("--deadline", type=float, default=470, metavar="SECS", help="for all; default: %(default)s")
    parser.add_argument("--simulated", action="store_true", help="on the simulated device of tests/simcuda")
    parser.add_argument("--child", nargs=2, metavar=("PART", "FOLDER"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    unknown = [name for name in args.parts if name not in NAMES]
    if unknown:
        parser.error(f"{unknown[0]!r} is no part; parts: {', '.join(NAMES)}")
    return args


def program() -> Path:
    path = Path(os.environ.get("DDPM_BIN") or ROOT / "target" / "release" / "ddpm").absolute()
    if not os.access(path, os.X_OK) or not path.is_file():
        sys.exit(f"gpu/check: no program at {path}; build it with cargo build --release, or set DDPM_BIN")
    return path


def check_python() -> Path:
    """The folder of this Python's torch; ends the program if a module is missing or torch is another version."""
    missing = [name for name in MODULES if importlib.util.find_spec(name) is None]
    if missing:
        sys.exit(
            f"gpu/check: {sys.executable} lacks: {', '.join(missing)}\n"
            f"install them: {sys.executable} -m pip install torch=={TORCH}0 numpy safetensors packaging"
        )
    folder = Path(importlib.util.find_spec("torch").origin).parent
    version = (folder / "version.py").read_text().split("__version__ = '")[-1].split("'")[0]
    if not version.startswith(TORCH):
        sys.exit(f"gpu/check: {sys.executable} has torch {version}; ddpm is built for {TORCH}0")
    return folder


def on_simulator(ddpm: Path, folder: Path) -> Path:
    """A program that is `ddpm` on the simulated device; Python's own torch must not find that device's libraries."""
    build_simulator(ddpm)
    wrapper = folder / "ddpm"
    settings = f"LD_LIBRARY_PATH='{SIMULATOR}/torch/lib' SIMCUDA_POISON=0"
    wrapper.write_text(f"#!/bin/sh\n{settings} exec '{ddpm}' \"$@\"\n")
    wrapper.chmod(0o755)
    return wrapper


class Runner:
    """Runs parts until the deadline, and remembers which were not ok."""

    def __init__(self, args: argparse.Namespace, lab: Lab):
        self.args, self.lab, self.began = args, lab, time.monotonic()
        self.bad: dict[str, str] = {}
        self.children: list[subprocess.Popen] = []
        self.background: subprocess.Popen | None = None
        self.stopped = False

    def elapsed(self) -> float:
        return time.monotonic() - self.began

    def spawn(self, name: str, **pipes) -> subprocess.Popen:
        command = [sys.executable, "-u", __file__, "--child", name, self.lab.folder]
        command += ["--simulated"] if self.lab.simulated else []
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True, **pipes)

    def compile_ahead(self) -> None:
        """Fills the cache of torch.compile beside the parts that need not be alone."""
        if "compile" in self.wanted() and not self.lab.simulated:
            self.background = self.spawn("compile-ahead", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            self.children.append(self.background)

    def wait_for_background(self, limit_secs: float) -> None:
        if self.background is None:
            return
        began = self.elapsed()
        if finish(self.background, limit_secs) is None:
            print("\nPyTorch had not compiled all of it ahead.")
        print(f"\nWaited {self.elapsed() - began:.0f} s for PyTorch to compile in the background.", flush=True)
        self.background = None

    def wanted(self) -> list[str]:
        return self.args.parts or NAMES

    def run(self, part: Part, shown: bool) -> str:
        """Runs a part; what to print of it. If `shown`, what it prints itself appears at once."""
        left = self.args.deadline - self.elapsed()
        if left < 1 or self.stopped:
            self.bad[part.name] = "not reached"
            return "Not reached before the deadline.\n"
        began, limit = self.elapsed(), min(part.limit_secs * (SLOWER if self.lab.simulated else 1), left)
        said, printed = (self.lab.folder / f"{part.name}.{kind}" for kind in ("log", "out"))
        with said.open("wb") as stderr, printed.open("wb") as stdout:
            process = self.spawn(part.name, stderr=stderr, **({} if shown else {"stdout": stdout}))
            self.children.append(process)
            code = finish(process, limit)
        report = printed.read_text(errors="replace")
        verdict = {0: "ok", None: f"FAILED, stopped after {limit:.0f} s"}.get(code, f"FAILED, exit code {code}")
        if code != 0:
            self.bad[part.name] = verdict
            lines = said.read_text(errors="replace").strip().splitlines()[-LOG_LINES:]
            # What it was stopped in the middle of may be a fenced block.
            report += "\n```\n" if open_fence(report) else ""
            report += "\n```\n" + "\n".join(lines) + "\n```\n" if lines else ""
        return f"{report}\n**{part.name}**: {verdict}, {self.elapsed() - began:.0f} s\n"

    def run_beside_each_other(self, parts: list[Part]) -> None:
        """Those that need not be alone; their reports appear in order, each as soon as it and those before are done."""
        with ThreadPoolExecutor(max_workers=max(1, min(3, len(os.sched_getaffinity(0)) // 4))) as pool:
            try:
                for part, report in zip(parts, pool.map(lambda part: self.run(part, shown=False), parts)):
                    print(f"\n## {part.title} (`{part.name}`)\n\n{report}", end="", flush=True)
            except BaseException:
                self.stop()  # or the pool waits for them
                raise

    def stop(self) -> None:
        self.stopped = True
        for process in self.children:
            if process.returncode is None:
                finish(process, 0)

    def run_all(self) -> int:
        wanted = [part for part in PARTS if part.name in self.wanted()]
        self.compile_ahead()
        try:
            self.run_beside_each_other([part for part in wanted if not part.alone])
            for part in wanted:
                if part.alone:
                    self.wait_for_background(min(60, self.args.deadline - self.elapsed() - 100))
                    print(f"\n## {part.title} (`{part.name}`)\n", flush=True)
                    print(self.run(part, shown=True), end="", flush=True)
        finally:
            self.stop()
        print("\n## Result\n")
        for part in wanted:
            if part.name in self.bad:
                print(f"- {part.name}: {self.bad[part.name]}")
        if not self.bad:
            print(f"All parts are ok, in {self.elapsed():.0f} s.")
        return 1 if self.bad else 0


def open_fence(text: str) -> bool:
    return sum(line.startswith("```") for line in text.splitlines()) % 2 == 1


def finish(process: subprocess.Popen, limit_secs: float) -> int | None:
    """Its exit code; None if it had to be stopped, with all that it had started."""
    try:
        return process.wait(timeout=max(0, limit_secs))
    except subprocess.TimeoutExpired:
        return None
    finally:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        process.wait()


def run_child(name: str, lab: Lab) -> int:
    """One part, in its own process."""
    module = {part.name: part.module for part in PARTS}.get(name, "speed")
    try:
        ok = getattr(import_module(module), name.replace("-", "_"))(lab)
    except Failure as failure:
        print(failure, file=sys.stderr)
        return 1
    except Exception:
        traceback.print_exc()
        return 1
    return 0 if ok else 1


def main() -> int:
    args = arguments()
    if args.child:
        return run_child(args.child[0], Lab(program(), Path(args.child[1]), args.simulated))
    ddpm = program()
    torch = check_python()
    print("# ddpm on a simulated CUDA device: speeds mean nothing" if args.simulated else "# ddpm on a GPU")
    size = ddpm.stat().st_size / 2**20
    print(f"\n`{ddpm.name}` of {size:.1f} MiB; {sys.executable}; deadline {args.deadline:.0f} s", flush=True)
    with tempfile.TemporaryDirectory(prefix="gpu-check-") as name:
        folder = Path(name)
        if args.simulated:
            ddpm = on_simulator(ddpm, folder)
        else:
            path = [str(torch / "lib"), *filter(None, [os.environ.get("LD_LIBRARY_PATH")])]
            os.environ["LD_LIBRARY_PATH"] = ":".join(path)
        os.environ |= {"DDPM_BIN": str(ddpm), "PYTHON": sys.executable, "TMPDIR": name}
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = f"{name}/inductor"
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
        return Runner(args, Lab(ddpm, folder, args.simulated)).run_all()


if __name__ == "__main__":
    sys.exit(main())
