"""diffusers: its networks, samples and exports compared with ours, on fresh random pipelines."""

import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import torch
from diffusers import DDIMPipeline, DDIMScheduler, DDPMPipeline, DDPMScheduler, UNet2DModel
from diffusers.training_utils import EMAModel
from diffusers.utils import logging
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from .checking import IMAGE, ONE_THREAD, PREDICTION, Ddpm, Table, refused_or_near
from .drawing import diffusers_images, inputs, noise, randomize

logging.set_verbosity_error()
logging.disable_progress_bar()

# Hints for a folder without a scheduler
NO_SCHEDULER = ("--schedule", "linear", "--timesteps", 1000, "--prediction", "eps", "--sigma", "posterior")
WEIGHTS = "diffusion_pytorch_model.safetensors"
STEPS = 20


def blocks(kinds: str) -> dict[str, tuple[str, ...]]:
    """Block types from one letter a level, highest resolution first: d plain, a attention, r resnet resampling."""
    down = {"d": "DownBlock2D", "a": "AttnDownBlock2D", "r": "ResnetDownsampleBlock2D"}
    up = {"d": "UpBlock2D", "a": "AttnUpBlock2D", "r": "ResnetUpsampleBlock2D"}
    return {
        "down_block_types": tuple(down[k] for k in kinds),
        "up_block_types": tuple(up[k] for k in reversed(kinds)),
    }


SMALL = {"sample_size": 16, "block_out_channels": (16, 32), "layers_per_block": 1, "norm_num_groups": 8, **blocks("da")}
HO = {
    "attention_head_dim": None,
    "downsample_padding": 0,
    "flip_sin_to_cos": False,
    "freq_shift": 1,
    "norm_eps": 1e-6,
    "layers_per_block": 2,
}
SIX = {"sample_size": 64, "block_out_channels": (32, 32, 64, 64, 96, 96), **blocks("ddddad")}
RESNET = {"resnet_time_scale_shift": "scale_shift", "downsample_type": "resnet", "upsample_type": "resnet"}


@dataclass
class Shape:
    """A network to compare, and the layout of its files."""

    name: str
    unet: dict = field(default_factory=dict)
    way: str = "pipeline"
    hints: tuple[object, ...] = ()
    must: bool = True
    """False: `ddpm` may refuse, but must not give another answer."""


SHAPES = [
    Shape("cifar10-like", HO | {"sample_size": 32, "block_out_channels": (32, 64, 64, 64), **blocks("dadd")}),
    Shape("256-like, sharded", HO | SIX, "sharded"),
    Shape("train_unconditional-like, .bin", SIX | {"layers_per_block": 2}, "bin"),
    Shape(
        "scale_shift, resnet resampling",
        SMALL | RESNET | {"block_out_channels": (16, 32, 32), "attention_head_dim": 16} | blocks("raa")
        | {"attn_norm_num_groups": 8},
    ),
    Shape("resnet resampling, added time", SMALL | RESNET | {"resnet_time_scale_shift": "default"} | blocks("aa")),
    Shape("attention_head_dim 32, fp16", SMALL | {"block_out_channels": (32, 64), "attention_head_dim": 32}, "fp16"),
    Shape("attention_head_dim 4", SMALL | {"attention_head_dim": 4} | blocks("aa")),
    Shape("class-conditional", SMALL | {"num_class_embeds": 10}),
    Shape("classes, the last row none", SMALL | {"num_class_embeds": 10}, hints=("--null-class", "true")),
    Shape(
        "classes and learned variance",
        SMALL | {"num_class_embeds": 10, "out_channels": 6},
        hints=("--null-class", "true"),
    ),
    Shape("1 channel, old attention names", SMALL | {"in_channels": 1, "out_channels": 1}, "old names"),
    Shape(
        "3 levels, unet folder",
        SMALL | {"block_out_channels": (16, 32, 48), "layers_per_block": 2} | blocks("dad"),
        "unet",
        NO_SCHEDULER,
    ),
    Shape("learned variance, 16x24", SMALL | {"out_channels": 6, "sample_size": (16, 24)}),
    Shape("flip, shift 1, padding 0", SMALL | {"freq_shift": 1, "downsample_padding": 0}, "root"),
    Shape("no flip, shift 0, eps 1e-3", SMALL | {"flip_sin_to_cos": False, "norm_eps": 1e-3}, "unet_ema", NO_SCHEDULER),
    Shape("dropout in the config", SMALL | {"dropout": 0.3}),
    Shape("mid attention without a norm", SMALL | RESNET | blocks("ra"), must=False),
    Shape("conv down, resnet up", SMALL | {"upsample_type": "resnet"}, must=False),
    Shape("center_input_sample", SMALL | {"center_input_sample": True}, must=False),
    Shape("add_attention false", SMALL | {"add_attention": False}, must=False),
    Shape("mid_block_scale_factor", SMALL | {"mid_block_scale_factor": 1.4142}, must=False),
    Shape("act_fn gelu", SMALL | {"act_fn": "gelu"}, must=False),
    Shape("time_embedding_dim 48", SMALL | {"time_embedding_dim": 48}, must=False),
    Shape("fourier time", SMALL | {"time_embedding_type": "fourier"}, must=False),
    Shape("learned time", SMALL | {"time_embedding_type": "learned", "num_train_timesteps": 1000}, must=False),
    Shape("class_embed_type timestep", SMALL | {"class_embed_type": "timestep"}, must=False),
    Shape("skip blocks", SMALL | {"block_out_channels": (32, 32), "norm_num_groups": 32,
                                  "down_block_types": ("SkipDownBlock2D", "AttnSkipDownBlock2D"),
                                  "up_block_types": ("AttnSkipUpBlock2D", "SkipUpBlock2D")}, must=False),
]  # fmt: skip

# name, scheduler, True if the network's output is doubled
SCHEDULERS = [
    ("linear, epsilon, fixed_small", {"beta_schedule": "linear"}),
    ("squaredcos, epsilon, fixed_large", {"beta_schedule": "squaredcos_cap_v2", "variance_type": "fixed_large"}),
    ("sigmoid, sample, fixed_small", {"beta_schedule": "sigmoid", "beta_end": 0.3, "prediction_type": "sample"}),
    (
        "scaled_linear, v, fixed_large",
        {"beta_schedule": "scaled_linear", "beta_start": 0.01, "beta_end": 0.4, "prediction_type": "v_prediction",
         "variance_type": "fixed_large"},
    ),
    ("squaredcos, v, fixed_small", {"beta_schedule": "squaredcos_cap_v2", "prediction_type": "v_prediction"}),
    ("linear, learned_range", {"beta_end": 0.3, "variance_type": "learned_range"}),
    ("linear, not clipped", {"beta_end": 0.05, "clip_sample": False, "variance_type": "fixed_large"}),
    ("trained_betas", {"trained_betas": [0.01 + 0.2 * (k / STEPS) ** 2 for k in range(STEPS)]}),
]  # fmt: skip
MAY_REFUSE = [
    ("fixed_small_log", {"beta_end": 0.2, "variance_type": "fixed_small_log"}),
    ("clip_sample_range 0.5", {"beta_end": 0.2, "clip_sample_range": 0.5}),
    ("thresholding", {"beta_end": 0.2, "thresholding": True, "sample_max_value": 2.0}),
    ("zero terminal SNR", {"rescale_betas_zero_snr": True, "prediction_type": "v_prediction"}),
]


def fresh(config: dict, seed: int) -> UNet2DModel:
    unet = UNet2DModel(**config).eval()
    randomize(unet, seed)
    return unet


def old_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The attention's parameters as diffusers named them before 0.15."""
    renamed = {}
    for name, tensor in state.items():
        for new, old in (("to_q", "query"), ("to_k", "key"), ("to_v", "value"), ("to_out.0", "proj_attn")):
            name = name.replace(f".{new}.", f".{old}.")
        renamed[name] = tensor
    return renamed


def write(unet: UNet2DModel, folder: Path, way: str) -> None:
    pipeline = DDPMPipeline(unet, DDPMScheduler())
    if way in ("unet", "unet_ema"):
        if way == "unet":
            return unet.save_pretrained(folder)
        return EMAModel(unet.parameters(), model_cls=UNet2DModel, model_config=unet.config).save_pretrained(folder)
    options = {"bin": {"safe_serialization": False}, "sharded": {"max_shard_size": "3MB"}, "fp16": {"variant": "fp16"}}
    pipeline.save_pretrained(folder, **options.get(way, {}))
    if way == "sharded" and len(list((folder / "unet").glob("*.safetensors"))) < 2:
        raise ValueError("diffusers wrote one shard only; make max_shard_size smaller")
    if way == "old names":
        file = folder / "unet" / WEIGHTS
        save_file(old_names(load_file(file)), file, {"format": "pt"})
    if way == "root":  # as the first repositories were: everything in one folder
        for file in [*(folder / "unet").iterdir(), *(folder / "scheduler").iterdir()]:
            shutil.move(file, folder / file.name)
        (folder / "model_index.json").unlink()


def check_shape(table: Table, ddpm: Ddpm, shape: Shape, seed: int) -> None:
    unet = fresh(shape.unet, seed)
    folder, name = ddpm.file("-source"), f"diffusers {shape.name}"
    if shape.way == "fp16":
        unet.half()
    write(unet, folder, shape.way)
    unet.float()
    size = unet.config.sample_size
    x, t = inputs(seed, (3, unet.config.in_channels, *((size, size) if isinstance(size, int) else size)))
    conditional = unet.config.num_class_embeds or unet.config.class_embed_type
    classes = torch.tensor([9, 0, 4]) if conditional else None
    if unet.config.time_embedding_type == "fourier":
        t[-1] = 1  # it divides by t
    with torch.no_grad():
        wanted = unet(x, t, class_labels=classes).sample
    if not shape.must:
        return refused_or_near(table, name, lambda: ddpm.predict(folder, x, t, classes, shape.hints), wanted)
    with table.guard(name, f"predict from {shape.way}"):
        table.near(
            name,
            f"predict from {shape.way}",
            ddpm.predict(folder, x, t, classes, shape.hints),
            wanted,
            PREDICTION,
            relative=True,
        )
    with table.guard(name, "export to a folder"):
        back = ddpm.export(ddpm.imported(folder, shape.hints), "")
        loaded = DDPMPipeline.from_pretrained(back).unet
        table.same(name, "export to a folder", loaded.state_dict(), unet.state_dict())
        with torch.no_grad():
            again = loaded.eval()(x, t, class_labels=classes).sample
        table.near(name, "their network from our folder", again, wanted, 1e-6, relative=True)
        if conditional:
            check_class_script(table, name, back)


def check_class_script(table: Table, name: str, folder: Path) -> None:
    """The program that samples with classes, with fewer steps than it has: it ends with eight images."""
    script = folder / "sample_classes.py"
    text = script.read_text()
    script.write_text(text.replace("set_timesteps(1000)", "set_timesteps(4)"))
    done = subprocess.run(
        [sys.executable, script], cwd=folder, capture_output=True, text=True, timeout=600, env=ONE_THREAD
    )
    images = Image.open(folder / "classes.png").size if done.returncode == 0 else done.stderr[-300:]
    lines = sum(not line.startswith(("#", "from", "import")) and bool(line) for line in text.splitlines())
    table.add(name, f"the program in the folder, {lines} lines", done.returncode == 0, str(images))


def check_shapes(table: Table, ddpm: Ddpm) -> None:
    for i, shape in enumerate(SHAPES):
        with table.guard(f"diffusers {shape.name}", "the check itself"):
            check_shape(table, ddpm, shape, 100 + i)


def scheduler_pipeline(scheduler: dict, seed: int) -> DDPMPipeline:
    doubled = scheduler.get("variance_type") == "learned_range"
    unet = fresh(SMALL | ({"out_channels": 6} if doubled else {}), seed)
    return DDPMPipeline(unet, DDPMScheduler(num_train_timesteps=STEPS, **scheduler))


def ddim_images(pipeline: DDIMPipeline) -> Tensor:
    pipeline.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(7)
    return pipeline(2, generator=generator, eta=0.5, num_inference_steps=10, output_type="pt").images * 2 - 1


def check_scheduler_back(
    table: Table, name: str, original: DDPMPipeline, back: Path, z: Tensor, wanted: Tensor
) -> None:
    """Our exported folder, in diffusers, against the pipeline that we imported."""
    pipeline = DDPMPipeline.from_pretrained(back)
    table.same(name, "exported folder", pipeline.unet.state_dict(), original.unet.state_dict())
    table.near(name, "DDPMPipeline from our folder", diffusers_images(pipeline, z), wanted, IMAGE, relative=False)
    doubled = original.unet.config.out_channels > original.unet.config.in_channels
    if not doubled and original.scheduler.config.beta_schedule != "sigmoid":  # DDIMScheduler knows neither
        theirs = DDIMPipeline(original.unet, DDIMScheduler.from_config(original.scheduler.config))
        ours = DDIMPipeline.from_pretrained(back)
        table.near(
            name, "DDIMPipeline from our folder", ddim_images(ours), ddim_images(theirs), IMAGE, relative=False
        )


def check_scheduler(table: Table, ddpm: Ddpm, label: str, scheduler: dict, seed: int, batch: int | None) -> None:
    name, folder, z = f"diffusers {label}", ddpm.file("-source"), noise(5, STEPS, (2, 3, 16, 16))
    pipeline = scheduler_pipeline(scheduler, seed)
    pipeline.save_pretrained(folder)
    wanted = diffusers_images(pipeline, z)
    saturated = (wanted.abs() > 0.999).float().mean().item()
    if saturated > 0.8:
        raise ValueError(f"{saturated:.0%} of the wanted pixels are clipped: this case would show little")
    checkpoint = ddpm.imported(folder)
    with table.guard(name, "sample with the same noise"):
        ours = ddpm.sample(checkpoint, z, batch)
        table.near(name, "sample with the same noise", ours, wanted, IMAGE, relative=False)
    with table.guard(name, "export to a folder"):
        check_scheduler_back(table, name, pipeline, ddpm.export(checkpoint, ""), z, wanted)


def check_may_refuse(table: Table, ddpm: Ddpm, label: str, scheduler: dict, seed: int) -> None:
    folder, z = ddpm.file("-source"), noise(5, STEPS, (2, 3, 16, 16))
    pipeline = scheduler_pipeline(scheduler, seed)
    pipeline.save_pretrained(folder)
    wanted = diffusers_images(pipeline, z)

    def ours() -> Tensor:
        return ddpm.sample(ddpm.imported(folder), z)

    refused_or_near(table, f"diffusers {label}", ours, wanted, IMAGE, relative=False)


def check_images(table: Table, ddpm: Ddpm) -> None:
    for i, (label, scheduler) in enumerate(SCHEDULERS):
        with table.guard(f"diffusers {label}", "import"):
            check_scheduler(table, ddpm, label, scheduler, 200 + i, batch=1 if i == 0 else None)
    for i, (label, scheduler) in enumerate(MAY_REFUSE):
        with table.guard(f"diffusers {label}", "refuses or agrees"):
            check_may_refuse(table, ddpm, label, scheduler, 300 + i)
