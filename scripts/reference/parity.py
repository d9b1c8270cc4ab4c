#!/usr/bin/env python3
"""Runs one forward and backward of the reference on given tensors, for comparison with the Rust program.

Input file: `x` [N, C, H, W] f32, `t` [N] i64, `noise` [N, C, H, W] f32, `classes` [N] i64 for networks with classes,
and `condition` [N, K, H, W] f32 for networks that are given an image beside x. Output file: `out` (eps_hat), `loss`
(squared error against `noise`, summed per image, mean over the batch) and `grad.<name>`.
"""

import argparse
import json
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from networks import build


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, required=True, help="run.json")
    parser.add_argument("--weights", type=Path, required=True, help="safetensors with a plain state_dict")
    parser.add_argument("--input", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    config = json.loads(args.config.read_text())

    model = build(config["model"], config["diffusion"]["timesteps"])
    model.load_state_dict(load_file(args.weights), strict=True)
    model.eval()  # no dropout: nothing here is random
    given = load_file(args.input)
    x = torch.cat([given[name] for name in ("x", "condition") if name in given], 1)
    out = model(x, given["t"], given.get("classes"))
    loss = F.mse_loss(out, given["noise"], reduction="sum") / len(out)
    loss.backward()
    result = {"out": out.detach().contiguous(), "loss": loss.detach().reshape(1)}
    result |= {f"grad.{name}": p.grad.contiguous() for name, p in model.named_parameters()}
    save_file(result, args.out)


if __name__ == "__main__":
    main()
