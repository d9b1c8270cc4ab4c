#!/usr/bin/env python3
"""Replays weights/golden/ with the PyTorch reference; prints each difference and fails if one is too large.

    python scripts/parity/check_goldens.py [weights/golden]

Tolerances: f32 rounding of two libraries that sum in different orders. The original itself differs
between f32 and f64 by up to 5e-6 in a forward, 1.4e-5 in a gradient (relative L2) and 5e-4 in 12 steps.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "reference"))
from diffusion import Diffusion  # noqa: E402
from gau import rotary_positions  # noqa: E402
from networks import build  # noqa: E402
from optim import Ema, Lamb  # noqa: E402
from unet import sinusoidal_table  # noqa: E402

GOLDEN = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).resolve().parents[2] / "weights" / "golden"
LAMB = {"lr": 1e-3, "beta1": 0.9, "beta2": 0.999, "eps": 1e-7, "weight_decay": 0.0}
failures = []


def check(what: str, difference: float, tolerance: float) -> None:
    ok = difference <= tolerance
    print(f"{'ok  ' if ok else 'FAIL'} {what}: {difference:.2g} (at most {tolerance:.0e})")
    if not ok:
        failures.append(what)


def read(file: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    with safe_open(GOLDEN / f"{file}.safetensors", framework="pt") as f:
        return {k: f.get_tensor(k) for k in f.keys()}, f.metadata()


def under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def max_abs(a: Tensor, b: Tensor) -> float:
    return (a.double() - b.double()).abs().max().item()


def relative(a: Tensor, b: Tensor) -> float:
    """||a - b|| / ||b||; 0 if both are zero."""
    difference = (a.double() - b.double()).norm().item()
    return difference / b.double().norm().item() if difference else 0.0


def load_network(model: str) -> torch.nn.Module:
    tensors, metadata = read(f"keras_{model}")
    net = build(json.loads(metadata["config"]), timesteps=1000)
    net.load_state_dict(under(tensors, "w."), strict=True)
    return net


def diffusion(timesteps: int) -> Diffusion:
    return Diffusion({"timesteps": timesteps, "schedule": "keras-ddpm", "loss": "sum"})


def check_forward_and_gradients(model: str) -> None:
    g, metadata = read(f"keras_{model}")
    net = load_network(model)
    y = net(g["x"], g["t"])
    check(f"{model} forward, max abs", max_abs(y.detach(), g["y"]), 2e-5)
    loss = diffusion(1000).loss(y, g["noise"])
    check(f"{model} loss, relative", relative(loss.detach(), g["loss"]), 1e-5)
    loss.backward()
    errors = []
    for name, p in net.named_parameters():
        if name in json.loads(metadata["zero_gradient"]):
            continue
        if f"grad.{name}" in g:
            errors.append(relative(p.grad, g[f"grad.{name}"]))
        else:
            errors.append(relative(p.grad.flatten()[g[f"gradidx.{name}"]], g[f"gradsub.{name}"]))
            errors.append(relative(p.grad.norm(), g[f"gradnorm.{name}"]))
    check(f"{model} gradients, worst relative L2", max(errors), 1e-4)


def check_trajectory(model: str, mode: str) -> None:
    g, metadata = read(f"keras_{model}_traj")
    zero_gradient = json.loads(metadata["zero_gradient"])
    net = load_network(model)
    params = dict(net.named_parameters())
    start = {n: p.detach().clone() for n, p in params.items()}
    optimizer = Lamb(params, **LAMB, not_adapted=set(json.loads(metadata.get("not_adapted", "[]"))))
    ema = Ema(optimizer.params, momentum=0.9)
    worst_loss = 0.0
    for step in range(12):
        net.zero_grad()
        loss = diffusion(1000).loss(net(g["noisy"][step], g["t"][step]), g["noise"][step])
        loss.backward()
        worst_loss = max(worst_loss, relative(loss.detach(), g[f"{mode}.losses"][step]))
        optimizer.step(int(g[f"{mode}.adam_t"][step]), float(g[f"{mode}.lr_multiplier"][step]))
        ema.step()
        if step + 1 not in (3, 12):
            continue
        after = f"s{step + 1:02}"
        moved, averaged, norms = [], [], []
        for (name, p), average in zip(params.items(), ema.average):
            if name in zero_gradient:
                continue
            norms.append(relative(p.detach().norm(), g[f"{mode}.wnorm.{after}.{name}"]))
            index = g[f"idx.{name}"]
            want, want_ema = g[f"{mode}.wsub.{after}.{name}"], g[f"{mode}.emasub.{after}.{name}"]
            w, w0 = p.detach().flatten()[index], start[name].flatten()[index]
            moved.append((w - want).norm().item() / (want - w0).norm().item())
            averaged.append(relative(average.flatten()[index], want_ema))
        print(f"     {model} {mode} {after}: ||w - keras|| / ||keras - w0|| median {np.median(moved):.2g}")
        check(f"{model} {mode} {after}: the same, worst", max(moved), 2e-3)
        check(f"{model} {mode} {after}: EMA, worst relative L2", max(averaged), 1e-5)
        check(f"{model} {mode} {after}: norm of w, worst relative", max(norms), 1e-5)
    check(f"{model} {mode}: losses of 12 steps, worst relative", worst_loss, 1e-5)


def check_optimizer(dtype: torch.dtype, tolerance: float) -> None:
    """Against the original's f64 run: its f32 run is itself 3e-6 away, at the tensor that starts at zero."""
    g, _ = read("keras_optimizer_unit")
    params = {n: p.to(dtype) for n, p in under(g, "w0.").items()}
    optimizer = Lamb(params, **LAMB, not_adapted={n for n, a in under(g, "adapted.").items() if not a})
    ema = Ema(optimizer.params, momentum=0.9)
    errors = []
    for step, (t, multiplier) in enumerate(zip(g["adam_t"].tolist(), g["lr_multiplier"].tolist())):
        for name, p in params.items():
            p.grad = g[f"grad.{name}"][step].to(dtype)
        optimizer.step(t, multiplier)
        ema.step()
        for (name, p), average in zip(params.items(), ema.average):
            errors.append(relative(p, g[f"w.f64.{name}"][step]))
            errors.append(relative(average, g[f"ema.f64.{name}"][step]))
    check(f"optimizer in {dtype}, 14 steps, worst relative L2", max(errors), tolerance)


def check_schedule() -> None:
    g, _ = read("keras_schedule")
    d = diffusion(1000)
    ours = {
        "alpha": np.sqrt(d.alphas),
        "beta": np.sqrt(d.betas),
        "bar_alpha": d.sqrt_alphas_cumprod,
        "bar_beta": d.sqrt_one_minus_alphas_cumprod,
        "sigma_beta": d.sigmas["beta"],
        "sigma_ratio": d.sigmas["posterior"],
    }
    check("schedule, max abs", max(max_abs(torch.from_numpy(v), g[k]) for k, v in ours.items()), 1e-12)


def check_norm() -> None:
    g, _ = read("keras_norm")
    errors = []
    for case in ("gn0_C64", "gn1_C96", "gn2_C32", "gn3_C256"):
        x, weight, bias, y = (g[f"{case}.{k}"] for k in ("x", "weight", "bias", "y"))
        errors.append(relative(torch.nn.functional.group_norm(x, 32, weight, bias, eps=1e-6), y))
    check("group norm, worst relative L2", max(errors), 1e-5)
    check("sinusoidal table, max abs", max_abs(sinusoidal_table(1000, 128), g["sinusoidal_1000x128"]), 1e-7)


def check_gau_parts() -> None:
    g, _ = read("keras_gau_parts")
    norm = torch.nn.functional.rms_norm(g["rms.x"], (12,), g["rms.weight"], eps=1e-7)
    check("RMS norm, max abs", max_abs(norm, g["rms.y"]), 1e-6)
    for side in (4, 16):
        sines, cosines = g[f"rope2d_w{side}"].unflatten(-1, (-1, 2)).unbind(-1)
        ours = rotary_positions(side, side, 128)
        # The original computes angles of up to 15 in f32.
        check(f"rotary positions, {side} patches, max abs", max_abs(ours.imag, sines), 2e-6)
        check(f"rotary positions, {side} patches, cosines", max_abs(ours.real, cosines), 2e-6)


def check_sampling() -> None:
    net = load_network("A")
    g, _ = read("keras_ddpm_sample_T20")
    for sigma, keras in (("beta", "beta"), ("posterior", "ratio")):
        x = diffusion(20).sample(net, lambda k: g["noise"][k - 1] if k else g["z_T"], sigma)
        check(f"DDPM T = 20, sigma {sigma}, relative L2", relative(x, g[f"preclip_{keras}"]), 1e-6)
        check(f"DDPM T = 20, sigma {sigma}, clipped, max abs", max_abs(x.clamp(-1, 1), g[f"result_{keras}"]), 2e-5)
    g, _ = read("keras_ddpm_sample_T1000_segments")
    errors = []
    for i, t in enumerate(g["t"].tolist()):
        z_in = g["z_in"][i : i + 1]
        with torch.inference_mode():
            eps_hat = net(z_in.float(), torch.tensor([t]))
        z_out = diffusion(1000).p_step(z_in, t, eps_hat, g["noise"][i : i + 1], "beta", clip_x0=False)
        errors.append(relative(z_out[0], g["z_out"][i]))
    check("DDPM T = 1000, single steps, worst relative L2", max(errors), 1e-6)


def main() -> None:
    for model in ("A", "C", "D", "Dt", "G"):
        check_forward_and_gradients(model)
    for model in ("A", "C", "D", "G"):
        check_trajectory(model, "before")
        check_trajectory(model, "after")
    check_optimizer(torch.float32, 1e-6)
    check_optimizer(torch.float64, 1e-12)
    check_schedule()
    check_norm()
    check_gau_parts()
    check_sampling()
    if failures:
        sys.exit(f"{len(failures)} checks failed")
    print("all checks passed")


if __name__ == "__main__":
    main()
