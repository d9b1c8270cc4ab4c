"""LAMB as Keras-DDPM uses it, the learning-rate multiplier and the weight average (EMA)."""

import math

import torch
from torch import Tensor


def l2_norms(tensors: list[Tensor]) -> Tensor:
    """L2 norm of each tensor, [n] f32.

    On a CPU in rows of 1024: torch's kernel adds the squares of a whole tensor in a few f32 sums, which come out 0.004 %
    too small for 2.4 million values.
    """
    if not all(t.is_cpu for t in tensors):
        return torch.stack(torch._foreach_norm(tensors))
    return torch.stack([l2_norm_in_rows(t.reshape(-1)) for t in tensors])


def l2_norm_in_rows(flat: Tensor, width: int = 1024) -> Tensor:
    whole = len(flat) // width * width
    rows = torch.linalg.vector_norm(flat[:whole].view(-1, width), dim=1)
    return torch.linalg.vector_norm(torch.cat([rows, flat[whole:]]))


class Lamb:
    """LAMB: Adam with each tensor's step scaled to the norm of the tensor.

    `t` (Adam's step count, from 1) and the learning-rate multiplier are arguments of `step`, so that any
    schedule can be replayed. The multiplier scales the step after layer adaptation, and Adam's eps is
    added to sqrt(v) before bias correction ("epsilon-hat").

    `params` maps names to tensors; those in `not_adapted` take plain Adam steps. Weight decay (none in
    Keras-DDPM) is added to the step before adaptation.

    Source: bert4keras 0.11.5, `extend_with_layer_adaptation` over `keras.optimizers.Adam`; the idea is
    You et al. 2019 <https://arxiv.org/abs/1904.00962>.
    """

    def __init__(
        self,
        params: dict[str, Tensor],
        lr: float,
        beta1: float,
        beta2: float,
        eps: float,
        weight_decay: float,
        not_adapted: set[str],
    ):
        self.params = list(params.values())
        self.adapted = [i for i, name in enumerate(params) if name not in not_adapted]
        self.lr, self.beta1, self.beta2, self.eps, self.weight_decay = lr, beta1, beta2, eps, weight_decay
        self.m = [torch.zeros_like(p) for p in self.params]
        self.v = [torch.zeros_like(p) for p in self.params]

    @torch.no_grad()
    def step(self, t: int, multiplier: float) -> None:
        grads = [p.grad for p in self.params]
        torch._foreach_lerp_(self.m, grads, 1 - self.beta1)
        torch._foreach_mul_(self.v, self.beta2)
        torch._foreach_addcmul_(self.v, grads, grads, 1 - self.beta2)

        # update = Adam's step divided by -lr
        denominator = torch._foreach_sqrt(self.v)
        torch._foreach_add_(denominator, self.eps)
        update = torch._foreach_div(self.m, denominator)
        torch._foreach_mul_(update, math.sqrt(1 - self.beta2**t) / (1 - self.beta1**t))
        if self.weight_decay:
            torch._foreach_add_(update, self.params, alpha=self.weight_decay)

        if self.adapted:
            adapted = [update[i] for i in self.adapted]
            weight_norm = l2_norms([self.params[i] for i in self.adapted])
            update_norm = l2_norms(adapted)
            ratio = torch.where((weight_norm > 0) & (update_norm > 0), weight_norm / update_norm, 1.0)
            torch._foreach_mul_(adapted, list(ratio.unbind()))
        torch._foreach_add_(self.params, update, alpha=-self.lr * multiplier)


def lr_multiplier(points: list[list[float]], step: int) -> float:
    """Piecewise linear through `points` [[step, value], ...], constant before the first and after the last."""
    if step <= points[0][0]:
        return points[0][1]
    for (s0, v0), (s1, v1) in zip(points, points[1:]):
        if step < s1:
            return v0 + (v1 - v0) * (step - s0) / (s1 - s0)
    return points[-1][1]


class Ema:
    """Exponential average of the weights, started at zero: ema = momentum * ema + (1 - momentum) * w."""

    def __init__(self, params: list[Tensor], momentum: float):
        self.params, self.momentum = params, momentum
        self.average = [torch.zeros_like(p) for p in params]
        self.steps = 0

    @torch.no_grad()
    def step(self) -> None:
        """Adds the current weights; call it after the optimizer."""
        torch._foreach_lerp_(self.average, self.params, 1 - self.momentum)
        self.steps += 1

    def corrected(self) -> list[Tensor]:
        """The average with the zero start divided out: ema / (1 - momentum^steps)."""
        return torch._foreach_div(self.average, 1 - self.momentum**self.steps)
