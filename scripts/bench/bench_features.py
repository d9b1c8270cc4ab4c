"""Features a second of FID's Inception v3: this crate against pytorch-fid, on the same cores, in turns.

    cargo build --release --example time_features
    .venv/bin/python scripts/bench/bench_features.py [--images N] [--batch N] [--rounds N] [--threads N] [--size N]

Both get the same random weights, which are as fast as the real ones, and the same images, already decoded. Each round
is one pass of each over all images in batches of `--batch`; the first round of each is not counted. Printed are the
medians and, since other programs may disturb both, the least, median and largest ratio of the rounds. Processor time is
disturbed less, but means something with `--threads 1` only: threads that wait use it, too. Needs pytorch-fid in .venv.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def options():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--batch", type=int, default=32, help="images that pytorch-fid is given at a time")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--size", type=int, default=32, help="height and width of the images")
    example = ROOT / "target/release/examples/time_features"
    parser.add_argument("--ours", default=example, help="the built example time_features")
    return parser.parse_args()


def processor_seconds(pid):
    # The name of a program, in brackets, may hold spaces.
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main():
    asked = options()
    os.environ["OMP_NUM_THREADS"] = str(asked.threads)
    if not Path(asked.ours).exists():
        sys.exit(f"no {asked.ours}: cargo build --release --example time_features")
    import torch
    from safetensors.torch import save_file

    sys.path.insert(0, str(ROOT / "tests/features"))
    import reference

    torch.set_num_threads(asked.threads)
    images = torch.randint(0, 256, (asked.images, 3, asked.size, asked.size), dtype=torch.uint8)
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        theirs = reference.pytorch_fid_network(reference.random_weights(folder / "weights.pth"))
        save_file({"images": images}, folder / "images.safetensors")
        arguments = [asked.ours, folder / "weights.pth", folder / "images.safetensors"]
        ours = subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

        def their_pass():
            start, used = time.perf_counter(), time.process_time()
            with torch.no_grad():
                for batch in images.split(asked.batch):
                    theirs(batch / 255)[0].flatten(1)
            return time.perf_counter() - start, time.process_time() - used

        def our_pass():
            used = processor_seconds(ours.pid)
            ours.stdin.write("\n")
            ours.stdin.flush()
            seconds = float(ours.stdout.readline())
            return seconds, processor_seconds(ours.pid) - used

        rounds = [(their_pass(), our_pass()) for _ in range(asked.rounds + 1)][1:]
        ours.stdin.close()
        ours.wait()
    for clock, what in enumerate(["a second", "a second of processor time"]):
        if clock == 1 and asked.threads != 1:
            continue
        times = [(theirs[clock], ours[clock]) for theirs, ours in rounds]
        for name, seconds in zip(["pytorch-fid", "ddpm"], zip(*times)):
            print(f"{name:12} {asked.images / statistics.median(seconds):8.2f} images {what}")
        ratios = sorted(theirs / ours for theirs, ours in times)
        print(f"ratio {statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f} of {len(ratios)} rounds)")


if __name__ == "__main__":
    main()
