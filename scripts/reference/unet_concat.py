"""Keras-DDPM's second U-Net (`ddpm2.py`), in plain PyTorch: close to Ho et al.'s, without attention.

Source: <https://github.com/bojone/Keras-DDPM/blob/main/ddpm2.py>. Differences from it: NCHW instead of
NHWC, RGB instead of BGR, and norm groups of neighbouring channels (there, channel `c` is in group
`c % 32`), also after a concatenation: see `cat_groups`. `keras_weights.py` converts weights between the
two.

The order in which parameters are registered is part of the contract: it is the order of `state_dict`
and the order in which `initialise` draws.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rng import INIT, key
from unet import class_embedding, input_channels, norm_parameter_names, sinusoidal_table, with_class

ALMOST_ZERO = 1e-10  # variance scaling of the second convolution of every block


def cat_groups(a: Tensor, b: Tensor, groups: int) -> Tensor:
    """Joins feature maps group by group: group g of the result holds group g of `a`, then group g of `b`.

    The original's plain concatenation does the same to its interleaved groups.
    """
    parts = [x.unflatten(1, (groups, -1)) for x in (a, b)]
    return torch.cat(parts, 2).flatten(1, 2)


class ResidualBlock(nn.Module):
    """Norms before convolutions, time added between them: `shortcut(x) + h`.

    Shapes: x [N, c_in, H, W], time [N, 4 E] -> [N, c_out, H, W].
    """

    def __init__(self, c_in: int, c_out: int, time_width: int, groups: int, norm_eps: float, dropout: float):
        super().__init__()
        self.dropout = dropout
        self.shortcut = nn.Conv2d(c_in, c_out, 1, bias=False) if c_in != c_out else nn.Identity()
        self.norm1 = nn.GroupNorm(groups, c_in, eps=norm_eps)
        self.conv1 = nn.Conv2d(c_in, c_out, 3, padding=1, bias=False)
        self.time_proj = nn.Linear(time_width, c_out, bias=False)
        self.norm2 = nn.GroupNorm(groups, c_out, eps=norm_eps)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, padding=1, bias=False)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        h = F.silu(self.norm2(h + self.time_proj(time)[:, :, None, None]))
        h = F.dropout(h, self.dropout, self.training)
        return self.conv2(h) + self.shortcut(x)


class TimeEmbedding(nn.Module):
    """t [N] i64 -> [N, 4 E]: sines and cosines, then two linear maps with a swish after each."""

    def __init__(self, timesteps: int, width: int):
        super().__init__()
        self.register_buffer("table", sinusoidal_table(timesteps, width), persistent=False)
        self.linear_1 = nn.Linear(width, 4 * width, bias=False)
        self.linear_2 = nn.Linear(4 * width, 4 * width, bias=False)

    def forward(self, t: Tensor) -> Tensor:
        return F.silu(self.linear_2(F.silu(self.linear_1(self.table[t]))))


class ConcatUNet(nn.Module):
    """Predicts the noise in `x_t`.

    `model_config` is the "model" object of a run's JSON; the keys read are those below. `timesteps` is T.

    Shapes: x [N, C, H, W] f32 in about [-1, 1], t [N] i64 in 0..T, classes [N] i64 for networks with classes and only
    for them -> eps_hat [N, C, H, W]. The original has no classes.

    Skips: `conv_in`, every block and every pooling push their output; every block on the way up, one more
    a level than on the way down, takes the last entry beside its input. Every level but the lowest pools.
    """

    def __init__(self, model_config: dict, timesteps: int):
        super().__init__()
        c = model_config
        base, self.groups = c["base_width"], c["norm_groups"]
        widths = [base * m for m in c["multipliers"]]

        def block(c_in: int, c_out: int) -> ResidualBlock:
            return ResidualBlock(c_in, c_out, 4 * base, self.groups, c["norm_eps"], c["dropout"])

        self.time_embedding = TimeEmbedding(timesteps, base)
        self.conv_in = nn.Conv2d(input_channels(c), base, 3, padding=1, bias=False)

        width, skips = base, [base]
        self.down = nn.ModuleList()
        for i, level_width in enumerate(widths):
            level = nn.ModuleList()
            for _ in range(c["blocks"]):
                level.append(block(width, level_width))
                width = level_width
                skips.append(width)
            if i + 1 < len(widths):
                skips.append(width)
            self.down.append(level)

        self.mid = block(width, width)

        self.up = nn.ModuleList()
        for level_width in reversed(widths):
            level = nn.ModuleList()
            for _ in range(c["blocks"] + 1):
                level.append(block(width + skips.pop(), level_width))
                width = level_width
            self.up.append(level)

        self.norm_out = nn.GroupNorm(self.groups, width, eps=c["norm_eps"])
        self.conv_out = nn.Conv2d(width, c["channels"], 3, padding=1, bias=False)
        self.class_embedding = class_embedding(c, 4 * base)

    def forward(self, x: Tensor, t: Tensor, classes: Tensor | None = None) -> Tensor:
        time = with_class(self.time_embedding(t), self.class_embedding, classes)
        x = self.conv_in(x)
        skips = [x]
        last = len(self.down) - 1
        for i, level in enumerate(self.down):
            for block in level:
                x = block(x, time)
                skips.append(x)
            if i < last:
                x = F.avg_pool2d(x, 2)
                skips.append(x)
        x = self.mid(x, time)
        for i, level in enumerate(self.up):
            for block in level:
                x = block(cat_groups(x, skips.pop(), self.groups), time)
            if i < last:
                x = F.interpolate(x, scale_factor=2.0, mode="nearest")
        return self.conv_out(F.silu(self.norm_out(x)))

    @torch.no_grad()
    def initialise(self, seed: int) -> "ConcatUNet":
        """Draws every weight in registration order, after one seeding; returns self.

        Variance scaling, fan_avg, uniform in +-sqrt(3 * scale / fan_avg) with scale 1, and ALMOST_ZERO for
        the second convolution of every block. Class embedding: uniform +-0.05. Norms: weight 1, bias 0, no
        draw. f32 on the CPU.
        """
        torch.manual_seed(key(seed, INIT, 0))
        norms = norm_parameter_names(self)
        for name, p in self.named_parameters():
            if name in norms:
                p.fill_(1.0 if name.endswith("weight") else 0.0)
                continue
            scale = ALMOST_ZERO if name.endswith(".conv2.weight") else 1.0
            taps = p[0, 0].numel()
            fan_avg = taps * (p.shape[0] + p.shape[1]) / 2
            limit = 0.05 if name == "class_embedding.weight" else (3.0 * scale / fan_avg) ** 0.5
            p.copy_(torch.empty(p.shape).uniform_(-limit, limit))
        return self
