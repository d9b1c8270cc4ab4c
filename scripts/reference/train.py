#!/usr/bin/env python3
"""Trains the reference network and writes the loss and the gradient norm of every step.

Every draw depends only on (seed, step), so the Rust program must give the same curve up to f32 rounding.
"""

import argparse
import functools
import json
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from diffusion import Diffusion
from networks import build, not_adapted
from optim import Ema, Lamb, l2_norms, lr_multiplier
from rng import DROPOUT, FLIP, LABEL_DROPOUT, NOISE, ORDER, TIMESTEP, key, part_key

CPU = torch.device("cpu")


class Trainer:
    """Model, optimizer and EMA. One step is `backward`, `grad_norm` (if wanted or clipping), `update`.

    `config` is the "optim" object of a run's JSON.
    """

    def __init__(self, model: torch.nn.Module, diffusion: Diffusion, config: dict):
        self.model, self.diffusion, self.config = model, diffusion, config
        params = dict(model.named_parameters())
        self.params = list(params.values())
        self.ema = Ema(self.params, config["ema"])
        lr, betas, eps = config["lr"], (config["beta1"], config["beta2"]), config["eps"]
        decay = config["weight_decay"]
        kind = config["optimizer"]
        if kind == "lamb":
            excluded = not_adapted(model, config["adapt_norms"])
            self.optimizer = Lamb(params, lr, *betas, eps, decay, excluded)
        elif kind == "adam":
            # One kernel for all parameters, unless the caller asks for the older form with one per operation.
            form = {"foreach": True} if config.get("foreach") else {"fused": True}
            self.optimizer = torch.optim.Adam(self.params, lr, betas, eps, decay, **form)
        elif kind == "adamw":
            self.optimizer = torch.optim.AdamW(self.params, lr, betas, eps, decay, fused=True)
        else:
            raise ValueError(f"optimizer is {kind!r}, want 'lamb', 'adam' or 'adamw'")

    def backward(
        self,
        x_0: Tensor,
        t: Tensor,
        eps: Tensor,
        accumulate: int = 1,
        seed_part: Callable[[int], None] = lambda _: None,
        classes: Tensor | None = None,
    ) -> Tensor:
        """Sets the gradients of the whole batch's loss, computed in equal micro-batches; returns the loss.

        `seed_part` is called with the number of each micro-batch before it. `classes` [B] i64 are for networks with classes.
        """
        if len(x_0) % accumulate:
            raise ValueError(f"a batch of {len(x_0)} cannot be split into {accumulate} equal micro-batches")
        for p in self.params:
            p.grad = None
        total = torch.zeros((), device=x_0.device)
        whole = [x_0, t, eps] if classes is None else [x_0, t, eps, classes]
        micro_batches = zip(*(tensor.chunk(accumulate) for tensor in whole))
        for number, (micro_x_0, micro_t, micro_eps, *micro_classes) in enumerate(micro_batches):
            seed_part(number)
            x_t = self.diffusion.q_sample(micro_x_0, micro_t, micro_eps)
            loss = self.diffusion.loss(self.model(x_t, micro_t, *micro_classes), micro_eps) / accumulate
            loss.backward()
            total += loss.detach()
        return total

    def grad_norm(self) -> Tensor:
        """L2 norm of all gradients together."""
        return torch.linalg.vector_norm(l2_norms([p.grad for p in self.params]))

    def update(self, step: int, norm: Tensor | None = None) -> None:
        """Clips (`norm` is then `grad_norm()`), moves the weights and the EMA. `step` counts from 0."""
        c = self.config
        if c.get("clip_norm") is not None:
            scale = (c["clip_norm"] / (norm + 1e-6)).clamp(max=1.0)
            torch._foreach_mul_([p.grad for p in self.params], scale)
        multiplier = lr_multiplier(c["lr_schedule"], step)
        if isinstance(self.optimizer, Lamb):
            self.optimizer.step(step + 1, multiplier)
        else:
            self.optimizer.param_groups[0]["lr"] = c["lr"] * multiplier
            self.optimizer.step()
        self.ema.step()

    def state(self) -> dict[str, Tensor]:
        """`model.<name>` and the bias-corrected `ema.<name>`."""
        names = [name for name, _ in self.model.named_parameters()]
        averages = self.ema.corrected() if self.ema.steps else []
        return {f"model.{n}": p.detach() for n, p in zip(names, self.params)} | {
            f"ema.{n}": a for n, a in zip(names, averages)
        }


@functools.lru_cache(maxsize=4)
def epoch_order(seed: int, epoch: int, count: int) -> Tensor:
    """The order in which an epoch visits the images, [count] i64."""
    torch.manual_seed(key(seed, ORDER, epoch))
    return torch.randperm(count)


def step_images(count: int, step: int, batch: int, seed: int) -> Tensor:
    """The images of step `step`, [B] i64. Epochs follow one another without a gap: a batch may end one and begin the next."""
    positions = range(step * batch, (step + 1) * batch)
    return torch.stack([epoch_order(seed, p // count, count)[p % count] for p in positions])


def to_unit(pixels: Tensor) -> Tensor:
    """u8 pixels to f32 in [-1, 1]."""
    return pixels.float() / 255 * 2 - 1


def draw_step(
    pixels: Tensor, step: int, batch: int, timesteps: int, seed: int, flip: bool, draws: str, device: torch.device = CPU
):
    """The batch of step `step` on `device`: x_0 [B, C, H, W], t [B], eps [B, C, H, W]. `pixels` is u8 [N, C, H, W], on CPU."""
    x_0 = to_unit(pixels[step_images(len(pixels), step, batch, seed)])
    if flip:
        torch.manual_seed(key(seed, FLIP, step))
        mirrored = torch.rand(batch) < 0.5
        x_0 = torch.where(mirrored[:, None, None, None], x_0.flip(3), x_0)
    torch.manual_seed(key(seed, TIMESTEP, step))
    t = torch.randint(0, timesteps, (batch,))
    return x_0.to(device), t.to(device), draw_noise(x_0.shape, step, seed, draws, device)


def draw_classes(labels: Tensor, step: int, config: dict) -> Tensor:
    """The classes that a network is told in step `step`, [B] i64 on the CPU, from those of all images [N].

    For some images it is told none, which is the number after the last class.
    """
    batch, seed = config["train"]["batch"], config["train"]["seed"]
    classes = labels[step_images(len(labels), step, batch, seed)]
    share = config["conditional"].get("label_dropout") or 0.0
    if share > 0:
        torch.manual_seed(key(seed, LABEL_DROPOUT, step))
        unlabelled = torch.rand(batch) < share
        classes = classes.masked_fill(unlabelled, config["model"]["classes"])
    return classes


def draw_noise(shape: torch.Size, step: int, seed: int, draws: str, device: torch.device = CPU) -> Tensor:
    """The noise of step `step`, f32 [B, C, H, W]: one draw over the batch, or one for each image."""
    if draws == "batch":
        torch.manual_seed(key(seed, NOISE, step))
        return torch.randn(shape, device=device)
    if draws == "image":
        # The bits of the default generator, whose reseeding would queue one for CUDA too.
        images, generator = torch.empty(shape, device=device), torch.Generator(device)
        for place, image in enumerate(images):
            image.normal_(generator=generator.manual_seed(part_key(seed, NOISE, step, place)))
        return images
    raise ValueError(f"draws is {draws!r}, want 'batch' or 'image'")


def seed_dropout(seed: int, step: int, draws: str, number: int) -> None:
    """Before micro-batch `number`: one stream of dropout through all of them, or one for each."""
    if draws == "image":
        torch.manual_seed(part_key(seed, DROPOUT, step, number))
    elif number == 0:
        torch.manual_seed(key(seed, DROPOUT, step))


def train(
    config: dict,
    pixels: Tensor,
    steps: int,
    init: dict[str, Tensor] | None = None,
    device: torch.device = CPU,
    labels: Tensor | None = None,
) -> tuple[Trainer, dict]:
    """Runs `steps` steps; returns the trainer and {"losses": [...], "grad_norms": [...]}.

    `init` is a plain state_dict to start from instead of the seeded initialisation. `labels` [N] i64, the classes of the
    images, are for networks with classes.
    """
    diffusion = Diffusion(config["diffusion"]).to(device)
    batch, seed = config["train"]["batch"], config["train"]["seed"]
    draws = config["train"].get("draws", "batch")  # older files do not name them
    model = build(config["model"], diffusion.timesteps).initialise(seed)
    if init is not None:
        model.load_state_dict(init, strict=True)
    trainer = Trainer(model.to(device), diffusion, config["optim"])
    losses, grad_norms = [], []
    for step in range(steps):
        x_0, t, eps = draw_step(pixels, step, batch, diffusion.timesteps, seed, config["data"]["flip"], draws, device)
        seed_part = functools.partial(seed_dropout, seed, step, draws)
        classes = None if labels is None else draw_classes(labels, step, config).to(device)
        losses.append(trainer.backward(x_0, t, eps, config["train"]["accumulate"], seed_part, classes).item())
        norm = trainer.grad_norm()
        grad_norms.append(norm.item())
        trainer.update(step, norm)
    return trainer, {"losses": losses, "grad_norms": grad_norms}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, required=True, help="run.json")
    parser.add_argument("--data", type=Path, required=True, help="safetensors with `pixels`, u8 [N, C, H, W], and `labels`, i64 [N], for networks with classes")
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--out", type=Path, required=True, help="JSON with the curves")
    parser.add_argument("--save", type=Path, help="safetensors for the weights and their average")
    parser.add_argument("--init", type=Path, help="safetensors with a plain state_dict to start from")
    args = parser.parse_args()
    data = load_file(args.data)
    trainer, result = train(
        json.loads(args.config.read_text()),
        data["pixels"],
        args.steps,
        load_file(args.init) if args.init else None,
        labels=data.get("labels"),
    )
    args.out.write_text(json.dumps(result))
    if args.save:
        save_file(trainer.state(), args.save)


if __name__ == "__main__":
    main()
