"""A table of checks, and the `ddpm` program as a few Python functions."""

import os
import subprocess
import traceback
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor

PREDICTION = 2e-5  # scale-relative; f32 sums in two orders. The families' own code differs from itself by 1e-6
IMAGE = 1e-3  # max abs in [-1, 1]: an eighth of a grey level. diffusers keeps its schedule tables in f32


ONE_THREAD = os.environ | {"OMP_NUM_THREADS": "1"}  # the networks are too small for two
F32_ON_CPU = ("--precision", "f32", "--device", "cpu")  # where a processor has bf16, that is the default


class Refused(Exception):
    """The program ended with an error."""


class Table:
    """Prints a row per check and remembers the failures. A check that raises is one failure, and the rest run."""

    def __init__(self):
        self.rows = 0
        self.failures: list[str] = []
        print(f"{'':5}{'case':<42} {'what':<52} {'error':>10} {'at most':>8}")

    def add(self, case: str, what: str, ok: bool, error: str, limit: str = "") -> None:
        self.rows += 1
        print(f"{'ok' if ok else 'FAIL':<5}{case:<42} {what:<52} {error:>10} {limit:>8}", flush=True)
        if not ok:
            self.failures.append(f"{case}: {what}")

    def near(self, case: str, what: str, got: Tensor, wanted: Tensor, limit: float, *, relative: bool) -> None:
        """Largest difference, divided by the largest value wanted if `relative`."""
        if got.shape != wanted.shape:
            return self.fails(case, what, f"saw shape {list(got.shape)}, wanted {list(wanted.shape)}")
        got, wanted = got.double(), wanted.double()
        error = (got - wanted).abs().max().item() / (wanted.abs().max().item() if relative else 1.0)
        self.add(case, what, error <= limit, f"{error:.2g}", f"{limit:.0e}")
        if not error <= limit:
            at = (got - wanted).abs().nan_to_num(float("inf")).flatten().argmax().item()
            saw, want = got.flatten()[at], wanted.flatten()[at]
            print(f"       saw {saw:.7g}, wanted {want:.7g} at flat index {at} of shape {list(got.shape)}")

    def same(self, case: str, what: str, got: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
        """The same names, shapes, dtypes and bits, in any order."""
        wrong = [f"{k} is missing" for k in wanted.keys() - got.keys()]
        wrong += [f"{k} is extra" for k in got.keys() - wanted.keys()]
        for name in wanted.keys() & got.keys():
            g, w = got[name], wanted[name]
            if (g.shape, g.dtype) != (w.shape, w.dtype):
                wrong.append(f"{name}: saw {g.dtype} {list(g.shape)}, wanted {w.dtype} {list(w.shape)}")
            elif not g.equal(w):
                wrong.append(f"{name}: values differ by up to {(g.double() - w.double()).abs().max():.2g}")
        self.add(case, f"{what}, {len(wanted)} tensors bit-equal", not wrong, f"{len(wrong)} bad", "0")
        for line in sorted(wrong)[:8]:
            print(f"       {line}")

    def fails(self, case: str, what: str, why: str) -> None:
        self.add(case, what, False, "error")
        for line in why.strip().splitlines()[-12:]:
            print(f"       {line}")

    @contextmanager
    def guard(self, case: str, what: str):
        """Turns an exception inside into a failed row."""
        try:
            yield
        except Refused as error:
            self.fails(case, what, str(error))
        except Exception:
            self.fails(case, what, traceback.format_exc())


class Ddpm:
    """Runs the program. Every file it writes gets a new name in `folder`."""

    def __init__(self, program: Path, folder: Path):
        self.program, self.folder, self.count = program.resolve(), folder, 0

    def file(self, suffix: str = ".safetensors") -> Path:
        self.count += 1
        return self.folder / f"{self.count:04}{suffix}"

    def run(self, *args: object) -> None:
        command = [str(self.program), *map(str, args)]
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=300, stdin=subprocess.DEVNULL, env=ONE_THREAD
        )
        if done.returncode:
            said = (done.stderr.strip() or done.stdout.strip())[-1500:]
            raise Refused(f"ddpm {' '.join(command[1:])}\nexit code {done.returncode}: {said}")

    def predict(
        self, checkpoint: Path, x: Tensor, t: Tensor, classes: Tensor | None = None, hints: Sequence[object] = ()
    ) -> Tensor:
        given, result = self.file(), self.file()
        tensors = {"x": x, "t": t} | ({} if classes is None else {"classes": classes})
        save_file({k: v.contiguous() for k, v in tensors.items()}, given)
        self.run("predict", checkpoint, "--input", given, "--output", result, *F32_ON_CPU, *hints)
        return load_file(result)["out"]

    def imported(self, source: Path, hints: Sequence[object] = ()) -> Path:
        to = self.file()
        self.run("import", source, "--to", to, *hints)
        return to

    def sample(
        self, checkpoint: Path, noise: Tensor, batch: int | None = None, flags: Sequence[object] = ()
    ) -> Tensor:
        """Images in [-1, 1] from `noise` [steps + 1, N, C, H, W]: x_T, then the noise of each reverse step."""
        given, result, n = self.file(), self.file(), noise.shape[1]
        save_file({"noise": noise.contiguous()}, given)
        files = ("--noise", given, "--out-tensor", result)
        shape = ("-n", n, "--seed", 0, "--batch", batch or n)
        self.run("sample", checkpoint, *shape, *files, *F32_ON_CPU, *flags)
        return load_file(result)["pictures"]

    def export(self, checkpoint: Path, suffix: str, layout: str | None = None) -> Path:
        """`suffix` is the file's, or empty for a folder."""
        to = self.file(suffix)
        self.run("export", checkpoint, "--to", to, *(("--layout", layout) if layout else ()))
        return to


def refused_or_near(
    table: Table,
    case: str,
    ours: Callable[[], Tensor],
    wanted: Tensor,
    limit: float = PREDICTION,
    relative: bool = True,
) -> None:
    """For cases that `ddpm` need not support: an error passes, and so does the right answer; a wrong answer fails."""
    try:
        got = ours()
    except Refused as error:
        said = str(error).splitlines()[1]
        return table.add(case, "refuses or agrees", said.startswith("exit code 1:"), "refused")
    table.near(case, "refuses or agrees", got, wanted, limit, relative=relative)
