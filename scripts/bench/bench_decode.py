#!/usr/bin/env python3
"""Times how fast ddpm reads folders of images, against torchvision and OpenCV, and prints a Markdown table.

    .venv/bin/python scripts/bench/bench_decode.py [flags]    # target/release/ddpm, or the binary in $DDPM_BIN

Each program reads all images of a folder, from files in the system's memory to bytes of one size:

- ours: `ddpm bench --what decode`, the decoding of `ddpm train --data`, with 1 thread or --cores threads.
- torchvision: ImageFolder with Pillow, Resize(size, antialias), CenterCrop and PILToTensor, through a DataLoader of
  batches of 64: in the process itself for 1 core, with --cores workers for more.
- OpenCV (if Python has it): imread, crop of the centre, resize with INTER_AREA, one process a core.

They run in turn, ours, torchvision, OpenCV, ours, …, --rounds times a row, each in a process of its own, which reads
the folder once without being timed and then --passes times. The start of programs and workers is not timed.

How to read a row:

- images/s: medians over the rounds of all cores together.
- ratio: ours / theirs, median of the ratios of each round; above 1, ours is faster.
- spread: smallest and largest ratio among the rounds. A row whose spread includes 1 shows no winner.

The images are made by scripts/bench/photo_like.py; --photos keeps them for the next time, and --data times a folder of
your own instead. OpenCV: `pip install opencv-python-headless`.
"""

import argparse
import json
import multiprocessing
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path

from bench import Failure, call, cpu_name, find_ddpm, number, positive
from photo_like import KINDS, make

BATCH = 64


# The peers. Each returns the seconds of every pass over the folder.


def timed_passes(one_pass, passes: int) -> list[float]:
    """The first pass is not timed: it loads files and workers into memory."""
    one_pass()
    times = []
    for _ in range(passes):
        began = time.perf_counter()
        one_pass()
        times.append(time.perf_counter() - began)
    return times


def torchvision_passes(folder: str, side: int, cores: int, passes: int) -> list[float]:
    import torch
    from torchvision import datasets, transforms

    torch.set_num_threads(1)
    steps = [transforms.Resize(side, antialias=True), transforms.CenterCrop(side), transforms.PILToTensor()]
    data = datasets.ImageFolder(folder, transforms.Compose(steps))
    workers = {"num_workers": cores, "persistent_workers": True} if cores > 1 else {}
    loader = torch.utils.data.DataLoader(data, batch_size=BATCH, **workers)
    return timed_passes(lambda: [images for images, _ in loader], passes)


def opencv_read(job: tuple) -> int:
    import cv2

    cv2.setNumThreads(0)
    paths, side = job
    for path in paths:
        image = cv2.imread(path)
        height, width = image.shape[:2]
        crop = min(height, width)
        top, left = (height - crop + 1) // 2, (width - crop + 1) // 2
        image = image[top : top + crop, left : left + crop]
        cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA)
    return len(paths)


def opencv_passes(folder: str, side: int, cores: int, passes: int) -> list[float]:
    paths = sorted(str(path) for path in Path(folder).glob("*/*"))
    if cores == 1:
        return timed_passes(lambda: opencv_read((paths, side)), passes)
    with multiprocessing.Pool(cores) as pool:
        jobs = [(paths[i : i + 8], side) for i in range(0, len(paths), 8)]
        return timed_passes(lambda: sum(pool.imap_unordered(opencv_read, jobs)), passes)


PEERS = {"torchvision": torchvision_passes, "opencv": opencv_passes}


def peer_main(words: list[str]) -> None:
    """The body of a peer's process; `words`: name, folder, side, cores, passes."""
    name, folder, side, cores, passes = words
    print(json.dumps(PEERS[name](folder, int(side), int(cores), int(passes))))


# The comparison.


def measure_peer(name: str, folder: Path, side: int, cores: int, passes: int) -> float:
    """Seconds of a pass."""
    return statistics.median(json.loads(call([sys.executable, __file__, "--peer", name, folder, side, cores, passes])))


def measure_ours(ddpm: Path, folder: Path, side: int, cores: int, passes: int) -> float:
    command = [ddpm, "bench", "--what", "decode", "--json", "--preset", "demo", "--size", side, "--data", folder]
    command += ["--threads", cores, "--device", "cpu", "--warmup", 1, "--iters", passes]
    report = json.loads(call(command))
    if report["skipped"]:
        raise Failure(f"ddpm could not read {report['skipped']} of the images in {folder}")
    return report["ms_median"] / 1e3


def measure(row: dict, peers: list[str], ddpm: Path, args: argparse.Namespace) -> None:
    """Adds to the row, for each program, the seconds of a pass in each round."""
    row["secs"] = {name: [] for name in ["ours", *peers]}
    where = (row["folder"], row["side"], row["cores"], args.passes)
    for index in range(args.rounds):
        print(f"{name_of(row)}: round {index + 1} of {args.rounds}", file=sys.stderr, flush=True)
        row["secs"]["ours"].append(measure_ours(ddpm, *where))
        for name in peers:
            row["secs"][name].append(measure_peer(name, *where))


def name_of(row: dict) -> str:
    return f"{row['kind']} to {row['side']} px, {row['cores']} core{'s' * (row['cores'] > 1)}"


def table_row(row: dict, peers: list[str]) -> str:
    rate = {name: row["count"] / statistics.median(secs) for name, secs in row["secs"].items()}
    cells = [name_of(row), number(rate["ours"])]
    for name in peers:
        ratios = [theirs / ours for ours, theirs in zip(row["secs"]["ours"], row["secs"][name])]
        cells += [number(rate[name]), f"{statistics.median(ratios):.2f}", f"{min(ratios):.2f}–{max(ratios):.2f}"]
    return f"| {' | '.join(cells)} |"


def has_opencv() -> bool:
    done = subprocess.run([sys.executable, "-c", "import cv2"], capture_output=True)
    return done.returncode == 0


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", nargs="+", choices=list(KINDS), default=list(KINDS), help="default: all")
    parser.add_argument("--sides", nargs="+", type=positive, default=[32, 64, 128], help="default: 32 64 128")
    cores = len(os.sched_getaffinity(0))
    parser.add_argument("--cores", nargs="+", type=positive, default=sorted({1, cores}), help="default: 1 and all")
    parser.add_argument("--rounds", type=positive, default=5, help="turns of each program per row; default: 5")
    parser.add_argument("--passes", type=positive, default=1, help="timed passes a round; default: 1")
    parser.add_argument("--share", type=float, default=1.0, help="fraction of the usual number of images; default: 1")
    parser.add_argument("--photos", type=Path, metavar="DIR", help="make the images here and keep them")
    parser.add_argument("--data", type=Path, metavar="DIR", help="time this folder, which has a folder for each class, as torchvision requires")
    parser.add_argument("--json", type=Path, metavar="FILE", help="save all numbers")
    return parser.parse_args()


def folders(args: argparse.Namespace, work: Path):
    """Name and folder of each set of images."""
    if args.data:
        yield args.data.name, args.data.absolute()
        return
    for kind in args.kinds:
        print(f"making {kind}", file=sys.stderr, flush=True)
        yield kind, make(work, kind, args.share).absolute()


def run(args: argparse.Namespace, work: Path) -> None:
    ddpm, peers = find_ddpm(), ["torchvision", "opencv"]
    if not has_opencv():
        peers.remove("opencv")
        print("this Python has no OpenCV, so it is left out", file=sys.stderr)
    date = datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z")
    command = shlex.join(["scripts/bench/bench_decode.py", *sys.argv[1:]])
    print(f"{cpu_name()}, {len(os.sched_getaffinity(0))} cores; {date}; `{command}`\n")
    print("| images/s | ours | " + " | ".join(f"{name} | ratio | spread" for name in peers) + " |")
    print("| --- | ---: | " + " | ".join(["---: | ---: | ---:"] * len(peers)) + " |", flush=True)
    rows = []
    for kind, folder in folders(args, work):
        count = sum(1 for path in folder.glob("*/*") if path.is_file())
        for side in args.sides:
            for cores in args.cores:
                row = {"kind": kind, "folder": str(folder), "count": count, "side": side, "cores": cores}
                measure(row, peers, ddpm, args)
                print(table_row(row, peers), flush=True)
                rows.append(row)
    if args.json:
        args.json.write_text(json.dumps({"command": command, "date": date, "rows": rows}, indent=1) + "\n")


def main() -> int:
    if sys.argv[1:2] == ["--peer"]:
        peer_main(sys.argv[2:])
        return 0
    args = parse_args()
    try:
        with tempfile.TemporaryDirectory(prefix="bench-decode-") as work:
            run(args, args.photos or Path(work))
        return 0
    except Failure as failure:
        print(f"bench_decode: {failure}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
