"""Noise schedules, the forward process, the loss and the DDPM sampler, in the notation of Ho et al.

Tables over t are f64 numpy arrays; `t` is 0-based: t = 0 is the first, smallest noising step.
Source: Ho et al. 2020 <https://arxiv.org/abs/2006.11239>.
"""

import math
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from rng import SAMPLE, part_key


def make_betas(schedule: str, timesteps: int) -> np.ndarray:
    """beta_t for t in 0..T, f64 [T].

    - "keras-ddpm": 0.02 (t + 1) / T. Keras-DDPM writes it as alpha = sqrt(1 - 0.02 t / T) with t in 1..=T.
    - "linear": 1e-4 to 0.02, scaled by 1000 / T (Ho et al. for T = 1000; improved-diffusion for other T), at most 0.999.
    - "cosine": Nichol & Dhariwal 2021, eq. 17 <https://arxiv.org/abs/2102.09672>, betas at most 0.999.
    - "sigmoid": Jabri et al. 2022 <https://arxiv.org/abs/2212.11972>, start -3, end 3, tau 1, as in
      lucidrains' denoising-diffusion-pytorch, but in f64 throughout (there two constants are f32).
    """
    if schedule == "keras-ddpm":
        betas = 0.02 * np.arange(1, timesteps + 1) / timesteps
    elif schedule == "linear":
        scale = 1000 / timesteps
        betas = np.linspace(scale * 1e-4, min(scale * 0.02, 0.999), timesteps)
    elif schedule == "cosine":
        s = np.arange(timesteps + 1) / timesteps
        alpha_bar = np.cos((s + 0.008) / 1.008 * math.pi / 2) ** 2
        betas = np.minimum(1 - alpha_bar[1:] / alpha_bar[:-1], 0.999)
    elif schedule == "sigmoid":
        start, end, tau = -3.0, 3.0, 1.0

        def sigmoid(v):
            return 1 / (1 + np.exp(-v / tau))

        s = np.arange(timesteps + 1) / timesteps
        alpha_bar = (sigmoid(end) - sigmoid(start + s * (end - start))) / (sigmoid(end) - sigmoid(start))
        betas = np.clip(1 - alpha_bar[1:] / alpha_bar[:-1], 0, 0.999)
    else:
        raise ValueError(f"schedule is {schedule!r}, want 'keras-ddpm', 'linear', 'cosine' or 'sigmoid'")
    return betas


class Diffusion:
    """The tables of one schedule, and the process they define.

    `config` is the "diffusion" object of a run's JSON: timesteps, schedule, loss.
    """

    def __init__(self, config: dict):
        self.timesteps = config["timesteps"]
        self.loss_kind = config["loss"]
        self.betas = make_betas(config["schedule"], self.timesteps)
        self.alphas = 1 - self.betas
        self.alphas_cumprod = np.cumprod(self.alphas)
        self.sqrt_alphas_cumprod = np.sqrt(self.alphas_cumprod)
        self.sqrt_one_minus_alphas_cumprod = np.sqrt(1 - self.alphas_cumprod)
        # x_t's std at t - 1, with alpha_bar = 1 before the first step.
        std_prev = np.sqrt(1 - np.append(1.0, self.alphas_cumprod[:-1]))
        self.sigmas = {
            "beta": np.sqrt(self.betas),
            "posterior": np.sqrt(self.betas) * std_prev / self.sqrt_one_minus_alphas_cumprod,
        }
        self._signal = torch.from_numpy(self.sqrt_alphas_cumprod).float()
        self._noise = torch.from_numpy(self.sqrt_one_minus_alphas_cumprod).float()

    def to(self, device: torch.device) -> "Diffusion":
        """Moves the f32 tables that `q_sample` gathers from; returns self."""
        self._signal, self._noise = self._signal.to(device), self._noise.to(device)
        return self

    def q_sample(self, x_0: Tensor, t: Tensor, eps: Tensor) -> Tensor:
        """x_t ~ q(x_t | x_0), Ho et al. eq. 4. x_0, eps [N, C, H, W] f32, t [N] i64."""
        return self._signal[t][:, None, None, None] * x_0 + self._noise[t][:, None, None, None] * eps

    def loss(self, eps_hat: Tensor, eps: Tensor) -> Tensor:
        """The loss, in f32 even if the network ran in bfloat16.

        "sum": squared error summed over each image, mean over the batch. "mse": mean over all elements.
        """
        eps_hat = eps_hat.float()
        if self.loss_kind == "sum":
            return F.mse_loss(eps_hat, eps, reduction="sum") / len(eps)
        if self.loss_kind == "mse":
            return F.mse_loss(eps_hat, eps)
        raise ValueError(f"loss is {self.loss_kind!r}, want 'sum' or 'mse'")

    def p_step(self, x_t: Tensor, t: int, eps_hat: Tensor, z: Tensor, sigma: str, clip_x0: bool) -> Tensor:
        """x_{t-1} from x_t, Ho et al. algorithm 2, except that noise is added at t = 0 too (as Keras-DDPM does).

        `clip_x0` clips the image implied by eps_hat to [-1, 1] and recomputes eps_hat from it.
        All tensors [N, C, H, W]; `z` is standard normal; `sigma` is a key of `self.sigmas`.
        """
        signal, noise = self.sqrt_alphas_cumprod[t], self.sqrt_one_minus_alphas_cumprod[t]
        if clip_x0:
            x_0_hat = ((x_t - noise * eps_hat) / signal).clamp(-1, 1)
            eps_hat = (x_t - signal * x_0_hat) / noise
        mean = (x_t - self.betas[t] / noise * eps_hat) / math.sqrt(self.alphas[t])
        return mean + self.sigmas[sigma][t] * z

    @torch.inference_mode()
    def sample(
        self, model: torch.nn.Module, draw: Callable[[int], Tensor], sigma: str = "beta", clip_x0: bool = False
    ) -> Tensor:
        """Runs the whole chain; returns x_0 *before* the final clip to [-1, 1], [N, C, H, W].

        `draw(k)` is the noise [N, C, H, W]: k = 0 for x_T, k = 1..=T for the k-th reverse step.
        """
        x = draw(0)
        for k, t in enumerate(reversed(range(self.timesteps)), start=1):
            eps_hat = model(x, torch.full((len(x),), t, device=x.device))
            x = self.p_step(x, t, eps_hat, draw(k), sigma, clip_x0)
        return x


def image_noise(
    seed: int, images: list[int], shape: tuple[int, int, int], device: torch.device | None = None
) -> Callable[[int], Tensor]:
    """The `draw` of `Diffusion.sample` for these image indices, on `device` (default: the CPU); shape is (C, H, W).

    Image i has its own key, so it does not depend on which others are sampled with it.
    """

    def one(i: int, k: int) -> Tensor:
        torch.manual_seed(part_key(seed, SAMPLE, i, k))
        return torch.randn(shape, device=device)

    return lambda k: torch.stack([one(i, k) for i in images])
