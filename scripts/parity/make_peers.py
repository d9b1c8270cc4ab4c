#!/usr/bin/env python3
"""Makes weights/peers: small random checkpoints in the file formats of six programs, and the outputs of their networks.

    python scripts/parity/make_peers.py weights/peers
    python scripts/parity/make_peers.py --against DIR    # only compares reference_nets with the programs' own code

diffusers' and lucidrains' numbers come from their packages. pesser, w86763777, improved and guided diffusion
are not packages: theirs come from peers/reference_nets.py. The same versions of torch and the packages give
the same bytes again, except for the storages' names in pesser.ckpt: the legacy container names them by address.
weights/peers/README.md describes each file.
"""

import argparse
import json
import sys
from importlib.metadata import version
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from peers import files
from peers.drawing import diffusers_images, inputs, lucidrains_images, noise, randomize
from peers.reference_nets import OpenAiNet, PesserNet, W86Net

SIZE = 16
OPENAI = ["--schedule", "linear", "--timesteps", "1000", "--image-size", str(SIZE)]
# Where --against looks: the file, the network in it, and the file's entry that holds its weights.
AGAINST = {
    "pesser": ("pesser.ckpt", lambda: PesserNet(32, (1, 2), 1, (1,)), None),
    "w86763777": ("w86763777.pt", lambda: W86Net(32, (1, 2), 1, (1,), 1000), "ema_model"),
    "improved": ("improved_ema_0.9999_000001.pt", lambda: OpenAiNet(32, (1, 2), 1, (1,), heads=4), None),
    "guided": ("guided.pt", lambda: OpenAiNet(32, (1, 2), 1, (1,), head_channels=16, updown=True), None),
}


def seeded(net: nn.Module, seed: int) -> nn.Module:
    randomize(net, seed)
    return net.eval()


def computed(seed: int, net: nn.Module, timesteps: int, channels: int = 3, **given: Tensor) -> dict[str, Tensor]:
    x, t = inputs(seed, (2, channels, SIZE, SIZE), timesteps)
    with torch.no_grad():
        return {"x": x, "t": t, "out": net(x, t, **given)} | given


class Maker:
    def __init__(self, folder: Path):
        self.folder, self.entries = folder, {}
        folder.mkdir(parents=True, exist_ok=True)

    def add(self, name: str, file: str, layout: str, hints: list[str], io: dict[str, Tensor]) -> None:
        """Writes the numbers beside a checkpoint that exists already."""
        package = {"diffusers": "diffusers", "lucidrains": "denoising-diffusion-pytorch"}.get(layout)
        versions = {p: version(p) for p in ("torch", package) if p}
        numbers = f"{name}.io.safetensors"
        # As in the stored files, which were made before this program moved to scripts/parity: the same bytes again.
        about = json.dumps({"script": f"scripts/{Path(__file__).name}", "versions": versions})
        save_file({k: v.contiguous() for k, v in io.items()}, self.folder / numbers, {"made": about})
        self.entries[name] = {"file": file, "io": numbers, "layout": layout, "hints": hints}
        (self.folder / "peers.json").write_text(json.dumps(self.entries, indent=1) + "\n")

    def diffusers(self) -> None:
        from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel

        unet = UNet2DModel(
            sample_size=SIZE,
            block_out_channels=(16, 32),
            layers_per_block=1,
            down_block_types=("DownBlock2D", "AttnDownBlock2D"),
            up_block_types=("AttnUpBlock2D", "UpBlock2D"),
            norm_num_groups=8,
            attention_head_dim=8,
        )
        scheduler = DDPMScheduler(20, beta_schedule="squaredcos_cap_v2", variance_type="fixed_large")
        pipeline = DDPMPipeline(seeded(unet, 1), scheduler)
        pipeline.save_pretrained(self.folder / "diffusers")
        z = noise(2, 20, (1, 3, SIZE, SIZE))
        io = computed(3, lambda x, t: unet(x, t).sample, 20)
        self.add(
            "diffusers", "diffusers", "diffusers", [], io | {"noise": z, "pictures": diffusers_images(pipeline, z)}
        )

    def lucidrains(self) -> None:
        from denoising_diffusion_pytorch import GaussianDiffusion, Unet
        from ema_pytorch import EMA

        steps = 32
        unet = Unet(dim=8, dim_mults=(1, 2))
        diffusion = GaussianDiffusion(unet, image_size=SIZE, timesteps=steps)
        ema = EMA(diffusion, beta=0.995, update_every=10)
        seeded(diffusion.model, 11)
        seeded(ema.ema_model.model, 12)
        ema.initted.fill_(True)
        ema.step.fill_(1000)
        optim = torch.optim.Adam(diffusion.parameters(), lr=8e-5)
        files.save(files.lucidrains_checkpoint(diffusion, ema, optim), self.folder / "lucidrains-model-1.pt")
        z = noise(13, steps, (1, 3, SIZE, SIZE))
        io = computed(14, ema.ema_model.model, steps)
        io["out_raw"] = computed(14, diffusion.model, steps)["out"]
        io |= {"noise": z, "pictures": lucidrains_images(ema.ema_model, z)}
        self.add("lucidrains", "lucidrains-model-1.pt", "lucidrains", ["--image-size", str(SIZE)], io)

    def pesser(self) -> None:
        net = seeded(PesserNet(32, (1, 1), 1, (1,)), 21)
        files.save(net.state_dict(), self.folder / "pesser.ckpt", legacy_container=True)
        io = computed(22, net, 1000)
        self.add("pesser", "pesser.ckpt", "pesser", ["--image-size", str(SIZE), "--sigma", "beta"], io)

    def w86763777(self) -> None:
        raw, net = (seeded(W86Net(32, (1, 1), 1, (1,), 100), seed) for seed in (31, 32))
        data = files.w86_checkpoint(raw, net, SIZE)
        for name, tensor in data["ema_model"].items():
            if tensor.numel() >= 4096:  # one copy of the large ones, to keep the file small
                data["net_model"][name] = tensor
        raw.load_state_dict(data["net_model"])
        files.save(data, self.folder / "w86763777.pt")
        io = computed(33, net, 100)
        io["out_raw"] = computed(33, raw, 100)["out"]
        self.add("w86763777", "w86763777.pt", "w86763777", ["--image-size", str(SIZE)], io)

    def improved(self) -> None:
        net = seeded(OpenAiNet(32, (1, 1), 1, (1,), heads=4, scale_shift=False), 41)
        file = "improved_ema_0.9999_000001.pt"
        files.save(files.openai_state(net, parameters=True), self.folder / file)
        hints = ["--num-heads", "4", "--attention-order", "legacy", *OPENAI]
        self.add("improved", file, "openai", hints, computed(42, net, 1000))

    def guided(self) -> None:
        net = seeded(OpenAiNet(32, (1, 2), 1, (1,), head_channels=16, updown=True, classes=10), 51)
        net.half()
        files.save(files.openai_state(net, parameters=False), self.folder / "guided.pt")
        io = computed(52, net.float(), 1000, classes=torch.tensor([9, 4]))
        hints = ["--head-channels", "16", "--attention-order", "legacy", *OPENAI]
        self.add("guided", "guided.pt", "openai", hints, io)


def compare(folder: Path) -> None:
    """reference_nets on checkpoints and outputs made with the programs' own code."""
    worst = 0.0
    for name, (file, make, entry) in AGAINST.items():
        weights = torch.load(folder / file, weights_only=True)
        weights = weights[entry] if entry else weights
        net, io = make().eval(), load_file(folder / f"{name}.io.safetensors")
        in_order = list(net.state_dict()) == list(weights)
        net.load_state_dict(weights, strict=True)
        with torch.no_grad():
            error = ((net(io["x"], io["t"]) - io["out"]).abs().max() / io["out"].abs().max()).item()
        print(f"{name}: {len(weights)} names, {'in' if in_order else 'NOT in'} the file's order; out {error:.2g}")
        worst = max(worst, error)
    if worst > 2e-5:
        sys.exit(f"make_peers: reference_nets is {worst:.2g} from the families' own code, at most 2e-5 wanted")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, nargs="?", help="the folder to fill, for example weights/peers")
    parser.add_argument("--against", type=Path, metavar="DIR", help="checkpoints and outputs of the families' own code")
    args = parser.parse_args()
    if not args.out and not args.against:
        parser.error("give a folder to fill, or --against DIR")
    torch.set_num_threads(1)  # so that sums, and with them the files, are the same on every machine
    if args.against:
        compare(args.against)
    if args.out:
        maker = Maker(args.out)
        for make in (maker.diffusers, maker.pesser, maker.w86763777, maker.improved, maker.guided, maker.lucidrains):
            make()


if __name__ == "__main__":
    main()
