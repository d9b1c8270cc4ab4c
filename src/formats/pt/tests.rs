//! The PyTorch reader against files made by hand and files that `pt_write` wrote.

mod limits;

use std::io::{Cursor, Write};

use proptest::prelude::*;

use super::handmade::*;
use super::*;
use crate::formats::host_tensor::{Dtype, HostTensor};
use crate::formats::pickle::{MAX_PICKLE_BYTES, PickleError};
use crate::formats::pt::write::write_state_dict;

/// Reads `bytes` as a file; its path is gone when this returns, the open file is not.
fn read_bytes(bytes: &[u8]) -> Result<PtFile> {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(bytes).unwrap();
    read(file.path())
}

/// All tensors of a file that is a dict of tensors.
fn state_dict(file: &PtFile) -> Result<Vec<(String, HostTensor)>> {
    let Value::Dict(items) = &file.root else {
        panic!("wanted a dict, got {}", file.root.kind());
    };
    items
        .iter()
        .map(|item| match item {
            (Value::Str(name), Value::Tensor(tensor)) => {
                Ok((name.to_string(), to_host(&file.tensor(name, tensor)?)))
            }
            (key, value) => panic!("{}: {}", key.kind(), value.kind()),
        })
        .collect()
}

fn written(tensors: &[(String, HostTensor)]) -> Vec<u8> {
    let mut file = Cursor::new(Vec::new());
    write_state_dict(&mut file, tensors).unwrap();
    file.into_inner()
}

fn sample() -> Vec<(String, HostTensor)> {
    let data = |len: usize| (0..len).map(|byte| byte as u8).collect::<Vec<u8>>();
    vec![
        (
            "conv.weight".to_owned(),
            HostTensor::new(Dtype::F32, vec![4, 3, 3, 3], data(432)).unwrap(),
        ),
        (
            "steps".to_owned(),
            HostTensor::new(Dtype::I64, vec![], data(8)).unwrap(),
        ),
        (
            "empty".to_owned(),
            HostTensor::new(Dtype::F16, vec![0, 2], vec![]).unwrap(),
        ),
    ]
}

fn only_tensor(bytes: &[u8]) -> Result<HostTensor> {
    let mut tensors = state_dict(&read_bytes(bytes)?)?;
    assert_eq!(tensors.len(), 1);
    Ok(tensors.remove(0).1)
}

fn tensor_problem(bytes: &[u8]) -> TensorError {
    match only_tensor(bytes) {
        Err(CheckpointError::Tensor { tensor, source, .. }) if tensor == "w" => source,
        other => panic!("wanted an error about the tensor, got {other:?}"),
    }
}

/// Overwrites `len` bytes at `offset` from each place where `signature` stands.
fn patch(bytes: &mut [u8], signature: &[u8], offset: usize, new: &[u8]) {
    let places: Vec<usize> = (0..bytes.len() - signature.len())
        .filter(|&at| bytes[at..].starts_with(signature))
        .collect();
    assert!(!places.is_empty());
    for at in places {
        bytes[at + offset..][..new.len()].copy_from_slice(new);
    }
}

const CENTRAL: &[u8] = b"PK\x01\x02";

// What is right is read.

#[test]
fn what_was_written_is_read() {
    let file = read_bytes(&written(&sample())).unwrap();
    assert_eq!(state_dict(&file).unwrap(), sample());
}

#[test]
fn views_are_read_from_both_containers() {
    for file in [zip_view, legacy_view] {
        let tensor = only_tensor(&file(&view(6, 0, &[2, 3], &[3, 1]))).unwrap();
        assert_eq!(tensor.data, [1, 2, 3, 4, 5, 6]);
        let transposed = only_tensor(&file(&view(6, 1, &[2, 2], &[1, 2]))).unwrap();
        assert_eq!(transposed.data, [2, 4, 3, 5]);
        let expanded = only_tensor(&file(&view(6, 5, &[3], &[0]))).unwrap();
        assert_eq!(expanded.data, [6, 6, 6]);
        let stepped = only_tensor(&file(&view(6, 0, &[2, 2], &[4, 1]))).unwrap();
        assert_eq!(stepped.data, [1, 2, 5, 6]);
        let middle = only_tensor(&file(&view(6, 0, &[2, 1, 3], &[1, i64::MAX, 2]))).unwrap();
        assert_eq!(middle.data, [1, 3, 5, 2, 4, 6]);
        let empty = only_tensor(&file(&view(6, 900, &[0, 3], &[3, 1]))).unwrap();
        assert_eq!((&empty.shape[..], empty.data.len()), (&[0, 3][..], 0));
    }
}

#[test]
fn elements_of_several_bytes_are_gathered_whole() {
    let pickle = dict_of(&view_of("ShortStorage", 3, 0, &[2, 1], &[2, 7]));
    let storage = [1, 2, 3, 4, 5, 6];
    for file in [
        zip_pickle(&pickle, &storage),
        legacy_pickle(&pickle, 3, &storage),
    ] {
        let tensor = only_tensor(&file).unwrap();
        assert_eq!((tensor.dtype, &tensor.shape[..]), (Dtype::I16, &[2, 1][..]));
        assert_eq!(tensor.data, [1, 2, 5, 6]);
    }
}

#[test]
fn a_storage_of_many_chunks_is_read_in_order() {
    let data: Vec<u8> = (0..1_000_003_u32).map(|at| (at * 7 / 5) as u8).collect();
    let tensor = |shape: Vec<usize>, data: &[u8]| {
        let data = data.to_vec();
        HostTensor::new(Dtype::U8, shape, data).unwrap()
    };
    let whole = dict_of(&view(1_000_003, 0, &[1_000_003], &[1]));
    let part = dict_of(&view(1_000_003, 1, &[2, 400_000], &[500_000, 1]));
    let wanted_part = [&data[1..400_001], &data[500_001..900_001]].concat();
    for (pickle, wanted) in [
        (whole, tensor(vec![1_000_003], &data)),
        (part, tensor(vec![2, 400_000], &wanted_part)),
    ] {
        assert!(only_tensor(&zip_pickle(&pickle, &data)).unwrap() == wanted);
        assert!(only_tensor(&legacy_pickle(&pickle, 1_000_003, &data)).unwrap() == wanted);
    }
}

#[test]
fn a_checksum_of_zero_means_none() {
    let mut bytes = zip_view(&view(6, 0, &[6], &[1]));
    patch(&mut bytes, CENTRAL, 16, &[0; 4]);
    assert!(only_tensor(&bytes).is_ok());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn round_trip(
        tensors in prop::collection::btree_map(
            ".{0,20}",
            (prop::sample::select(&Dtype::ALL[..]), prop::collection::vec(0_usize..5, 0..4), any::<u8>()),
            0..8,
        )
    ) {
        let tensors: Vec<(String, HostTensor)> = tensors
            .into_iter()
            .filter(|(name, _)| name != "_metadata")
            .map(|(name, (dtype, shape, seed))| {
                let len = byte_len(dtype, &shape).unwrap();
                let top = if dtype == Dtype::Bool { 2 } else { 256 };
                let data = (0..len).map(|byte| ((byte * 31 + usize::from(seed)) % top) as u8);
                let tensor = HostTensor::new(dtype, shape, data.collect()).unwrap();
                (name, tensor)
            })
            .collect();
        let read = state_dict(&read_bytes(&written(&tensors)).unwrap()).unwrap();
        prop_assert_eq!(read, tensors);
    }

    #[test]
    fn a_changed_byte_never_panics(at in any::<prop::sample::Index>(), byte: u8) {
        for mut bytes in [written(&sample()), legacy_view(&view(6, 0, &[2, 3], &[3, 1]))] {
            let at = at.index(bytes.len());
            bytes[at] = byte;
            let Ok(file) = read_bytes(&bytes) else { continue };
            let Value::Dict(items) = &file.root else { continue };
            for (_, value) in items {
                if let Value::Tensor(tensor) = value {
                    drop(file.tensor("t", tensor));
                }
            }
        }
    }
}

// What is wrong is refused.

#[test]
fn a_file_cut_short_anywhere_is_refused() {
    let zip = written(&sample());
    let legacy = legacy_view(&view(6, 0, &[2, 3], &[3, 1]));
    assert!(only_tensor(&legacy).is_ok());
    for whole in [zip, legacy] {
        for percent in 0..100 {
            let cut = &whole[..whole.len() * percent / 100];
            assert!(read_bytes(cut).is_err(), "{percent} %");
        }
        assert!(read_bytes(&whole[..whole.len() - 1]).is_err());
    }
}

#[test]
fn other_files_are_named_by_their_first_bytes() {
    let error = read_bytes(b"\x89HDF\r\n\x1a\n").unwrap_err().to_string();
    assert!(error.contains("it starts with [89 48 44 46 0d 0a 1a 0a], wanted a zip archive"));
    assert!(matches!(
        read_bytes(b"").unwrap_err(),
        CheckpointError::NotPt { .. }
    ));
    let absent = read(Path::new("/no/such/file.pt")).unwrap_err();
    assert_eq!(absent.to_string(), "cannot open /no/such/file.pt");
}

#[test]
fn two_entries_of_one_name_are_refused() {
    let mut bytes = zip_of(&[
        ("a/data.pkl", &dict_of(&view(6, 0, &[6], &[1]))),
        ("a/data/0", &[1, 2, 3, 4, 5, 6]),
        ("a/data/1", &[6, 5, 4, 3, 2, 1]),
    ]);
    patch(&mut bytes, b"a/data/1", 0, b"a/data/0");
    assert!(matches!(
        read_bytes(&bytes).unwrap_err(),
        CheckpointError::DuplicateEntries { .. }
    ));
}

#[test]
fn compressed_entries_are_refused_before_they_are_read() {
    for (offset, new) in [
        (10, &8_u16.to_le_bytes()[..]),
        (24, &u32::MAX.to_le_bytes()),
    ] {
        let mut bytes = zip_view(&view(6, 0, &[6], &[1]));
        patch(&mut bytes, CENTRAL, offset, new);
        let error = read_bytes(&bytes).unwrap_err();
        assert!(
            matches!(
                error,
                CheckpointError::NotStored { .. } | CheckpointError::Zip { .. }
            ),
            "{error:?}"
        );
    }
}

#[test]
fn an_entry_longer_than_the_file_is_refused() {
    let mut bytes = zip_view(&view(6, 0, &[6], &[1]));
    patch(
        &mut bytes,
        CENTRAL,
        20,
        &[0xf0, 0xff, 0xff, 0xff, 0xf0, 0xff, 0xff, 0xff],
    );
    assert!(matches!(
        read_bytes(&bytes).unwrap_err(),
        CheckpointError::PastEnd {
            wanted_bytes: 0xffff_fff0,
            ..
        }
    ));
}

#[test]
fn a_changed_storage_fails_its_checksum_whole_or_in_part() {
    for shape in [6, 2] {
        let mut bytes = zip_view(&view(6, 0, &[shape], &[1]));
        patch(&mut bytes, &[1, 2, 3, 4, 5, 6], 5, &[7]);
        assert!(matches!(
            only_tensor(&bytes).unwrap_err(),
            CheckpointError::Checksum { entry, .. } if entry == "a/data/0"
        ));
    }
}

#[test]
fn archives_that_torch_save_did_not_write_are_refused() {
    let none = b"\x80\x02N.";
    let error = |entries: &[(&str, &[u8])]| read_bytes(&zip_of(entries)).unwrap_err();
    assert!(matches!(
        error(&[("word/document.xml", b"")]),
        CheckpointError::NoPickle { found: 0, .. }
    ));
    assert!(matches!(
        error(&[("a/data.pkl", none), ("b/data.pkl", none)]),
        CheckpointError::NoPickle { found: 2, .. }
    ));
    assert!(matches!(
        error(&[("a/data.pkl", none), ("a/constants.pkl", none)]),
        CheckpointError::TorchScript { .. }
    ));
    assert!(matches!(
        error(&[("a/data.pkl", none), ("a/byteorder", b"big")]),
        CheckpointError::ByteOrder { .. }
    ));
}

#[test]
fn a_pickle_that_calls_a_function_runs_nothing() {
    let call = [b"cos\nsystem\n", &text("touch owned")[..], b"\x85R"].concat();
    let root = read_bytes(&zip_view(&call)).unwrap().root;
    let Value::Dict(items) = &root else {
        panic!("wanted a dict, got {root:?}");
    };
    assert_eq!(items[0].1.kind(), "object os.system");
}

/// A TorchScript archive.
fn script_of(pickle: &[u8]) -> Vec<u8> {
    zip_of(&[
        ("a/data.pkl", pickle),
        ("a/data/0", &[1, 2, 3, 4, 5, 6]),
        ("a/code/__torch__.py", b"import os"),
        ("a/constants.pkl", b"\x80\x02)."),
    ])
}

fn read_script(pickle: &[u8]) -> Result<PtFile> {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(&script_of(pickle)).unwrap();
    read_modules(file.path())
}

/// Instructions for an object of the class `__torch__.NAME` with attributes.
fn module(name: &str, attributes: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let mut bytes = format!("c__torch__\n{name}\n").into_bytes();
    bytes.extend(b")\x81}(");
    for (key, value) in attributes {
        bytes.extend([text(key), value.clone()].concat());
    }
    bytes.extend(b"ub");
    bytes
}

#[test]
fn modules_of_a_script_are_dicts_of_their_attributes() {
    let weight = view(6, 1, &[2, 2], &[2, 1]);
    let conv = module(
        "Conv",
        &[("weight", weight), ("training", b"\x89".to_vec())],
    );
    // What has no attributes of its own stays a name, and what is called is not.
    let call = [b"cos\nsystem\n", &text("touch owned")[..], b"\x85R"].concat();
    let root = module(
        "Net",
        &[
            ("conv", conv),
            ("empty", b"c__torch__\nE\n)\x81".to_vec()),
            ("call", call),
        ],
    );
    let pickle = [b"\x80\x02", &root[..], b"."].concat();
    let file = read_script(&pickle).unwrap();
    let conv = file.root.get("conv").unwrap();
    assert_eq!(conv.get("training"), Some(&Value::Bool(false)));
    let Some(Value::Tensor(weight)) = conv.get("weight") else {
        panic!("wanted a tensor");
    };
    assert_eq!(
        to_host(&file.tensor("weight", weight).unwrap()).data,
        [2, 3, 4, 5]
    );
    assert_eq!(file.root.get("empty").unwrap().kind(), "object __torch__.E");
    assert_eq!(file.root.get("call").unwrap().kind(), "object os.system");
    assert!(matches!(
        read_bytes(&script_of(&pickle)),
        Err(CheckpointError::TorchScript { .. })
    ));
    // The same objects in a file that is no script are names.
    let plain = read_bytes(&zip_pickle(&pickle, &[1, 2, 3, 4, 5, 6])).unwrap();
    assert_eq!(plain.root.kind(), "object __torch__.Net");
}

#[test]
fn a_script_whose_modules_hold_themselves_is_refused() {
    // The object is put into the memo before its attributes are set, one of which it is itself.
    let circle = [
        b"\x80\x02c__torch__\nNet\n)\x81q\x00}",
        &text("me")[..],
        b"h\x00sb.",
    ]
    .concat();
    assert!(matches!(
        read_script(&circle),
        Err(CheckpointError::Pickle {
            source: PickleError::TooDeep { .. },
            ..
        })
    ));
    // Ten modules, each of which holds the one before ten times.
    let mut pickle = b"\x80\x02]q\x00".to_vec();
    for level in 0..10_u8 {
        let attributes: Vec<_> = (0..10)
            .map(|index| (format!("a{index}"), vec![b'h', level]))
            .collect();
        let named: Vec<(&str, Vec<u8>)> = attributes
            .iter()
            .map(|(k, v)| (k.as_str(), v.clone()))
            .collect();
        pickle.extend(module("Net", &named));
        pickle.extend([b'q', level + 1]);
    }
    pickle.push(b'.');
    assert!(matches!(
        read_script(&pickle),
        Err(CheckpointError::Pickle {
            source: PickleError::TooManyValues { .. },
            ..
        })
    ));
}

#[test]
fn views_outside_their_storage_are_refused() {
    for (offset, shape, stride) in [(1, 6, 1), (6, 1, 1), (0, 4, 2), (i64::MAX, 2, i64::MAX)] {
        for file in [zip_view, legacy_view] {
            let problem = tensor_problem(&file(&view(6, offset, &[shape], &[stride])));
            assert!(
                matches!(problem, TensorError::PastStorage { .. }),
                "{problem}"
            );
        }
    }
}

#[test]
fn a_bool_is_zero_or_one() {
    let bools = view_of("BoolStorage", 6, 0, &[1], &[1]);
    assert_eq!(only_tensor(&zip_view(&bools)).unwrap().data, [1]);
    let problem = tensor_problem(&zip_view(&view_of("BoolStorage", 6, 0, &[2], &[1])));
    assert!(matches!(problem, TensorError::NotBool { found: 2 }));
}

#[test]
fn views_that_cannot_be_are_refused() {
    let problem =
        |shape: &[i64], strides: &[i64]| tensor_problem(&zip_view(&view(6, 0, shape, strides)));
    assert!(matches!(
        problem(&[2, 2], &[1, 1]),
        TensorError::Overlap { .. }
    ));
    let max = i64::MAX;
    assert!(matches!(
        problem(&[max, max], &[0, 0]),
        TensorError::TooLarge { .. }
    ));
    assert!(matches!(
        problem(&[max, max, 0], &[0, 0, 0]),
        TensorError::TooLarge { .. }
    ));
    assert!(matches!(
        problem(&[2 << 20], &[0]),
        TensorError::Expanded { .. }
    ));
    assert!(matches!(
        only_tensor(&zip_view(&view(6, 0, &[6], &[-1]))),
        Err(CheckpointError::Pickle { .. })
    ));
}

#[test]
fn storages_that_are_absent_or_of_another_length_are_refused() {
    let other_length = tensor_problem(&zip_view(&view(7, 0, &[6], &[1])));
    assert!(matches!(
        other_length,
        TensorError::StorageSize {
            numel: 7,
            found_bytes: 6,
            ..
        }
    ));
    let huge = tensor_problem(&zip_view(&view(i64::MAX, 0, &[6], &[1])));
    assert!(matches!(huge, TensorError::StorageSize { .. }));
    let absent = zip_of(&[("a/data.pkl", &dict_of(&view(6, 0, &[6], &[1])))]);
    assert!(matches!(
        tensor_problem(&absent),
        TensorError::NoStorage { key } if key == "0"
    ));
    assert!(matches!(
        read_bytes(&legacy_view(&view(i64::MAX, 0, &[6], &[1]))).unwrap_err(),
        CheckpointError::Legacy {
            part: "length of a storage",
            ..
        }
    ));
}

#[test]
fn a_long_pickle_is_refused_before_it_is_read() {
    let bytes = zip_of(&[("a/data.pkl", &vec![b'N'; MAX_PICKLE_BYTES as usize + 1])]);
    assert!(matches!(
        read_bytes(&bytes).unwrap_err(),
        CheckpointError::Pickle {
            source: PickleError::TooLong { .. },
            ..
        }
    ));
}
