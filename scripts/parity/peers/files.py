"""Checkpoint files as each program's trainer writes them, and the contents of a file by torch.load."""

from pathlib import Path

import torch
from torch import Tensor, nn


def save(data: object, path: Path, *, legacy_container: bool = False) -> None:
    """`legacy_container`: the format of torch before 1.6, used by older checkpoints."""
    torch.save(data, path, _use_new_zipfile_serialization=not legacy_container)


def w86_checkpoint(net: nn.Module, ema: nn.Module, size: int) -> dict[str, object]:
    """The dictionary that w86763777's trainer saves before its first step."""
    optim = torch.optim.Adam(net.parameters(), lr=2e-4)
    sched = torch.optim.lr_scheduler.LambdaLR(optim, lr_lambda=lambda step: min(step, 5000) / 5000)
    x_T = torch.randn((2, 3, size, size), generator=torch.Generator().manual_seed(0))
    models = {"net_model": net.state_dict(), "ema_model": ema.state_dict()}
    return models | {"optim": optim.state_dict(), "sched": sched.state_dict(), "step": 0, "x_T": x_T}


def openai_state(net: nn.Module, *, parameters: bool) -> dict[str, Tensor]:
    """A flat state dict; the values are `nn.Parameter`s if the trainer used f32."""
    state = net.state_dict()
    for name in state:
        state[name] = nn.Parameter(state[name].clone()) if parameters else state[name]
    return state


def lucidrains_checkpoint(diffusion: nn.Module, ema: nn.Module, optim: torch.optim.Optimizer) -> dict[str, object]:
    """The dictionary that Trainer.save writes when it trains without mixed precision."""
    from denoising_diffusion_pytorch.version import __version__

    return {
        "step": 1000,
        "model": diffusion.state_dict(),
        "opt": optim.state_dict(),
        "ema": ema.state_dict(),
        "scaler": None,
        "version": __version__,
    }


def tensors(data: object, path: str = "") -> dict[str, Tensor]:
    """All tensors in nested dictionaries, under dotted names."""
    if isinstance(data, Tensor):
        return {path: data.detach()}
    found = {}
    if isinstance(data, dict):
        for key, value in data.items():
            found |= tensors(value, f"{path}.{key}" if path else str(key))
    return found


def load(path: Path) -> dict[str, object]:
    """Reads a file copied and mapped, with torch's safe reader; the two must be equal."""
    data, mapped = (torch.load(path, map_location="cpu", weights_only=True, mmap=mmap) for mmap in (False, True))
    a, b = tensors(data), tensors(mapped)
    if a.keys() != b.keys() or not all(a[k].equal(b[k]) for k in a):
        raise ValueError(f"{path}: torch.load gives other tensors with mmap=True")
    return data
