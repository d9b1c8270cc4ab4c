"""The part of check.py for several GPUs: two ranks on NCCL against one process."""

import socket

from lab import Failure, Lab
from running import differences, metrics

STEPS = 40
NEAR = 1e-3  # of a loss: gradients are added up in another order


def ranks(lab: Lab) -> bool:
    """Two ranks train as one process does, add up in order to the same bytes, and say what they spend on each other."""
    devices = [line for line in lab.end("doctor").printed.splitlines() if line.strip().startswith("cuda:")]
    if len(devices) < 2 or lab.simulated:
        print(f"Not tried: it takes two GPUs, and here {'is' if len(devices) == 1 else 'are'} {len(devices)}.")
        return True
    settings = ["--preset", "demo", "--deterministic", "--precision", "f32", "--save-every", STEPS, "--sample-every", 0]
    settings += ["--steps", STEPS, "--device", "cuda"]
    alone, ring, ordered = (lab.folder / name for name in ("alone", "ring", "ordered"))
    lab.ok("train", *settings, "--accumulate", 2, "--run", alone)
    together(lab, "train", *settings, "--run", ring)
    together(lab, "train", *settings, "--reduce", "ordered", "--run", ordered)
    pairs = list(zip(metrics(ring), metrics(alone)))
    worst = max(abs(ours["loss"] - theirs["loss"]) / theirs["loss"] for ours, theirs in pairs)
    print(f"- losses of two ranks and of one process, {len(pairs)} steps: at most {worst:.2g} of a loss apart (bound {NEAR})")
    wrong = differences(alone, ordered, f"checkpoints/step-{STEPS:08}.safetensors")
    print(f"- the same with `--reduce ordered`: {wrong or 'the bytes of one process'}")
    for reduce in ("f32", "bf16"):
        said = together(lab, "bench", "--preset", "celebahq128", "--batch", 128, "--reduce", reduce, "--device", "cuda")
        print(f"\n```\n{said.strip()}\n```")
    return worst <= NEAR and not wrong


def together(lab: Lab, *words) -> str:
    """What rank 0 of two prints; both must succeed."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = []
    for rank in range(2):
        place = {"RANK": rank, "WORLD_SIZE": 2, "LOCAL_RANK": rank, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        processes.append(lab.start(*words, **{name: str(value) for name, value in place.items()}))
    said = [process.communicate() for process in processes]
    for rank, (process, (_, stderr)) in enumerate(zip(processes, said)):
        if process.returncode != 0:
            raise Failure(f"rank {rank} ended with {process.returncode}: {stderr.strip()[-2000:]}")
    return said[0][0]
