"""The network that a run's "model" object describes."""

from torch import nn

from unet import UNet
from unet_concat import ConcatUNet

KINDS = {"unet": UNet, "unet-concat": ConcatUNet}


def build(model_config: dict, timesteps: int) -> nn.Module:
    """The network of `model_config["kind"]`, the simplified U-Net where none is said; `timesteps` is T."""
    kind = model_config.get("kind", "unet")
    if kind not in KINDS:
        raise ValueError(f"kind is {kind!r}, want one of {', '.join(KINDS)}")
    return KINDS[kind](model_config, timesteps)
