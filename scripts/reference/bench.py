#!/usr/bin/env python3
"""Times one training step, one sampling step or one update of the reference; prints one line of JSON.

A training step is everything a real one does: gather a batch from u8 pixels, normalise, draw t and eps,
noise, forward, backward, optimizer, EMA, and reading the loss back. A sampling step is one reverse step
for `train.batch` images, its noise included. An update is the part of a training step after the gradients: their
norm, optimizer and EMA.

"peak_bytes" is the process's peak resident memory on a CPU (interpreter and libraries included) and
the peak of allocated device memory on CUDA.

Under torchrun a training step is one of DistributedDataParallel with Gloo, on the CPU: `train.batch` images over all ranks.
Rank 0 prints.
"""

import argparse
import json
import os
import re
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

from diffusion import Diffusion
from networks import build
from train import Trainer, to_unit

IMAGES = 256


def train_step(config: dict, model: torch.nn.Module, memory_format: torch.memory_format) -> Callable[[int], float]:
    """A function of the step index that trains once and returns the loss."""
    device = next(model.parameters()).device
    diffusion = Diffusion(config["diffusion"]).to(device)
    trainer = Trainer(model, diffusion, config["optim"])
    batch, accumulate = config["train"]["batch"], config["train"]["accumulate"]
    m = config["model"]
    shape = (IMAGES, m["channels"], m["height"], m["width"])
    pixels = torch.randint(0, 256, shape, dtype=torch.uint8, device=device)

    def step(index: int) -> float:
        chosen = torch.randint(0, IMAGES, (batch,), device=device)
        x_0 = to_unit(pixels[chosen]).contiguous(memory_format=memory_format)
        t = torch.randint(0, diffusion.timesteps, (batch,), device=device)
        loss = trainer.backward(x_0, t, torch.randn_like(x_0), accumulate)
        clips = config["optim"].get("clip_norm") is not None
        trainer.update(index, trainer.grad_norm() if clips else None)
        return loss.item()

    return step


def update_step(config: dict, model: torch.nn.Module, memory_format: torch.memory_format) -> Callable[[int], float]:
    """A function of the step index that updates the weights from random gradients and returns their norm."""
    diffusion = Diffusion(config["diffusion"])
    trainer = Trainer(model, diffusion, config["optim"])
    for p in trainer.params:
        p.grad = torch.randn_like(p)

    def step(index: int) -> float:
        norm = trainer.grad_norm()
        trainer.update(index, norm)
        return norm.item()

    return step


def sample_step(config: dict, model: torch.nn.Module, memory_format: torch.memory_format) -> Callable[[int], float]:
    """A function of the step index that takes one reverse step and waits for one pixel of it."""
    device = next(model.parameters()).device
    diffusion = Diffusion(config["diffusion"])
    m = config["model"]
    shape = (config["train"]["batch"], m["channels"], m["height"], m["width"])
    x = torch.randn(shape, device=device).contiguous(memory_format=memory_format)

    @torch.inference_mode()
    def step(index: int) -> float:
        nonlocal x
        t = diffusion.timesteps - 1 - index % diffusion.timesteps
        eps_hat = model(x, torch.full(shape[:1], t, device=device)).float()
        x = diffusion.p_step(x, t, eps_hat, torch.randn_like(x), "beta", clip_x0=False)
        return x[0, 0, 0, 0].item()

    return step


STEPS = {"train": train_step, "sample": sample_step, "optimizer": update_step}


def peak_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+) kB", status).group(1)) * 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, required=True, help="run.json")
    parser.add_argument("--what", choices=list(STEPS), required=True)
    parser.add_argument("--warmup", type=int, default=3)
    parser.add_argument("--iters", type=int, default=20)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="CPU threads within an operation")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--precision", choices=["f32", "tf32"], help="of products on CUDA; default: PyTorch's own")
    parser.add_argument("--channels-last", action="store_true")
    parser.add_argument("--bf16", action="store_true", help="autocast the network to bfloat16")
    parser.add_argument("--compile", action="store_true", help="torch.compile the network, mode max-autotune")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    config = json.loads(args.config.read_text())
    device = torch.device(args.device)
    torch.backends.cudnn.benchmark = True  # as the Rust program does
    if args.precision:
        torch.backends.cuda.matmul.allow_tf32 = args.precision == "tf32"
        torch.backends.cudnn.allow_tf32 = args.precision == "tf32"
    memory_format = torch.channels_last if args.channels_last else torch.contiguous_format

    model = build(config["model"], config["diffusion"]["timesteps"]).initialise(0)
    model.to(device=device, memory_format=memory_format)
    model.forward = torch.autocast(args.device, torch.bfloat16, enabled=args.bf16)(model.forward)
    if args.compile:
        model.compile(mode="max-autotune")
    ranks = int(os.environ.get("WORLD_SIZE", "1"))
    if ranks > 1:
        if args.what != "train" or args.device != "cpu" or config["train"]["batch"] % ranks:
            parser.error("ranks time training steps on a CPU, of a batch that they can share")
        distributed.init_process_group("gloo")
        config["train"]["batch"] //= ranks
        # Gradients are views of what travels, as in ddpm: without it they are copied there and back.
        model = DistributedDataParallel(model, gradient_as_bucket_view=True)
    step = STEPS[args.what](config, model, memory_format)

    times_ms = []
    for index in range(args.warmup + args.iters):
        start = time.perf_counter()
        step(index)
        if device.type == "cuda":
            torch.cuda.synchronize()
        if index >= args.warmup:
            times_ms.append((time.perf_counter() - start) * 1e3)
    result = {
        "what": args.what,
        "ms_median": statistics.median(times_ms),
        "ms_all": times_ms,
        "peak_bytes": peak_bytes(device),
        "torch": torch.__version__,
    }
    if ranks == 1 or distributed.get_rank() == 0:
        print(json.dumps(result))
    if ranks > 1:
        distributed.destroy_process_group()


if __name__ == "__main__":
    main()
