"""Fresh random files of the programs that are not packages, compared with reference_nets; and the files of weights/peers."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn

from . import files
from .checking import PREDICTION, Ddpm, Table
from .drawing import inputs, randomize
from .reference_nets import OpenAiNet, PesserNet, W86Net

SIZE = 16
NETWORKS = {
    "w86763777": {"EMA weights": "ema_model.", "raw weights": "net_model."},
    "lucidrains": {"EMA weights": "ema.ema_model.", "raw weights": ("model.", "ema.online_model.")},
}
"""Keys of the networks in a program's file; a file without an entry here is one network."""


def openai_hints(*more: object, timesteps: int = 1000) -> tuple[object, ...]:
    return ("--schedule", "linear", "--timesteps", timesteps, "--image-size", SIZE, *more)


@dataclass
class Family:
    name: str
    layout: str
    net: Callable[[], nn.Module]
    hints: tuple[object, ...]
    legacy_container: bool = False
    parameters: bool = False
    """The values of the state dict are `nn.Parameter`s."""
    classes: int | None = None
    times: float = 1.0
    """Factor on the t that the network receives."""


FAMILIES = [
    Family("pesser", "pesser", lambda: PesserNet(32, (1, 2), 2, (1,)), ("--image-size", SIZE, "--sigma", "beta"), True),
    Family(
        "pesser, 3 levels", "pesser", lambda: PesserNet(32, (2, 1, 1), 1, (0, 2)),
        ("--image-size", SIZE, "--sigma", "posterior"),
    ),
    Family("w86763777", "w86763777", lambda: W86Net(32, (1, 2), 1, (1,), 1000), ()),
    Family("w86763777, 3 levels, T = 50", "w86763777", lambda: W86Net(64, (1, 2, 1), 2, (0, 2), 50), ()),
    Family(
        "improved", "openai", lambda: OpenAiNet(32, (1, 2), 1, (1,), heads=4),
        openai_hints("--num-heads", 4, "--attention-order", "legacy"), parameters=True,
    ),
    Family(
        "improved, lsun-like", "openai", lambda: OpenAiNet(32, (1, 1, 2), 2, (2,), heads=1, scale_shift=False),
        openai_hints("--num-heads", 1, "--attention-order", "legacy"),
    ),
    Family(
        "improved, heads on the way up", "openai",
        lambda: OpenAiNet(64, (1, 1), 1, (0, 1), heads=2, heads_upsample=8, out_ch=3),
        openai_hints("--num-heads", 2, "--num-heads-upsample", 8, "--attention-order", "legacy",
                     "--sigma", "posterior"),
    ),
    Family(
        "improved, rescaled T = 100", "openai", lambda: OpenAiNet(32, (1, 2), 1, (1,), heads=4),
        openai_hints("--num-heads", 4, "--attention-order", "legacy", "--rescale-timesteps", "true", timesteps=100),
        times=10.0,
    ),
    Family(
        "guided, new attention order", "openai",
        lambda: OpenAiNet(32, (1, 2), 1, (1,), head_channels=16, legacy=False, updown=True),
        openai_hints("--head-channels", 16, "--attention-order", "new", "--rescale-timesteps", "false"),
    ),
    Family(
        "guided, class-conditional", "openai",
        lambda: OpenAiNet(32, (1, 2, 2), 1, (1, 2), head_channels=32, updown=True, classes=10),
        openai_hints("--head-channels", 32, "--attention-order", "legacy"), classes=10,
    ),
    Family(
        "guided, classes, the last row none", "openai",
        lambda: OpenAiNet(32, (1, 2), 1, (1,), head_channels=32, updown=True, classes=11),
        openai_hints("--head-channels", 32, "--attention-order", "legacy", "--null-class", "true"), classes=11,
    ),
    Family(
        "guided, conv resampling", "openai",
        lambda: OpenAiNet(32, (1, 2), 1, (0,), head_channels=8, legacy=False, out_ch=3),
        openai_hints("--head-channels", 8, "--attention-order", "new", "--sigma", "beta"),
    ),
]  # fmt: skip


def check_round_trip(table: Table, ddpm: Ddpm, name: str, source: Path, hints, layout: str) -> None:
    """Import, then export to the layout that the program chooses itself: the weights and tables must come back.

    If a file has averaged and raw weights, one set is imported, and exported as both. An optimizer and step counters need not come back. f16 may come back as f32 of the same values.
    """
    wanted = files.tensors(files.load(source) if zipped(source) else torch.load(source, weights_only=True))
    halved = {k for k, v in wanted.items() if v.dtype == torch.float16}
    for part, start in NETWORKS.get(layout, {"": ""}).items():
        raw = ("--raw",) if part == "raw weights" else ()
        what = f"import and export{part and ': '}{part}"
        with table.guard(name, what):
            got = files.tensors(files.load(ddpm.export(ddpm.imported(source, (*hints, *raw)), ".pt")))
            pair = ({k: v.float() if k in halved else v for k, v in d.items()} for d in (got, wanted))
            ours, theirs = ({k: v for k, v in d.items() if k.startswith(start)} for d in pair)
            table.same(name, what, ours, theirs)


def check_own_layout(table: Table, ddpm: Ddpm, name: str, source: Path, hints) -> None:
    """Exports under our own names: the same tensors as .pt, by torch's safe reader, and as .safetensors."""
    with table.guard(name, "our own layout"):
        checkpoint = ddpm.imported(source, hints)
        pickled = files.tensors(files.load(ddpm.export(checkpoint, ".pt", "ddpm")))
        table.same(name, "our own layout", pickled, load_file(ddpm.export(checkpoint, ".safetensors", "ddpm")))


def zipped(path: Path) -> bool:
    return path.read_bytes()[:2] == b"PK"


def check_family(table: Table, ddpm: Ddpm, family: Family, seed: int) -> None:
    source, timesteps = ddpm.file(".pt"), 1000
    net, raw = family.net().eval(), family.net().eval()
    randomize(net, seed)
    randomize(raw, seed + 1)
    data: object = files.openai_state(net, parameters=family.parameters)
    if isinstance(net, W86Net):
        data, timesteps = files.w86_checkpoint(raw, net, SIZE), net.time_embedding.timembedding[0].num_embeddings
    if "--timesteps" in family.hints:
        timesteps = family.hints[family.hints.index("--timesteps") + 1]
    files.save(data, source, legacy_container=family.legacy_container)
    x, t = inputs(seed, (3, 3, SIZE, SIZE), timesteps)
    classes = torch.tensor([family.classes - 1, 0, 4]) if family.classes else None
    given = (x, t * family.times if family.times != 1.0 else t, *([classes] if family.classes else []))
    cases = [("predict", net, ()), ("predict, raw", raw, ("--raw",))]
    for what, network, more in cases[: 2 if isinstance(net, W86Net) else 1]:
        with torch.no_grad():
            wanted = network(*given)
        with table.guard(family.name, what):
            ours = ddpm.predict(source, x, t, classes, (*family.hints, *more))
            table.near(family.name, what, ours, wanted, PREDICTION, relative=True)
    check_round_trip(table, ddpm, family.name, source, family.hints, family.layout)


def check_families(table: Table, ddpm: Ddpm) -> None:
    for i, family in enumerate(FAMILIES):
        with table.guard(family.name, "the check itself"):
            check_family(table, ddpm, family, 500 + 2 * i)


def check_stored(table: Table, ddpm: Ddpm, folder: Path) -> None:
    """weights/peers, which tests/ replays without Python; here with the round trip through our files."""
    for name, entry in json.loads((folder / "peers.json").read_text()).items():
        case, source, hints = f"stored {name}", folder / entry["file"], entry["hints"]
        with table.guard(case, "the check itself"):
            io = load_file(folder / entry["io"])
            for what, out, more in (("predict", "out", ()), ("predict, raw", "out_raw", ("--raw",))):
                if out in io:
                    with table.guard(case, what):
                        ours = ddpm.predict(source, io["x"], io["t"], io.get("classes"), (*hints, *more))
                        table.near(case, what, ours, io[out], PREDICTION, relative=True)
            if "noise" in io:
                with table.guard(case, "sample with the same noise"):
                    ours = ddpm.sample(ddpm.imported(source, hints), io["noise"])
                    table.near(case, "sample with the same noise", ours, io["pictures"], 1e-3, relative=False)
            check_own_layout(table, ddpm, case, source, hints)
            if source.is_dir():
                with table.guard(case, "import and export"):
                    weights = Path("unet") / "diffusion_pytorch_model.safetensors"
                    back = ddpm.export(ddpm.imported(source, hints), "")
                    table.same(case, "import and export", load_file(back / weights), load_file(source / weights))
            else:
                check_round_trip(table, ddpm, case, source, hints, entry["layout"])
