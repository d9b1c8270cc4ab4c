#!/usr/bin/env python3
"""Writes weights/golden/: numbers of the original Keras-DDPM, in this project's layout.

    python scripts/parity/make_goldens.py ORACLE_DIR OUT_DIR

ORACLE_DIR holds the .npz files dumped from the original program and its input images. Every network
tensor is converted to NCHW, RGB and contiguous norm groups (by scripts/reference/keras_weights.py).
The contents of each file are described in its metadata ("description") and in weights/README.md.
"""

import argparse
import functools
import json
import platform
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import save

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "reference"))
from keras_weights import gau_to_ours, images_to_ours, name_map, regroup, to_ours  # noqa: E402
from networks import build  # noqa: E402

SOURCE = "Keras-DDPM (github.com/bojone/Keras-DDPM) run on TensorFlow 1.15.5, Keras 2.3.1, CPU"
TIMESTEPS = 1000
COMMON = {
    "channels": 3,
    "blocks": 1,
    "min_pixel": 4,
    "norm": "group",
    "norm_groups": 32,
    "norm_eps": 1e-6,
    "time_embedding": "trainable",
    "dropout": 0.0,
}
CONCAT = {"kind": "unet-concat", "channels": 3, "blocks": 1, "norm_groups": 32, "norm_eps": 1e-6, "dropout": 0.0}
MODELS = {
    "A": {"height": 32, "width": 32, "base_width": 64, "multipliers": [1, 2, 2]} | COMMON,
    "C": {"height": 16, "width": 16, "base_width": 32, "multipliers": [1, 2]} | COMMON,
    "D": {"height": 32, "width": 32, "base_width": 64, "multipliers": [1, 2]} | CONCAT,
    "G": {
        "kind": "gau", "height": 32, "width": 32, "channels": 3, "patch": 8, "base_width": 128, "layers": 2, "units": 256,
        "key_width": 128, "norm_eps": 1e-7, "dropout": 0.0,
    },  # fmt: skip
    "Dt": {"height": 16, "width": 16, "base_width": 32, "multipliers": [1, 1]} | CONCAT,
}
TRAJECTORY_SAMPLES = {"A": 512, "C": 512, "D": 320, "G": 512}  # elements kept of a larger tensor
IMAGES = "[ix][1-6]_*"  # and pure_red


@functools.cache
def load(path: Path) -> dict[str, np.ndarray]:
    return dict(np.load(path))


class Oracle:
    """The dumped numbers of one Keras model, under our names."""

    def __init__(self, folder: Path, model: str):
        self.folder, self.model = folder, model
        self.to_ours = gau_to_ours if MODELS[model].get("kind") == "gau" else to_ours
        manifest = json.loads((folder / f"{model}_manifest.json").read_text())
        created = [w["name"] for w in manifest["weights_in_creation_order"] if w["trainable"]]
        names = list(build(MODELS[model], TIMESTEPS).state_dict())
        self.keras = name_map(names, created)
        self.weights = {n: self.to_ours(n, a) for n, a in self.by_name("weights", "").items()}
        back = {keras: ours for ours, keras in self.keras.items()}
        self.zero_gradient = [back[k] for k in manifest["zero_gradient_noise_only_weights"]]
        excluded = (w["name"] for w in manifest["weights_in_creation_order"] if w["excluded_from_layer_adaptation"])
        self.not_adapted = [back[k] for k in excluded]

    def load(self, what: str) -> dict[str, np.ndarray]:
        return load(self.folder / f"{self.model}_{what}.npz")

    def by_name(self, what: str, prefix: str) -> dict[str, np.ndarray]:
        """The arrays `<prefix><Keras name>` of a file, by our names; those not stored are left out."""
        arrays = self.load(what)
        return {ours: arrays[prefix + keras] for ours, keras in self.keras.items() if prefix + keras in arrays}

    def sampled(self, name: str, count: int) -> np.ndarray:
        """Where the elements that the oracle sub-sampled lie in *our* flattened tensor, i32.

        The oracle keeps a whole tensor of at most `count` elements, else elements (i * 7919) % size.
        """
        w = self.weights[name]
        picked = np.arange(w.size) if w.size <= count else np.arange(count) * 7919 % w.size
        position = np.empty(w.size, np.int32)
        position[self.keras_index(name).reshape(-1)] = np.arange(w.size)
        return position[picked]

    def keras_index(self, name: str) -> np.ndarray:
        """For each element of our tensor, its flat index in the Keras tensor."""
        shape = self.load("weights")[self.keras[name]].shape
        return self.to_ours(name, np.arange(np.prod(shape)).reshape(shape))


def forward_and_gradients(oracle: Oracle) -> dict[str, np.ndarray]:
    given = oracle.load("forward")
    out = {f"w.{n}": a for n, a in oracle.weights.items()}
    out |= {k: images_to_ours(given[k]) for k in ("x", "noise", "y")}
    out |= {"t": given["t"][:, 0], "loss": given["loss"].astype(np.float64).reshape(1)}
    out |= {f"grad.{n}": oracle.to_ours(n, a) for n, a in oracle.by_name("grads", "g/").items()}
    for name, sample in oracle.by_name("grads", "gsub/").items():
        out |= {f"gradsub.{name}": sample, f"gradidx.{name}": oracle.sampled(name, len(sample))}
        out[f"gradnorm.{name}"] = oracle.by_name("grads", "norm/")[name].reshape(1)
    return out


def trajectories(oracle: Oracle) -> dict[str, np.ndarray]:
    batches = oracle.load("batches")
    out = {k: images_to_ours(batches[k]) for k in ("noisy", "noise")} | {"t": batches["t"][..., 0]}
    index = {n: oracle.sampled(n, TRAJECTORY_SAMPLES[oracle.model]) for n in oracle.weights}
    out |= {f"idx.{n}": i for n, i in index.items()}
    for mode in ("before", "after"):
        file = f"traj_{mode}"
        run = oracle.load(file)
        out[f"{mode}.losses"] = run["losses"]
        out[f"{mode}.lr_multiplier"] = run["lr_multiplier_used"]
        out[f"{mode}.adam_t"] = run["adam_t_used"]
        for step in ("s03", "s12"):
            for what, ours in (("w", "wsub"), ("ema", "emasub")):
                prefix = f"{mode}.{ours}.{step}."
                whole = oracle.by_name(file, f"{what}/{step}/")
                sub = oracle.by_name(file, f"{what}sub/{step}/")
                for name in oracle.weights:
                    values = oracle.to_ours(name, whole[name]).reshape(-1)[index[name]] if name in whole else sub[name]
                    out[prefix + name] = values
            for name, norm in oracle.by_name(file, f"wnorm/{step}/").items():
                out[f"{mode}.wnorm.{step}.{name}"] = norm.reshape(1)
    return out


def optimizer_unit(folder: Path) -> dict[str, np.ndarray]:
    f32 = load(folder / "optimizer_unit_before.npz")
    f64 = load(folder / "optimizer_unit_before_f64.npz")
    out = {"lr_multiplier": f32["lr_multiplier"], "adam_t": f32["adam_t"]}
    for key in f32:
        kind, _, name = key.partition("/")
        name = name.replace("/", ".")
        if kind in ("w0", "grad"):
            out[f"{kind}.{name}"] = f32[key]
        elif kind == "adapted":
            out[f"adapted.{name}"] = f32[key].reshape(1)
        elif kind in ("w", "ema"):
            out[f"{kind}.f32.{name}"] = f32[key]
            out[f"{kind}.f64.{name}"] = f64[key]
    return out


def norm_vectors(folder: Path) -> dict[str, np.ndarray]:
    vectors = load(folder / "norm_vectors.npz")
    out = {}
    for key in vectors:
        if key.startswith("gn"):
            case, what = key.split("/")
            name = {"gamma": "weight", "beta": "bias"}.get(what, what)
            array = regroup(vectors[key], -1)
            out[f"{case}.{name}"] = np.moveaxis(array, -1, 1) if array.ndim == 4 else array
    return out | {"sinusoidal_1000x128": vectors["sinusoidal_1000x128"]}


def gau_parts(folder: Path) -> dict[str, np.ndarray]:
    vectors = load(folder / "norm_vectors.npz")
    rms = {"rms.x": "rms/x", "rms.weight": "rms/gamma", "rms.y": "rms/y"}
    return {name: vectors[key] for name, key in rms.items()} | {k: vectors[k] for k in ("rope2d_w4", "rope2d_w16")}


def ddpm_short(folder: Path) -> dict[str, np.ndarray]:
    run = load(folder / "ddpm_sample_T20.npz")
    images = ("z_T", "noise", "preclip_beta", "result_beta", "preclip_ratio", "result_ratio")
    out = {k: images_to_ours(run[k]) for k in images}
    return out | {k.replace("sched/", ""): run[k] for k in run if k.startswith("sched/")}


def ddpm_long(folder: Path) -> dict[str, np.ndarray]:
    run = load(folder / "ddpm_sample_T1000_segments.npz")
    return {k: images_to_ours(run[k]) for k in ("z_in", "eps", "noise", "z_out")} | {"t": run["t"]}


def imread(folder: Path) -> dict[str, np.ndarray]:
    expected = load(folder / "imread.npz")
    out = {}
    for key in expected:
        if key.startswith("im") and not key.startswith("imwrite"):
            x = expected[key]
            pixels = np.rint((x.astype(np.float64) + 1) / 2 * 255).astype(np.uint8)
            if not np.array_equal(pixels.astype(np.float32) / np.float32(255) * 2 - 1, x):
                raise ValueError(f"{key} is not exactly x / 255 * 2 - 1 of whole numbers")
            out[key] = pixels[..., ::-1]
    return out


def write(path: Path, tensors: dict[str, np.ndarray], description: str, **metadata: str) -> None:
    """Writes a safetensors file with its header sorted, so that the same numbers give the same bytes."""
    versions = {name: version(name) for name in ("numpy", "safetensors", "torch")}
    metadata |= {
        # As in the stored files, which were made before this program moved to scripts/parity: the same bytes again.
        "script": f"scripts/{Path(__file__).name}",
        "source": SOURCE,
        "versions": json.dumps({"python": platform.python_version()} | versions),
        "description": description,
    }
    data = save({k: np.ascontiguousarray(v) for k, v in tensors.items()}, metadata)
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.dumps(json.loads(data[8:start]), sort_keys=True).encode()
    header += b" " * (-len(header) % 8)
    path.write_bytes(len(header).to_bytes(8, "little") + header + data[start:])
    print(f"{path.name}: {len(tensors)} tensors, {path.stat().st_size:,} bytes")


def check_forward(oracle: Oracle) -> None:
    """Loads the converted weights and compares the output with the original's."""
    net = build(MODELS[oracle.model], TIMESTEPS)
    net.load_state_dict({n: torch.from_numpy(a.copy()) for n, a in oracle.weights.items()}, strict=True)
    given = oracle.load("forward")
    with torch.no_grad():
        y = net(torch.from_numpy(images_to_ours(given["x"])), torch.from_numpy(given["t"][:, 0])).numpy()
    print(f"{oracle.model}: forward max|diff| {np.abs(y - images_to_ours(given['y'])).max():.2g}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("oracle", type=Path)
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    images = args.out / "images"
    images.mkdir(parents=True, exist_ok=True)

    for model, config in MODELS.items():
        oracle = Oracle(args.oracle, model)
        check_forward(oracle)
        about = {"config": json.dumps(config), "zero_gradient": json.dumps(oracle.zero_gradient)}
        adapted = "every tensor"
        if oracle.not_adapted:
            adapted = "every tensor but those in not_adapted"
            about["not_adapted"] = json.dumps(oracle.not_adapted)
        write(
            args.out / f"keras_{model}.safetensors",
            forward_and_gradients(oracle),
            "w.<name>: weights. x, t, noise, y, loss: one forward; loss is the squared error of y against noise summed "
            "per picture, mean over the batch. grad.<name>: whole gradients; gradsub.<name>: the elements gradidx.<name> "
            "of the flattened gradient, gradnorm.<name>: its L2 norm. Gradients in zero_gradient are rounding noise.",
            **about,
        )
        if model not in TRAJECTORY_SAMPLES:
            continue
        write(
            args.out / f"keras_{model}_traj.safetensors",
            trajectories(oracle),
            "12 LAMB steps from w.<name> of the other file, on noisy, t, noise [12, ...]; lr 1e-3, betas 0.9 and 0.999, "
            f"eps 1e-7, {adapted} layer-adapted, EMA momentum 0.9 started at zero and not bias-corrected. Mode before: "
            "step k used adam_t k and the multiplier of k - 1; after: one later. <mode>.losses, .lr_multiplier, .adam_t "
            "[12]; <mode>.wsub.sNN.<name> and .emasub.sNN.<name>: elements idx.<name> of the flattened tensor after step "
            "NN; <mode>.wnorm.sNN.<name>: L2 norm of the whole weight.",
            **about,
        )
    write(
        args.out / "keras_optimizer_unit.safetensors",
        optimizer_unit(args.oracle),
        "LAMB on prescribed gradients, 14 steps, lr 1e-3, betas 0.9 and 0.999, eps 1e-7, EMA momentum 0.9. "
        "w0.<name>: start; grad.<name> [14, ...]: the gradient of each step; w.f32.<name>, ema.f32.<name>, w.f64.<name>, "
        "ema.f64.<name> [14, ...]: values after each step, by the original in f32 and in f64 (EMA not bias-corrected); "
        "adapted.<name> [1]: 1 if layer-adapted; lr_multiplier [14], adam_t [14]: used by each step.",
    )
    write(
        args.out / "keras_schedule.safetensors",
        load(args.oracle / "schedule_T1000.npz"),
        "T = 1000, f64 [1000], in Keras-DDPM's names: alpha = sqrt(alphas), beta = sqrt(betas), bar_alpha = "
        "sqrt(alphas_cumprod), bar_beta = sqrt(1 - alphas_cumprod), sigma_beta and sigma_ratio: the two reverse stds.",
    )
    write(
        args.out / "keras_norm.safetensors",
        norm_vectors(args.oracle),
        "gn<i>_C<channels>.{x, weight, bias, y}: group norm, 32 groups, eps 1e-6, NCHW, channels regrouped so that "
        "groups are contiguous. sinusoidal_1000x128: table of the sinusoidal time embedding.",
    )
    write(
        args.out / "keras_gau_parts.safetensors",
        gau_parts(args.oracle),
        "rms.{x, weight, y}: the norm of ddpm-gau.py, over the last axis, eps 1e-7. rope2d_w<side> [side * side, 128]: its "
        "rotary positions for side x side patches, sines and cosines in turn; the first half by row, the second by column.",
    )
    write(
        args.out / "keras_ddpm_sample_T20.safetensors",
        ddpm_short(args.oracle),
        "DDPM sampling with the weights of keras_A, T = 20. z_T: start; noise[k]: of the k-th reverse step, from t = 19 "
        "down to 0; preclip_<sigma> and result_<sigma>: end before and after the clip, for sigma beta and ratio (the "
        "posterior std). alpha, beta, bar_alpha, bar_beta, sigma_*: the tables, as in keras_schedule.",
    )
    write(
        args.out / "keras_ddpm_sample_T1000_segments.safetensors",
        ddpm_long(args.oracle),
        "15 single reverse steps of a T = 1000 chain with the weights of keras_A, sigma = beta: at t[i], z_in[i] with "
        "network output eps[i] and noise[i] becomes z_out[i].",
    )
    write(
        args.out / "keras_imread.safetensors",
        imread(args.oracle),
        "im<size>/<file>: what the original reads from images/<file> for that size, u8 [size, size, 3] RGB, before "
        "x / 255 * 2 - 1. im<size>_crop<c>/<file>: with a centre crop of at most c pixels instead of the short side.",
    )
    for file in [*sorted((args.oracle / "images").glob(IMAGES)), args.oracle / "images" / "pure_red_8x8.png"]:
        (images / file.name).write_bytes(file.read_bytes())
    total = sum(f.stat().st_size for f in args.out.rglob("*") if f.is_file())
    print(f"total {total:,} bytes")


if __name__ == "__main__":
    main()
