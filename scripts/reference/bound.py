"""The variational bound of a network on images, in bits per dimension, and its squared errors over t.

The formulas are those of OpenAI's guided-diffusion (gaussian_diffusion.py, losses.py), in f64 except for the network.
The last reverse step has the posterior's variance of t = 1 where variances are fixed.

    python scripts/reference/bound.py --config run.json --weights state_dict.safetensors --images pixels.safetensors \
        --sigma beta --seed 0 --out bound.safetensors

`run.json` is a run's configuration; images are u8 [N, C, H, W] under `pixels`, and image i is number i. With
`--variances FILE` a second network of the same form says where the variances lie (`--sigma learned`). The result holds
f64 [N] `prior`, and f64 [T, N] `clipped` and `unclipped` (terms of the bound), and `squared_error` (summed over an image).
"""

import argparse
import json
import math
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from diffusion import Diffusion
from networks import build
from rng import NOISE, part_key

SMALLEST = 1e-12


def normal_kl(mean1: Tensor, log_variance1: Tensor, mean2: Tensor, log_variance2: Tensor) -> Tensor:
    """KL(N(mean1, ·) ‖ N(mean2, ·)) per value, in nats."""
    ratio = torch.exp(log_variance1 - log_variance2)
    distance = (mean1 - mean2) ** 2 * torch.exp(-log_variance2)
    return 0.5 * (log_variance2 - log_variance1 + ratio + distance - 1)


def bin_log_likelihood(x: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
    """log P of the bin of width 2/255 around x, per value; the outermost bins are open."""

    def cdf(v: Tensor) -> Tensor:
        return 0.5 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (v + 0.044715 * v**3)))

    upper = cdf((x - mean + 1 / 255) * torch.exp(-log_std))
    lower = cdf((x - mean - 1 / 255) * torch.exp(-log_std))
    result = torch.log((upper - lower).clamp(min=SMALLEST))
    result[x < -0.999] = torch.log(upper.clamp(min=SMALLEST))[x < -0.999]
    result[x > 0.999] = torch.log((1 - lower).clamp(min=SMALLEST))[x > 0.999]
    return result


class Bound:
    """The bound of a diffusion process whose network predicts `prediction`; `sigma` is beta, posterior or learned."""

    def __init__(self, diffusion: Diffusion, prediction: str, sigma: str):
        self.diffusion, self.prediction, self.sigma = diffusion, prediction, sigma
        before = np.append(1.0, diffusion.alphas_cumprod[:-1])
        noise = 1 - diffusion.alphas_cumprod
        posterior = diffusion.betas * (1 - before) / noise
        self.log_posterior = np.log(np.append(posterior[1], posterior[1:]))
        self.log_beta = np.log(diffusion.betas)
        self.log_fixed_large = np.log(np.append(posterior[1], diffusion.betas[1:]))
        self.of_x_0 = diffusion.betas * np.sqrt(before) / noise
        self.of_x_t = (1 - before) * np.sqrt(diffusion.alphas) / noise

    def prior(self, x_0: Tensor) -> Tensor:
        """[N]"""
        alpha_bar = self.diffusion.alphas_cumprod[-1]
        zero = torch.zeros((), dtype=torch.float64)
        log_variance = torch.tensor(math.log(1 - alpha_bar), dtype=torch.float64)
        return mean_bits(normal_kl(math.sqrt(alpha_bar) * x_0, log_variance, zero, zero))

    def x_0_hat(self, x_t: Tensor, t: int, out: Tensor) -> Tensor:
        signal, noise = self.diffusion.sqrt_alphas_cumprod[t], self.diffusion.sqrt_one_minus_alphas_cumprod[t]
        if self.prediction == "eps":
            return (x_t - noise * out) / signal
        return out if self.prediction == "x0" else signal * x_t - noise * out

    def target(self, x_0: Tensor, t: int, eps: Tensor) -> Tensor:
        signal, noise = self.diffusion.sqrt_alphas_cumprod[t], self.diffusion.sqrt_one_minus_alphas_cumprod[t]
        return {"eps": eps, "x0": x_0, "v": signal * eps - noise * x_0}[self.prediction]

    def term(self, x_0: Tensor, x_t: Tensor, t: int, out: Tensor, v: Tensor | None, clip: bool) -> Tensor:
        """[N]; v in -1..1 is the place of a learned log-variance between the posterior's and beta's."""
        x_0_hat = self.x_0_hat(x_t, t, out)
        if clip:
            x_0_hat = x_0_hat.clamp(-1, 1)
        mean = self.of_x_0[t] * x_0_hat + self.of_x_t[t] * x_t
        if self.sigma == "learned":
            place = (v + 1) / 2
            log_variance = place * self.log_beta[t] + (1 - place) * self.log_posterior[t]
        else:
            table = self.log_fixed_large if self.sigma == "beta" else self.log_posterior
            log_variance = torch.full_like(mean, table[t])
        if t == 0:
            return -mean_bits(bin_log_likelihood(x_0, mean, log_variance / 2))
        true_mean = self.of_x_0[t] * x_0 + self.of_x_t[t] * x_t
        true_log_variance = torch.full_like(mean, self.log_posterior[t])
        return mean_bits(normal_kl(true_mean, true_log_variance, mean, log_variance))


def mean_bits(nats: Tensor) -> Tensor:
    return nats.flatten(1).mean(1) / math.log(2)


@torch.inference_mode()
def measure(model: torch.nn.Module, variances: torch.nn.Module | None, bound: Bound, pixels: Tensor, seed: int) -> dict:
    """All terms of all images; the noise of image i at t is a function of (seed, t, i)."""
    diffusion = bound.diffusion
    x_0 = pixels.double() / 127.5 - 1
    found = {"prior": bound.prior(x_0), "clipped": [], "unclipped": [], "squared_error": []}
    for t in range(diffusion.timesteps):
        eps = []
        for i in range(len(x_0)):
            torch.manual_seed(part_key(seed, NOISE, t, i))
            eps.append(torch.randn(x_0.shape[1:]))
        eps = torch.stack(eps).double()
        signal, noise = diffusion.sqrt_alphas_cumprod[t], diffusion.sqrt_one_minus_alphas_cumprod[t]
        x_t = (signal * x_0 + noise * eps).float()
        times = torch.full((len(x_0),), t)
        out = model(x_t, times).double()
        v = variances(x_t, times).double() if variances is not None else None
        for clip, name in ((True, "clipped"), (False, "unclipped")):
            found[name].append(bound.term(x_0, x_t.double(), t, out, v, clip))
        found["squared_error"].append(((out - bound.target(x_0, t, eps)) ** 2).flatten(1).sum(1))
    return {name: value if name == "prior" else torch.stack(value) for name, value in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("config", "weights", "images", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--variances", type=Path)
    parser.add_argument("--sigma", choices=("beta", "posterior", "learned"), action="append", required=True)
    parser.add_argument("--prediction", choices=("eps", "x0", "v"), action="append")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    config = json.loads(args.config.read_text())
    diffusion = Diffusion(config["diffusion"])

    def network(path: Path | None) -> torch.nn.Module | None:
        if path is None:
            return None
        model = build(config["model"], diffusion.timesteps).eval()
        model.load_state_dict(load_file(path))
        return model

    pixels = load_file(args.images)["pixels"]
    model, variances = network(args.weights), network(args.variances)
    found = {}
    for prediction in args.prediction or [config["diffusion"]["prediction"]]:
        for sigma in args.sigma:
            bound = Bound(diffusion, prediction, sigma)
            for name, value in measure(model, variances, bound, pixels, args.seed).items():
                found[f"{prediction}.{sigma}.{name}"] = value.contiguous()
    save_file(found, args.out)


if __name__ == "__main__":
    main()
