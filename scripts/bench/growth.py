#!/usr/bin/env python3
"""Measures how time and memory grow with batch, image size and number of images; prints Markdown tables.

    .venv/bin/python scripts/bench/growth.py [--only batch size images] [--device cpu] [--ddpm target/release/ddpm]

The network is that of the demo preset, in f32. Each figure comes from a process of its own; times of steps are medians
of --rounds rounds, each through all rows, so that a busy minute does not affect one row only.

- batch, size: one training step and one sampling step (`ddpm bench`) and the largest memory of the process (on CUDA:
  of tensors). Then time per image or pixel, and memory for each one more than in the smallest row. Where these columns
  stay level, the cost is linear.
- images: `ddpm train --data DIR --cache FILE` up to its first step, with nothing cached ("first start") and again
  ("next start"), then --steps steps of training, as the program reports them: seconds until the images are ready, and
  the largest resident set. The folder has 1,000 drawn JPEG files of 64x64 pixels and hard links to them
  for the rest. Resident memory counts pages of the cache file that were read, which the system may take back.
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
BATCHES = [1, 2, 4, 8, 16, 32, 64]
SIZES = [16, 32, 64, 128, 256]
SIZE_BATCH = 2
IMAGES = [1_000, 10_000, 100_000, 1_000_000]
DRAWN = 1_000
MIB = 2**20
READY = re.compile(r"ready in ([\d.]+) s")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = Path(os.environ.get("DDPM_BIN", ROOT / "target" / "release" / "ddpm"))
    parser.add_argument("--ddpm", type=Path, default=default, help="the program; default: $DDPM_BIN, else %(default)s")
    tables = ["batch", "size", "images"]
    parser.add_argument("--only", nargs="+", choices=tables, default=tables, help="tables to print; default: all")
    parser.add_argument("--device", default="cpu", help="cpu or cuda; default: %(default)s")
    parser.add_argument("--rounds", type=int, default=3, help="default: %(default)s")
    parser.add_argument("--steps", type=int, default=3, help="training steps after each start; default: %(default)s")
    parser.add_argument("--most", type=int, default=IMAGES[-1], help="largest number of images; default: %(default)s")
    parser.add_argument("--folder", type=Path, help="folder for images and caches; default: a temporary one")
    return parser.parse_args()


def bench(args: argparse.Namespace, what: str, size: int, batch: int) -> dict:
    command = [args.ddpm, "bench", "--json", "--what", what, "--preset", "demo", "--precision", "f32"]
    command += ["--size", size, "--batch", batch, "--device", args.device, "--warmup", 1, "--iters", 3]
    out = subprocess.run([str(part) for part in command], check=True, capture_output=True, text=True).stdout
    return json.loads(out)


def steps_table(args: argparse.Namespace, unit: str, rows: list[tuple[int, int, int]]) -> None:
    """`rows`: the number that grows, size and batch."""
    measured = {row: {"train": [], "sample": []} for row in rows}
    for index in range(args.rounds):
        for row in rows:
            print(f"round {index + 1} of {args.rounds}: size {row[1]}, batch {row[2]}", file=sys.stderr, flush=True)
            for what, found in measured[row].items():
                found.append(bench(args, what, row[1], row[2]))
    per = {"image": "an image", "pixel": "a pixel"}[unit]
    print(f"| size | batch | train step, ms | us {per} | memory, MiB | KiB for another {unit} | sample step, ms | us {per} |")
    print("| ---: " * 8 + "|")
    least = min(run["peak_bytes"] for run in measured[rows[0]]["train"])
    for row in rows:
        number, size, batch = row
        train, sample = (statistics.median(run["ms_median"] for run in measured[row][what]) for what in ("train", "sample"))
        peak = min(run["peak_bytes"] for run in measured[row]["train"])
        more = number - rows[0][0]
        grown = f"{(peak - least) / 1024 / more:.3g}" if more else "–"
        cells = [size, batch, f"{train:.3g}", f"{train * 1e3 / number:.3g}", f"{peak / MIB:.0f}", grown]
        print("| " + " | ".join(map(str, [*cells, f"{sample:.3g}", f"{sample * 1e3 / number:.3g}"])) + " |")
    print(flush=True)


def draw(folder: Path) -> None:
    for i in range(DRAWN):
        noise = Image.effect_noise((16, 16), 90).resize((64, 64))
        shade = Image.new("RGB", (64, 64), (i % 256, 255 - i % 256, i // 4))
        Image.blend(noise.convert("RGB"), shade, 0.5).save(folder / f"{i:07}.jpg", quality=90)


def link(folder: Path, start: int, end: int) -> None:
    """Files `start` to `end` as further names of the drawn ones, ten thousand in a folder."""
    for i in range(start, end):
        below = folder / f"{i // 10_000:03}"
        below.mkdir(exist_ok=True)
        os.link(folder / f"{i % DRAWN:07}.jpg", below / f"{i:07}.jpg")


def start(args: argparse.Namespace, data: Path, cache: Path) -> tuple[float, float, float]:
    """Seconds until images are ready, largest resident set in MiB, and seconds of the whole run."""
    with tempfile.TemporaryDirectory(dir=cache.parent) as run:
        command = [args.ddpm, "train", "--preset", "demo", "--data", data, "--cache", cache, "--run", Path(run) / "run"]
        command += ["--steps", args.steps, "--sample-every", 0, "--device", args.device, "--precision", "f32"]
        process = subprocess.Popen([str(part) for part in command], stderr=subprocess.PIPE, text=True)
        said = process.stderr.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = status
        if status != 0 or not (ready := READY.search(said)):
            raise SystemExit(f"growth: the run failed:\n{said}")
        return float(ready[1]), usage.ru_maxrss / 1024, usage.ru_utime + usage.ru_stime


def images_table(args: argparse.Namespace, folder: Path) -> None:
    data = folder / "images"
    data.mkdir()
    draw(data)
    print("| images | cache, MiB | first start, s | us an image | memory, MiB | next start, s | us an image | memory, MiB |")
    print("| ---: " * 8 + "|")
    there = DRAWN
    for count in [n for n in IMAGES if n <= args.most]:
        print(f"{count} images", file=sys.stderr, flush=True)
        link(data, there, count)
        there = count
        cache = folder / "cache"
        cache.unlink(missing_ok=True)
        first, first_memory, _ = start(args, data, cache)
        again, next_memory, _ = start(args, data, cache)
        cells = [f"{count:,}", f"{cache.stat().st_size / MIB:.0f}"]
        for secs, memory in ((first, first_memory), (again, next_memory)):
            cells += [f"{secs:.1f}", f"{secs * 1e6 / count:.3g}", f"{memory:.0f}"]
        print("| " + " | ".join(cells) + " |", flush=True)


def main() -> None:
    args = arguments()
    if "batch" in args.only:
        steps_table(args, "image", [(batch, 32, batch) for batch in BATCHES])
    if "size" in args.only:
        steps_table(args, "pixel", [(SIZE_BATCH * size * size, size, SIZE_BATCH) for size in SIZES])
    if "images" in args.only:
        with tempfile.TemporaryDirectory(dir=args.folder) as folder:
            images_table(args, Path(folder))


if __name__ == "__main__":
    main()
