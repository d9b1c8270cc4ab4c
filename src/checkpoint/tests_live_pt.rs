//! PyTorch itself against the `.pt` reader and writer: what one writes the other reads, bit for bit.
//!
//! Needs `.venv/bin/python` with torch (scripts/setup.sh makes it); without it the tests say so and pass.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::error::CheckpointError;
use super::host_tensor::{Dtype, HostTensor};
use super::pickle::PickleError;
use super::{pt, pt_write};

/// One line per tensor: name, dtype, shape, bytes in hexadecimal.
const DUMP: &str = r"
import sys, collections, torch

def dump(state):
    lines = []
    for name, tensor in state.items():
        tensor = tensor.detach()
        raw = bytes(tensor.contiguous().reshape(-1).view(torch.uint8).tolist())
        dtype = str(tensor.dtype).removeprefix('torch.')
        lines.append('\t'.join([name, dtype, ','.join(map(str, tensor.shape)), raw.hex()]))
    return ''.join(line + '\n' for line in lines)
";

/// Writes a state_dict of many kinds of tensor in every container, and its dump to stdout.
const SAVE: &str = r"
torch.manual_seed(0)
flat = torch.randn(40)
table = torch.arange(24).reshape(2, 3, 4)
state = collections.OrderedDict()
state['f64'] = torch.randn(3, 2, dtype=torch.float64)
state['f32'] = torch.tensor([0.0, -0.0, float('inf'), float('nan'), 1e-45])
state['f16'] = torch.randn(5).half()
state['bf16'] = torch.randn(2, 3).bfloat16()
state['i64'] = torch.tensor([-2**63, 2**63 - 1])
state['i32'] = torch.tensor([-5, 6], dtype=torch.int32)
state['i16'] = torch.tensor([-5, 6], dtype=torch.int16)
state['i8'] = torch.tensor([-5, 6], dtype=torch.int8)
state['u8'] = torch.arange(256).to(torch.uint8)
state['bool'] = torch.tensor([[True, False], [False, True]])
state['scalar'] = torch.tensor(3.5)
state['empty'] = torch.zeros(0, 7)
state['parameter'] = torch.nn.Parameter(torch.randn(3, 3))
state['view.first'] = flat[:10].view(2, 5)
state['view.second'] = flat[10:40].view(5, 6)
state['transposed'] = table.permute(2, 0, 1)
state['stepped'] = table[:, ::2, 1:3]
state['channels_last'] = torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last)
state['expanded'] = torch.randn(3, 1).expand(3, 4)
state['tied'] = state['f64']
state['größe.重み'] = torch.ones(1)
state._metadata = collections.OrderedDict([('', {'version': 1})])
folder = sys.argv[1]
torch.save(state, folder + '/zip.pt')
torch.save(dict(state), folder + '/dict.pt')
torch.save(state, folder + '/protocol4.pt', pickle_protocol=4)
torch.save(state, folder + '/legacy.pt', _use_new_zipfile_serialization=False)
torch.serialization.set_crc32_options(False)
torch.save(state, folder + '/no_checksum.pt')
sys.stdout.buffer.write(dump(state).encode())
";

/// Loads a file in both ways and prints its dump.
const LOAD: &str = r"
state = torch.load(sys.argv[1], weights_only=True)
mapped = torch.load(sys.argv[1], weights_only=True, mmap=True)
assert type(state) is collections.OrderedDict
assert dump(state) == dump(mapped)
assert all(tensor.is_contiguous() for tensor in state.values())
assert all(tensor.data_ptr() % 64 == 0 for tensor in mapped.values())
sys.stdout.buffer.write(dump(state).encode())
";

/// Files whose pickles hold something else.
const SAVE_OTHERS: &str = r"
import argparse
folder = sys.argv[1]
torch.save({'args': argparse.Namespace(lr=1)}, folder + '/namespace.pt')
torch.save(torch.nn.Linear(2, 2), folder + '/module.pt')
torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), folder + '/script.pt')
model = torch.nn.Linear(2, 2)
optimizer = torch.optim.Adam(model.parameters())
model(torch.ones(1, 2)).sum().backward()
optimizer.step()
torch.save(
    {'step': 5, 'model': model.state_dict(), 'optim': optimizer.state_dict(), 'size': model.weight.shape},
    folder + '/training.pt',
)
";

/// The Python that has torch, or nothing.
fn python() -> Option<PathBuf> {
    let python = Path::new(env!("CARGO_MANIFEST_DIR")).join(".venv/bin/python");
    let has_torch = Command::new(&python)
        .args(["-c", "import torch"])
        .output()
        .is_ok_and(|output| output.status.success());
    if !has_torch {
        eprintln!("skipped: {} has no torch", python.display());
    }
    has_torch.then_some(python)
}

fn run(python: &Path, script: &str, argument: &Path) -> String {
    let output = Command::new(python)
        .args(["-c", &format!("{DUMP}{script}")])
        .arg(argument)
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    String::from_utf8(output.stdout).unwrap()
}

/// What `dump` of [`DUMP`] prints.
fn dump(tensors: &[(String, HostTensor)]) -> String {
    let line = |(name, tensor): &(String, HostTensor)| {
        let shape: Vec<String> = tensor.shape.iter().map(usize::to_string).collect();
        let data: String = (tensor.data.iter())
            .map(|byte| format!("{byte:02x}"))
            .collect();
        format!("{name}\t{}\t{}\t{data}\n", tensor.dtype, shape.join(","))
    };
    tensors.iter().map(line).collect()
}

#[test]
fn what_torch_writes_is_read() {
    let Some(python) = python() else { return };
    let folder = tempfile::tempdir().unwrap();
    let wanted = run(&python, SAVE, folder.path());
    assert_eq!(wanted.lines().count(), 21);
    for name in ["zip", "dict", "protocol4", "legacy", "no_checksum"] {
        let file = pt::read(&folder.path().join(name).with_extension("pt")).unwrap();
        assert_eq!(dump(&file.state_dict().unwrap()), wanted, "{name}");
    }
}

#[test]
fn what_is_written_torch_reads() {
    let Some(python) = python() else { return };
    let mut tensors = Vec::new();
    for dtype in Dtype::ALL {
        for shape in [vec![], vec![0, 3], vec![1], vec![7], vec![2, 3, 4, 5]] {
            let bytes = shape.iter().product::<usize>() * dtype.size_bytes();
            let top = if dtype == Dtype::Bool { 2 } else { 256 };
            let data = (0..bytes).map(|byte| (byte * 37 % top) as u8).collect();
            let name = format!("{dtype}.größe{shape:?}");
            tensors.push((name, HostTensor::new(dtype, shape, data).unwrap()));
        }
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("written.pt");
    pt_write::write_state_dict(fs::File::create(&path).unwrap(), &tensors).unwrap();
    assert_eq!(run(&python, LOAD, &path), dump(&tensors));
}

#[test]
fn training_states_are_listed_and_programs_refused() {
    let Some(python) = python() else { return };
    let folder = tempfile::tempdir().unwrap();
    run(&python, SAVE_OTHERS, folder.path());
    let read = |name: &str| pt::read(&folder.path().join(name));

    let training = read("training.pt").unwrap();
    let wanted = [
        ("step", "int 5"),
        ("model", "dict of 2"),
        ("optim", "dict of 2"),
        ("size", "tuple of 2"),
    ];
    assert_eq!(
        training.top_level(),
        wanted.map(|(key, kind)| (key.to_owned(), kind.to_owned()))
    );
    let model = training.root.get("model").unwrap();
    assert_eq!(training.state_dict_in(model).unwrap()[0].1.shape, [2, 2]);

    let refused = |file, import: &str| match read(file) {
        Err(CheckpointError::Pickle {
            source: PickleError::Import { name },
            ..
        }) => assert_eq!(name, import),
        other => panic!("wanted a refusal of {import}, got {other:?}"),
    };
    refused("namespace.pt", "argparse.Namespace");
    refused("module.pt", "torch.nn.modules.linear.Linear");
    assert!(matches!(
        read("script.pt"),
        Err(CheckpointError::TorchScript { .. })
    ));
}
