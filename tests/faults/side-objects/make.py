"""Checkpoints whose weights lie beside every kind of Python object that trainers save, in pickle protocols 2 to 5.

    .venv/bin/python tests/faults/side-objects/make.py
"""

import argparse
import collections
import datetime
import enum
import functools
import pathlib
import uuid
from fractions import Fraction

import numpy as np
import torch

HERE = pathlib.Path(__file__).parent


class Colour(enum.Enum):
    RED = 1


class Plain:
    def __init__(self):
        self.x = 1


class Stateful:
    def __init__(self):
        self.itself = self

    def __getstate__(self):
        return {"weights": torch.ones(2), "itself": self}

    def __setstate__(self, state):
        raise SystemExit("nothing in a file may run")


class Slots:
    __slots__ = ("a", "b")

    def __init__(self):
        self.a, self.b = 1, {"c": 2}


class MyDict(collections.OrderedDict):
    pass


class MyList(list):
    pass


Point = collections.namedtuple("Point", "x y")


class Named:
    def __reduce__(self):
        return (getattr, (Colour, "RED"))


class WithNames:
    def __new__(cls, *, a):
        return super().__new__(cls)

    def __getnewargs_ex__(self):
        return (), {"a": 1}


def objects():
    attributes = torch.nn.Parameter(torch.ones(3))
    attributes.tagged = "yes"
    lines = collections.deque([1, 2], maxlen=5)
    recursive = Stateful()
    return {
        "counter": collections.Counter([3, 3, 6]),
        "set": {1, 2},
        "empty_set": set(),
        "frozenset": frozenset([1, "a"]),
        "numpy_float64": np.float64(0.25),
        "numpy_int64": np.int64(7),
        "numpy_bool": np.bool_(True),
        "numpy_array": np.arange(6, dtype=np.float32).reshape(2, 3),
        "numpy_strings": np.array(["a", "bc"]),
        "numpy_objects": np.array([None, {"a": 1}], dtype=object),
        "numpy_dtype": np.dtype("float32"),
        "random_state": np.random.RandomState(0).get_state(),
        "generator": np.random.default_rng(0),
        "dtype": torch.float16,
        "device": torch.device("cuda", 0),
        "size": torch.Size([2, 3]),
        "complex": torch.ones(2, dtype=torch.complex64),
        "complex_number": 1 + 2j,
        "bytes": b"\xff\x00raw",
        "empty_bytes": b"",
        "bytearray": bytearray(b"mutable"),
        "big": 2**200,
        "negative": -(2**70),
        "huge": 2**3000,
        "long": 2**40,
        "defaultdict": collections.defaultdict(list, {"a": [1]}),
        "my_dict": MyDict(a=torch.ones(2), b=2),
        "my_list": MyList([1, 2]),
        "deque": lines,
        "point": Point(1, 2),
        "namespace": argparse.Namespace(lr=1e-4, betas=(0.9, 0.99), path=pathlib.Path("runs/a")),
        "path": pathlib.PurePosixPath("/data/images"),
        "date": datetime.date(2020, 1, 2),
        "datetime": datetime.datetime(2020, 1, 2, 3, 4, tzinfo=datetime.timezone.utc),
        "timedelta": datetime.timedelta(seconds=3),
        "uuid": uuid.UUID(int=5),
        "fraction": Fraction(1, 3),
        "enum": Colour.RED,
        "plain": Plain(),
        "slots": Slots(),
        "stateful": recursive,
        "with_names": WithNames(a=1),
        "named": Named(),
        "function": torch.nn.functional.relu,
        "builtin": len,
        "method": Colour.RED.__class__,
        "partial": functools.partial(max, 1, default=2),
        "range": range(3),
        "slice": slice(1, 2),
        "ellipsis": ...,
        "module": torch.nn.Linear(2, 2),
        "attributes": attributes,
        "tuple_of_objects": (Colour.RED, {1}),
        "none": None,
        "text": "größe",
    }


def main():
    torch.manual_seed(0)
    for protocol in range(2, 6):
        model = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.Linear(2, 2))
        optimizer = torch.optim.Adam(model.parameters())
        steps = torch.optim.lr_scheduler.MultiStepLR(optimizer, [2, 4])
        checkpoint = {"model": model.state_dict(), "step": 5, "scheduler": steps.state_dict(), **objects()}
        torch.save(checkpoint, HERE / f"protocol-{protocol}.pt", pickle_protocol=protocol)
    module = torch.nn.Linear(2, 2)
    torch.save({"epoch": 3, "ema": module}, HERE / "in-an-object.pt")


if __name__ == "__main__":
    main()
