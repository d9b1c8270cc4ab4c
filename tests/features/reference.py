"""Random weights of FID's Inception v3 in both kinds of files, images, and what pytorch-fid and torch-fidelity see.

Usage: reference.py FOLDER. Nothing is downloaded: both programs are given the file that this one writes.
"""

import sys
from pathlib import Path

import pytorch_fid.inception as fid
import torch
import torchvision
from safetensors.torch import save_file
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

SCRIPT_CONVS = {
    "A": {
        "branch1x1": "conv", "branch5x5_1": "tower.conv", "branch5x5_2": "tower.conv_1",
        "branch3x3dbl_1": "tower_1.conv", "branch3x3dbl_2": "tower_1.conv_1", "branch3x3dbl_3": "tower_1.conv_2",
        "branch_pool": "tower_2.conv",
    },
    "B": {
        "branch3x3": "conv", "branch3x3dbl_1": "tower.conv", "branch3x3dbl_2": "tower.conv_1",
        "branch3x3dbl_3": "tower.conv_2",
    },
    "C": {
        "branch1x1": "conv", "branch7x7_1": "tower.conv", "branch7x7_2": "tower.conv_1", "branch7x7_3": "tower.conv_2",
        "branch7x7dbl_1": "tower_1.conv", "branch7x7dbl_2": "tower_1.conv_1", "branch7x7dbl_3": "tower_1.conv_2",
        "branch7x7dbl_4": "tower_1.conv_3", "branch7x7dbl_5": "tower_1.conv_4", "branch_pool": "tower_2.conv",
    },
    "D": {
        "branch3x3_1": "tower.conv", "branch3x3_2": "tower.conv_1", "branch7x7x3_1": "tower_1.conv",
        "branch7x7x3_2": "tower_1.conv_1", "branch7x7x3_3": "tower_1.conv_2", "branch7x7x3_4": "tower_1.conv_3",
    },
    "E": {
        "branch1x1": "conv", "branch3x3_1": "tower_conv", "branch3x3_2a": "tower_mixed_conv",
        "branch3x3_2b": "tower_mixed_conv_1", "branch3x3dbl_1": "tower_1_conv", "branch3x3dbl_2": "tower_1_conv_1",
        "branch3x3dbl_3a": "tower_1_mixed_conv", "branch3x3dbl_3b": "tower_1_mixed_conv_1",
        "branch_pool": "tower_2_conv",
    },
}
SCRIPT_BLOCKS = {
    "Mixed_5b": ("A", "mixed"), "Mixed_5c": ("A", "mixed_1"), "Mixed_5d": ("A", "mixed_2"),
    "Mixed_6a": ("B", "mixed_3"),
    "Mixed_6b": ("C", "mixed_4"), "Mixed_6c": ("C", "mixed_5"), "Mixed_6d": ("C", "mixed_6"),
    "Mixed_6e": ("C", "mixed_7"), "Mixed_7a": ("D", "mixed_8"), "Mixed_7b": ("E", "mixed_9"),
    "Mixed_7c": ("E", "mixed_10"),
}
SCRIPT_STEM = {
    "Conv2d_1a_3x3": "conv", "Conv2d_2a_3x3": "conv_1", "Conv2d_2b_3x3": "conv_2", "Conv2d_3b_1x1": "conv_3",
    "Conv2d_4a_3x3": "conv_4",
}


def script_name(name):
    if name in SCRIPT_STEM:
        return SCRIPT_STEM[name]
    block, conv = name.split(".")
    kind, script_block = SCRIPT_BLOCKS[block]
    return f"{script_block}.{SCRIPT_CONVS[kind][conv]}"


def random_state(template):
    """Weights that keep maps of the size of 1 through the network."""
    generator = torch.Generator().manual_seed(1)
    state = {}
    for name, tensor in template.items():
        normal = torch.randn(tensor.shape, generator=generator) if tensor.is_floating_point() else tensor
        uniform = normal.sigmoid() if tensor.is_floating_point() else tensor
        if name.endswith("conv.weight"):
            state[name] = normal * (2 / tensor[0].numel()) ** 0.5
        elif name.endswith(("running_var", "bn.weight")):
            state[name] = 0.5 + uniform
        elif name == "fc.weight":
            state[name] = normal / 2048**0.5
        elif tensor.is_floating_point():
            state[name] = 0.1 * normal
        else:
            state[name] = tensor.clone()
    return state


class Conv(torch.nn.Module):
    def __init__(self, state, name):
        super().__init__()
        scale = state[f"{name}.bn.weight"]
        # These files have no scale: the same function without it.
        self.register_buffer("weight", state[f"{name}.conv.weight"] * scale[:, None, None, None])
        self.register_buffer("beta", state[f"{name}.bn.bias"].clone())
        self.register_buffer("mean", state[f"{name}.bn.running_mean"] * scale)
        self.register_buffer("var", state[f"{name}.bn.running_var"].clone())
        self.stride = 1

    def forward(self, x):
        return torch.nn.functional.conv2d(x, self.weight, stride=self.stride)


class Part(torch.nn.Module):
    """A module of parts: only its attributes matter."""

    def forward(self, x):
        return x


class Linear(torch.nn.Module):
    def __init__(self, state):
        super().__init__()
        self.weight = torch.nn.Parameter(state["fc.weight"].clone())
        self.bias = torch.nn.Parameter(state["fc.bias"].clone())

    def forward(self, x):
        return torch.nn.functional.linear(x, self.weight, self.bias)


def script_file(state, path):
    root = Part()
    root.layers = Part()
    for name in [name.removesuffix(".conv.weight") for name in state if name.endswith(".conv.weight")]:
        *parents, last = script_name(name).split(".")
        place = root.layers
        for parent in parents:
            if not hasattr(place, parent):
                setattr(place, parent, Part())
            place = getattr(place, parent)
        setattr(place, last, Conv(state, name))
    root.output = Linear(state)
    torch.jit.save(torch.jit.script(root.eval()), path)


def images():
    generator = torch.Generator().manual_seed(2)

    def draw(*shape):
        smooth = torch.rand(shape, generator=generator) + torch.linspace(0, 1, shape[-1])
        return (smooth * 127.5).to(torch.uint8)

    return {
        "grey": draw(1, 1, 28, 28),
        "rgb": draw(2, 3, 32, 32),
        "not_square": draw(1, 3, 20, 50),
        "tiny": draw(1, 3, 8, 8),
        "pixel": draw(1, 1, 1, 1),
        "large": draw(1, 3, 400, 300),
    }


def random_weights(path):
    """Writes a state_dict as torch-fidelity's file has it, and returns it."""
    with torch.device("meta"):
        template = torchvision.models.inception_v3(num_classes=1008, aux_logits=False, weights=None, init_weights=False)
    # FID's network differs from torchvision's in pooling, not in its tensors.
    state = random_state({name: torch.zeros(t.shape, dtype=t.dtype) for name, t in template.state_dict().items()})
    torch.save(state, path)
    return state


def pytorch_fid_network(state):
    fid.load_state_dict_from_url = lambda url, progress=True: state
    return fid.InceptionV3().eval()


def main():
    folder = Path(sys.argv[1])
    # Two threads on cores that other tests use wait for each other at every layer.
    torch.set_num_threads(1)
    state = random_weights(folder / "weights.pth")
    script_file(state, folder / "script.pt")
    pytorch_fid = pytorch_fid_network(state)
    fidelity = FeatureExtractorInceptionV3("inception", ["2048", "logits_unbiased"], str(folder / "weights.pth"))
    expected = {}
    with torch.no_grad():
        for name, pixels in images().items():
            rgb = pixels.expand(-1, 3, -1, -1)
            expected[f"{name}.images"] = pixels
            expected[f"{name}.pytorch_fid"] = pytorch_fid(rgb / 255)[0].flatten(1)
            if name in ("rgb", "pixel", "large"):
                expected[f"{name}.tf"], expected[f"{name}.tf_logits"] = fidelity(rgb)
    save_file({name: tensor.contiguous() for name, tensor in expected.items()}, folder / "expected.safetensors")


if __name__ == "__main__":
    main()
