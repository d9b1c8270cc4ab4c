#!/usr/bin/env python3
"""Trains the main job for a few steps with ddpm and with the PyTorch reference, and compares all that comes out.

    .venv/bin/python scripts/parity/check_main_job.py [--ddpm target/release/ddpm] [--device cpu] [--steps 20]
                                                      [--batch 2]

The main job is `ddpm train --preset celebahq128 --data DIR` as it is: 25 M parameters, 128 px, LAMB at 1e-3, loss
summed over pixels; in f32. Both programs start from the same seed and draw the same images, t and eps. Compared are the
loss and the gradient norm of every step, and the weights and their average at the end; then `ddpm export`'s .pt is
loaded in PyTorch (strict), and both make two images from it by DDIM in ten steps.

Each line names the most that is allowed. Both add the same values in another order (our convolutions are partly by
tiles), and every step begins with the weights of the one before, so differences grow with the steps. LAMB divides by
the root of the second moment: where a gradient is nearly zero, rounding decides its sign, and the weight moves by up to
the learning rate either way. So weights are compared by how far both have moved. Our gradient norm is one f32 sum of
squares over all parameters, which libtorch's CPU kernel adds up 0.1 % too small for 25 million. The exit code is 0 if all
are within.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts" / "reference"))
from diffusion import Diffusion, image_noise  # noqa: E402
from networks import build  # noqa: E402
from train import train  # noqa: E402

IMAGES = 32
TIMES = range(999, 0, -111)  # 999, 888, … 111: ten visited steps of T = 1000, with 0


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = Path(os.environ.get("DDPM", ROOT / "target" / "release" / "ddpm"))
    parser.add_argument("--ddpm", type=Path, default=default, help="the program; default: $DDPM, else %(default)s")
    parser.add_argument("--device", default="cpu", help="of both programs; default: %(default)s")
    parser.add_argument("--steps", type=int, default=20, help="default: %(default)s")
    parser.add_argument("--batch", type=int, default=2, help="default: %(default)s")
    return parser.parse_args()


def write_images(folder: Path) -> torch.Tensor:
    """Smooth colours with noise, as PNG of the training size, so that both read the same bytes; [N, C, H, W] u8."""
    draw, size = np.random.default_rng(0), 128
    y, x = np.mgrid[0:size, 0:size] / size
    images = []
    for number in range(IMAGES):
        waves = [np.sin(2 * np.pi * (a * x + b * y) + c) for a, b, c in draw.uniform(-3, 3, (3, 3))]
        image = 127.5 + 90 * np.stack(waves, axis=2) + draw.normal(0, 8, (size, size, 3))
        pixels = image.clip(0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:02}.png")
        images.append(pixels)
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()


class Table:
    """Rows of (what, difference, most allowed)."""

    def __init__(self):
        self.failed = False
        print("| compared | largest difference | at most | |\n| --- | ---: | ---: | --- |", flush=True)

    def row(self, what: str, difference: float, most: float) -> None:
        ok = difference <= most  # false for nan too
        self.failed |= not ok
        print(f"| {what} | {difference:.1e} | {most:.0e} | {'ok' if ok else 'FAILED'} |", flush=True)


def relative(ours: list[float], theirs: list[float]) -> float:
    if len(ours) != len(theirs):
        sys.exit(f"check_main_job: {len(ours)} steps of ddpm, {len(theirs)} of the reference")
    return max(abs(a - b) / abs(b) for a, b in zip(ours, theirs))


def distance(ours: dict, theirs: dict, start: dict) -> float:
    """The norm of the difference, relative to the way from `start` to `theirs`."""
    total = lambda a, b: sum((a[n].double() - b[n].double()).square().sum().item() for n in theirs) ** 0.5
    return total(ours, theirs) / total(theirs, start)


@torch.inference_mode()
def ddim(model: torch.nn.Module, diffusion: Diffusion, x: torch.Tensor, times: list[int]) -> torch.Tensor:
    """Song et al. 2020, eq. 12 with sigma = 0, in the order of `times`; the last step goes to x_0."""
    for t, after in zip(times, [*times[1:], None]):
        signal, noise = diffusion.sqrt_alphas_cumprod[t], diffusion.sqrt_one_minus_alphas_cumprod[t]
        eps = model(x, torch.full((len(x),), t, device=x.device))
        x_0 = (x - noise * eps) / signal
        if after is None:
            return x_0.clamp(-1, 1)
        x = diffusion.sqrt_alphas_cumprod[after] * x_0 + diffusion.sqrt_one_minus_alphas_cumprod[after] * eps


def main() -> None:
    args = arguments()
    if not args.ddpm.is_file():
        sys.exit(f"check_main_job: no program at {args.ddpm}; build it with cargo build --release, or give --ddpm")
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False

    def ddpm(*words) -> str:
        done = subprocess.run([args.ddpm, *map(str, words)], capture_output=True, text=True)
        if done.returncode != 0:
            sys.exit(f"check_main_job: ddpm {words[0]} failed: {done.stderr.strip()}")
        return done.stdout

    with tempfile.TemporaryDirectory(prefix="main-job-") as name:
        folder = Path(name)
        (folder / "images").mkdir()
        pixels = write_images(folder / "images")
        run, on = folder / "run", ("--device", args.device, "--precision", "f32")
        began = time.monotonic()
        ddpm("train", "--preset", "celebahq128", "--data", folder / "images", "--run", run, *on,
             "--batch", args.batch, "--steps", args.steps, "--sample-every", 0)  # fmt: skip
        ours_secs = time.monotonic() - began
        config = json.loads(ddpm("inspect", "--json", run))["config"]
        began = time.monotonic()
        trainer, curves = train(config, pixels, args.steps, device=torch.device(args.device))
        theirs_secs = time.monotonic() - began
        print(f"{args.steps} steps of batch {args.batch}: {ours_secs:.0f} s, PyTorch {theirs_secs:.0f} s\n")

        table = Table()
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        table.row("loss of a step, relative", relative([l["loss"] for l in lines], curves["losses"]), 1e-4)
        norms = relative([l["grad_norm"] for l in lines], curves["grad_norms"])
        table.row("gradient norm of a step, relative", norms, 1e-3)

        timesteps = config["diffusion"]["timesteps"]
        start = dict(build(config["model"], timesteps).initialise(config["train"]["seed"]).named_parameters())
        theirs = {name: tensor.cpu() for name, tensor in trainer.state().items()}
        models = {}
        for section, flags in [("model", ["--raw"]), ("ema", [])]:
            file = folder / f"{section}.pt"
            ddpm("export", run, *flags, "--to", file)
            models[section] = build(config["model"], timesteps)
            models[section].load_state_dict(torch.load(file, weights_only=True), strict=True)
            of_section = {n: theirs[f"{section}.{n}"] for n in start}
            moved = distance(dict(models[section].named_parameters()), of_section, start)
            table.row(f"`{section}` weights at the end, relative to the way from the start", moved, 1e-2)

        times = [*TIMES, 0]
        ddpm("sample", run, "-n", 2, *on, "--sampler", "ddim", "--times", ",".join(map(str, times)),
             "--clip-x0=false", "--out", folder / "x.png", "--out-tensor", folder / "x.safetensors")  # fmt: skip
        images = load_file(folder / "x.safetensors")["pictures"]
        shape = tuple(images.shape[1:])
        device = torch.device(args.device)
        x_t = image_noise(0, [0, 1], shape, device)(0)
        made = ddim(models["ema"].to(device).eval(), Diffusion(config["diffusion"]), x_t, times).cpu()
        table.row("a pixel of two images from the .pt, of a range of 2", (images - made).abs().max().item(), 1e-3)
    sys.exit(1 if table.failed else 0)


if __name__ == "__main__":
    main()
