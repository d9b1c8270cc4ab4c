"""The network that a run's "model" object describes."""

from torch import nn

from gau import Affine, Gau
from unet import UNet
from unet_concat import ConcatUNet

KINDS = {"unet": UNet, "unet-concat": ConcatUNet, "gau": Gau}


def build(model_config: dict, timesteps: int) -> nn.Module:
    """The network of `model_config["kind"]`, the simplified U-Net if there is none; `timesteps` is T."""
    kind = model_config.get("kind", "unet")
    if kind not in KINDS:
        raise ValueError(f"kind is {kind!r}, want one of {', '.join(KINDS)}")
    return KINDS[kind](model_config, timesteps)


def not_adapted(model: nn.Module, adapt_norms: bool) -> set[str]:
    """Names of the parameters to which LAMB does not adapt the step size: biases, and unless `adapt_norms`
    the scales and shifts of norms and of a GAU's queries and keys, which start at 1 and 0 as well.
    """
    kinds = (nn.GroupNorm, nn.RMSNorm, Affine)
    modules = [(path, m) for path, m in model.named_modules() if isinstance(m, kinds)]
    norms = {f"{path}.{name}" for path, m in modules for name, _ in m.named_parameters()}
    biases = {name for name, _ in model.named_parameters() if name.endswith(".bias")} - norms
    return biases if adapt_norms else biases | norms
