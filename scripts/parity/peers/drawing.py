"""Random weights in which every tensor matters, and the packages' samplers on given noise."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

import torch
from torch import Tensor, nn


@torch.no_grad()
def randomize(net: nn.Module, seed: int) -> None:
    """Fills every parameter: outputs stay near 1, and no norm stays at 1, no bias or last layer at 0."""
    generator = torch.Generator().manual_seed(seed)
    for name, p in net.named_parameters():
        if name == "time_embedding.timembedding.0.weight":
            continue  # w86763777's time table is fixed
        p.copy_(torch.randn(p.shape, generator=generator))
        norm = "norm" in name or name.endswith(".g") or p.dim() == 1
        if norm and name.endswith(("weight", ".g")):
            p.mul_(0.2).add_(1.0)
        elif name.endswith("bias"):
            p.mul_(0.1)
        elif p.dim() > 1 and "emb.weight" not in name and "class_embedding" not in name and "mem_kv" not in name:
            p.div_(math.sqrt(p[0].numel()))


def inputs(seed: int, shape: tuple[int, ...], timesteps: int = 1000) -> tuple[Tensor, Tensor]:
    """x [N, C, H, W] and t [N]; the first and the last t are always among them."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, generator=generator)
    t = torch.randint(0, timesteps, shape[:1], generator=generator)
    t[0], t[-1] = timesteps - 1, 0
    return x, t


def noise(seed: int, steps: int, shape: tuple[int, ...]) -> Tensor:
    """[steps + 1, N, C, H, W]."""
    return torch.randn((steps + 1, *shape), generator=torch.Generator().manual_seed(seed))


@contextmanager
def given_noise(z: Tensor, *places: str) -> Iterator[None]:
    """Replaces the functions named `places` by one that hands out z[0], z[1], … and checks the shape asked for."""
    left = iter(z)

    def draw(like, *_args, **_kwargs) -> Tensor:
        shape = tuple(like.shape) if isinstance(like, Tensor) else tuple(like)
        drawn = next(left)
        if shape != tuple(drawn.shape):
            raise ValueError(f"the sampler drew {shape}, but the noise given is {tuple(drawn.shape)}")
        return drawn.clone()

    patches = [mock.patch(place, draw) for place in places]
    for patch in patches:
        patch.start()
    try:
        yield
    finally:
        for patch in patches:
            patch.stop()


def diffusers_images(pipeline, z: Tensor) -> Tensor:
    """[N, C, H, W] in [-1, 1], by all T steps of a DDPMPipeline."""
    pipeline.set_progress_bar_config(disable=True)
    places = (
        "diffusers.pipelines.ddpm.pipeline_ddpm.randn_tensor",
        "diffusers.schedulers.scheduling_ddpm.randn_tensor",
    )
    with given_noise(z, *places):
        images = pipeline(batch_size=z.shape[1], num_inference_steps=len(z) - 1, output_type="pt").images
    return images * 2 - 1


def lucidrains_images(diffusion, z: Tensor) -> Tensor:
    """[N, C, H, W] in [-1, 1], by all T steps of a GaussianDiffusion."""
    with given_noise(z, "torch.randn", "torch.randn_like"):
        with mock.patch("denoising_diffusion_pytorch.denoising_diffusion_pytorch.tqdm", lambda steps, **_: steps):
            images = diffusion.p_sample_loop(tuple(z.shape[1:]))
    return (images * 2 - 1).clamp(-1, 1)
