#!/usr/bin/env python3
"""Writes ops.inc: every operator that libtorch has a kernel for under the key CUDA.

    .venv/bin/python tests/simcuda/gen_ops.py tests/simcuda/ops.inc

Needs torch for CUDA and no GPU; to be run again when libtorch changes. Each line: the name, 1 if TensorIterator compares the
devices of the arguments (else the wrapper that is made for the operator does), 1 if there is a kernel for the CPU too.
"""

import sys
from pathlib import Path

import torch
import torchgen
import yaml

has_kernel = torch._C._dispatch_has_kernel_for_dispatch_key


def by_iterator() -> set[str]:
    functions = Path(torchgen.__file__).parent / "packaged/ATen/native/native_functions.yaml"
    entries = yaml.safe_load(functions.read_text())
    return {"aten::" + e["func"].split("(")[0] for e in entries if e.get("device_check") == "NoCheck"}


def main() -> None:
    if not has_kernel("aten::add.out", "CUDA"):
        sys.exit("gen_ops: this torch is built without CUDA")
    names = [n for n in torch._C._dispatch_get_all_op_names() if n.startswith("aten::") and has_kernel(n, "CUDA")]
    compared = by_iterator()
    with open(sys.argv[1], "w") as out:
        print(f"// Of torch {torch.__version__}, by gen_ops.py, which explains the columns.", file=out)
        for name in sorted(names):
            on_cpu = torch._C._dispatch_has_computed_kernel_for_dispatch_key(name, "CPU")
            print(f'{{"{name}", {int(name in compared)}, {int(on_cpu)}}},', file=out)


if __name__ == "__main__":
    main()
