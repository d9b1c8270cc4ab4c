"""Networks with classes that `ddpm` has trained, in the code of OpenAI's guided-diffusion.

That code is in no package of scripts/requirements.txt. Where `import guided_diffusion` finds it, it is used as it is; else
reference_nets.OpenAiNet stands for it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from png import write_png
from torch import Tensor, nn

from . import files
from .checking import F32_ON_CPU, PREDICTION, Ddpm, Table
from .drawing import inputs
from .reference_nets import OpenAiNet

SIZE = 16
CLASSES = 3
TIMESTEPS = 4000  # of the preset; with rescale_timesteps, the network is given t as if there were 1000


@dataclass
class Network:
    multipliers: tuple[int, ...]
    blocks: int
    attention: int
    """Side of the maps that attention is on."""

    @property
    def level(self) -> int:
        return (SIZE // self.attention).bit_length() - 1


NETWORKS = {
    "two levels": Network((1, 2), 1, 8),
    "three levels": Network((1, 2, 2), 2, 4),
}
WIDTH, HEADS = 32, 4


def theirs(network: Network) -> tuple[str, nn.Module, Callable[[nn.Module, Tensor, Tensor, Tensor], Tensor]]:
    """Whose code it is, the network with a row for each class and one for none, and how it is called."""
    try:
        from guided_diffusion.unet import UNetModel
    except ImportError:
        net = OpenAiNet(WIDTH, network.multipliers, network.blocks, (network.level,), heads=HEADS, classes=CLASSES + 1)
        return "reference_nets", net, lambda net, x, t, classes: net(x, t, classes)
    net = UNetModel(
        image_size=SIZE,
        in_channels=3,
        model_channels=WIDTH,
        out_channels=6,
        num_res_blocks=network.blocks,
        attention_resolutions=(SIZE // network.attention,),
        channel_mult=network.multipliers,
        num_classes=CLASSES + 1,
        num_heads=HEADS,
        use_scale_shift_norm=True,
    )
    return "guided_diffusion", net, lambda net, x, t, classes: net(x, t, y=classes)


def write_images(folder: Path) -> None:
    draw = np.random.default_rng(0)
    for label in range(CLASSES):
        (folder / str(label)).mkdir(parents=True)
        for number in range(2):
            write_png(folder / str(label) / f"{number}.png", draw.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8))


def trained(ddpm: Ddpm, images: Path, network: Network) -> Path:
    """A run of a few large steps, after which no weight is zero."""
    run = ddpm.file("")
    shape = ("--size", SIZE, "--base-width", WIDTH, "--multipliers", ",".join(map(str, network.multipliers)),
             "--blocks", network.blocks, "--attention", network.attention)  # fmt: skip
    ddpm.run("train", "--preset", "improved-cifar10", *shape, "--data", images, "--conditional", "--run", run,
             "--batch", 6, "--steps", 3, "--optimizer", "adam", "--lr", 0.02, "--lr-schedule", "0:1",
             "--sample-every", 0, *F32_ON_CPU)  # fmt: skip
    return run


@torch.no_grad()
def check_openai(table: Table, ddpm: Ddpm) -> None:
    images = ddpm.file("")
    write_images(images)
    for name, network in NETWORKS.items():
        whose, net, call = theirs(network)
        case, what = f"trained, {name}", f"exported to {whose}"
        with table.guard(case, what):
            run, to = trained(ddpm, images, network), ddpm.file(".pt")
            ddpm.run("export", run, "--raw", "--layout", "openai", "--to", to)
            net.load_state_dict(files.load(to), strict=True)
            x, t = inputs(9, (4, 3, SIZE, SIZE), TIMESTEPS)
            classes = torch.tensor([0, CLASSES, CLASSES - 1, CLASSES])
            wanted = call(net.eval(), x, t * (1000 / TIMESTEPS), classes)
            table.near(case, what, ddpm.predict(run, x, t, classes, ("--raw",)), wanted, PREDICTION, relative=True)
