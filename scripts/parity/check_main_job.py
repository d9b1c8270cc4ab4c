#!/usr/bin/env python3
"""Trains the main job for a few steps with ddpm and with the PyTorch reference, and compares all that comes out.

    .venv/bin/python scripts/parity/check_main_job.py [--ddpm target/release/ddpm] [--device cpu] [--torch-device cpu]
                                                      [--steps 20] [--batch 2]

The main job is `ddpm train --preset celebahq128 --data DIR` as it is: 25 M parameters, 128 px, LAMB at 1e-3, loss
summed over pixels; in f32. Both programs start from the same seed and draw the same images, t and eps. Compared are the
loss and the gradient norm of every step, and the weights and their average at the end; then `ddpm export`'s .pt is
loaded in PyTorch (strict), and both make two images from it by DDIM in ten steps.

Each line names the most that is allowed. Both add the same values in another order (our convolutions are partly by
tiles), and every step begins with the weights of the one before, so differences grow with the steps. LAMB divides by
the root of the second moment: where a gradient is nearly zero, rounding decides its sign, and the weight moves by up to
the learning rate either way. So weights are compared by how far both have moved. The exit code is 0 if all are within.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

from peers.checking import Table
from png import write_png

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts" / "reference"))
from diffusion import Diffusion, image_noise  # noqa: E402
from networks import build  # noqa: E402
from train import Trainer, train  # noqa: E402

Add = Callable[[str, float, float], None]  # what is compared, its largest difference, the most allowed
IMAGES = 32
TIMES = range(999, 0, -111)  # 999, 888, … 111: ten visited steps of T = 1000, with 0


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = Path(os.environ.get("DDPM", ROOT / "target" / "release" / "ddpm"))
    parser.add_argument("--ddpm", type=Path, default=default, help="the program; default: $DDPM, else %(default)s")
    parser.add_argument("--device", default="cpu", help="default: %(default)s")
    parser.add_argument("--torch-device", help="of PyTorch, if it is another: cpu, for ddpm on a simulated CUDA device")
    parser.add_argument("--steps", type=int, default=20, help="default: %(default)s")
    parser.add_argument("--batch", type=int, default=2, help="default: %(default)s")
    args = parser.parse_args()
    args.torch_device = torch.device(args.torch_device or args.device)
    return args


def write_images(folder: Path, size: int) -> torch.Tensor:
    """Smooth colours with noise, as PNG of the training size, so that both read the same bytes; [N, C, H, W] u8."""
    folder.mkdir()
    draw = np.random.default_rng(0)
    y, x = np.mgrid[0:size, 0:size] / size
    images = []
    for number in range(IMAGES):
        waves = [np.sin(2 * np.pi * (a * x + b * y) + c) for a, b, c in draw.uniform(-3, 3, (3, 3))]
        image = 127.5 + 90 * np.stack(waves, axis=2) + draw.normal(0, 8, (size, size, 3))
        pixels = image.clip(0, 255).astype(np.uint8)
        write_png(folder / f"{number:02}.png", pixels)
        images.append(pixels)
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()


def relative(ours: list[float], theirs: list[float]) -> float:
    if len(ours) != len(theirs):
        sys.exit(f"check_main_job: {len(ours)} steps of ddpm, {len(theirs)} of the reference")
    return max(abs(a - b) / abs(b) for a, b in zip(ours, theirs))


def distance(ours: dict, theirs: dict, start: dict) -> float:
    """The norm of the difference, relative to the way from `start` to `theirs`."""
    total = lambda a, b: sum((a[n].double() - b[n].double()).square().sum().item() for n in theirs) ** 0.5
    return total(ours, theirs) / total(theirs, start)


@torch.inference_mode()
def ddim(
    model: torch.nn.Module, diffusion: Diffusion, x: torch.Tensor, times: list[int], clip_x0: bool = False
) -> torch.Tensor:
    """Song et al. 2020, eq. 12 with sigma = 0, in the order of `times`; the last step goes to x_0."""
    for t, after in zip(times, [*times[1:], None]):
        signal, noise = diffusion.sqrt_alphas_cumprod[t], diffusion.sqrt_one_minus_alphas_cumprod[t]
        eps = model(x, torch.full((len(x),), t, device=x.device))
        x_0 = (x - noise * eps) / signal
        if clip_x0:
            x_0 = x_0.clamp(-1, 1)
            eps = (x - signal * x_0) / noise
        if after is None:
            return x_0.clamp(-1, 1)
        x = diffusion.sqrt_alphas_cumprod[after] * x_0 + diffusion.sqrt_one_minus_alphas_cumprod[after] * eps


class Program:
    """ddpm, and the run that it trains in `folder`."""

    def __init__(self, path: Path, folder: Path, device: str):
        self.path, self.run, self.on = path, folder / "run", ("--device", device, "--precision", "f32")

    def __call__(self, *words: object) -> str:
        done = subprocess.run([self.path, *map(str, words)], capture_output=True, text=True)
        if done.returncode != 0:
            sys.exit(f"check_main_job: ddpm {words[0]} failed: {done.stderr.strip()}")
        return done.stdout


def train_both(ddpm: Program, folder: Path, args: argparse.Namespace) -> tuple[dict, Trainer, dict]:
    """The run's settings, the reference's trainer, and its curves."""
    pixels = write_images(folder / "images", 128)
    began = time.monotonic()
    ddpm("train", "--preset", "celebahq128", "--data", folder / "images", "--run", ddpm.run, *ddpm.on,
         "--batch", args.batch, "--steps", args.steps, "--sample-every", 0)  # fmt: skip
    ours_secs = time.monotonic() - began
    config = json.loads(ddpm("inspect", "--json", ddpm.run))["config"]
    began = time.monotonic()
    trainer, curves = train(config, pixels, args.steps, device=args.torch_device)
    theirs_secs = time.monotonic() - began
    print(f"{args.steps} steps of batch {args.batch}: {ours_secs:.0f} s, PyTorch {theirs_secs:.0f} s\n")
    return config, trainer, curves


def compare_training(add: Add, ddpm: Program, config: dict, trainer: Trainer, curves: dict) -> torch.nn.Module:
    """Compares every step and the weights; returns PyTorch's network with the average that ddpm exported."""
    lines = [json.loads(line) for line in (ddpm.run / "metrics.jsonl").read_text().splitlines()]
    add("loss of a step, relative", relative([l["loss"] for l in lines], curves["losses"]), 1e-5)
    norms = relative([l["grad_norm"] for l in lines], curves["grad_norms"])
    add("gradient norm of a step, relative", norms, 1e-5)
    timesteps = config["diffusion"]["timesteps"]
    start = dict(build(config["model"], timesteps).initialise(config["train"]["seed"]).named_parameters())
    theirs = {name: tensor.cpu() for name, tensor in trainer.state().items()}
    for section, flags in [("model", ["--raw"]), ("ema", [])]:
        file = ddpm.run.parent / f"{section}.pt"
        ddpm("export", ddpm.run, *flags, "--to", file)
        network = build(config["model"], timesteps)
        network.load_state_dict(torch.load(file, weights_only=True), strict=True)
        of_section = {n: theirs[f"{section}.{n}"] for n in start}
        moved = distance(dict(network.named_parameters()), of_section, start)
        add(f"`{section}` at the end, of the way from the start", moved, 1e-3)
    return network


def compare_images(add: Add, ddpm: Program, config: dict, network: torch.nn.Module, device: torch.device) -> None:
    """Two images from the same x_T by DDIM."""
    times, file = [*TIMES, 0], ddpm.run.parent / "images.safetensors"
    ddpm("sample", ddpm.run, "-n", 2, *ddpm.on, "--sampler", "ddim", "--times", ",".join(map(str, times)),
         "--clip-x0=false", "--out", file.with_suffix(".png"), "--out-tensor", file)  # fmt: skip
    images = load_file(file)["pictures"]
    x_t = image_noise(0, [0, 1], tuple(images.shape[1:]), device)(0)
    made = ddim(network.to(device).eval(), Diffusion(config["diffusion"]), x_t, times).cpu()
    add("a pixel of two images from the .pt, of 2", (images - made).abs().max().item(), 1e-3)


def main() -> None:
    args = arguments()
    if not args.ddpm.is_file():
        sys.exit(f"check_main_job: no program at {args.ddpm}; build it with cargo build --release, or give --ddpm")
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    with tempfile.TemporaryDirectory(prefix="main-job-") as name:
        folder = Path(name)
        ddpm = Program(args.ddpm.resolve(), folder, args.device)
        config, trainer, curves = train_both(ddpm, folder, args)
        table = Table()

        def add(what: str, difference: float, most: float) -> None:
            table.add("celebahq128", what, difference <= most, f"{difference:.1e}", f"{most:.0e}")  # nan fails

        network = compare_training(add, ddpm, config, trainer, curves)
        compare_images(add, ddpm, config, network, args.torch_device)
    sys.exit(1 if table.failures else 0)


if __name__ == "__main__":
    main()
