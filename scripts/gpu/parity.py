"""Parts of check.py: are the numbers on CUDA those of the CPU and of PyTorch?

All in f32 without TF32, but where bf16 is named. PyTorch's side is scripts/reference for the networks of Keras-DDPM,
scripts/parity/peers for Ho et al.'s, and for networks of other programs the outputs stored in weights/peers. Draws on
CUDA are other numbers than on a CPU, so training is compared with PyTorch on the same GPU, which draws the same; what
draws nothing is compared with the CPU too. The CPU is held to PyTorch, diffusers and the original by other tests.
"""

import json
import subprocess
import sys
from pathlib import Path

import torch
from lab import ROOT, Failure, Lab, together
from safetensors.torch import load_file, save_file
from torch import Tensor

sys.path[:0] = [str(ROOT / "scripts" / "parity"), str(ROOT / "scripts" / "reference")]
from check_main_job import Program, compare_training, ddim, relative, write_images  # noqa: E402
from diffusion import Diffusion  # noqa: E402
from networks import KINDS, build  # noqa: E402
from peers.checking import Table  # noqa: E402
from peers.reference_nets import PesserNet  # noqa: E402
from train import draw_step, train  # noqa: E402

PEERS = ROOT / "weights" / "peers"
SIDE = 16
STEPS = 5

NETWORKS = {
    "unet": "--preset demo --base-width 16 --norm-groups 4 --batch 4",
    "unet-concat": "--preset keras-ddpm2 --base-width 8 --norm-groups 4 --multipliers 1,2 --blocks 1 --batch 4",
    "gau": "--preset keras-gau --base-width 64 --layers 3 --batch 4",
    "unet-attention": "--preset ddpm-cifar10 --base-width 16 --norm-groups 4 --multipliers 1,2 --blocks 1 "
    "--attention 8 --batch 4 --dropout 0",
    "learned variance": "--preset improved-cifar10 --base-width 16 --norm-groups 4 --multipliers 1,2 --blocks 1 "
    "--attention 8 --batch 4 --dropout 0",
    "lucidrains": "--preset lucidrains --base-width 16 --multipliers 1,2 --batch 4",
}
# The simplified U-Net in both layouts, if they can be chosen.
LAYOUTS = {f"unet, {layout}": f"{NETWORKS['unet']} --layout {layout}" for layout in ("nchw", "nhwc")}

# With three classes and none.
CLASSES = 3
WITH_CLASSES = "--conditional --label-dropout 0.4"
CONDITIONAL = {f"{name}, classes": f"{flags} {WITH_CLASSES}" for name, flags in NETWORKS.items() if "variance" not in name}

# Largest differences, relative to the largest value: sums in f32 in another order, and products in bf16.
PREDICTION_F32, PREDICTION_BF16 = 1e-4, 5e-2
# Times what check_main_job.py allows: these learn faster, and a GPU's convolutions round in more ways than a CPU's.
ROOM = 10
# Max abs in [-1, 1]: what a sampler makes of rounding. On the simulated device up to 4e-6.
IMAGES = 1e-3

SAMPLERS = {
    "ddpm": "--sampler ddpm --sigma beta",
    "ddpm, all steps": "--sampler ddpm --sigma beta --clip-x0",
    "ddpm, posterior, clipped": "--sampler ddpm --sigma posterior --clip-x0",
    "ddim": "--sampler ddim",
    "ddim, eta 1": "--sampler ddim --eta 1",
    "analytic": "--sampler analytic",
    "dpmpp-2m": "--sampler dpmpp-2m",
    "dpmpp-2m-sde": "--sampler dpmpp-2m-sde",
    "heun": "--sampler heun",
    "unipc": "--sampler unipc",
    "unipc, order 3": "--sampler unipc --order 3",
}
# Of a network with classes.
GUIDED = {
    "ddim, guided": "--sampler ddim --guidance 3 --class 0,2",
    "dpmpp-2m-sde, guided, rescaled": "--sampler dpmpp-2m-sde --guidance 3 --guidance-rescale 0.7 --class 0,2",
    "ddpm, guided at some steps": "--sampler ddpm --sigma beta --guidance 2 --guidance-interval 10:35 --class 1",
}
T = 50
TIMES = [47, 40, 32, 22, 12, 5, 0]


def full_f32(lab: Lab) -> torch.device:
    """PyTorch's device, which then multiplies without TF32."""
    if lab.torch_device == "cuda" and not torch.cuda.is_available():
        raise Failure("this Python's torch cannot use CUDA")
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    return torch.device(lab.torch_device)


class Case:
    """A network of its own folder, which ddpm trains on CUDA and evaluates on both devices."""

    def __init__(self, lab: Lab, name: str, flags: str, images: Path):
        self.lab, self.name, self.flags, self.images = lab, name, flags, images
        self.ddpm = Program(lab.program, lab.temporary(name.replace(" ", "-").replace(",", "")), "cuda")
        self.folder = self.ddpm.run.parent
        self.out: dict[str, Tensor] = {}

    def run(self) -> None:
        self.lab.cuda("train", *self.flags.split(), "--size", SIDE, "--data", self.images, "--run", self.ddpm.run,
                      "--labels", labels_beside(self.images), "--precision", "f32", "--steps", STEPS, "--sample-every", 0,
                      "--lr-schedule", "0:1")  # fmt: skip
        self.config = json.loads(self.lab.ok("inspect", "--json", self.ddpm.run).printed)["config"]
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(4, 3, SIDE, SIDE, generator=generator)
        t = torch.randint(0, self.config["diffusion"]["timesteps"], (4,), generator=generator)
        given = {"x": x, "t": t}
        if self.is_conditional():
            given["classes"] = torch.tensor([0, CLASSES, CLASSES - 1, CLASSES])
        save_file(given, self.folder / "in.safetensors")
        for device, precision in (("cpu", "f32"), ("cuda", "f32"), ("cuda", "bf16")):
            out = self.folder / f"{device}-{precision}.safetensors"
            self.lab.ok("predict", self.ddpm.run, "--raw", "--input", self.folder / "in.safetensors", "--output", out,
                        "--device", device, "--precision", precision)  # fmt: skip
            self.out[f"{device} {precision}"] = load_file(out)["out"]

    def is_conditional(self) -> bool:
        return WITH_CLASSES in self.flags

    def compare(self, table: Table, pixels: Tensor, device: torch.device) -> None:
        cpu, f32, bf16 = (self.out[key] for key in ("cpu f32", "cuda f32", "cuda bf16"))
        table.near(self.name, "outputs, against the CPU", f32, cpu, PREDICTION_F32, relative=True)
        table.near(self.name, "outputs in bf16, against f32", bf16, cpu, PREDICTION_BF16, relative=True)
        if self.config["model"].get("kind", "unet") not in KINDS:
            return

        def add(what: str, difference: float, most: float) -> None:
            most *= ROOM
            table.add(self.name, what, difference <= most, f"{difference:.1e}", f"{most:.0e}")  # nan fails

        labels = labels_of(pixels) if self.is_conditional() else None
        trainer, curves = train(self.config, pixels, STEPS, device=device, labels=labels)
        compare_training(add, self.ddpm, self.config, trainer, curves)


def labels_of(pixels: Tensor) -> Tensor:
    """A class for each image, [N] i64."""
    return torch.arange(len(pixels)) % CLASSES


def labels_beside(images: Path) -> Path:
    return images.with_suffix(".csv")


def write_labelled_images(folder: Path) -> Tensor:
    """As write_images, with a list of their classes beside the folder."""
    pixels = write_images(folder, SIDE)
    rows = [f"{number:02}.png,{label}" for number, label in enumerate(labels_of(pixels).tolist())]
    labels_beside(folder).write_text("\n".join(rows))
    return pixels


def networks(lab: Lab) -> bool:
    device, table = full_f32(lab), fenced_table()
    pixels = write_labelled_images(lab.folder / "network-images")
    found = NETWORKS | CONDITIONAL | (LAYOUTS if lab.has_flag("train", "--layout") else {})
    cases = [Case(lab, name, flags, lab.folder / "network-images") for name, flags in found.items()]
    stored = json.loads((PEERS / "peers.json").read_text())
    outputs: dict[str, dict[str, Tensor]] = {name: {} for name in stored}
    jobs = [case.run for case in cases]
    jobs += [lambda n=name, e=entry: outputs[n].update(predict_stored(lab, n, e)) for name, entry in stored.items()]
    jobs += [lambda: train_attention(lab, lab.folder / "network-images")]
    failed = together(jobs)
    names = [*(case.name for case in cases), *(f"stored {name}" for name in stored), "unet-attention, pesser"]
    for name, failure in zip(names, failed):
        if failure is not None:
            table.fails(name, "the programs", str(failure))
    for case, failure in zip(cases, failed):
        if failure is None:
            with table.guard(case.name, "the check itself"):
                case.compare(table, pixels, device)
    for name, out in outputs.items():
        for what, (ours, wanted) in out.items():
            table.near(f"stored {name}", what, ours, wanted, PREDICTION_F32, relative=True)
    if failed[-1] is None:
        with table.guard("unet-attention, pesser", "the check itself"):
            compare_attention(lab, table, pixels, device)
    print("```\n\nGradients of `lucidrains` and of learned variances have no form in PyTorch here.")
    if not lab.has_flag("train", "--layout"):
        print("No layout can be chosen: this program has no `train --layout`.")
    return not table.failures


def predict_stored(lab: Lab, name: str, entry: dict) -> dict[str, tuple[Tensor, Tensor]]:
    """Outputs on CUDA of a network of weights/peers, and those that its own program gave."""
    io, found = load_file(PEERS / entry["io"]), {}
    given = lab.folder / f"{name}-in.safetensors"
    save_file({k: io[k] for k in ("x", "t", "classes") if k in io}, given)
    for stored, flags in (("out", []), ("out_raw", ["--raw"])):
        if stored in io:
            to = lab.folder / f"{name}-{stored}.safetensors"
            lab.cuda("predict", PEERS / entry["file"], "--input", given, "--output", to, "--precision", "f32",
                     *flags, *entry["hints"])  # fmt: skip
            found[f"predict {stored}"] = load_file(to)["out"], io[stored]
    return found


def train_attention(lab: Lab, images: Path) -> None:
    """Loss and gradients of Ho et al.'s network with random weights, at a learning rate of zero."""
    imported = lab.folder / "pesser.safetensors"
    lab.ok("import", PEERS / "pesser.ckpt", "--to", imported, "--image-size", SIDE, "--sigma", "beta")
    lab.cuda("train", "--init-from", imported, "--data", images, "--run", lab.folder / "pesser", "--batch", 4,
             "--precision", "f32", "--steps", 3, "--sample-every", 0, "--lr-schedule", "0:0")  # fmt: skip


def compare_attention(lab: Lab, table: Table, pixels: Tensor, device: torch.device) -> None:
    lines = [json.loads(line) for line in (lab.folder / "pesser" / "metrics.jsonl").read_text().splitlines()]
    config = json.loads(lab.ok("inspect", "--json", lab.folder / "pesser").printed)["config"]
    net = PesserNet(32, (1, 1), 1, (1,))
    net.load_state_dict(torch.load(PEERS / "pesser.ckpt", weights_only=True))
    net.to(device)
    diffusion = Diffusion(config["diffusion"]).to(device)
    losses, norms = [], []
    for step in range(len(lines)):
        x_0, t, eps = draw_step(pixels, step, config["train"]["batch"], diffusion.timesteps, config["train"]["seed"],
                                config["data"]["flip"], config["train"]["draws"], device)  # fmt: skip
        net.zero_grad()
        loss = diffusion.loss(net(diffusion.q_sample(x_0, t, eps), t), eps)
        loss.backward()
        losses.append(loss.item())
        norms.append(torch.stack([p.grad.norm() for p in net.parameters()]).norm().item())
    for what, ours, theirs, most in (("loss", "loss", losses, 1e-4), ("gradient norm", "grad_norm", norms, 1e-3)):
        apart = relative([line[ours] for line in lines], theirs)
        table.add("unet-attention, pesser", f"{what}, relative", apart <= most, f"{apart:.1e}", f"{most:.0e}")


def samplers(lab: Lab) -> bool:
    """A network with weights that matter, with x_0 clipped, and the same noise on both devices."""
    device, table = full_f32(lab), fenced_table()
    model, noise, first = (lab.folder / name for name in ("sampled", "noise.safetensors", "first.safetensors"))
    conditional, labelled = lab.folder / "sampled-by-class", lab.folder / "sampled-images"
    write_labelled_images(labelled)
    small = ["--preset", "demo", "--size", SIDE, "--base-width", 16, "--norm-groups", 4, "--timesteps", T,
             "--batch", 8, "--sample-every", 0, "--ema", 0.9, "--device", "cpu", "--precision", "f32"]  # fmt: skip
    lab.ok("train", *small, "--steps", 200, "--builtin-images", 64, "--run", model)
    lab.ok("train", *small, "--steps", 200, "--data", labelled, "--labels", labels_beside(labelled),
           *WITH_CLASSES.split(), "--run", conditional)  # fmt: skip
    lab.cuda("calibrate", model, "--precision", "f32", "-n", 16)
    generator = torch.Generator().manual_seed(1)
    draws = torch.randn(T + 1, 2, 3, SIDE, SIDE, generator=generator)
    save_file({"noise": draws}, noise)
    save_file({"noise": draws[: len(TIMES) + 1].clone()}, first)

    def sample(name: str, flags: str, on: str) -> None:
        network = conditional if name in GUIDED else model
        lab.ok("sample", network, "-n", 2, "--precision", "f32", "--device", on, *flags.split(),
               "--out-tensor", lab.folder / f"{name}-{on}.safetensors")  # fmt: skip

    times = f"--noise {first} --times {','.join(map(str, TIMES))}"
    cases = {name: f"{flags} {times}" for name, flags in (SAMPLERS | GUIDED).items()}
    cases |= {"ddpm, all steps": f"{SAMPLERS['ddpm, all steps']} --noise {noise}", "ddcm": "--sampler ddcm --steps 7"}
    pairs = [(name, on) for name in cases for on in ("cpu", "cuda")]
    failed = dict(zip(pairs, together([lambda n=name, on=on: sample(n, cases[n], on) for name, on in pairs])))
    made = {}
    for name in cases:
        wrong = [str(failed[name, on]) for on in ("cpu", "cuda") if failed[name, on] is not None]
        if wrong:
            table.fails(name, "images", "\n".join(wrong))
            continue
        made[name], cpu = (load_file(lab.folder / f"{name}-{on}.safetensors")["pictures"] for on in ("cuda", "cpu"))
        table.near(name, "images, against the CPU", made[name], cpu, IMAGES, relative=False)
        # Images that are clipped nearly everywhere would agree whatever the sampler.
        saturated = (cpu.abs() > 0.999).double().mean().item()
        table.add(name, "share of clipped values", saturated <= 0.5, f"{saturated:.2f}", "0.5")
    compare_with_pytorch(lab, table, model, draws.to(device), made)
    print("```")
    return not table.failures


def compare_with_pytorch(lab: Lab, table: Table, model: Path, noise: Tensor, made: dict[str, Tensor]) -> None:
    config = json.loads(lab.ok("inspect", "--json", model).printed)["config"]
    lab.ok("export", model, "--to", lab.folder / "sampled.pt")
    network = build(config["model"], T)
    network.load_state_dict(torch.load(lab.folder / "sampled.pt", weights_only=True), strict=True)
    network.to(noise.device).eval()
    diffusion = Diffusion(config["diffusion"])
    theirs = {
        "ddim": lambda: ddim(network, diffusion, noise[0], TIMES, clip_x0=True),
        "ddpm, all steps": lambda: diffusion.sample(network, lambda k: noise[k], "beta", clip_x0=True).clamp(-1, 1),
    }
    for name in made.keys() & theirs.keys():
        table.near(name, "images, against PyTorch", made[name], theirs[name]().cpu(), IMAGES, relative=False)


def main_job(lab: Lab) -> bool:
    """scripts/parity/check_main_job.py, as it is but on the simulated device."""
    script = ROOT / "scripts" / "parity" / "check_main_job.py"
    command = [sys.executable, script, "--ddpm", lab.program, "--device", "cuda"]
    command += ["--torch-device", "cpu", "--steps", "3", "--batch", "1"] if lab.simulated else []
    print("```", flush=True)
    code = subprocess.run(command).returncode
    print("```")
    return code == 0


def fenced_table() -> Table:
    print("```")
    return Table()
