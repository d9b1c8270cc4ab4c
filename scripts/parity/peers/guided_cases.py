"""denoising-diffusion-pytorch's network with classes (classifier_free_guidance.py), in the files that people make of it.

The package has no trainer for it: they save the state_dict of the diffusion, of its average, or of the bare network.
"""

import torch
from denoising_diffusion_pytorch.classifier_free_guidance import GaussianDiffusion, Unet
from ema_pytorch import EMA
from torch import Tensor

from . import files
from .checking import PREDICTION, Ddpm, Table
from .drawing import inputs, randomize

SIZE = 16
CASES = [
    ("three levels", {"dim": 16, "dim_mults": (1, 2, 2), "num_classes": 10}, "cosine", "pred_noise"),
    ("init_dim 24, v, one class", {"dim": 8, "dim_mults": (2, 1), "num_classes": 1, "init_dim": 24}, "linear", "pred_v"),
    ("grey", {"dim": 8, "dim_mults": (1, 1), "num_classes": 3, "channels": 1}, "cosine", "pred_x0"),
]
BARE = ("--schedule", "cosine", "--timesteps", 1000, "--prediction", "eps")


def fresh(unet: dict, schedule: str, objective: str, seed: int) -> GaussianDiffusion:
    diffusion = GaussianDiffusion(Unet(**unet), image_size=SIZE, beta_schedule=schedule, objective=objective)
    randomize(diffusion.model, seed)
    return diffusion.eval()


@torch.no_grad()
def predicted(net: Unet, x: Tensor, t: Tensor, classes: Tensor) -> Tensor:
    """Where a class is the number after the last, the network's "no class"."""
    last = net.classes_emb.num_embeddings - 1
    return net(x, t, classes.clamp(max=last), cond_keep_mask=classes <= last)


def check_case(table: Table, ddpm: Ddpm, name: str, unet: dict, diffusion: GaussianDiffusion, again) -> None:
    ema = EMA(diffusion, beta=0.995)
    ema.initted.fill_(True)
    x, t = inputs(6, (4, diffusion.channels, SIZE, SIZE))
    known = unet["num_classes"]
    classes = torch.tensor([0, known, known - 1, known])
    wanted = predicted(diffusion.model, x, t, classes)
    sources = {
        "diffusion": (diffusion.state_dict(), ()),
        "network": (diffusion.model.state_dict(), BARE),
        "average": ({"step": 7, "model": diffusion.state_dict(), "ema": ema.state_dict()}, ()),
    }
    for what, (data, more) in sources.items():
        source, hints = ddpm.file(".pt"), ("--image-size", SIZE, *more)
        files.save(data, source)
        with table.guard(name, f"predict from the {what}'s file"):
            ours = ddpm.predict(source, x, t, classes, ("--image-size", SIZE))
            table.near(name, f"predict from the {what}'s file", ours, wanted, PREDICTION, relative=True)
        with table.guard(name, f"export of the {what}'s file"):
            back = files.load(ddpm.export(ddpm.imported(source, hints), ".pt"))
            loaded = again()
            loaded.load_state_dict(back["model"], strict=True)
            ours, theirs = loaded.model.state_dict(), diffusion.model.state_dict()
            table.same(name, f"export of the {what}'s file", ours, theirs)
            if what == "network":
                continue  # it says nothing of the schedule
            tables = dict(diffusion.named_buffers())
            worst = max((b - tables[k]).abs().max() / tables[k].abs().max() for k, b in loaded.named_buffers()).item()
            table.add(name, "exported schedule tables, the worst", worst <= 1e-6, f"{worst:.2g}", "1e-06")


def check_guided(table: Table, ddpm: Ddpm) -> None:
    for i, (name, unet, schedule, objective) in enumerate(CASES):
        with table.guard(f"guided {name}", "the check itself"):
            diffusion = fresh(unet, schedule, objective, 450 + i)
            check_case(
                table, ddpm, f"guided {name}", unet, diffusion, lambda: fresh(unet, schedule, objective, 1)
            )
