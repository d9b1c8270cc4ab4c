#!/usr/bin/env python3
"""Runs one forward and backward of the reference on given tensors, for comparison with the Rust program.

    .venv/bin/python scripts/reference/parity.py FOLDER [FOLDER ...]

Each folder holds `run.json`, a plain state_dict in `w.safetensors`, and `in.safetensors` with `x` [N, C, H, W] f32,
`t` [N] i64, `noise` [N, C, H, W] f32, `classes` [N] i64 for networks with classes, and `condition` [N, K, H, W] f32 for
networks that are given an image beside x. It receives `out.safetensors` with `out` (eps_hat), `loss` (squared error
against `noise`, summed per image, mean over the batch) and `grad.<name>`.
"""

import argparse
import json
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from networks import build


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+", metavar="FOLDER")
    for folder in parser.parse_args().folders:
        compute(folder)


def compute(folder: Path) -> None:
    config = json.loads((folder / "run.json").read_text())
    model = build(config["model"], config["diffusion"]["timesteps"])
    model.load_state_dict(load_file(folder / "w.safetensors"), strict=True)
    model.eval()  # no dropout: nothing here is random
    given = load_file(folder / "in.safetensors")
    x = torch.cat([given[name] for name in ("x", "condition") if name in given], 1)
    out = model(x, given["t"], given.get("classes"))
    loss = F.mse_loss(out, given["noise"], reduction="sum") / len(out)
    loss.backward()
    result = {"out": out.detach().contiguous(), "loss": loss.detach().reshape(1)}
    result |= {f"grad.{name}": p.grad.contiguous() for name, p in model.named_parameters()}
    save_file(result, folder / "out.safetensors")


if __name__ == "__main__":
    main()
