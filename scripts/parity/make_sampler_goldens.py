#!/usr/bin/env python3
"""Writes the golden files of Keras-DDPM's samplers and image programs to weights/golden/.

    python scripts/parity/make_sampler_goldens.py ORACLE_DIR OUT_DIR

As make_goldens.py, which has the networks: images are converted to NCHW and RGB. Values before the final clip
are kept as f32; what each file holds is in its metadata ("description") and in weights/README.md.
"""

import argparse
from pathlib import Path

import numpy as np
from make_goldens import load, images_to_ours, write


def f32(array: np.ndarray) -> np.ndarray:
    return images_to_ours(array).astype(np.float32)


def figure(array: np.ndarray) -> np.ndarray:
    """A figure as written, HWC and BGR, in our layout: CHW, RGB, u8."""
    return np.moveaxis(array[..., ::-1], -1, 0)


def ddim(folder: Path) -> dict[str, np.ndarray]:
    run = load(folder / "ddim_sample.npz")
    out = {}
    for case in sorted({key.split("/")[0] for key in run}):
        eta = {"eta0": 0.0, "eta05": 0.5, "eta1": 1.0}[case.rsplit("_", 1)[1]]
        out |= {f"{case}.{k}": f32(run[f"{case}/{k}"]) for k in ("z_T", "preclip")}
        out |= {f"{case}.t": run[f"{case}/t_fed"], f"{case}.sigma": run[f"{case}/sigma_"]}
        if eta:
            out[f"{case}.noise"] = f32(run[f"{case}/noise"])
    inter = load(folder / "ddim_sample_inter_T20.npz")
    out |= {f"inter.{ours}": f32(inter[k]) for ours, k in (("z", "Z"), ("z_T", "z_samples"), ("preclip", "preclip"))}
    return out | {"inter.figure": figure(inter["grid_png_bgr"])}


def analytic(folder: Path) -> dict[str, np.ndarray]:
    run = load(folder / "adpm_T20.npz")
    out = {"inputs": f32(run["inputs"]), "mean_sq_per_picture": run["outputs_msq_per_sample"]}
    out |= {"factors": run["factors"].astype(np.float64), "factors_synthetic": run["factors_synthetic"].astype(np.float64)}
    for case in ("s5_eta1", "s5_eta0", "s1_eta1", "s5_eta1_synthetic"):
        out |= {f"{case}.{k}": f32(run[f"{case}/{k}"]) for k in ("z_T", "noise", "preclip")}
        out[f"{case}.sigma"] = run[f"{case}/sigma_"]
    return out


def ddcm(folder: Path) -> dict[str, np.ndarray]:
    run = load(folder / "ddcm_T20_K8.npz")
    # Ours counts draws in order of use: 0 is x_T's, the original's last.
    out = {"codebook": f32(run["codebook"][::-1]), "encode.x_0": f32(run["encode/x_src"])}
    for case in ("sample", "encode"):
        out[f"{case}.indices"] = np.ascontiguousarray(run[f"{case}/idx"].T)
        out[f"{case}.preclip"] = f32(run[f"{case}/preclip"])
        out[f"{case}.figure"] = figure(run[f"{case}/grid_png_bgr"])
    return out


def ddpm_inter(folder: Path) -> dict[str, np.ndarray]:
    run = load(folder / "ddpm_sample_inter_T20.npz")
    names = {"x_src": "x_0", "noise_enc": "eps", "noise": "noise", "z_start": "x_t", "preclip": "preclip"}
    return {ours: f32(run[k]) for k, ours in names.items()} | {"figure": figure(run["grid_png_bgr"])}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("oracle", type=Path)
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    write(
        args.out / "keras_ddim.safetensors",
        ddim(args.oracle),
        "DDIM with the weights of keras_D. <case> is T<T>_s<stride>_eta<eta>: z_T; noise[k] of the k-th reverse step (eta > 0); "
        "t and sigma by visited step, t falling and sigma rising with t; preclip: the end before the clip. inter: four "
        "latents z, the spherical mixtures z_T of two pairs in three steps, T = 20, stride 5, preclip, the figure.",
    )
    write(
        args.out / "keras_analytic.safetensors",
        analytic(args.oracle),
        "Analytic-DPM with the weights of keras_D, T = 20: mean_sq_per_picture [T, 10]: mean of eps_hat squared on noised pictures, of which "
        "inputs [T, 3, ...] are the first three; factors [T]: 1 less its mean, clipped to [0, 1]; factors_synthetic: made up. <case> is "
        "s<stride>_eta<eta>: z_T, noise, preclip as in keras_ddim; sigma by visited step, rising with t.",
    )
    write(
        args.out / "keras_ddcm.safetensors",
        ddcm(args.oracle),
        "DDCM with the weights of keras_D, T = 20, K = 8: codebook [21, K, ...] in order of use, x_T's first; sample.indices [4, 21] "
        "and encode.indices [4, 20] (of the reverse steps; x_T is entry 0) into it; encode.x_0: the pictures encoded; preclip: "
        "what the indices decode to; figure: the grid as written.",
    )
    write(
        args.out / "keras_ddpm_inter.safetensors",
        ddpm_inter(args.oracle),
        "Interpolation of two pairs of pictures x_0 in three steps, with the weights of keras_A, T = 20, t0 = 8: mixtures noised with eps "
        "to x_t at level 8, then (as the original does) led down from t = 11 with noise[k]; preclip, and the figure as written.",
    )


if __name__ == "__main__":
    main()
