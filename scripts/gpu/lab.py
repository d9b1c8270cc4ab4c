"""What the parts of check.py share: the program on its device, and sizes."""

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SIMULATOR = Path(os.environ.get("SIMCUDA_FOLDER") or ROOT / "target" / "simcuda")

UNITS = {"B": 1 / 2**20, "KiB": 1 / 2**10, "MiB": 1, "GiB": 2**10}
ESTIMATE = re.compile(r"about ([\d.]+) (\w+) of memory for tensors")

# The main job, celebahq128 at its batch of 64; on a simulated device a network that a CPU is quick with.
MAIN = ["--preset", "celebahq128"]
TINY_MAIN = [*MAIN, *"--size 16 --base-width 8 --norm-groups 2 --multipliers 1,2 --batch 4".split()]


class Failure(Exception):
    """An error to print without a traceback."""


@dataclass
class Done:
    """A program that has ended."""

    code: int
    printed: str
    said: str
    """What it wrote to stderr."""

    def last_words(self) -> str:
        return "\n".join((self.said.strip() or self.printed.strip() or "no output").splitlines()[-8:])


@dataclass
class Lab:
    """The program with `--device cuda`, in a folder of its own."""

    program: Path
    folder: Path
    simulated: bool
    """On the simulated device, with the CPU in the place of PyTorch's CUDA."""

    @property
    def torch_device(self) -> str:
        return "cpu" if self.simulated else "cuda"

    @property
    def main(self) -> list[str]:
        return TINY_MAIN if self.simulated else MAIN

    def size(self, real, simulated):
        """Of two sizes the one for this device."""
        return simulated if self.simulated else real

    def start(self, *words: object, **environment: str) -> subprocess.Popen:
        command = [str(word) for word in (self.program, *words)]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "stdin": subprocess.DEVNULL}
        return subprocess.Popen(command, text=True, cwd=self.folder, env=os.environ | environment, **pipes)

    def end(self, *words: object, **environment: str) -> Done:
        """Runs the program, which may fail."""
        process = self.start(*words, **environment)
        printed, said = process.communicate()
        return Done(process.returncode, printed, said)

    def ok(self, *words: object, **environment: str) -> Done:
        """Runs the program, which must succeed."""
        done = self.end(*words, **environment)
        if done.code != 0:
            raise Failure(f"exit code {done.code} from: ddpm {' '.join(map(str, words))}\n{done.last_words()}")
        return done

    def cuda(self, *words: object, **environment: str) -> Done:
        return self.ok(*words, "--device", "cuda", **environment)

    def bench(self, *words: object, precision: str = "bf16") -> dict:
        """`ddpm bench` of the main job."""
        steps = ["--warmup", self.size(5, 1), "--iters", self.size(20, 2)]
        done = self.cuda("bench", *self.main, "--precision", precision, *steps, "--json", *words)
        return json.loads(done.printed)

    def choose_layout(self, precision: str, layout: str) -> None:
        """What later parts time with."""
        (self.folder / f"layout-{precision}").write_text(layout)

    def layout_flags(self, precision: str) -> list[str]:
        """The flags of `bench` for the faster layout; none where it was not measured."""
        chosen = self.folder / f"layout-{precision}"
        return ["--layout", chosen.read_text()] if chosen.exists() else []

    def has_flag(self, command: str, flag: str) -> bool:
        return re.search(rf"^ +(-\w, )?{flag}\b", self.ok(command, "--help").printed, re.MULTILINE) is not None

    def temporary(self, name: str) -> Path:
        """A new folder."""
        return Path(tempfile.mkdtemp(prefix=f"{name}-", dir=self.folder))


def together(jobs: Iterable[Callable[[], object]]) -> list[Failure | None]:
    """Runs all jobs, several at a time, as most of each is the start of a process; what failed, by job."""

    def attempt(job: Callable[[], object]) -> Failure | None:
        try:
            job()
        except Failure as failure:
            return failure
        return None

    with ThreadPoolExecutor(max_workers=max(2, min(6, len(os.sched_getaffinity(0)) // 2))) as pool:
        return list(pool.map(attempt, jobs))


def told_mib(said: str) -> float:
    """The memory for tensors that `ddpm train` says it needs."""
    found = ESTIMATE.search(said)
    if found is None:
        raise Failure(f"no 'about … of memory for tensors' in: {said.strip()}")
    return float(found[1]) * UNITS[found[2]]


def build_simulator(ddpm: Path) -> None:
    if not ddpm.is_file():
        sys.exit(f"no program at {ddpm}; build it with cargo build --release, or name one that is built")
    subprocess.run(["bash", ROOT / "tests" / "simcuda" / "build.sh", SIMULATOR], check=True)
