//! Every container, from bytes made here.

use std::fs;
use std::io::Cursor;

use proptest::prelude::*;
use tch::Kind;

use super::*;
use crate::formats::host_tensor::Dtype;
use crate::formats::pt::handmade::*;
use crate::formats::pt::write;

fn data(dtype: Dtype, count: usize) -> Vec<u8> {
    let top = if dtype == Dtype::Bool { 2 } else { 256 };
    let bytes = count * dtype.size_bytes();
    (0..bytes).map(|at| (at * 37 % top) as u8).collect()
}

/// A tensor of each dtype, named after it, and two odd shapes.
fn sample() -> Vec<(String, HostTensor)> {
    let tensor = |dtype: Dtype, shape: &[usize]| {
        let data = data(dtype, shape.iter().product());
        HostTensor::new(dtype, shape.to_vec(), data).unwrap()
    };
    let mut tensors: Vec<_> = (Dtype::ALL.into_iter())
        .map(|dtype| (dtype.to_string(), tensor(dtype, &[3, 2])))
        .collect();
    tensors.push(("scalar".to_owned(), tensor(Dtype::F32, &[])));
    tensors.push(("empty".to_owned(), tensor(Dtype::F16, &[0, 7])));
    tensors.sort_by(|a, b| a.0.cmp(&b.0));
    tensors
}

fn zip_sample() -> Vec<u8> {
    let mut file = Cursor::new(Vec::new());
    write::write_state_dict(&mut file, &sample()).unwrap();
    file.into_inner()
}

fn safetensors_sample() -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a");
    let tensors: Vec<_> = (sample().iter())
        .map(|(name, host)| (name.clone(), to_tensor(host).unwrap()))
        .collect();
    safetensors::write(&path, ("format".into(), "pt".into()), &tensors).unwrap();
    fs::read(path).unwrap()
}

fn legacy_sample() -> Vec<u8> {
    legacy_view(&view(6, 0, &[2, 3], &[1, 2]))
}

/// Opens `bytes` as a file of this name, whose end says nothing on purpose.
fn open_bytes(bytes: &[u8]) -> Result<WeightsFile> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("some.weights");
    fs::write(&path, bytes).unwrap();
    WeightsFile::open(&path)
}

fn read_all(file: &WeightsFile) -> Result<Vec<(String, HostTensor)>> {
    let tensors = file.state_dict(&file.root)?.into_iter();
    Ok(tensors
        .map(|(name, tensor)| (name, to_host(&tensor)))
        .collect())
}

fn open_pickle(pickle: &[u8]) -> WeightsFile {
    open_bytes(&zip_pickle(pickle, &[1, 2, 3, 4, 5, 6])).unwrap()
}

fn message<T: fmt::Debug>(result: Result<T>) -> String {
    format!("{:#}", result.unwrap_err())
}

#[test]
fn each_container_is_known_by_its_content_and_read() {
    for (bytes, container, text) in [
        (safetensors_sample(), Container::Safetensors, "safetensors"),
        (zip_sample(), Container::TorchZip, "PyTorch file"),
    ] {
        let file = open_bytes(&bytes).unwrap();
        assert_eq!(file.container, container);
        assert_eq!(file.container.to_string(), text);
        assert_eq!(read_all(&file).unwrap(), sample());
    }
    let file = open_bytes(&legacy_sample()).unwrap();
    assert_eq!(file.container, Container::TorchLegacy);
    let [(name, Node::Tensor(slot))] = file.root.entries() else {
        panic!("wanted one tensor, got {:?}", file.root);
    };
    assert_eq!((slot.dtype, &slot.shape[..]), (Dtype::U8, &[2, 3][..]));
    let tensor = file.tensor(name, slot).unwrap();
    assert_eq!(to_host(&tensor).data, [1, 3, 5, 2, 4, 6]);
    assert_eq!(tensor.device(), tch::Device::Cpu);
}

#[test]
fn tensors_keep_their_dtypes() {
    for bytes in [safetensors_sample(), zip_sample()] {
        let file = open_bytes(&bytes).unwrap();
        for (name, kind) in [
            ("float16", Kind::Half),
            ("bfloat16", Kind::BFloat16),
            ("float64", Kind::Double),
            ("int64", Kind::Int64),
            ("bool", Kind::Bool),
        ] {
            let Some(Node::Tensor(slot)) = file.root.get(name) else {
                panic!("no tensor {name}");
            };
            assert_eq!(slot.dtype.to_string(), name);
            assert_eq!(slot.bytes(), 6 * kind.elt_size_in_bytes());
            assert_eq!(file.tensor(name, slot).unwrap().kind(), kind);
        }
    }
}

#[test]
fn metadata_of_safetensors_are_kept() {
    let file = open_bytes(&safetensors_sample()).unwrap();
    assert_eq!(file.metadata["format"], "pt");
    assert!(open_bytes(&zip_sample()).unwrap().metadata.is_empty());
}

#[test]
fn a_file_cut_short_anywhere_is_an_error_that_names_it() {
    for whole in [safetensors_sample(), zip_sample(), legacy_sample()] {
        assert!(read_all(&open_bytes(&whole).unwrap()).is_ok());
        for percent in 0..100 {
            let cut = &whole[..whole.len() * percent / 100];
            let error = message(open_bytes(cut).and_then(|file| read_all(&file)));
            assert!(error.contains("some.weights"), "{percent} %: {error}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_changed_byte_never_panics(at in any::<prop::sample::Index>(), byte: u8) {
        for mut bytes in [zip_pickle(&mixed(), &[1, 2, 3, 4, 5, 6]), legacy_sample()] {
            let at = at.index(bytes.len());
            bytes[at] = byte;
            drop(open_bytes(&bytes).and_then(|file| read_all(&file)));
        }
    }
}

#[test]
fn files_that_hold_no_weights_are_named_with_a_hint() {
    for (bytes, wanted) in [
        (&b""[..], "starts with []"),
        (b"", "it is empty"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid",
            "git lfs pull",
        ),
        (b"<!DOCTYPE html>", "it looks like a web page"),
        (b"{\"weight_map\": {}}", "it looks like JSON"),
        (b"\x80\x03}q\x00.", "torch.save did not write"),
        (
            b"GGUF\x03\0\0\0",
            "starts with [47 47 55 46 03 00 00 00], wanted a safetensors",
        ),
        (b"\x89HDF\r\n\x1a\n", "cannot read"),
    ] {
        let error = message(open_bytes(bytes));
        assert!(error.contains(wanted), "{error}");
        assert!(error.contains("some.weights"), "{error}");
    }
    let folder = tempfile::tempdir().unwrap();
    assert!(message(WeightsFile::open(folder.path())).contains("cannot read"));
    assert!(message(WeightsFile::open(Path::new("/no/such.pt"))).contains("/no/such.pt"));
}

/// `{"step": 5, "model": {"a.w": tensor, "_metadata": {}, "n": 1.5}, "pair": (tensor, True),
/// "rates": (1, 2), "name": "x", "none": None, 7: [{}], "args": {(): 1}}`
fn mixed() -> Vec<u8> {
    let tensor = view(6, 0, &[6], &[1]);
    [
        b"\x80\x02}(",
        &text("step")[..],
        b"K\x05",
        &text("model"),
        b"}(",
        &text("a.w"),
        &tensor,
        &text("_metadata"),
        b"}",
        &text("n"),
        b"G\x3f\xf8\0\0\0\0\0\0u",
        &text("pair"),
        &tensor,
        b"\x88\x86",
        &text("rates"),
        b"K\x01K\x02\x86",
        &text("name"),
        &text("x"),
        &text("none"),
        b"NK\x07](}e",
        &text("args"),
        b"})K\x01su.",
    ]
    .concat()
}

#[test]
fn a_dict_of_many_things_comes_out_whole() {
    let file = open_pickle(&mixed());
    let kinds: Vec<_> = (file.root.entries().iter())
        .map(|(key, value)| format!("{key}: {}", value.kind()))
        .collect();
    let wanted = [
        "step: int 5",
        "model: group of 2",
        "pair: group of 2",
        "rates: tuple of 2",
        "name: text \"x\"",
        "none: None",
        "7: group of 1",
        "args: dict of 1 without distinct text keys",
    ];
    assert_eq!(kinds, wanted);
    let model = file.root.get("model").unwrap();
    assert_eq!(
        group_text(model),
        "{\"a.w\": tensor uint8 [6], \"n\": float 1.5}"
    );
    let Some(Node::Tensor(slot)) = file.root.at("pair.0") else {
        panic!("wanted a tensor in the pair");
    };
    assert_eq!(
        to_host(&file.tensor("pair.0", slot).unwrap()).data,
        [1, 2, 3, 4, 5, 6]
    );
    let error = message(file.state_dict(&file.root));
    assert!(
        error.contains("some.weights: wanted names and their tensors, found {\"step\": int 5, ")
    );
}

#[test]
fn keys_are_found_by_path_though_they_hold_dots() {
    let file = open_pickle(&mixed());
    let kind = |path: &str| file.root.at(path).map(Node::kind);
    assert_eq!(kind("model.a.w").unwrap(), "tensor uint8 [6]");
    assert_eq!(kind("model.n").unwrap(), "float 1.5");
    assert_eq!(kind("pair.1").unwrap(), "bool true");
    assert_eq!(kind("7.0").unwrap(), "group of 0");
    assert_eq!(kind("").unwrap(), "group of 8");
    for absent in [
        "mode", "model.", "model.a", ".model", "step.x", "model_n", "pair.2",
    ] {
        assert!(kind(absent).is_none(), "{absent}");
    }
    assert!(file.root.get("model").unwrap().slots().is_none());
    assert!(file.root.at("7.0").unwrap().slots().unwrap().is_empty());
}

#[test]
fn keys_that_would_be_the_same_text_are_not_taken_apart() {
    let pickle = [b"\x80\x02}(K\x07K\x01", &text("7")[..], b"K\x02u."].concat();
    let root = open_pickle(&pickle).root;
    assert_eq!(root.kind(), "dict of 2 without distinct text keys");
}

#[test]
fn a_file_of_one_tensor_or_of_a_list_is_no_state_dict() {
    let tensor = [b"\x80\x02", &view(6, 0, &[6], &[1])[..], b"."].concat();
    let list = b"\x80\x02](K\x01K\x02e.".to_vec();
    for (pickle, found) in [(tensor, "tensor uint8 [6]"), (list, "list of 2")] {
        let file = open_pickle(&pickle);
        assert_eq!(file.root.kind(), found);
        assert!(message(file.state_dict(&file.root)).contains(found));
    }
}

#[test]
fn tensors_that_share_a_storage_are_each_their_own_view() {
    let pickle = [
        b"\x80\x02}(",
        &text("first")[..],
        &view(6, 0, &[2, 2], &[1, 2]),
        &text("second"),
        &view(6, 3, &[3], &[1]),
        b"u.",
    ]
    .concat();
    let bytes = [1, 2, 3, 4, 5, 6];
    for file in [
        zip_pickle(&pickle, &bytes),
        legacy_pickle(&pickle, 6, &bytes),
    ] {
        let tensors = read_all(&open_bytes(&file).unwrap()).unwrap();
        assert_eq!(tensors[0].1.data, [1, 3, 2, 4]);
        assert_eq!(tensors[1].1.data, [4, 5, 6]);
    }
}

#[test]
fn one_storage_in_many_tensors_is_limited() {
    let many: Vec<Vec<u8>> = (0..100)
        .map(|name| [text(&name.to_string()), view(6, 0, &[20_000], &[0])].concat())
        .collect();
    let file = open_pickle(&[b"\x80\x02}(", &many.concat()[..], b"u."].concat());
    assert!(message(file.state_dict(&file.root)).contains("the limit for this file"));
}

#[test]
fn one_text_at_many_places_is_limited() {
    let long = text(&"x".repeat(1 << 20));
    let many = |places: usize| {
        // A list of the text, kept in memo slot 0, and of dicts from the text to itself.
        let dicts = b"}h\x00h\x00s".repeat(places);
        let pickle = [b"\x80\x02](", &long[..], b"q\x00", &dicts, b"e."].concat();
        zip_pickle(&pickle, b"")
    };
    assert!(open_bytes(&many(10)).is_ok());
    let error = message(open_bytes(&many(100)));
    assert!(error.contains("its names and texts take more"), "{error}");
}

#[test]
fn datasets_are_listed_by_path() {
    let dataset = |path: &str, shape: &[usize]| (path.to_owned(), Dtype::F32, shape.to_vec());
    let kernel = dataset("dense_1/dense_1/kernel:0", &[3, 3, 1, 8]);
    let root = from_paths::tree(&[kernel.clone(), dataset("steps", &[1])]).unwrap();
    let kinds: Vec<_> = (root.entries().iter())
        .map(|(key, node)| (key.as_str(), node.kind()))
        .collect();
    assert_eq!(kinds[0].0, "dense_1/dense_1/kernel:0");
    assert_eq!(kinds[0].1, "tensor float32 [3, 3, 1, 8]");
    assert!(from_paths::tree(&[kernel.clone(), kernel]).is_err());
    assert!(from_paths::tree(&[dataset("huge", &[usize::MAX])]).is_err());
}

#[test]
fn a_tensor_of_another_file_is_refused() {
    let torch = open_bytes(&zip_sample()).unwrap();
    let mapped = open_bytes(&safetensors_sample()).unwrap();
    let Some(Node::Tensor(slot)) = torch.root.get("bool") else {
        panic!("no tensor");
    };
    assert!(message(mapped.tensor("bool", slot)).contains("is not from"));
}

#[test]
fn measure() {
    let Ok(path) = std::env::var("MEASURE") else {
        return;
    };
    let keep = std::env::var("KEEP").is_ok();
    let status = |key: &str| {
        let text = fs::read_to_string("/proc/self/status").unwrap();
        text.lines()
            .find(|l| l.starts_with(key))
            .unwrap()
            .to_owned()
    };
    drop(Tensor::ones([10], (Kind::Float, tch::Device::Cpu)) + 1);
    eprintln!("before {} {}", status("VmHWM"), status("VmRSS"));
    let start = std::time::Instant::now();
    let file = WeightsFile::open(Path::new(&path)).unwrap();
    eprintln!("open {:?}", start.elapsed());
    let group = file.root.get("model").unwrap_or(&file.root);
    if keep {
        let all = file.state_dict(group).unwrap();
        eprintln!("kept {} {:?}", all.len(), start.elapsed());
    } else {
        for (name, slot) in group.slots().unwrap() {
            drop(file.tensor(name, slot).unwrap());
        }
        eprintln!("each {:?}", start.elapsed());
    }
    eprintln!("after {} {}", status("VmHWM"), status("VmRSS"));
}
