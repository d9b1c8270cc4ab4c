#!/usr/bin/env python3
"""Checks that a model gives the same numbers with ddpm on CUDA, ddpm on the CPU and PyTorch on CUDA.

    python scripts/gpu/parity.py DDPM RUN      # the binary, and a run folder or checkpoint

All three run the network in full f32 on the same random x and t. Each line is the largest difference between
two outputs, relative to the largest value; more than 1e-4 fails.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

try:
    import torch
    from safetensors.torch import load_file, save_file
except ImportError as error:
    sys.exit(f"gpu/parity: {error}; this Python needs torch, numpy, safetensors and packaging")

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "reference"))
from unet import UNet  # noqa: E402

AT_MOST = 1e-4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ddpm")
    parser.add_argument("run")
    parser.add_argument("--device", default="cuda", help="compared with the CPU (default cuda)")
    args = parser.parse_args()
    if args.device == "cuda" and not torch.cuda.is_available():
        sys.exit("gpu/parity: this Python's torch cannot use CUDA")
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False

    def ddpm(*words) -> str:
        done = subprocess.run([args.ddpm, *map(str, words)], capture_output=True, text=True)
        if done.returncode != 0:
            sys.exit(f"gpu/parity: ddpm {words[0]} failed: {done.stderr.strip()}")
        return done.stdout

    config = json.loads(ddpm("inspect", "--json", args.run))["config"]
    m, timesteps = config["model"], config["diffusion"]["timesteps"]
    torch.manual_seed(0)
    x = torch.randn(8, m["channels"], m["height"], m["width"])
    t = torch.randint(0, timesteps, (8,))

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save_file({"x": x, "t": t}, folder / "in.safetensors")

        def predict(device: str) -> torch.Tensor:
            files = ("--input", folder / "in.safetensors", "--output", folder / f"{device}.safetensors")
            ddpm("predict", args.run, "--raw", "--device", device, *files)
            return load_file(folder / f"{device}.safetensors")["out"]

        ours, ours_cpu = predict(args.device), predict("cpu")
        ddpm("export", args.run, "--raw", "--to", folder / "weights.pt")
        model = UNet(m, timesteps)
        model.load_state_dict(torch.load(folder / "weights.pt", weights_only=True), strict=True)
    model.to(args.device).eval()
    with torch.inference_mode():
        reference = model(x.to(args.device), t.to(args.device)).cpu()

    failed = False
    print("| compared | largest difference | relative | at most | |\n| --- | ---: | ---: | ---: | --- |")
    for other, out in [(f"PyTorch {args.device}", reference), ("ddpm cpu", ours_cpu)]:
        difference = (ours - out).abs().max().item()
        relative = difference / out.abs().max().item()
        ok = relative <= AT_MOST  # false for nan too
        failed |= not ok
        verdict = "ok" if ok else "FAILED"
        print(f"| ddpm {args.device}, {other} | {difference:.2e} | {relative:.2e} | {AT_MOST:.0e} | {verdict} |")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
