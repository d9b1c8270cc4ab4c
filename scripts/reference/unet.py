"""The simplified U-Net of Keras-DDPM (`ddpm.py`), in plain PyTorch.

Source: <https://github.com/bojone/Keras-DDPM/blob/main/ddpm.py>. Differences from it: NCHW instead of
NHWC, RGB instead of BGR, and norm groups of neighbouring channels (there, channel `c` is in group
`c % 32`). `keras_weights.py` converts weights between the two.

The order in which parameters are registered is part of the contract: it is the order of `state_dict`
and the order in which `initialise` draws.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rng import INIT, key


class ResidualBlock(nn.Module):
    """Two convolutions with time added before the first, then the norm: `norm(h + shortcut(x))`.

    Post-norm: the norm comes last, over the sum. Time is projected to the *input* width.

    Shapes: x [N, c_in, H, W], time [N, E] -> [N, c_out, H, W].
    """

    def __init__(self, c_in: int, c_out: int, time_width: int, groups: int, norm_eps: float, dropout: float):
        super().__init__()
        self.dropout = dropout
        self.shortcut = nn.Conv2d(c_in, c_out, 1, bias=False) if c_in != c_out else nn.Identity()
        self.time_proj = nn.Linear(time_width, c_in, bias=False)
        self.conv1 = nn.Conv2d(c_in, c_out, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, padding=1, bias=False)
        self.norm = nn.GroupNorm(groups, c_out, eps=norm_eps)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        h = x + self.time_proj(time)[:, :, None, None]
        h = F.silu(self.conv1(h))
        h = F.dropout(h, self.dropout, self.training)
        h = F.silu(self.conv2(h))
        return self.norm(h + self.shortcut(x))


class UNet(nn.Module):
    """Predicts the noise in `x_t`.

    `model_config` is the "model" object of a run's JSON; the keys read are those below. `timesteps` is T.

    Shapes: x [N, C, H, W] f32 in about [-1, 1], t [N] i64 in 0..T, classes [N] i64 for networks with classes and only
    for them -> eps_hat [N, C, H, W]. The original has no classes.

    Skips: `conv_in`, every block and every pooling push their output; after the middle block the last
    entry is dropped, so that on the way up each block's output is added to the entry *before* its twin.
    """

    def __init__(self, model_config: dict, timesteps: int):
        super().__init__()
        c = model_config
        base = c["base_width"]
        self.widths = [base * m for m in c["multipliers"]]
        self.pools = pooled_levels(c["height"], c["width"], len(self.widths), c["min_pixel"])

        def groups(width: int) -> int:
            return {"group": c["norm_groups"], "layer": 1, "instance": width}[c["norm"]]

        def block(c_in: int, c_out: int) -> ResidualBlock:
            return ResidualBlock(c_in, c_out, base, groups(c_out), c["norm_eps"], c["dropout"])

        if c["time_embedding"] == "trainable":
            self.time_embedding = nn.Embedding(timesteps, base)
        elif c["time_embedding"] == "sinusoidal":
            self.register_buffer("time_table", sinusoidal_table(timesteps, base), persistent=False)
        else:
            raise ValueError(f"time_embedding is {c['time_embedding']!r}, want 'trainable' or 'sinusoidal'")
        self.conv_in = nn.Conv2d(input_channels(c), base, 3, padding=1, bias=False)

        width, skips = base, [base]
        self.down = nn.ModuleList()
        for level_width, pools in zip(self.widths, self.pools):
            level = nn.ModuleList()
            for _ in range(c["blocks"]):
                level.append(block(width, level_width))
                width = level_width
                skips.append(width)
            if pools:
                skips.append(width)
            self.down.append(level)

        self.mid = block(width, self.widths[-1])
        width = self.widths[-1]
        skips.pop()

        self.up = nn.ModuleList()
        for pools in reversed(self.pools):
            if pools:
                skips.pop()
            level = nn.ModuleList()
            for _ in range(c["blocks"]):
                skip_width = skips.pop()
                level.append(block(width, skip_width))
                width = skip_width
            self.up.append(level)

        self.norm_out = nn.GroupNorm(groups(width), width, eps=c["norm_eps"])
        self.conv_out = nn.Conv2d(width, c["channels"], 3, padding=1, bias=False)
        self.class_embedding = class_embedding(c, base)

    def forward(self, x: Tensor, t: Tensor, classes: Tensor | None = None) -> Tensor:
        time = self.time_embedding(t) if hasattr(self, "time_embedding") else self.time_table[t]
        time = with_class(time, self.class_embedding, classes)
        x = self.conv_in(x)
        skips = [x]
        for level, pools in zip(self.down, self.pools):
            for block in level:
                x = block(x, time)
                skips.append(x)
            if pools:
                x = F.avg_pool2d(x, 2)
                skips.append(x)
        x = self.mid(x, time)
        skips.pop()
        for level, pools in zip(self.up, reversed(self.pools)):
            if pools:
                x = F.interpolate(x, scale_factor=2.0, mode="nearest") + skips.pop()
            for block in level:
                x = block(x, time) + skips.pop()
        return self.conv_out(self.norm_out(x))

    @torch.no_grad()
    def initialise(self, seed: int) -> "UNet":
        """Draws every weight in registration order, after one seeding; returns self.

        Variance scaling, fan_avg, uniform in +-sqrt(3 * scale / fan_avg) with scale 1, and
        1 / sqrt(2 * levels + 1) for the two 3x3 convolutions of every block. Embeddings: uniform +-0.05.
        Norms: weight 1, bias 0, no draw. f32 on the CPU.
        """
        torch.manual_seed(key(seed, INIT, 0))
        norms = norm_parameter_names(self)
        for name, p in self.named_parameters():
            if name in norms:
                p.fill_(1.0 if name.endswith("weight") else 0.0)
                continue
            if name.endswith("_embedding.weight"):
                limit = 0.05
            else:
                scale = (2 * len(self.widths) + 1) ** -0.5 if ".conv" in name else 1.0
                taps = p[0, 0].numel()
                fan_avg = taps * (p.shape[0] + p.shape[1]) / 2
                limit = (3.0 * scale / fan_avg) ** 0.5
            p.copy_(torch.empty(p.shape).uniform_(-limit, limit))
        return self


def input_channels(model_config: dict) -> int:
    """Channels of x_t, and behind them those of the image that a network of super-resolution is given beside it."""
    return model_config["channels"] + (model_config.get("condition_channels") or 0)


def class_embedding(model_config: dict, width: int) -> nn.Embedding | None:
    """A row for each class, and one more with `null_class`, which means that there is none; without classes, None."""
    classes = model_config.get("classes")
    return nn.Embedding(classes + model_config.get("null_class", False), width) if classes else None


def with_class(time: Tensor, embedding: nn.Embedding | None, classes: Tensor | None) -> Tensor:
    """The embedding of t plus that of the class, [N, E]."""
    if (embedding is None) != (classes is None):
        raise ValueError("classes are for networks that have them, and only for them")
    return time if embedding is None else time + embedding(classes)


def norm_parameter_names(model: nn.Module) -> set[str]:
    """Names of the weights and biases of every norm layer."""
    return {
        f"{module_name}.{name}"
        for module_name, module in model.named_modules()
        if isinstance(module, nn.GroupNorm)
        for name, _ in module.named_parameters()
    }


def pooled_levels(height: int, width: int, levels: int, min_pixel: int) -> list[bool]:
    """For each level, whether 2x2 average pooling follows it: while min(H, W) > min_pixel.

    Once a level does not pool, no later one does.
    """
    pools = []
    for _ in range(levels):
        pools.append(min(height, width) > min_pixel)
        if pools[-1]:
            if height % 2 or width % 2:
                raise ValueError(f"a level of {height} x {width} pixels cannot be halved; make both sides even")
            height, width = height // 2, width // 2
    return pools


def sinusoidal_table(timesteps: int, width: int) -> Tensor:
    """[T, width] f32; columns alternate sin and cos: table[t, 2i] = sin(t / 10000^(2i / width)).

    The frequency is rounded to f32, and the angle is an f32 product: as in bert4keras, which `ddpm2.py`
    uses, and within 6e-8 of it (an f64 angle is off by 6e-5). Ho et al. instead put all sines first and
    divide the exponent by width / 2 - 1.
    """
    i = torch.arange(width // 2, dtype=torch.float64)
    frequency = (10000.0 ** (-2 * i / width)).float()
    angle = torch.arange(timesteps, dtype=torch.float32)[:, None] * frequency
    return torch.stack([angle.sin(), angle.cos()], dim=-1).reshape(timesteps, width)
