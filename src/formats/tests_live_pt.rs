//! PyTorch itself against the `.pt` reader and writer: what one writes the other reads, bit for bit.
//!
//! Needs `.venv/bin/python` with torch (scripts/setup.sh makes it); without it the tests print so and pass.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::CheckpointError;
use super::host_tensor::{Dtype, HostTensor};
use super::pickle::Value;
use super::pt;
use super::pt::handmade::to_host;
use super::pt::write::{self, Item};
use super::weights_file::{Node, WeightsFile};

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

/// Loads a nested file in both ways and looks at every value.
const LOAD_NESTED: &str = r"
for mmap in (False, True):
    root = torch.load(sys.argv[1], weights_only=True, mmap=mmap)
    assert list(root) == ['step', 'model', 'ema', 'opt', 'scaler', 'version']
    assert root['step'] == 700000 and root['scaler'] is None and root['version'] == '2.2.5 größe'
    assert type(root) is dict and type(root['model']) is collections.OrderedDict
    weight, online = root['model']['model.w'], root['ema']['online_model.model.w']
    assert weight.tolist() == [[1.0], [2.0]] and online.data_ptr() == weight.data_ptr()
    assert root['ema']['initted'] is True
    opt = root['opt']
    assert opt['state'][0].tolist() == [[0.0], [0.0]]
    assert opt['betas'] == (0.9, 0.999) and opt['params'] == [0, -3000000000]
print('fine')
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

fn state_dict(file: &WeightsFile, group: &Node) -> Vec<(String, HostTensor)> {
    let tensors = file.state_dict(group).unwrap().into_iter();
    tensors
        .map(|(name, tensor)| (name, to_host(&tensor)))
        .collect()
}

#[test]
fn what_torch_writes_is_read() {
    let Some(python) = python() else { return };
    let folder = tempfile::tempdir().unwrap();
    let wanted = run(&python, SAVE, folder.path());
    assert_eq!(wanted.lines().count(), 21);
    for name in ["zip", "dict", "protocol4", "legacy", "no_checksum"] {
        let file = WeightsFile::open(&folder.path().join(name).with_extension("pt")).unwrap();
        assert_eq!(dump(&state_dict(&file, &file.root)), wanted, "{name}");
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
    write::write_state_dict(fs::File::create(&path).unwrap(), &tensors).unwrap();
    assert_eq!(run(&python, LOAD, &path), dump(&tensors));
}

#[test]
fn a_nested_object_is_what_torch_reads() {
    let Some(python) = python() else { return };
    let tensor = |data: [u8; 8]| HostTensor::new(Dtype::F32, vec![2, 1], data.to_vec()).unwrap();
    let (weight, moment) = (tensor([0, 0, 128, 63, 0, 0, 0, 64]), tensor([0; 8]));
    let weight = Item::tensor(&weight);
    let model = Item::OrderedDict(vec![("model.w".to_owned(), weight.clone())]);
    let ema = Item::OrderedDict(vec![
        ("initted".to_owned(), Item::Bool(true)),
        ("online_model.model.w".to_owned(), weight),
    ]);
    let opt = Item::Dict(vec![
        (
            "state".to_owned(),
            Item::IntDict(vec![(0, Item::tensor(&moment))]),
        ),
        (
            "betas".to_owned(),
            Item::Tuple(vec![Item::Float(0.9), Item::Float(0.999)]),
        ),
        (
            "params".to_owned(),
            Item::List(vec![Item::Int(0), Item::Int(-3_000_000_000)]),
        ),
    ]);
    let root = Item::Dict(vec![
        ("step".to_owned(), Item::Int(700_000)),
        ("model".to_owned(), model),
        ("ema".to_owned(), ema),
        ("opt".to_owned(), opt),
        ("scaler".to_owned(), Item::None),
        ("version".to_owned(), Item::Text("2.2.5 größe".to_owned())),
    ]);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("nested.pt");
    write::write_pt(fs::File::create(&path).unwrap(), &root).unwrap();
    assert_eq!(run(&python, LOAD_NESTED, &path), "fine\n");

    let file = WeightsFile::open(&path).unwrap();
    assert_eq!(file.root.at("ema.initted").unwrap().kind(), "bool true");
    let online = file.root.at("ema.online_model.model.w").unwrap();
    assert_eq!(online.kind(), "tensor float32 [2, 1]");
}

#[test]
fn training_states_are_listed_and_programs_are_not_run() {
    let Some(python) = python() else { return };
    let folder = tempfile::tempdir().unwrap();
    run(&python, SAVE_OTHERS, folder.path());
    let read = |name: &str| pt::read(&folder.path().join(name));

    let training = WeightsFile::open(&folder.path().join("training.pt")).unwrap();
    let top: Vec<_> = (training.root.entries().iter())
        .map(|(key, value)| (key.as_str(), value.kind()))
        .collect();
    let wanted = [
        ("step", "int 5"),
        ("model", "group of 2"),
        ("optim", "group of 2"),
        ("size", "tuple of 2"),
    ];
    assert_eq!(top, wanted.map(|(key, kind)| (key, kind.to_owned())));
    let model = state_dict(&training, training.root.get("model").unwrap());
    assert_eq!(model[0].1.shape, [2, 2]);
    let moment = training.root.at("optim.state.0.exp_avg").unwrap();
    assert_eq!(moment.kind(), "tensor float32 [2, 2]");
    let rate = training.root.at("optim.param_groups.0.lr").unwrap();
    assert!(matches!(rate, Node::Float(lr) if *lr == 0.001));

    let kind = |root: &Value| root.kind();
    let namespace = read("namespace.pt").unwrap().root;
    assert_eq!(
        namespace.get("args").map(kind),
        Some("object argparse.Namespace".to_owned())
    );
    let module = read("module.pt").unwrap().root;
    assert_eq!(kind(&module), "object torch.nn.modules.linear.Linear");
    assert!(matches!(
        read("script.pt"),
        Err(CheckpointError::TorchScript { .. })
    ));
    let script = WeightsFile::open_modules(&folder.path().join("script.pt")).unwrap();
    let found: Vec<_> = (script.all_slots().iter())
        .map(|(name, slot)| (name.clone(), slot.shape.clone()))
        .collect();
    assert_eq!(
        found,
        [
            ("weight".to_owned(), vec![2, 2]),
            ("bias".to_owned(), vec![2])
        ]
    );
    assert_eq!(
        script.tensors(&script.all_slots()).unwrap()[1].1.size(),
        [2]
    );
}
