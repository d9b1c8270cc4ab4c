import collections, io, json, os, struct, zipfile, sys
import torch
from safetensors.torch import save
torch.manual_seed(0)
out = sys.argv[1]
for t in ("pickle", "torch_file", "safetensors"):
    os.makedirs(f"{out}/{t}", exist_ok=True)
base = torch.arange(6.0)
flat = collections.OrderedDict(w=torch.arange(4.0).view(2, 2), b=torch.tensor([1, -1]))
flat._metadata = collections.OrderedDict([("", {"version": 1})])
lin = torch.nn.Linear(2, 1)
adam = torch.optim.Adam(lin.parameters()); lin(torch.ones(1, 2)).sum().backward(); adam.step()
files = {
  "flat": flat,
  "module": lin.state_dict(),
  "nested": {"step": 5, "lr": 1e-4, "ok": True, "none": None, "ema": {"w": torch.ones(2)}, "tags": ["a", ("b", b"c")], "big": 2**40, "neg": -3},
  "parameter": {"p": torch.nn.Parameter(torch.ones(2))},
  "dtypes": {str(d)[6:]: torch.ones(2).to(d) for d in (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool)},
  "views": {"t": base.view(2, 3).t(), "s": base[1::2], "x": base[:1].expand(3), "tail": base[4:], "scalar": base[2], "empty": base[:0]},
  "shared": {"a": base, "b": base, "list": [base, base[2:]]},
  "adam": adam.state_dict(),
  "size": {"shape": torch.Size([1, 2])},
  "tensor": torch.tensor(3.5),
  "int": 5,
}
def zip_without_checksums(data):
    # CRC 0 stands for none; a mutation of the data then reaches the reader.
    data = bytearray(data)
    at = data.find(b"PK\x01\x02")
    while at >= 0:
        data[at+16:at+20] = bytes(4)
        at = data.find(b"PK\x01\x02", at + 4)
    return bytes(data)
def put(target, name, data):
    open(f"{out}/{target}/{name}", "wb").write(data)
for name, value in files.items():
    buffer = io.BytesIO(); torch.save(value, buffer)
    if name in ("flat", "views", "nested"):
        put("torch_file", f"zip_{name}", buffer.getvalue())
    put("torch_file", f"zip_{name}_nocrc", zip_without_checksums(buffer.getvalue()))
    pickle = zipfile.ZipFile(buffer).read("archive/data.pkl")
    put("pickle", name, pickle)
    if name in ("views", "parameter", "shared"): put("torch_file", f"pickle_{name}", pickle)
    buffer = io.BytesIO(); torch.save(value, buffer, _use_new_zipfile_serialization=False)
    put("torch_file", f"legacy_{name}", buffer.getvalue())
    buffer = io.BytesIO(); torch.save(value, buffer, pickle_protocol=4)
    put("pickle", f"{name}_protocol4", zipfile.ZipFile(buffer).read("archive/data.pkl"))
put("safetensors", "flat", save({"w": torch.arange(4.0).view(2, 2), "b": torch.tensor([1, -1])}))
put("safetensors", "metadata", save({"w": torch.ones(1)}, metadata={"format": "pt", "k": "v"}))
put("safetensors", "dtypes", save({k: v for k, v in files["dtypes"].items()}))
put("safetensors", "empty", save({}))
put("safetensors", "shapes", save({"scalar": torch.tensor(1.0), "none": torch.ones(0, 3), "one": torch.ones(1, 1, 1)}))
def raw(header, data=b""):
    header = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(header)) + header + data
put("safetensors", "odd_offset", raw({"a": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}, "b": {"dtype": "F32", "shape": [1], "data_offsets": [1, 5]}, "c": {"dtype": "F32", "shape": [0], "data_offsets": [5, 5]}}, bytes(5)))
put("safetensors", "fp8", raw({"a": {"dtype": "F8_E4M3", "shape": [2], "data_offsets": [0, 2]}}, bytes(2)))
