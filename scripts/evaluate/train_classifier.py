"""Trains the small classifier whose features `--features small-cnn` measures distances in.

    .venv/bin/python scripts/evaluate/train_classifier.py DATA OUT.safetensors [--size N] [--widths A,B,C] [--epochs N]

DATA is a folder of either kind:

- IDX files by the names of MNIST, packed by gzip or not: `train-images-idx3-ubyte`, `train-labels-idx1-ubyte`,
  `t10k-images-idx3-ubyte`, `t10k-labels-idx1-ubyte` (Debian's dataset-fashion-mnist has them)
- one folder of images for each class; every tenth image of a class, by name, is kept for the test

OUT holds the network with its batch norms folded, as the head of src/evaluate/features/small_cnn.rs describes. Training
on Fashion-MNIST takes under five minutes on one busy core. The accuracy on the test images is printed, and after how
much time; it is in OUT's metadata. The same seed, data and number of threads give the same file.
"""

import argparse
import gzip
import json
import struct
import sys
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn

IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif"}


def options():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, metavar="DATA")
    parser.add_argument("out", type=Path, metavar="OUT.safetensors")
    parser.add_argument("--size", type=int, help="height and width of images; IDX: their own, folders: 32")
    parser.add_argument("--widths", default="16,48,128", help="channels after each block (%(default)s)")
    parser.add_argument("--epochs", type=int, default=8, help="(%(default)s)")
    parser.add_argument("--batch", type=int, default=128, metavar="IMAGES", help="(%(default)s)")
    parser.add_argument("--lr", type=float, default=4e-3, help="largest learning rate of AdamW (%(default)s)")
    parser.add_argument("--no-mirror", action="store_true", help="train on no mirrored images, as digits need it")
    parser.add_argument("--seed", type=int, default=0, help="(%(default)s)")
    return parser.parse_args()


def read_idx(folder, name):
    """An IDX file of bytes."""
    path = next((p for p in (folder / name, folder / f"{name}.gz") if p.exists()), None)
    if path is None:
        sys.exit(f"no {name} or {name}.gz in {folder}")
    content = gzip.open(path).read() if path.suffix == ".gz" else path.read_bytes()
    zeros, kind, dims = struct.unpack_from(">HBB", content)
    if zeros != 0 or kind != 8:
        sys.exit(f"{path} is not an IDX file of bytes: it starts with {content[:4].hex()}")
    shape = struct.unpack_from(f">{dims}I", content, 4)
    return torch.from_numpy(np.frombuffer(content, np.uint8, offset=4 + 4 * dims).reshape(shape).copy())


def read_folders(folder, size):
    """Images [N, C, size, size] and classes, for training and for the test; C is 1 if all images are grey."""
    from PIL import Image

    classes = sorted(path for path in folder.iterdir() if path.is_dir())
    if len(classes) < 2:
        sys.exit(f"{folder} holds neither IDX files nor two folders of images")
    found = {"train": ([], []), "test": ([], [])}
    grey = True
    for label, path in enumerate(classes):
        files = sorted(file for file in path.rglob("*") if file.suffix.lower() in IMAGE_SUFFIXES)
        if len(files) < 10:
            sys.exit(f"{path} holds {len(files)} images, wanted 10 or more")
        for index, file in enumerate(files):
            with Image.open(file) as image:
                grey &= image.mode in ("1", "L")
                pixels = torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)[None].float()
            pixels = F.interpolate(pixels, (size, size), mode="bilinear", antialias=True)
            images, labels = found["test" if index % 10 == 9 else "train"]
            images.append(pixels.round().clamp(0, 255).to(torch.uint8))
            labels.append(label)
    channels = 1 if grey else 3
    return [(torch.cat(images)[:, :channels], torch.tensor(labels)) for images, labels in found.values()], len(classes)


def read_data(asked):
    if not asked.data.is_dir():
        sys.exit(f"{asked.data} is not a folder")
    if not any(asked.data.glob("*-ubyte*")):
        return read_folders(asked.data, asked.size or 32)
    sets = []
    for part in ("train", "t10k"):
        images = read_idx(asked.data, f"{part}-images-idx3-ubyte")[:, None]
        size = asked.size or images.shape[-1]
        if tuple(images.shape[2:]) != (size, size):
            resized = F.interpolate(images.float(), (size, size), mode="bilinear", antialias=True)
            images = resized.round().clamp(0, 255).to(torch.uint8)
        sets.append((images, read_idx(asked.data, f"{part}-labels-idx1-ubyte").long()))
    return sets, int(sets[0][1].max()) + 1


class SmallCnn(nn.Module):
    def __init__(self, channels, widths, classes):
        super().__init__()
        inputs = [channels, *widths]
        self.convs = nn.ModuleList(nn.Conv2d(a, b, 3, padding=1, bias=False) for a, b in zip(inputs, widths))
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) for width in widths)
        self.head = nn.Linear(widths[-1], classes)

    def forward(self, x):
        for index, (conv, norm) in enumerate(zip(self.convs, self.norms)):
            x = norm(conv(x if index == 0 else F.max_pool2d(x, 2))).relu()
        return self.head(x.mean((2, 3)))

    def folded(self):
        """The tensors of the file: each batch norm as part of its convolution."""
        tensors = {"head.weight": self.head.weight, "head.bias": self.head.bias}
        for index, (conv, norm) in enumerate(zip(self.convs, self.norms)):
            factor = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
            tensors[f"blocks.{index}.weight"] = conv.weight.double() * factor[:, None, None, None]
            tensors[f"blocks.{index}.bias"] = norm.bias.double() - norm.running_mean.double() * factor
        return {name: tensor.detach().float().contiguous() for name, tensor in tensors.items()}


def scaled(images):
    return (images / 127.5 - 1).contiguous(memory_format=torch.channels_last)


def flipped(x):
    """Each image mirrored with p = 0.5."""
    mirrored = torch.rand(len(x)) < 0.5
    return torch.where(mirrored[:, None, None, None], x.flip(3), x)


def accuracy(net, images, labels):
    net.eval()
    with torch.no_grad():
        right = sum(
            (net(scaled(x)).argmax(1) == y).sum().item() for x, y in zip(images.split(500), labels.split(500))
        )
    net.train()
    return right / len(labels)


def train(net, images, labels, asked):
    steps = asked.epochs * (len(images) // asked.batch)
    optimizer = torch.optim.AdamW(net.parameters(), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, asked.lr, total_steps=max(steps, 1))
    for epoch in range(asked.epochs):
        total = 0.0
        order = torch.randperm(len(images))[: len(images) // asked.batch * asked.batch]
        for batch in order.split(asked.batch):
            x = scaled(images[batch])
            x = x if asked.no_mirror else flipped(x)
            loss = F.cross_entropy(net(x), labels[batch], label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item() * len(batch)
        print(f"epoch {epoch + 1} of {asked.epochs}: loss {total / len(order):.4f}", flush=True)


def main():
    asked = options()
    start = time.perf_counter()
    torch.manual_seed(asked.seed)
    widths = [int(width) for width in asked.widths.split(",")]
    [(images, labels), (test_images, test_labels)], classes = read_data(asked)
    if len(images) < asked.batch:
        sys.exit(f"{len(images)} images to train on, wanted a batch of {asked.batch} or more: give a smaller --batch")
    net = SmallCnn(images.shape[1], widths, classes).to(memory_format=torch.channels_last)
    train(net, images, labels, asked)
    share = accuracy(net, test_images, test_labels)
    seconds = time.perf_counter() - start
    print(f"{100 * share:.2f} % of {len(test_labels)} test images right, after {seconds:.0f} s")
    shape = {"channels": images.shape[1], "size": images.shape[2], "widths": widths, "classes": classes}
    metadata = {"small-cnn": json.dumps(shape), "test_accuracy": f"{share:.4f}"}
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    save_file(net.folded(), asked.out, metadata)


if __name__ == "__main__":
    main()
