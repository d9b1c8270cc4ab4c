"""Writes the fuzzer's seeds: small files by torch, safetensors, NumPy and Pillow, and two by hand.

    python make_seeds.py seeds

Two runs differ in the names of legacy storages, which are memory addresses.
`seeds/safetensors/checkpoint` is not made here: it has the metadata of `ddpm train --steps 1` on a
tiny model, and two tensors of one value.
"""

import collections
import gzip
import io
import json
import struct
import sys
import tarfile
import zipfile
from pathlib import Path

import numpy
import torch
from PIL import Image
from safetensors.torch import save

DTYPES = "float64 float32 float16 bfloat16 int64 int32 int16 int8 uint8 bool".split()


def values():
    """Typical saved objects, by name."""
    torch.manual_seed(0)
    base = torch.arange(6.0)
    flat = collections.OrderedDict(w=torch.arange(4.0).view(2, 2), b=torch.tensor([1, -1]))
    flat._metadata = collections.OrderedDict([("", {"version": 1})])
    module = torch.nn.Linear(2, 1)
    adam = torch.optim.Adam(module.parameters())
    module(torch.ones(1, 2)).sum().backward()
    adam.step()
    return {
        "flat": flat,
        "module": module.state_dict(),
        "nested": {
            "step": 5,
            "lr": 1e-4,
            "ok": True,
            "none": None,
            "ema": {"w": torch.ones(2)},
            "tags": ["a", ("b", b"c")],
            "big": 2**40,
            "neg": -3,
        },
        "parameter": {"p": torch.nn.Parameter(torch.ones(2))},
        "dtypes": {name: torch.ones(2).to(getattr(torch, name)) for name in DTYPES},
        "views": {
            "t": base.view(2, 3).t(),
            "s": base[1::2],
            "x": base[:1].expand(3),
            "tail": base[4:],
            "scalar": base[2],
            "empty": base[:0],
        },
        "shared": {"a": base, "b": base, "list": [base, base[2:]]},
        "adam": adam.state_dict(),
        "size": {"shape": torch.Size([1, 2])},
        "tensor": torch.tensor(3.5),
        "int": 5,
    }


def saved(value, **options):
    file = io.BytesIO()
    torch.save(value, file, **options)
    return file.getvalue()


def pickle_in(archive):
    return zipfile.ZipFile(io.BytesIO(archive)).read("archive/data.pkl")


def without_checksums(archive):
    """A CRC of 0 means no checksum; a mutation of the data then reaches the reader."""
    archive = bytearray(archive)
    at = archive.find(b"PK\x01\x02")
    while at >= 0:
        archive[at + 16 : at + 20] = bytes(4)
        at = archive.find(b"PK\x01\x02", at + 4)
    return bytes(archive)


def torch_seeds():
    for name, value in values().items():
        archive = saved(value)
        if name in ("flat", "views", "nested"):
            yield f"torch_file/zip_{name}", archive
        yield f"torch_file/zip_{name}_nocrc", without_checksums(archive)
        yield f"torch_file/legacy_{name}", saved(value, _use_new_zipfile_serialization=False)
        if name in ("views", "parameter", "shared"):
            yield f"torch_file/pickle_{name}", pickle_in(archive)
        yield f"pickle/{name}", pickle_in(archive)
        yield f"pickle/{name}_protocol4", pickle_in(saved(value, pickle_protocol=4))


def by_hand(tensors, data_bytes):
    names = ("dtype", "shape", "data_offsets")
    header = json.dumps({name: dict(zip(names, info)) for name, info in tensors.items()}).encode()
    return struct.pack("<Q", len(header)) + header + bytes(data_bytes)


def safetensors_seeds():
    plain = {"w": torch.arange(4.0).view(2, 2), "b": torch.tensor([1, -1])}
    shapes = {"scalar": torch.tensor(1.0), "none": torch.ones(0, 3), "one": torch.ones(1, 1, 1)}
    odd = {"a": ("U8", [1], [0, 1]), "b": ("F32", [1], [1, 5]), "c": ("F32", [0], [5, 5])}
    yield "flat", save(plain)
    yield "metadata", save({"w": torch.ones(1)}, metadata={"format": "pt", "k": "v"})
    yield "dtypes", save(values()["dtypes"])
    yield "empty", save({})
    yield "shapes", save(shapes)
    yield "odd_offset", by_hand(odd, 5)
    yield "fp8", by_hand({"a": ("F8_E4M3", [2], [0, 2])}, 2)


def numpy_seeds():
    mu, sigma = numpy.arange(2.0), numpy.eye(2)
    images = numpy.arange(2 * 4 * 3 * 3, dtype=numpy.uint8).reshape(2, 4, 3, 3)
    arrays = dict(
        single=numpy.float32(0.5),
        ints=numpy.arange(3, dtype=">i4"),
        turned=numpy.asfortranarray(numpy.ones((2, 3))),
        none=numpy.zeros((0, 2)),
    )
    archives = {
        "statistics": (numpy.savez, dict(mu=mu, sigma=sigma, n=10, features="tf")),
        "packed": (numpy.savez_compressed, dict(mu=mu, sigma=sigma)),
        "images": (numpy.savez, dict(arr_0=images, arr_1=numpy.arange(2))),
        "types": (numpy.savez, arrays),
    }
    for name, (write, named) in archives.items():
        file = io.BytesIO()
        write(file, **named)
        yield name, file.getvalue()
    for name, array in {"array": sigma, "array_images": images, "array_turned": arrays["turned"]}.items():
        file = io.BytesIO()
        numpy.save(file, array)
        yield name, file.getvalue()


def idx(shape, data):
    return struct.pack(f">HBB{len(shape)}I", 0, 8, len(shape), *shape) + data


def png(level):
    file = io.BytesIO()
    Image.new("L", (4, 4), level).save(file, "PNG")
    return file.getvalue()


def zip_of(files, method):
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", method) as file:
        for name, data in files.items():
            file.writestr(zipfile.ZipInfo(name), data, method)
    return archive.getvalue()


def tar_of(files):
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w", format=tarfile.USTAR_FORMAT) as file:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            file.addfile(member, io.BytesIO(data))
    return archive.getvalue()


def packed(data):
    return gzip.compress(data, mtime=0)


def image_seeds():
    folders = {"cat/0.png": png(10), "cat/1.png": png(90), "dog/0.png": png(200)}
    edm = {"0.png": png(10), "1.png": png(90), "dataset.json": b'{"labels": [["0.png", 1], ["1.png", 0]]}'}
    shard = {"0.png": png(10), "0.cls": b"3", "1.png": png(90), "1.json": b'{"label": "dog"}'}
    pixels = idx((2, 4, 4), bytes(range(32)))
    images = numpy.arange(2 * 4 * 4 * 3, dtype=numpy.uint8).reshape(2, 4, 4, 3)
    arrays = io.BytesIO()
    numpy.savez(arrays, arr_0=images, arr_1=numpy.array([1, 0]))
    packed_arrays = io.BytesIO()
    numpy.savez_compressed(packed_arrays, images=images, labels=numpy.array([1, 0]))
    yield "zip", zip_of(folders, zipfile.ZIP_STORED)
    yield "zip_deflated", zip_of(edm, zipfile.ZIP_DEFLATED)
    yield "tar", tar_of(shard)
    yield "tar_gz", packed(tar_of(folders))
    yield "idx", pixels
    yield "idx_gz", packed(pixels)
    yield "npz", arrays.getvalue()
    yield "npz_packed", packed_arrays.getvalue()
    yield "cifar", bytes([3]) + bytes(3072) + bytes([9]) + bytes(3072)


def label_seeds():
    yield "csv", b"file_name,label\n000000.png,cat\n000001,\"dog, big\"\n000002,cat\n"
    yield "tsv", b"000000\t1\n000001\t0\n./000002\t\n"
    yield "json", b'{"000000": "cat", "000001": 7, "000002": null}'
    yield "json_edm", b'{"labels": [["000000", 6], ["000001", 0]]}'
    yield "json_list", b'[{"name": "000000", "class": "cat"}, {"file": "000002", "cls": true}]'
    yield "jsonl", b'{"file_name": "000000", "label": 1}\n\n{"file_name": "000001", "label": 2.0}\n'
    yield "idx", idx((3,), b"\2\0\1")
    yield "idx_gz", packed(idx((3,), b"\2\0\1"))


def serve_seeds():
    wish = b'{"network": 0, "step": 4, "raw": true, "sampler": "ddim", "steps": 5, "seed": "7", "number": 3, "task": %s}'
    yield "sample", wish % b'"sample"'
    yield "interpolate", wish % b'{"interpolate": {"to_seed": 8}}'
    yield "vary", wish % b'{"vary": {"image": 1, "strength": 0.5}}'
    fill = wish % b'{"fill": {"image": 1, "mask": 2, "jump": 5, "passes": 2}}, "class": {"number": 1}, "guidance": 2.5'
    yield "fill", fill.replace(b"ddim", b"ddpm")
    yield "png", png(10)


def main():
    folder = Path(sys.argv[1])
    seeds = dict(torch_seeds())
    seeds |= {f"safetensors/{name}": data for name, data in safetensors_seeds()}
    seeds |= {f"numpy/{name}": data for name, data in numpy_seeds()}
    seeds |= {f"images/{name}": data for name, data in image_seeds()}
    seeds |= {f"labels/{name}": data for name, data in label_seeds()}
    seeds |= {f"serve/{name}": data for name, data in serve_seeds()}
    for name, data in seeds.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


main()
