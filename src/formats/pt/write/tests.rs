//! The writer against the zip and pickle readers.

use std::io::{Cursor, Read};

use super::*;
use crate::formats::host_tensor::Dtype;
use crate::formats::pickle::{Value, unpickle};

fn tensor(dtype: Dtype, shape: &[usize]) -> HostTensor {
    let bytes = shape.iter().product::<usize>() * dtype.size_bytes();
    let data = (0..bytes).map(|byte| (byte % 2) as u8).collect();
    HostTensor::new(dtype, shape.to_vec(), data).unwrap()
}

#[test]
fn storages_are_stored_and_aligned() {
    let tensors: Vec<_> = Dtype::ALL
        .map(|dtype| (dtype.to_string(), tensor(dtype, &[3, 5])))
        .into();
    let mut file = Cursor::new(Vec::new());
    write_state_dict(&mut file, &tensors).unwrap();
    let mut archive = zip::ZipArchive::new(file).unwrap();
    for (key, (_, tensor)) in tensors.iter().enumerate() {
        let mut entry = archive.by_name(&format!("archive/data/{key}")).unwrap();
        assert_eq!(entry.compression(), CompressionMethod::Stored);
        assert_eq!(entry.data_start().unwrap() % 64, 0);
        let mut data = Vec::new();
        entry.read_to_end(&mut data).unwrap();
        assert_eq!(data, tensor.data);
    }
}

#[test]
fn the_pickle_says_what_was_given() {
    let tensors = [
        ("scalar".to_owned(), tensor(Dtype::I64, &[])),
        ("leer \u{2205}".to_owned(), tensor(Dtype::BF16, &[0, 3])),
        ("conv".to_owned(), tensor(Dtype::F32, &[2, 3, 4])),
    ];
    let items = tensors
        .iter()
        .map(|(name, tensor)| (name.clone(), Item::tensor(tensor)));
    let (pickle, storages) = pickle(&Item::OrderedDict(items.collect())).unwrap();
    assert_eq!(storages.len(), 3);
    let Value::Dict(items) = unpickle(&mut &pickle[..]).unwrap().root else {
        panic!("wanted a dict");
    };
    let kinds: Vec<String> = (items.iter())
        .map(|(key, value)| format!("{} {}", key.kind(), value.kind()))
        .collect();
    assert_eq!(
        kinds,
        [
            "str \"scalar\" tensor int64 []",
            "str \"leer \u{2205}\" tensor bfloat16 [0, 3]",
            "str \"conv\" tensor float32 [2, 3, 4]",
        ]
    );
}

#[test]
fn integers_are_written_as_they_are() {
    for number in [
        0,
        -1,
        5,
        i64::from(i32::MIN),
        3_000_000_000,
        -3_000_000_000,
        i64::MAX,
        i64::MIN,
    ] {
        let (pickle, _) = pickle(&Item::Int(number)).unwrap();
        assert_eq!(unpickle(&mut &pickle[..]).unwrap().root, Value::Int(number));
    }
}

#[test]
fn plain_data_nest_as_given() {
    let text = |text: &str| Value::Str(text.into());
    let root = Item::Dict(vec![
        ("none".to_owned(), Item::None),
        (
            "flags".to_owned(),
            Item::Tuple(vec![Item::Bool(true), Item::Bool(false)]),
        ),
        ("rate".to_owned(), Item::Float(-0.125)),
        (
            "state".to_owned(),
            Item::IntDict(vec![(7, Item::List(vec![])), (-1, Item::Dict(vec![]))]),
        ),
        (
            "names".to_owned(),
            Item::List(vec![Item::Text("größe".to_owned())]),
        ),
    ]);
    let wanted = Value::Dict(vec![
        (text("none"), Value::None),
        (
            text("flags"),
            Value::Tuple(vec![Value::Bool(true), Value::Bool(false)]),
        ),
        (text("rate"), Value::Float(-0.125)),
        (
            text("state"),
            Value::Dict(vec![
                (Value::Int(7), Value::List(vec![])),
                (Value::Int(-1), Value::Dict(vec![])),
            ]),
        ),
        (text("names"), Value::List(vec![text("größe")])),
    ]);
    let (pickle, _) = pickle(&root).unwrap();
    assert_eq!(unpickle(&mut &pickle[..]).unwrap().root, wanted);
}

/// A tensor that counts how often its bytes are asked for.
struct Counted<'a> {
    asked: &'a std::cell::Cell<usize>,
    bytes: usize,
}

impl TensorData for Counted<'_> {
    fn dtype(&self) -> Dtype {
        Dtype::F32
    }

    fn shape(&self) -> &[usize] {
        &[2]
    }

    fn bytes(&self) -> io::Result<Cow<'_, [u8]>> {
        self.asked.set(self.asked.get() + 1);
        Ok(Cow::Owned(vec![1; self.bytes]))
    }
}

#[test]
fn a_tensor_at_two_places_is_asked_and_stored_once() {
    let asked = std::cell::Cell::new(0);
    let tensor = Item::tensor(Counted {
        asked: &asked,
        bytes: 8,
    });
    let other = Item::tensor(Counted {
        asked: &asked,
        bytes: 8,
    });
    let root = Item::List(vec![tensor.clone(), other, tensor]);
    let mut file = Cursor::new(Vec::new());
    write_pt(&mut file, &root).unwrap();
    assert_eq!(asked.get(), 2);
    let archive = zip::ZipArchive::new(file).unwrap();
    let is_storage = |name: &&[u8]| name.starts_with(b"archive/data/");
    assert_eq!(archive.file_names_raw().filter(is_storage).count(), 2);
}

#[test]
fn a_tensor_that_gives_other_bytes_than_it_said_is_named() {
    let asked = std::cell::Cell::new(0);
    let inner = Item::Dict(vec![(
        "w".to_owned(),
        Item::tensor(Counted {
            asked: &asked,
            bytes: 7,
        }),
    )]);
    let root = Item::Dict(vec![("model".to_owned(), inner)]);
    let error = write_pt(Cursor::new(Vec::new()), &root).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    assert_eq!(
        error.to_string(),
        "tensor \"model.w\": float32 [2] takes 8 bytes, it gave 7"
    );
}

#[test]
fn bad_input_is_refused_before_anything_is_written() {
    let mut wrong = tensor(Dtype::F32, &[2]);
    wrong.data.pop();
    let good = tensor(Dtype::F32, &[2]);
    for (tensors, message) in [
        (
            vec![("a".to_owned(), good.clone()), ("a".to_owned(), good)],
            "the key \"a\" was given twice; a dict holds each key once",
        ),
        (
            vec![("w".to_owned(), wrong)],
            "tensor \"w\": float32 [2] takes 8 bytes, found 7",
        ),
    ] {
        let mut file = Cursor::new(Vec::new());
        let error = write_state_dict(&mut file, &tensors).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
        assert_eq!(error.to_string(), message);
        assert!(file.into_inner().is_empty());
    }
}
