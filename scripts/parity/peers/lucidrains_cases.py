"""denoising-diffusion-pytorch: its networks, samples and exports compared with ours, on fresh random checkpoints."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from denoising_diffusion_pytorch import GaussianDiffusion, LearnedGaussianDiffusion, Unet
from ema_pytorch import EMA

from . import files
from .checking import IMAGE, PREDICTION, Ddpm, Table, refused_or_near
from .drawing import inputs, lucidrains_images, noise, randomize

SIZE = 16


@dataclass
class Case:
    """A network, its diffusion, and the hints for what the file leaves open."""

    name: str
    unet: dict
    diffusion: dict
    kind: Callable = GaussianDiffusion
    hints: tuple[object, ...] = ()
    must: bool = True


def settings(steps: int, schedule: str, objective: str, **more: object) -> dict[str, object]:
    return {"timesteps": steps, "beta_schedule": schedule, "objective": objective} | more


PLAIN = {"dim": 16, "dim_mults": (1, 2)}
LEARNED = {"kind": LearnedGaussianDiffusion, "unet": PLAIN | {"learned_variance": True}}
CASES = [
    Case("sigmoid, pred_v", PLAIN, settings(32, "sigmoid", "pred_v")),
    Case(
        "cosine, pred_noise, 1 channel",
        {"dim": 8, "dim_mults": (1, 2, 4), "channels": 1},
        settings(32, "cosine", "pred_noise"),
    ),
    # fewer than 21 steps of its linear schedule end in a beta above 1
    Case(
        "linear, pred_x0, init_dim 24",
        PLAIN | {"init_dim": 24, "attn_heads": 2, "attn_dim_head": 16},
        settings(40, "linear", "pred_x0"),
    ),
    Case(
        "heads and full attention by level",
        {"dim": 8, "dim_mults": (1, 2, 2), "attn_heads": (1, 2, 4), "attn_dim_head": (16, 8, 32),
         "full_attn": (True, False, True)},
        settings(32, "linear", "pred_noise"),
    ),
    Case("learned variance", diffusion=settings(32, "cosine", "pred_noise"), **LEARNED),
    Case(
        "min-SNR, given by a hint",
        PLAIN,
        settings(32, "sigmoid", "pred_x0", min_snr_loss_weight=True),
        hints=("--prediction", "x0"),
    ),
    # It samples from the noise it predicts whatever its objective, which only loss_weight repeats
    Case("learned variance under pred_v", diffusion=settings(32, "cosine", "pred_v"), must=False, **LEARNED),
    Case("self-conditioning", PLAIN | {"self_condition": True}, settings(32, "sigmoid", "pred_v"), must=False),
]  # fmt: skip


def fresh(case: Case, seed: int) -> tuple[GaussianDiffusion, EMA]:
    diffusion = case.kind(Unet(**case.unet), image_size=SIZE, **case.diffusion)
    ema = EMA(diffusion, beta=0.995, update_every=10)
    randomize(diffusion.model, seed)
    randomize(ema.ema_model.model, seed + 1)
    ema.initted.fill_(True)
    ema.step.fill_(1000)
    ema.ema_model.eval()  # EMA.eval returns another module than itself
    return diffusion.eval(), ema


def trained_adam(diffusion: GaussianDiffusion, seed: int) -> torch.optim.Adam:
    """Adam with the state of one step, which leaves the weights as they are."""
    optim = torch.optim.Adam(diffusion.parameters(), lr=0.0)
    generator = torch.Generator().manual_seed(seed)
    for p in diffusion.parameters():
        p.grad = torch.randn(p.shape, generator=generator)
    optim.step()
    optim.zero_grad()
    return optim


def check_predictions(table: Table, ddpm: Ddpm, name: str, case: Case, made: tuple, source) -> None:
    (diffusion, ema), hints = made, ("--image-size", SIZE, *case.hints)
    x, t = inputs(6, (3, diffusion.channels, SIZE, SIZE), diffusion.num_timesteps)
    for what, net, raw in (("EMA", ema.ema_model.model, ()), ("raw", diffusion.model, ("--raw",))):
        with torch.no_grad():
            wanted = net(x, t)
        if not case.must:
            return refused_or_near(table, name, lambda: ddpm.predict(source, x, t, hints=hints), wanted)
        with table.guard(name, f"predict, {what}"):
            ours = ddpm.predict(source, x, t, hints=(*hints, *raw))
            table.near(name, f"predict, {what}", ours, wanted, PREDICTION, relative=True)


def check_back(table: Table, ddpm: Ddpm, name: str, case: Case, ema: EMA, checkpoint, z, wanted) -> None:
    """Our exported file, loaded by the package, which is strict about names and shapes."""
    data = files.load(ddpm.export(checkpoint, ".pt", "lucidrains"))
    diffusion, loaded = fresh(case, 1)
    diffusion.load_state_dict(data["model"], strict=True)
    loaded.load_state_dict(data["ema"], strict=True)
    ours, theirs = loaded.ema_model.model.state_dict(), ema.ema_model.model.state_dict()
    table.same(name, "exported EMA", ours, theirs)
    tables = dict(loaded.ema_model.named_buffers())
    if "min_snr_loss_weight" in case.diffusion:
        tables.pop("loss_weight")  # it holds the SNR clipped, which sampling does not need and ours does not keep
    wanted_tables = dict(ema.ema_model.named_buffers())
    worst = max(((t - wanted_tables[k]).abs().max() / wanted_tables[k].abs().max()).item() for k, t in tables.items())
    table.add(name, "exported schedule tables, the worst", worst <= 1e-6, f"{worst:.2g}", "1e-06")
    theirs = lucidrains_images(loaded.ema_model, z)
    table.near(name, "their images from our file", theirs, wanted, IMAGE, relative=False)


def check_case(table: Table, ddpm: Ddpm, case: Case, seed: int) -> None:
    name, source = f"lucidrains {case.name}", ddpm.file("-model-1.pt")
    diffusion, ema = fresh(case, seed)
    files.save(files.lucidrains_checkpoint(diffusion, ema, trained_adam(diffusion, seed)), source)
    check_predictions(table, ddpm, name, case, (diffusion, ema), source)
    if diffusion.self_condition:
        return
    z = noise(seed, diffusion.num_timesteps, (2, diffusion.channels, SIZE, SIZE))
    wanted = lucidrains_images(ema.ema_model, z)
    hints = ("--image-size", SIZE, *case.hints)
    if not case.must:
        return refused_or_near(
            table, name, lambda: ddpm.sample(ddpm.imported(source, hints), z), wanted, IMAGE, relative=False
        )
    checkpoint = ddpm.imported(source, hints)
    with table.guard(name, "sample with the same noise"):
        table.near(name, "sample with the same noise", ddpm.sample(checkpoint, z), wanted, IMAGE, relative=False)
    with table.guard(name, "export as lucidrains"):
        check_back(table, ddpm, name, case, ema, checkpoint, z, wanted)


def check_lucidrains(table: Table, ddpm: Ddpm) -> None:
    for i, case in enumerate(CASES):
        with table.guard(f"lucidrains {case.name}", "import"):
            check_case(table, ddpm, case, 400 + 2 * i)
