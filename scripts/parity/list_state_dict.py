#!/usr/bin/env python3
"""Prints the names and shapes of a PyTorch file's state_dict, one tensor a line.

    .venv/bin/python scripts/parity/list_state_dict.py FILE.pt [KEY] >names.txt

It made guided.txt, improved.txt, pesser.txt and w86763777.txt in src/interop/testdata; their first line, added by hand,
names the file.
"""

import argparse

import torch


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", metavar="FILE.pt")
    parser.add_argument("key", metavar="KEY", nargs="?", help="its key in a larger dictionary, for example ema_model")
    args = parser.parse_args()
    tensors = torch.load(args.file, map_location="cpu", weights_only=True)
    if args.key:
        tensors = tensors[args.key]
    for name, tensor in tensors.items():
        print(name, *tensor.shape)


if __name__ == "__main__":
    main()
