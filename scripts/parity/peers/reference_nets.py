"""The U-Nets of four programs, in plain PyTorch and with their own parameter names.

`ddpm` reads their files by renaming the tensors into one network. Here each program has a network of its
own, built from its description, to compare with: a mistake in a renaming would have to be made
twice to go unseen. `make_peers.py --against` compares these networks with outputs of the programs' own code.

    PesserNet   pesser/pytorch_diffusion
    W86Net      w86763777/pytorch-ddpm
    OpenAiNet   openai/improved-diffusion and openai/guided-diffusion

Tensors are [N, C, H, W]; t is i64 [N]. All are in evaluation mode: there is no dropout.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

GROUPS = 32  # of every group norm


def conv(inputs: int, outputs: int, size: int = 3, stride: int = 1, padding: int | None = None) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, size, stride, size // 2 if padding is None else padding)


def angles(t: Tensor, half: int, divisor: float) -> Tensor:
    """t times the frequencies 10000^(-k / divisor): [N, half]."""
    k = torch.arange(half, dtype=torch.float32)
    return t.float()[:, None] * torch.exp(-math.log(10000.0) * k / divisor)


def residual(x, temb, norm1, conv1, emb, norm2, conv2, shortcut, scale_shift=False, resample=None) -> Tensor:
    """The residual block that all share; `resample` changes both the branch and the shortcut."""
    h = F.silu(norm1(x))
    if resample:
        h, x = resample(h), resample(x)
    h = conv1(h)
    e = emb(F.silu(temb))[:, :, None, None]
    if scale_shift:
        scale, shift = e.chunk(2, dim=1)
        h = norm2(h) * (1 + scale) + shift
    else:
        h = norm2(h + e)
    return shortcut(x) + conv2(F.silu(h))


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Softmax attention over positions; q, k, v and the result are [N, heads, channels, positions]."""
    scores = torch.einsum("nhcq,nhck->nhqk", q, k) / math.sqrt(q.shape[2])
    return torch.einsum("nhqk,nhck->nhcq", scores.softmax(dim=-1), v)


def one_head(x: Tensor, norm, q, k, v, out) -> Tensor:
    """Attention with one head whose four projections are 1x1 convolutions."""
    h = norm(x)
    flat = [project(h).flatten(2)[:, None] for project in (q, k, v)]
    return x + out(attend(*flat).reshape(x.shape))


def double(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2.0, mode="nearest")


def bag(**modules: nn.Module) -> nn.Module:
    """A module that only groups its submodules under a name."""
    holder = nn.Module()
    for name, module in modules.items():
        holder.add_module(name, module)
    return holder


class PesserBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int, time_dim: int):
        super().__init__()
        self.norm1 = nn.GroupNorm(GROUPS, inputs, eps=1e-6)
        self.conv1 = conv(inputs, outputs)
        self.temb_proj = nn.Linear(time_dim, outputs)
        self.norm2 = nn.GroupNorm(GROUPS, outputs, eps=1e-6)
        self.conv2 = conv(outputs, outputs)
        if inputs != outputs:
            self.nin_shortcut = conv(inputs, outputs, 1)

    def forward(self, x: Tensor, temb: Tensor) -> Tensor:
        shortcut = getattr(self, "nin_shortcut", nn.Identity())
        return residual(x, temb, self.norm1, self.conv1, self.temb_proj, self.norm2, self.conv2, shortcut)


class PesserAttention(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.norm = nn.GroupNorm(GROUPS, width, eps=1e-6)
        self.q, self.k, self.v, self.proj_out = (conv(width, width, 1) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        return one_head(x, self.norm, self.q, self.k, self.v, self.proj_out)


class PesserNet(nn.Module):
    def __init__(self, ch: int, mults: Sequence[int], blocks: int, attention: Sequence[int], in_ch=3, out_ch=3):
        """`attention`: the levels that have it."""
        super().__init__()
        self.ch, self.blocks, time_dim = ch, blocks, 4 * ch
        widths = [ch * m for m in mults]
        self.temb = bag(dense=nn.ModuleList([nn.Linear(ch, time_dim), nn.Linear(time_dim, time_dim)]))
        self.conv_in = conv(in_ch, ch)

        def level(inputs: list[int], width: int, attends: bool) -> nn.Module:
            attentions = [PesserAttention(width) for _ in inputs if attends]
            return bag(
                block=nn.ModuleList(PesserBlock(i, width, time_dim) for i in inputs), attn=nn.ModuleList(attentions)
            )

        self.down, skips, width = nn.ModuleList(), [ch], ch
        for i, w in enumerate(widths):
            self.down.append(level([width] + [w] * (blocks - 1), w, i in attention))
            skips += [w] * blocks
            if i < len(widths) - 1:
                self.down[i].add_module("downsample", bag(conv=conv(w, w, stride=2, padding=0)))
                skips.append(w)
            width = w
        self.mid = bag(
            block_1=PesserBlock(width, width, time_dim),
            attn_1=PesserAttention(width),
            block_2=PesserBlock(width, width, time_dim),
        )
        ups = []
        for i, w in reversed(list(enumerate(widths))):
            inputs = [(width if r == 0 else w) + skips.pop() for r in range(blocks + 1)]
            ups.append(level(inputs, w, i in attention))
            if i > 0:
                ups[-1].add_module("upsample", bag(conv=conv(w, w)))
            width = w
        self.up = nn.ModuleList(reversed(ups))
        self.norm_out = nn.GroupNorm(GROUPS, width, eps=1e-6)
        self.conv_out = conv(width, out_ch)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        half = self.ch // 2
        a = angles(t, half, half - 1)
        temb = self.temb.dense[0](torch.cat([a.sin(), a.cos()], dim=1))
        temb = self.temb.dense[1](F.silu(temb))

        def run(level: nn.Module, r: int, x: Tensor) -> Tensor:
            x = level.block[r](x, temb)
            return level.attn[r](x) if len(level.attn) else x

        x = self.conv_in(x)
        skips = [x]
        for level in self.down:
            for r in range(self.blocks):
                x = run(level, r, x)
                skips.append(x)
            if hasattr(level, "downsample"):
                x = level.downsample.conv(F.pad(x, (0, 1, 0, 1)))  # one column right, one row below
                skips.append(x)
        x = self.mid.block_2(self.mid.attn_1(self.mid.block_1(x, temb)), temb)
        for level in reversed(self.up):
            for r in range(self.blocks + 1):
                x = run(level, r, torch.cat([x, skips.pop()], dim=1))
            if hasattr(level, "upsample"):
                x = level.upsample.conv(double(x))
        return self.conv_out(F.silu(self.norm_out(x)))


class W86Attention(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.group_norm = nn.GroupNorm(GROUPS, width)
        self.proj_q, self.proj_k, self.proj_v, self.proj = (conv(width, width, 1) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        return one_head(x, self.group_norm, self.proj_q, self.proj_k, self.proj_v, self.proj)


class W86Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, time_dim: int, attends: bool):
        super().__init__()
        self.block1 = nn.Sequential(nn.GroupNorm(GROUPS, inputs), nn.SiLU(), conv(inputs, outputs))
        self.temb_proj = nn.Sequential(nn.SiLU(), nn.Linear(time_dim, outputs))
        norm = nn.GroupNorm(GROUPS, outputs)
        self.block2 = nn.Sequential(norm, nn.SiLU(), nn.Identity(), conv(outputs, outputs))
        self.shortcut = conv(inputs, outputs, 1) if inputs != outputs else nn.Identity()
        self.attn = W86Attention(outputs) if attends else nn.Identity()

    def forward(self, x: Tensor, temb: Tensor) -> Tensor:
        h = residual(
            x, temb, self.block1[0], self.block1[2], self.temb_proj[1], self.block2[0], self.block2[3], self.shortcut
        )
        return self.attn(h)


class W86Net(nn.Module):
    def __init__(self, ch: int, mults: Sequence[int], blocks: int, attention: Sequence[int], timesteps: int):
        super().__init__()
        time_dim, widths, last = 4 * ch, [ch * m for m in mults], len(mults) - 1
        table = nn.Embedding(timesteps, ch)
        a = angles(torch.arange(timesteps), ch // 2, ch // 2)
        table.weight = nn.Parameter(torch.stack([a.sin(), a.cos()], dim=2).flatten(1), requires_grad=False)
        mlp = [table, nn.Linear(ch, time_dim), nn.SiLU(), nn.Linear(time_dim, time_dim)]
        self.time_embedding = bag(timembedding=nn.Sequential(*mlp))
        self.head = conv(3, ch)
        self.downblocks, skips, width = nn.ModuleList(), [ch], ch
        for i, w in enumerate(widths):
            for _ in range(blocks):
                self.downblocks.append(W86Block(width, w, time_dim, i in attention))
                width = w
                skips.append(w)
            if i < last:
                self.downblocks.append(bag(main=conv(w, w, stride=2)))
                skips.append(w)
        middle = [W86Block(width, width, time_dim, attends) for attends in (True, False)]
        self.middleblocks, self.upblocks = nn.ModuleList(middle), nn.ModuleList()
        for i, w in reversed(list(enumerate(widths))):
            for _ in range(blocks + 1):
                self.upblocks.append(W86Block(width + skips.pop(), w, time_dim, i in attention))
                width = w
            if i > 0:
                self.upblocks.append(bag(main=conv(w, w)))
        self.tail = nn.Sequential(nn.GroupNorm(GROUPS, width), nn.SiLU(), conv(width, 3))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        temb = self.time_embedding.timembedding(t)
        x = self.head(x)
        skips = [x]
        for block in self.downblocks:
            x = block(x, temb) if isinstance(block, W86Block) else block.main(x)
            skips.append(x)
        for block in self.middleblocks:
            x = block(x, temb)
        for block in self.upblocks:
            if isinstance(block, W86Block):
                x = block(torch.cat([x, skips.pop()], dim=1), temb)
            else:
                x = block.main(double(x))
        return self.tail(x)


class OpenAiBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int, time_dim: int, scale_shift: bool, resample=None):
        super().__init__()
        self.scale_shift, self.resample = scale_shift, resample
        self.in_layers = nn.Sequential(nn.GroupNorm(GROUPS, inputs), nn.SiLU(), conv(inputs, outputs))
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(time_dim, outputs * (2 if scale_shift else 1)))
        norm = nn.GroupNorm(GROUPS, outputs)
        self.out_layers = nn.Sequential(norm, nn.SiLU(), nn.Identity(), conv(outputs, outputs))
        self.skip_connection = conv(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, x: Tensor, temb: Tensor) -> Tensor:
        into, out = self.in_layers, self.out_layers
        parts = (into[0], into[2], self.emb_layers[1], out[0], out[3], self.skip_connection)
        return residual(x, temb, *parts, self.scale_shift, self.resample)


class OpenAiAttention(nn.Module):
    def __init__(self, width: int, heads: int, legacy: bool):
        super().__init__()
        self.heads, self.legacy = heads, legacy
        self.norm = nn.GroupNorm(GROUPS, width)
        self.qkv, self.proj_out = nn.Conv1d(width, 3 * width, 1), nn.Conv1d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        qkv = self.qkv(self.norm(x).flatten(2))
        if self.legacy:  # rows are head, then which of the three, then channel
            q, k, v = qkv.reshape(n, self.heads, 3, c // self.heads, h * w).unbind(2)
        else:
            q, k, v = qkv.reshape(n, 3, self.heads, c // self.heads, h * w).unbind(1)
        return x + self.proj_out(attend(q, k, v).reshape(n, c, h * w)).reshape(x.shape)


class OpenAiDown(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.op = conv(width, width, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.op(x)


class OpenAiUp(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.conv = conv(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(double(x))


def halve(x: Tensor) -> Tensor:
    return F.avg_pool2d(x, 2)


class OpenAiNet(nn.Module):
    """Improved diffusion with `heads`; guided diffusion with `head_channels`, `updown` and its attention order."""

    def __init__(
        self,
        ch: int,
        mults: Sequence[int],
        blocks: int,
        attention: Sequence[int],
        *,
        out_ch: int = 6,
        heads: int = 4,
        heads_upsample: int | None = None,
        head_channels: int | None = None,
        legacy: bool = True,
        scale_shift: bool = True,
        updown: bool = False,
        classes: int | None = None,
    ):
        super().__init__()
        self.ch, time_dim, widths, last = ch, 4 * ch, [ch * m for m in mults], len(mults) - 1

        def block(inputs: int, outputs: int, resample=None) -> nn.Module:
            return OpenAiBlock(inputs, outputs, time_dim, scale_shift, resample)

        def attend_at(width: int, count: int = heads) -> nn.Module:
            return OpenAiAttention(width, width // head_channels if head_channels else count, legacy)

        self.time_embed = nn.Sequential(nn.Linear(ch, time_dim), nn.SiLU(), nn.Linear(time_dim, time_dim))
        if classes:
            self.label_emb = nn.Embedding(classes, time_dim)
        inputs, skips, width = [[conv(3, ch)]], [ch], ch
        for i, w in enumerate(widths):
            for _ in range(blocks):
                inputs.append([block(width, w)] + ([attend_at(w)] if i in attention else []))
                width = w
                skips.append(w)
            if i < last:
                inputs.append([block(w, w, halve) if updown else OpenAiDown(w)])
                skips.append(w)
        outputs = []
        for i, w in reversed(list(enumerate(widths))):
            for r in range(blocks + 1):
                parts = [block(width + skips.pop(), w)]
                parts += [attend_at(w, heads_upsample or heads)] if i in attention else []
                if r == blocks and i > 0:
                    parts.append(block(w, w, double) if updown else OpenAiUp(w))
                outputs.append(parts)
                width = w
        deepest = widths[-1]
        self.input_blocks = nn.ModuleList(map(nn.ModuleList, inputs))
        self.middle_block = nn.ModuleList([block(deepest, deepest), attend_at(deepest), block(deepest, deepest)])
        self.output_blocks = nn.ModuleList(map(nn.ModuleList, outputs))
        self.out = nn.Sequential(nn.GroupNorm(GROUPS, ch), nn.SiLU(), conv(ch, out_ch))

    def forward(self, x: Tensor, t: Tensor, classes: Tensor | None = None) -> Tensor:
        half = self.ch // 2
        a = angles(t, half, half)
        temb = self.time_embed(torch.cat([a.cos(), a.sin()], dim=1))
        if classes is not None:
            temb = temb + self.label_emb(classes)

        def run(parts: nn.ModuleList, x: Tensor) -> Tensor:
            for part in parts:
                x = part(x, temb) if isinstance(part, OpenAiBlock) else part(x)
            return x

        skips = []
        for parts in self.input_blocks:
            x = run(parts, x)
            skips.append(x)
        x = run(self.middle_block, x)
        for parts in self.output_blocks:
            x = run(parts, torch.cat([x, skips.pop()], dim=1))
        return self.out(x)
