//! Good and hostile indexes of shards.

use std::fs;

use tch::Tensor;

use super::super::Container;
use super::*;
use crate::formats::{safetensors, write_state_dict};

fn tensors(names: [&str; 2]) -> Vec<(String, Tensor)> {
    let tensor = |name: &str| Tensor::from_slice(name.as_bytes());
    names
        .map(|name| (name.to_owned(), tensor(name)))
        .into_iter()
        .collect()
}

/// A folder with two shards, of safetensors or of `torch.save`, and one more file of each kind.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    for (number, names) in [(1, ["conv_in.weight", "b"]), (2, ["a", "unlisted"])] {
        let (metadata, tensors) = (("format".into(), "pt".into()), tensors(names));
        safetensors::write(
            &path(&format!("m-{number}.safetensors")),
            metadata,
            &tensors,
        )
        .unwrap();
        write_state_dict(&path(&format!("m-{number}.bin")), &tensors).unwrap();
    }
    folder
}

fn open_index(folder: &tempfile::TempDir, text: &str) -> Result<WeightsFile> {
    let index = folder.path().join("model.index.json");
    fs::write(&index, text).unwrap();
    WeightsFile::open_shards(&index)
}

fn map(pairs: &[(&str, &str)]) -> String {
    let map: BTreeMap<_, _> = pairs.iter().copied().collect();
    serde_json::json!({"metadata": {"total_size": 17}, "weight_map": map}).to_string()
}

fn error(folder: &tempfile::TempDir, text: &str) -> String {
    let error = format!("{:#}", open_index(folder, text).unwrap_err());
    assert!(error.contains("model.index.json"), "{error}");
    error
}

#[test]
fn shards_are_read_as_one_file() {
    let folder = folder();
    for (end, container) in [
        ("safetensors", Container::Safetensors),
        ("bin", Container::TorchZip),
    ] {
        let (one, two) = (format!("m-1.{end}"), format!("m-2.{end}"));
        let index = map(&[("a", &two), ("b", &one), ("conv_in.weight", &one)]);
        let file = open_index(&folder, &index).unwrap();
        assert_eq!(file.container, container);
        assert!(file.path.ends_with("model.index.json"));
        let read = file.state_dict(&file.root).unwrap();
        assert_eq!(read.len(), 3);
        for (name, tensor) in &read {
            assert_eq!(Vec::<u8>::try_from(tensor).unwrap(), name.as_bytes());
        }
        assert_eq!(read[2].0, "a", "the second shard comes last");
        assert_eq!(file.metadata.len(), usize::from(end == "safetensors"));
    }
}

#[test]
fn names_that_lead_out_of_the_folder_are_refused() {
    let folder = folder();
    let outside = folder.path().join("m-1.safetensors");
    for name in [
        "../m-1.safetensors",
        "sub/../m-1.safetensors",
        "./m-1.safetensors",
        "m-1.safetensors/",
        outside.to_str().unwrap(),
        "..",
        ".",
        "",
        "sub\\m-1.safetensors",
        "m-1.safetensors\0",
    ] {
        let error = error(&folder, &map(&[("b", name)]));
        assert!(
            error.contains("wanted a plain name in the same folder"),
            "{error}"
        );
    }
}

#[test]
fn what_the_index_lists_must_be_there() {
    let folder = folder();
    let absent = error(&folder, &map(&[("b", "m-1.bin"), ("c", "m-1.bin")]));
    assert!(absent.contains("tensor \"c\" in \"m-1.bin\""), "{absent}");
    let elsewhere = error(&folder, &map(&[("b", "m-1.bin"), ("a", "m-1.bin")]));
    assert!(
        elsewhere.contains("tensor \"a\" in \"m-1.bin\""),
        "{elsewhere}"
    );
    let missing = error(&folder, &map(&[("b", "m-1.bin"), ("a", "m-3.bin")]));
    assert!(missing.contains("m-3.bin"), "{missing}");
    let mixed = error(&folder, &map(&[("b", "m-1.bin"), ("a", "m-2.safetensors")]));
    assert!(mixed.contains("of two kinds"), "{mixed}");
    let itself = error(&folder, &map(&[("b", "model.index.json")]));
    assert!(itself.contains("it looks like JSON"), "{itself}");
}

#[test]
fn an_index_of_another_form_or_cut_short_is_refused() {
    let folder = folder();
    for text in [
        "",
        "no JSON",
        "[]",
        "{}",
        "{\"weight_map\": []}",
        "{\"weight_map\": {\"a\": 1}}",
    ] {
        let error = error(&folder, text);
        assert!(error.contains("it is not an index of shards"), "{error}");
    }
    assert!(error(&folder, &map(&[])).contains("lists no file"));
    let whole = map(&[("b", "m-1.bin"), ("a", "m-2.bin")]);
    for percent in 0..100 {
        error(&folder, &whole[..whole.len() * percent / 100]);
    }
    let absent = WeightsFile::open_shards(&folder.path().join("absent.json"));
    assert!(format!("{:#}", absent.unwrap_err()).contains("absent.json"));
}

#[test]
fn more_shards_than_any_model_has_are_refused() {
    let names: Vec<String> = (0..=MAX_SHARDS).map(|n| format!("m-{n}.bin")).collect();
    let pairs: Vec<_> = names
        .iter()
        .map(|name| (name.as_str(), name.as_str()))
        .collect();
    let error = error(&folder(), &map(&pairs));
    assert!(
        error.contains("lists 1001 files, wanted at most 1000"),
        "{error}"
    );
}
