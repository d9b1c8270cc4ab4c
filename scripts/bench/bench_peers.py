#!/usr/bin/env python3
"""Times ddpm against diffusers and denoising-diffusion-pytorch, each on its own network; prints a Markdown table.

    python scripts/bench/bench_peers.py [flags]       # DDPM_BIN names a built ddpm, PYTHON a Python with the packages

diffusers: UNet2DModel of `google/ddpm-cifar10-32` with the loop of its unconditional training example (AdamW, clipping to
length 1, EMAModel); against --preset ddpm-cifar10. denoising-diffusion-pytorch: Unet and Trainer's loop as its README has
them (Adam, clipping, its EMA every tenth step); against --preset lucidrains. Both sides have the same network, batch,
threads and precision, and run in turn in processes of their own; images are in memory on both sides. Saving and logging are
left out on both. How to read the columns: scripts/bench/bench.py.
"""

import argparse
import json
import os
import resource
import shlex
import statistics
import sys
import time
from datetime import datetime

from bench import Failure, call, cpu_name, cuda_name, find_ddpm, find_python, positive, table_row

IMAGES = 256
PEERS = {"diffusers": "ddpm-cifar10", "lucidrains": "lucidrains"}
BATCHES = {"cpu": {"diffusers": 4, "lucidrains": 2}, "cuda": {"diffusers": 128, "lucidrains": 32}}
ITERS = {"cpu": 3, "cuda": 30}
WARMUP = {"cpu": 1, "cuda": 5}


def pixels(size: int, device: str):
    """Images in 0..1."""
    import torch

    return torch.rand(IMAGES, 3, size, size, device=device)


def diffusers_steps(args: argparse.Namespace) -> tuple:
    """The network, and a function that takes one step of diffusers."""
    import torch
    from diffusers import DDPMScheduler, UNet2DModel
    from diffusers.optimization import get_scheduler
    from diffusers.training_utils import EMAModel

    net = UNet2DModel(
        sample_size=32,
        block_out_channels=(128, 256, 256, 256),
        layers_per_block=2,
        down_block_types=("DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
        downsample_padding=0,
        flip_sin_to_cos=False,
        freq_shift=1,
        norm_eps=1e-6,
        attention_head_dim=None,
        dropout=0.1,
    ).to(args.device)
    if args.channels_last:
        net = net.to(memory_format=torch.channels_last)
    scheduler = DDPMScheduler(num_train_timesteps=1000)
    autocast = torch.autocast(args.device, torch.bfloat16, enabled=args.precision == "bf16")
    data = pixels(32, args.device) * 2 - 1

    if args.what == "sample":
        net.eval()
        x = torch.randn(args.batch, 3, 32, 32, device=args.device)

        @torch.no_grad()
        def sample() -> None:
            nonlocal x
            with autocast:
                eps_hat = net(x, 500).sample
            x = scheduler.step(eps_hat, 500, x).prev_sample
            x[0, 0, 0, 0].item()

        return net, sample

    net.train()
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-4, betas=(0.95, 0.999), weight_decay=1e-6, eps=1e-8)
    rate = get_scheduler("cosine", optimizer=optimizer, num_warmup_steps=500, num_training_steps=100_000)
    ema = EMAModel(net.parameters(), decay=0.9999, use_ema_warmup=True, inv_gamma=1.0, power=0.75)

    def train() -> None:
        clean = data[torch.randint(0, IMAGES, (args.batch,), device=args.device)]
        if args.channels_last:
            clean = clean.contiguous(memory_format=torch.channels_last)
        noise = torch.randn_like(clean)
        t = torch.randint(0, 1000, (args.batch,), device=args.device)
        noisy = scheduler.add_noise(clean, noise, t)
        with autocast:
            loss = torch.nn.functional.mse_loss(net(noisy, t).sample.float(), noise)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        rate.step()
        optimizer.zero_grad()
        ema.step(net.parameters())
        loss.detach().item()

    return net, train


def lucidrains_steps(args: argparse.Namespace) -> tuple:
    """The network, and a function that takes one step of denoising-diffusion-pytorch."""
    import torch
    from denoising_diffusion_pytorch import GaussianDiffusion, Unet
    from ema_pytorch import EMA

    net = Unet(dim=64, dim_mults=(1, 2, 4, 8), flash_attn=True)
    diffusion = GaussianDiffusion(net, image_size=128, timesteps=1000).to(args.device)
    if args.channels_last:
        diffusion = diffusion.to(memory_format=torch.channels_last)
    autocast = torch.autocast(args.device, torch.bfloat16, enabled=args.precision == "bf16")
    data = pixels(128, args.device)

    if args.what == "sample":
        diffusion.eval()
        x = torch.randn(args.batch, 3, 128, 128, device=args.device)

        @torch.inference_mode()
        def sample() -> None:
            nonlocal x
            with autocast:
                x, _ = diffusion.p_sample(x, 500)
            x[0, 0, 0, 0].item()

        return net, sample

    diffusion.train()
    optimizer = torch.optim.Adam(diffusion.parameters(), lr=8e-5, betas=(0.9, 0.99))
    ema = EMA(diffusion, beta=0.995, update_every=10).to(args.device)

    def train() -> None:
        batch = data[torch.randint(0, IMAGES, (args.batch,), device=args.device)]
        with autocast:
            loss = diffusion(batch)
            loss.item()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(diffusion.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        ema.update()

    return net, train


STEPS = {"diffusers": diffusers_steps, "lucidrains": lucidrains_steps}


def theirs(args: argparse.Namespace) -> None:
    """Times a peer in this process; prints what `ddpm bench --json` prints, as far as the table needs it."""
    import torch

    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    torch.backends.cudnn.benchmark = True
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = args.precision == "tf32"
    net, step = STEPS[args.peer](args)
    times_ms = []
    for index in range(args.warmup + args.iters):
        start = time.perf_counter()
        step()
        if args.device == "cuda":
            torch.cuda.synchronize()
        if index >= args.warmup:
            times_ms.append((time.perf_counter() - start) * 1e3)
    on_host = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    result = {
        "ms_median": statistics.median(times_ms),
        "ms_all": times_ms,
        "peak_bytes": torch.cuda.max_memory_allocated() if args.device == "cuda" else on_host,
        "parameters": sum(p.numel() for p in net.parameters() if p.requires_grad),
    }
    print(json.dumps(result))


def check_parameters(name: str, ours: dict, theirs: dict) -> None:
    if ours["parameters"] != theirs["parameters"]:
        raise Failure(f"{name}: ours has {ours['parameters']} parameters, theirs {theirs['parameters']}")


def compare(args: argparse.Namespace) -> None:
    ddpm, python = find_ddpm(), find_python()
    gpu = cuda_name(call([ddpm, "doctor"])) if args.device == "cuda" else None
    if args.device == "cuda" and gpu is None:
        raise Failure("CUDA cannot be used; `ddpm doctor` says why")
    version = "import importlib.metadata as m; print(*(f'{n} {m.version(n)}' for n in"
    packages = call([python, "-c", f"{version} ['diffusers', 'denoising-diffusion-pytorch', 'torch']), sep=', ')"]).strip()
    date = datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z")
    command = shlex.join(["scripts/bench/bench_peers.py", *sys.argv[1:]])
    print(f"{gpu or cpu_name()}; {args.threads} threads; {args.precision}; {packages}; {date}; `{command}`\n")
    print("| step | ours, ms | theirs, ms | ratio | spread | peak memory, ours | theirs | ratio |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |", flush=True)
    for peer in args.peers:
        for what in ("train", "sample"):
            batch = args.batch or BATCHES[args.device][peer]
            name = f"{peer}: {what} step, batch {batch}"
            shared = ["--what", what, "--batch", batch, "--warmup", args.warmup, "--iters", args.iters]
            shared += ["--threads", args.threads, "--device", args.device, "--precision", args.precision]
            row = {"ours": [], "pytorch": []}
            for index in range(args.rounds):
                print(f"{name}: round {index + 1} of {args.rounds}", file=sys.stderr, flush=True)
                row["ours"].append(json.loads(call([ddpm, "bench", "--json", "--preset", PEERS[peer], *shared])))
                layout = ["--channels-last"] if args.channels_last else []
                row["pytorch"].append(json.loads(call([python, __file__, "--peer", peer, *layout, *shared])))
                check_parameters(peer, row["ours"][-1], row["pytorch"][-1])
            print(table_row(name, row), flush=True)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", nargs="+", choices=list(PEERS), default=list(PEERS))
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--precision", choices=["bf16", "tf32", "f32"], help="default: tf32 on CUDA, f32 on CPU")
    parser.add_argument("--channels-last", action="store_true", help="theirs with channels last, which their loops leave out")
    parser.add_argument("--batch", type=positive, help="default: by peer and device")
    parser.add_argument("--rounds", type=positive, default=5, help="turns of each side per row (default 5)")
    parser.add_argument("--iters", type=positive, help="timed steps a round (default: by device)")
    parser.add_argument("--warmup", type=positive, help="steps before them (default: by device)")
    parser.add_argument("--threads", type=positive, default=len(os.sched_getaffinity(0)), help="default: all cores")
    parser.add_argument("--peer", choices=list(PEERS), help=argparse.SUPPRESS)
    parser.add_argument("--what", choices=["train", "sample"], help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.precision = args.precision or {"cpu": "f32", "cuda": "tf32"}[args.device]
    args.iters = args.iters or ITERS[args.device]
    args.warmup = args.warmup or WARMUP[args.device]
    return args


def main() -> int:
    args = arguments()
    try:
        theirs(args) if args.peer else compare(args)
        return 0
    except Failure as failure:
        print(f"bench_peers: {failure}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
