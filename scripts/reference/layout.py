#!/usr/bin/env python3
"""Times forward and backward of the reference on a CPU in three layouts.

    .venv/bin/python scripts/reference/layout.py [--threads N] [--rounds N]

Contiguous; channels last from the input on; and with the weights channels last too. The
three take turns step by step in one process, so that a machine of varying speed treats them alike. Prints medians
in ms, and the medians of the ratios of the rounds: above 1, faster than the layout before it.
"""

import argparse
import copy
import statistics
import time

import torch
from unet import UNet

COMMON = {"channels": 3, "blocks": 1, "min_pixel": 4, "norm": "group", "norm_eps": 1e-6, "time_embedding": "trainable", "dropout": 0.0}
# side, batch, base width, multipliers, norm groups: the rows of scripts/bench/bench.py
SIZES = [(32, 32, 32, [1, 2, 2], 8), (64, 16, 64, [1, 2, 2, 4], 16), (128, 2, 128, [1, 1, 2, 2, 4, 4], 32)]

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--threads", type=int, default=torch.get_num_threads())
parser.add_argument("--rounds", type=int, default=8, help="timed rounds a size (default 8)")
args = parser.parse_args()
torch.set_num_threads(args.threads)

for side, batch, width, multipliers, groups in SIZES:
    shape = {"height": side, "width": side, "base_width": width, "multipliers": multipliers, "norm_groups": groups}
    plain = UNet(COMMON | shape, 1000)
    last = copy.deepcopy(plain).to(memory_format=torch.channels_last)
    x, eps = torch.randn(2, batch, 3, side, side)
    x_last = x.contiguous(memory_format=torch.channels_last)
    t = torch.randint(0, 1000, (batch,))

    def step_ms(net: UNet, x_t: torch.Tensor) -> float:
        began = time.perf_counter()
        ((net(x_t, t) - eps) ** 2).sum().div(batch).backward()
        return (time.perf_counter() - began) * 1e3

    layouts = [(plain, x.contiguous()), (plain, x_last), (last, x_last)]
    rounds = [[step_ms(*layout) for layout in layouts] for _ in range(args.rounds + 1)][1:]
    contiguous, maps, weights = (statistics.median(times) for times in zip(*rounds))
    of_maps = statistics.median(a / b for a, b, _ in rounds)
    of_weights = statistics.median(b / c for _, b, c in rounds)
    print(
        f"{side} px, batch {batch}: contiguous {contiguous:.0f} ms, channels last {maps:.0f} ms, ratio {of_maps:.2f}; "
        f"weights too {weights:.0f} ms, ratio {of_weights:.2f}",
        flush=True,
    )
