#!/usr/bin/env python3
"""Times forward and backward of the reference on a CPU, contiguous against channels last.

    .venv/bin/python scripts/reference/layout.py [--threads N] [--pairs N]

The two layouts take turns step by step in one process, so that a machine whose speed wanders treats them
alike. Only the input changes its layout; the network hands it on. Prints medians in ms, and the median of
the ratios of the pairs: above 1, channels last is faster.
"""

import argparse
import statistics
import time

import torch
from unet import UNet

COMMON = {"channels": 3, "blocks": 1, "min_pixel": 4, "norm": "group", "norm_eps": 1e-6, "time_embedding": "trainable", "dropout": 0.0}
# side, batch, base width, multipliers, norm groups: the rows of scripts/bench.py
SIZES = [(32, 32, 32, [1, 2, 2], 8), (64, 16, 64, [1, 2, 2, 4], 16), (128, 2, 128, [1, 1, 2, 2, 4, 4], 32)]

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--threads", type=int, default=torch.get_num_threads())
parser.add_argument("--pairs", type=int, default=8, help="timed pairs of steps a size (default 8)")
args = parser.parse_args()
torch.set_num_threads(args.threads)

for side, batch, width, multipliers, groups in SIZES:
    shape = {"height": side, "width": side, "base_width": width, "multipliers": multipliers, "norm_groups": groups}
    net = UNet(COMMON | shape, 1000)
    x, eps = torch.randn(2, batch, 3, side, side)
    t = torch.randint(0, 1000, (batch,))

    def step_ms(x_t: torch.Tensor) -> float:
        began = time.perf_counter()
        ((net(x_t, t) - eps) ** 2).sum().div(batch).backward()
        return (time.perf_counter() - began) * 1e3

    inputs = x.contiguous(), x.contiguous(memory_format=torch.channels_last)
    pairs = [tuple(map(step_ms, inputs)) for _ in range(args.pairs + 1)][1:]
    contiguous, last = (statistics.median(times) for times in zip(*pairs))
    ratio = statistics.median(a / b for a, b in pairs)
    print(f"{side} px, batch {batch}: contiguous {contiguous:.0f} ms, channels last {last:.0f} ms, ratio {ratio:.2f}", flush=True)
