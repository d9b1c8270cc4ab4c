"""Keras-DDPM's network without convolutions (`ddpm-gau.py`), in plain PyTorch: Gated Attention Units over patches.

Source: <https://github.com/bojone/Keras-DDPM/blob/main/ddpm-gau.py>; the unit: Hua et al. 2022
<https://arxiv.org/abs/2202.10447>. Differences from the original: NCHW instead of NHWC, RGB instead of BGR,
and the values of a patch ordered by colour, row, column instead of row, column, colour. `keras_weights.py`
converts weights between the two.

The order in which parameters are registered is part of the contract: it is the order of `state_dict`
and the order in which `initialise` draws.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rng import INIT, key
from unet import class_embedding, input_channels, with_class

BASE = 1000.0  # of the rotary positions; text models have 10000


def rotary_positions(rows: int, columns: int, key_width: int) -> Tensor:
    """[rows * columns, key_width / 2] complex: e^(i angle) for each pair of channels.

    The first half of the pairs turns with the row, the second with the column, pair k of P by
    position / BASE^(k / P).
    """
    pairs = key_width // 4
    frequency = BASE ** (-torch.arange(pairs, dtype=torch.float64) / pairs)
    by_row = torch.arange(rows)[:, None, None] * frequency
    by_column = torch.arange(columns)[None, :, None] * frequency
    angle = torch.cat(torch.broadcast_tensors(by_row, by_column), -1).flatten(0, 1)
    return torch.polar(torch.ones_like(angle), angle).to(torch.complex64)


def rotate(x: Tensor, positions: Tensor) -> Tensor:
    """[N, patches, key_width]: channels 2k and 2k + 1 are the real and imaginary part of pair k."""
    pairs = torch.view_as_complex(x.unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * positions).flatten(-2)


class Affine(nn.Module):
    """A scale and a shift for each channel."""

    def __init__(self, width: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight + self.bias


class GatedAttentionUnit(nn.Module):
    """Pre-norm, with a residual around it; one head whose queries and keys share one projection.

    Shapes: x [N, patches, width] -> the same.
    """

    def __init__(self, width: int, units: int, key_width: int, norm_eps: float, dropout: float):
        super().__init__()
        self.sizes, self.dropout = [units, units, key_width], dropout
        self.norm = nn.RMSNorm(width, eps=norm_eps)
        self.in_proj = nn.Linear(width, 2 * units + key_width)
        self.q_affine, self.k_affine = Affine(key_width), Affine(key_width)
        self.out_proj = nn.Linear(units, width)

    def forward(self, x: Tensor, positions: Tensor) -> Tensor:
        u, v, z = F.silu(self.in_proj(self.norm(x))).split(self.sizes, -1)
        q, k = rotate(self.q_affine(z), positions), rotate(self.k_affine(z), positions)
        attention = (q @ k.mT / self.sizes[2] ** 0.5).softmax(-1)
        return x + F.dropout(self.out_proj(u * (attention @ v)), self.dropout, self.training)


class Gau(nn.Module):
    """Predicts the noise in `x_t`.

    `model_config` is the "model" object of a run's JSON; the keys read are those below. `timesteps` is T.

    Shapes: x [N, C, H, W] f32 in about [-1, 1], t [N] i64 in 0..T, classes [N] i64 for networks with classes and only
    for them -> eps_hat [N, C, H, W]. The original has no classes.
    """

    def __init__(self, model_config: dict, timesteps: int):
        super().__init__()
        c = model_config
        width, self.patch, self.key_width = c["base_width"], c["patch"], c["key_width"]
        values = c["channels"] * self.patch**2
        self.patch_in = nn.Linear(input_channels(c) * self.patch**2, width, bias=False)
        self.time_embedding = nn.Embedding(timesteps, width)
        self.layers = nn.ModuleList(
            GatedAttentionUnit(width, c["units"], self.key_width, c["norm_eps"], c["dropout"]) for _ in range(c["layers"])
        )
        self.norm_out = nn.RMSNorm(width, eps=c["norm_eps"])
        self.patch_out = nn.Linear(width, values, bias=False)
        self.class_embedding = class_embedding(c, width)

    def forward(self, x: Tensor, t: Tensor, classes: Tensor | None = None) -> Tensor:
        patches = F.pixel_unshuffle(x, self.patch)
        positions = rotary_positions(*patches.shape[2:], self.key_width).to(x.device)
        time = with_class(self.time_embedding(t), self.class_embedding, classes)
        h = self.patch_in(patches.flatten(2).mT) + time[:, None]
        for layer in self.layers:
            h = layer(h, positions)
        out = self.patch_out(self.norm_out(h)).mT
        return F.pixel_shuffle(out.reshape(*out.shape[:2], *patches.shape[2:]), self.patch)

    @torch.no_grad()
    def initialise(self, seed: int) -> "Gau":
        """Draws every weight in registration order, after one seeding; returns self.

        Variance scaling, fan_avg, uniform in +-sqrt(3 / fan_avg). Embeddings: uniform +-0.05. Norms and
        affine maps: weight 1, and all biases 0, no draw. f32 on the CPU.
        """
        torch.manual_seed(key(seed, INIT, 0))
        for name, p in self.named_parameters():
            if p.dim() == 1:
                p.fill_(1.0 if name.endswith("weight") else 0.0)
                continue
            limit = 0.05 if name.endswith("_embedding.weight") else (6.0 / (p.shape[0] + p.shape[1])) ** 0.5
            p.copy_(torch.empty(p.shape).uniform_(-limit, limit))
        return self
