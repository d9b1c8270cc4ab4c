"""diffusers' schedulers against our samplers: one network, the same noise, the same time steps.

Conventions in which the two sides differ, and what is done about each:

- Time steps. diffusers' spacings are not ours (its linspace leaves out t = 0 for the multistep solvers, its leading depends on
  the solver): its own choice goes into our --times, and once a list of ours into its `timesteps`.
- The last step. `final_sigmas_type` is zero: down to the image, as here. Its DDIM finds the time step before by
  subtracting T // N, so N divides T.
- Clipping. Its DDIM keeps the network's eps beside a clipped x_0 unless `use_clipped_model_output`; here eps always follows x_0,
  so that is on. Its DPM-Solver and UniPC do not clip, but their thresholding with a largest value of 1 is just that.
- Heun works on x_t / signal: it is given x_T / signal, and visits each time step twice but the first. Its linspace does not
  round, so N - 1 divides T - 1.
- Heun on the cosine schedule is left out: there x_T / signal is 2,000 times x_T, and diffusers' f32 loses 3e-3 of the
  image (3e-5 with its state in f64, and then the difference is its f32 table of sigmas).
- Its DDPM adds noise at the last step if that leaves t > 0; here never. With fixed_small that noise is zero.
- UniPC's and DPM-Solver's last steps are of lower order, `lower_order_final`, which here is always so.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from diffusers import (
    DDIMScheduler,
    DDPMPipeline,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    HeunDiscreteScheduler,
    UNet2DModel,
    UniPCMultistepScheduler,
)
from diffusers.utils import logging
from torch import Tensor

from .checking import Ddpm, Table
from .drawing import given_noise, noise

logging.set_verbosity_error()
logging.disable_progress_bar()

T = 100
IMAGES = 4
# Factor on the given noise and on the network's output: most pixels then end between -1 and 1, where they can differ.
LOUDNESS = 0.3
# Max abs in [-1, 1], a 400th of a grey level. Largest measured: 6.5e-6, by UniPC of order 3, whose weights diffusers solves for
# in f32; 3e-6 by the others but one. Its schedules are f32 tables, which are off by 1e-6 near t = 0, ours f64.
SAMPLER = 2e-5

# Schedules of training that the network is used with.
MODELS = {
    "eps": {"beta_schedule": "linear", "beta_start": 1e-3, "beta_end": 0.03},
    "v": {"beta_schedule": "squaredcos_cap_v2", "prediction_type": "v_prediction"},
}
UNEVEN = [99, 90, 72, 65, 43, 31, 22, 9, 4, 0]


@dataclass
class Case:
    """A sampler on both sides."""

    name: str
    scheduler: Callable
    """diffusers' class."""
    flags: Sequence[object]
    """Ours, besides --times and --clip-x0."""
    options: dict = field(default_factory=dict)
    """Options of the scheduler."""
    step: dict = field(default_factory=dict)
    """Options of each of its steps."""
    steps: tuple[int, int] = (10, 20)
    """Number of steps: not clipped, clipped."""
    given_times: bool = False
    """Visits UNEVEN instead of diffusers' own choice of time steps."""


def dpm(kind: str, spacing: str, **more) -> dict:
    return {"algorithm_type": kind, "solver_order": 2, "solver_type": "midpoint", "timestep_spacing": spacing} | more


def unipc(order: int, spacing: str) -> dict:
    return {"solver_order": order, "solver_type": "bh2", "timestep_spacing": spacing}


def cases() -> list[Case]:
    ddim, multistep, heun = DDIMScheduler, DPMSolverMultistepScheduler, HeunDiscreteScheduler
    found = []
    for eta in (0.0, 0.5, 1.0):
        for spacing in ("leading", "trailing"):
            flags = ("--sampler", "ddim", "--eta", eta)
            options = {"timestep_spacing": spacing}
            step = {"eta": eta, "use_clipped_model_output": True}
            found.append(Case(f"ddim, eta {eta}, {spacing}", ddim, flags, options, step))
    for spacing in ("linspace", "trailing"):
        flags = ("--sampler", "dpmpp-2m")
        found.append(Case(f"dpmpp-2m, {spacing}", multistep, flags, dpm("dpmsolver++", spacing)))
        flags = ("--sampler", "dpmpp-2m-sde")
        found.append(Case(f"dpmpp-2m-sde, {spacing}", multistep, flags, dpm("sde-dpmsolver++", spacing)))
        for order in (1, 2, 3):
            flags = ("--sampler", "unipc", "--order", order)
            found.append(Case(f"unipc, order {order}, {spacing}", UniPCMultistepScheduler, flags, unipc(order, spacing)))
        steps = (10, 12) if spacing == "linspace" else (10, 20)
        found.append(Case(f"heun, {spacing}", heun, ("--sampler", "heun"), {"timestep_spacing": spacing}, steps=steps))
    for kind, ours in (("dpmsolver++", "dpmpp-2m"), ("sde-dpmsolver++", "dpmpp-2m-sde")):
        flags = ("--sampler", ours)
        found.append(Case(f"{ours}, uneven", multistep, flags, dpm(kind, "leading"), given_times=True))
    found.append(Case("heun, uneven", heun, ("--sampler", "heun"), given_times=True))
    small, large = {"variance_type": "fixed_small"}, {"variance_type": "fixed_large"}
    posterior, beta = ("--sigma", "posterior"), ("--sigma", "beta")
    found.append(Case("ddpm, fixed_small, trailing", DDPMScheduler, posterior, small | {"timestep_spacing": "trailing"}))
    found.append(Case("ddpm, fixed_small, uneven", DDPMScheduler, posterior, small, given_times=True))
    found.append(Case("ddpm, fixed_large, leading", DDPMScheduler, beta, large | {"timestep_spacing": "leading"}))
    found.append(Case("ddpm, fixed_large, uneven", DDPMScheduler, beta, large, given_times=True))
    return found


def clipping(case: Case, clip: bool) -> dict:
    """The scheduler's options for clipping x_0 to [-1, 1] or not."""
    if case.scheduler in (DPMSolverMultistepScheduler, UniPCMultistepScheduler):
        return {"thresholding": clip, "sample_max_value": 1.0}
    return {"clip_sample": clip}


def their_chain(case: Case, unet: UNet2DModel, scheduler, steps: int, z: Tensor) -> tuple[list[int], Tensor]:
    """The time steps visited and the images. `z` is x_T, then the noise of each step."""
    if case.given_times:
        scheduler.set_timesteps(timesteps=UNEVEN)
    else:
        scheduler.set_timesteps(steps)
    x = z[0]
    if isinstance(scheduler, HeunDiscreteScheduler):
        x = x * (scheduler.sigmas[0] ** 2 + 1) ** 0.5
    places = [f"diffusers.schedulers.scheduling_{of}.randn_tensor" for of in ("ddim", "ddpm", "dpmsolver_multistep")]
    with given_noise(z[1:], *places), torch.no_grad():
        for t in scheduler.timesteps:
            out = unet(scheduler.scale_model_input(x, t), t).sample
            x = scheduler.step(out, t, x, **case.step).prev_sample
    visited = list(dict.fromkeys(t.item() for t in scheduler.timesteps))
    if any(t != int(t) for t in visited):
        raise ValueError(f"diffusers visits {visited}, which are no time steps that the network was trained for")
    return [int(t) for t in visited], x


def check_case(
    table: Table, ddpm: Ddpm, case: Case, unet: UNet2DModel, model: str, checkpoint: Path, steps: int, clip: bool
) -> None:
    name = f"{model}, {case.name}"
    steps = len(UNEVEN) if case.given_times else steps
    what = f"{steps} steps{', clipped' if clip else ''}"
    with table.guard(name, what):
        z = noise(11, steps, (IMAGES, 3, 16, 16)) * LOUDNESS
        options = {"num_train_timesteps": T} | MODELS[model] | case.options | clipping(case, clip)
        times, wanted = their_chain(case, unet, case.scheduler(**options), steps, z)
        flags = (*case.flags, "--times", ",".join(map(str, times)), f"--clip-x0={str(clip).lower()}")
        ours = ddpm.sample(checkpoint, z[: len(times) + 1], flags=flags)
        table.near(name, what, ours, wanted.clamp(-1, 1), SAMPLER, relative=False)
        refuse_idle(wanted, clip)


def refuse_idle(wanted: Tensor, clip: bool) -> None:
    """Images that are clipped nearly everywhere would agree whatever the sampler."""
    saturated = (wanted.abs() > 0.999).double().mean().item()
    if saturated > 0.5:
        raise ValueError(f"{saturated:.0%} of the wanted pixels are clipped: this case would show little")


def check_samplers(table: Table, ddpm: Ddpm, peers: Path) -> None:
    """With the network of weights/peers/diffusers."""
    unet = UNet2DModel.from_pretrained(peers / "diffusers" / "unet").eval()
    with torch.no_grad():
        unet.conv_out.weight *= LOUDNESS
        unet.conv_out.bias *= LOUDNESS
    for model, schedule in MODELS.items():
        folder = ddpm.file("-source")
        DDPMPipeline(unet, DDPMScheduler(num_train_timesteps=T, **schedule)).save_pretrained(folder)
        checkpoint = ddpm.imported(folder)
        for case in cases():
            if model == "v" and case.scheduler is HeunDiscreteScheduler:
                continue
            for steps, clip in zip(case.steps, (False, True)):
                check_case(table, ddpm, case, unet, model, checkpoint, steps, clip)
