"""What tests/distances.rs is held against: pytorch-fid, torch-fidelity and NumPy on the same arrays.

    python reference.py FOLDER

Reads FOLDER/ours.npz, a file of statistics by this program, and writes FOLDER/sets.npz, the arrays, further files of
statistics, and FOLDER/values.json.
"""

import json
import sys
import warnings
from pathlib import Path

import numpy as np
import torch
from pytorch_fid.fid_score import calculate_frechet_distance, compute_statistics_of_path
from scipy.ndimage import convolve
from scipy.stats import wasserstein_distance
from torch_fidelity.metric_fid import fid_statistics_to_metric
from torch_fidelity.metric_isc import isc_features_to_metric
from torch_fidelity.metric_kid import kid_features_to_metric
from torch_fidelity.metric_prc import prc_features_to_metric

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts" / "reference"))
from rng import mix  # noqa: E402

warnings.filterwarnings("ignore")
FOLDER = Path(sys.argv[1])
rng = np.random.default_rng(7)


def features(n, d, spread, shift):
    """Features as a network makes them: correlated, not Gaussian, and not below 0."""
    hidden = rng.standard_normal((n, d)) * np.linspace(1, spread, d) + shift
    mix = np.random.default_rng(d).standard_normal((d, d)) / d**0.5
    return np.maximum(hidden @ mix, 0) + 0.1 * rng.standard_normal((n, d))


sets = {
    "a": features(900, 64, 0.2, 0.3),
    "b": features(700, 64, 0.3, 0.35),
    "wide_a": features(2600, 256, 0.1, 0.3),
    "wide_b": features(2600, 256, 0.1, 0.4),
    "few_a": features(40, 64, 0.2, 0.3),
    "few_b": features(50, 64, 0.3, 0.3),
    "logits": rng.standard_normal((503, 20)) * 3,
}
# A mean a million times the spread.
sets["far"] = sets["a"] + 1e6 * np.linspace(-1, 1, 64)
np.savez(FOLDER / "sets.npz", **sets)
np.savez(FOLDER / "single.npz", a=sets["a"].astype(np.float32))

stats = {k: {"mu": v.mean(0), "sigma": np.cov(v, rowvar=False)} for k, v in sets.items()}
np.savez_compressed(FOLDER / "stats.npz", **{f"{k}.{m}": v for k, s in stats.items() for m, v in s.items()})

# Files of other programs: compressed; in Fortran order and big-endian; with more arrays, one of them of images.
np.savez_compressed(FOLDER / "pytorch_fid.npz", **stats["b"])
turned = np.asfortranarray(stats["b"]["sigma"].astype(">f8"))
np.savez(FOLDER / "turned.npz", mu=stats["b"]["mu"].astype(">f8"), sigma=turned)
images = rng.integers(0, 256, (9, 6, 5, 3), dtype=np.uint8)
np.savez(FOLDER / "guided.npz", images, mu_s=np.zeros(3), sigma_s=np.eye(3), **stats["b"])
np.save(FOLDER / "images.npy", images)
np.savez(FOLDER / "bad_shape.npz", mu=np.zeros(3), sigma=np.eye(4))
np.savez(FOLDER / "bad_nan.npz", mu=np.zeros(2), sigma=np.array([[1, np.nan], [np.nan, 1]]))
np.savez(FOLDER / "bad_symmetry.npz", mu=np.zeros(2), sigma=np.array([[1, 0.5], [0.25, 1]]))
np.savez(FOLDER / "bad_variance.npz", mu=np.zeros(2), sigma=np.array([[1, 0], [0, -1.0]]))
np.savez(FOLDER / "bad_names.npz", mean=np.zeros(2), cov=np.eye(2))
np.savez(FOLDER / "bad_pickle.npz", mu=np.array([None, {}], dtype=object), sigma=np.eye(2))


def tensors(*names):
    return [torch.from_numpy(sets[name]) for name in names]


def frechet(x, y):
    x, y = stats[x], stats[y]
    return {
        "pytorch-fid": float(calculate_frechet_distance(x["mu"], x["sigma"], y["mu"], y["sigma"])),
        "torch-fidelity": fid_statistics_to_metric(x, y, False)["frechet_inception_distance"],
    }


def kernel(x, y, **options):
    found = kid_features_to_metric(*tensors(x, y), verbose=False, rng_seed=2020, **options)
    return [found["kernel_inception_distance_mean"], found["kernel_inception_distance_std"]]


def precision(x, y):
    found = prc_features_to_metric(*tensors(x, y), verbose=False)
    return [found["precision"], found["recall"]]


def score(name):
    found = isc_features_to_metric(*tensors(name))
    return [found["inception_score_mean"], found["inception_score_std"]]


# Sliced Wasserstein distances have no peer to install: the definition, in f64, with this program's random numbers.
WEIGHTS = np.outer(*[np.array([1, 4, 6, 4, 1]) / 16] * 2)


def blur(images):
    return np.stack([[convolve(plane, WEIGHTS, mode="mirror") for plane in image] for image in images])


def pyramid(images):
    levels = [images.astype(np.float64)]
    while min(levels[-1].shape[2:]) >= 32 - 1:  # the next has at least 16 pixels
        small = blur(levels[-1])[:, :, ::2, ::2]
        large = np.zeros_like(levels[-1])
        large[:, :, ::2, ::2] = small
        levels[-1] = levels[-1] - 4 * blur(large)
        levels.append(small)
    return levels


def patches(images, per_image, most, seed):
    stride = 1
    while -(-len(images) // stride) * per_image > most:
        per_image, stride = (per_image // 2, 1) if per_image > 1 else (1, stride * 2)
    for level, of_level in enumerate(pyramid(images)):
        _, channels, height, width = of_level.shape
        cut = []
        for i in range(0, len(images), stride):
            for k in range(per_image):
                bits = mix(mix(mix(mix(seed) ^ i) ^ level) ^ k)
                y, x = (bits >> 32) * (height - 6) >> 32, (bits & 0xFFFFFFFF) * (width - 6) >> 32
                cut.append(of_level[i, :, y : y + 7, x : x + 7])
        cut = np.stack(cut)
        cut = (cut - cut.mean((0, 2, 3), keepdims=True)) / cut.std((0, 2, 3), keepdims=True)
        yield cut.reshape(len(cut), -1)


def sliced(x, y, per_image, most, directions, seed):
    levels = []
    for level, (p, q) in enumerate(zip(patches(x, per_image, most, seed), patches(y, per_image, most, seed))):
        torch.manual_seed(mix(seed ^ mix(level)) >> 1)
        lines = torch.randn(p.shape[1], directions).double().numpy()
        lines /= np.linalg.norm(lines, axis=0)
        apart = [wasserstein_distance(p @ line, q @ line) for line in lines.T]
        levels.append(1000 * np.mean(apart))
    return levels


def pictures(n, channels, height, width, detail):
    """Coarse shapes with some detail."""
    coarse = rng.uniform(60, 200, (n, channels, height // 4 + 1, width // 4 + 1))
    large = coarse.repeat(4, 2).repeat(4, 3)[:, :, :height, :width]
    return (large + rng.normal(0, detail, large.shape)).clip(0, 255).astype(np.uint8)


image_sets = {
    "rgb_a": pictures(40, 3, 37, 50, 5),
    "rgb_b": pictures(30, 3, 37, 50, 9),
    "grey_a": pictures(21, 1, 16, 29, 5),
    "grey_b": pictures(21, 1, 16, 29, 9),
}
np.savez(FOLDER / "image_sets.npz", **{name: x.transpose(0, 2, 3, 1) for name, x in image_sets.items()})
sliced_cases = [
    {"sets": name, "options": options, "levels": sliced(image_sets[name + "_a"], image_sets[name + "_b"], *options)}
    for name, options in [
        ("rgb", (16, 1000, 40, 7)),
        ("rgb", (16, 200, 40, 8)),
        ("rgb", (3, 15, 9, 9)),
        ("grey", (8, 168, 33, 0)),
    ]
]

mu, sigma = compute_statistics_of_path(str(FOLDER / "ours.npz"), None, 1, 3, "cpu")
with np.load(FOLDER / "ours.npz") as ours:
    named = {name: str(ours[name]) for name in ["n", "features"]}

values = {
    "ours": {"mu": mu.tolist(), "sigma": sigma.tolist(), **named},
    "frechet": {f"{x} {y}": frechet(x, y) for x, y in [("a", "b"), ("wide_a", "wide_b"), ("few_a", "few_b")]},
    "kernel": kernel("a", "b", kid_subset_size=200),
    "kernel of all": kernel("few_a", "few_a", kid_subset_size=40),
    "kernel of thousands": kernel("wide_a", "wide_b", kid_subset_size=1000, kid_subsets=2),
    "precision": {f"{x} {y}": precision(x, y) for x, y in [("a", "b"), ("wide_a", "wide_b"), ("few_a", "few_b")]},
    "score": score("logits"),
    "sliced": sliced_cases,
    "images": images.ravel().tolist(),
}
(FOLDER / "values.json").write_text(json.dumps(values))
