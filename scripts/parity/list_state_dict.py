"""Writes the names and shapes of a PyTorch file's state_dict, one tensor a line: `python dump.py file.pt [key] > file.txt`.

`key` picks a state_dict inside a larger dictionary, for example ema_model.
"""

import sys

import torch

tensors = torch.load(sys.argv[1], map_location="cpu", weights_only=True)
if len(sys.argv) > 2:
    tensors = tensors[sys.argv[2]]
for name, tensor in tensors.items():
    print(name, *tensor.shape)
