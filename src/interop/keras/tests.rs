//! What the tests of the three networks share, and how the networks are told apart.

use std::collections::BTreeSet;
use std::path::PathBuf;

use safetensors::SafeTensors;

use super::*;
use crate::formats::hdf5::Hdf5File;

fn in_weights(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("weights")
        .join(name)
}

/// A file that the original wrote.
pub(super) fn keras_file(name: &str) -> Hdf5File {
    Hdf5File::open(&in_weights("peers").join(name)).unwrap()
}

pub(super) fn keys_of(file: &Hdf5File) -> Keys {
    let tree = file.tree().iter();
    tree.map(|(name, _, shape)| (name.clone(), shape.iter().map(|&n| n as i64).collect()))
        .collect()
}

/// The settings of a golden network; those of the simplified U-Net do not name their kind.
pub(super) fn golden_config(name: &str) -> ModelConfig {
    let golden = std::fs::read(in_weights("golden").join(format!("{name}.safetensors"))).unwrap();
    let (_, header) = SafeTensors::read_metadata(&golden).unwrap();
    let stored = &header.metadata().as_ref().unwrap()["config"];
    let mut config: serde_json::Value = serde_json::from_str(stored).unwrap();
    let settings = config.as_object_mut().unwrap();
    settings.entry("kind").or_insert("unet".into());
    serde_json::from_value(config).unwrap()
}

/// The parameters of a golden network.
pub(super) fn golden_names(name: &str) -> BTreeSet<String> {
    let golden = std::fs::read(in_weights("golden").join(format!("{name}.safetensors"))).unwrap();
    let golden = SafeTensors::deserialize(&golden).unwrap();
    let names = golden.names().into_iter();
    names
        .filter_map(|name| Some(name.strip_prefix("w.")?.to_owned()))
        .collect()
}

pub(super) fn sized(side: i64) -> Hints {
    Hints {
        image_size: Some((side, side)),
        ..Hints::default()
    }
}

/// [`infer`] under a name that the tests of one network can see beside their own.
pub(super) fn inferred(
    keys: &Keys,
    layers: &[String],
    hints: &Hints,
    report: &mut Report,
) -> Result<Settings> {
    infer(keys, layers, hints, report)
}

pub(super) fn refused(result: Result<Settings>) -> String {
    format!("{:#}", result.unwrap_err())
}

/// The same network, built after others with `more` layers of each kind.
pub(super) fn renumbered(keys: &Keys, more: u64) -> Keys {
    let later = |part: &str| match part.rsplit_once('_') {
        Some((kind, number)) if number.parse::<u64>().is_ok() => {
            format!("{kind}_{}", number.parse::<u64>().unwrap() + more)
        }
        _ => part.to_owned(),
    };
    let renamed = |key: &str| key.split('/').map(later).collect::<Vec<_>>().join("/");
    let keys = keys.iter();
    keys.map(|(key, shape)| (renamed(key), shape.to_vec()))
        .collect()
}

/// The same keys, of which `edit` changes the shape or drops some.
pub(super) fn edited(keys: &Keys, edit: impl Fn(&str, &mut Vec<i64>) -> bool) -> Keys {
    let edited = keys.iter().filter_map(|(key, shape)| {
        let mut shape = shape.to_vec();
        edit(key, &mut shape).then(|| (key.to_owned(), shape))
    });
    edited.collect()
}

#[test]
fn real_files_are_told_apart() {
    for (file, program) in [
        ("keras_C_model.weights", Program::Ddpm),
        ("keras_Dt_model.weights", Program::Ddpm2),
        ("keras_G_model.weights", Program::Gau),
    ] {
        let keys = keys_of(&keras_file(file));
        assert!(matches(&keys), "{file}");
        assert_eq!(Program::of(&keys), program, "{file}");
        assert_eq!(Program::of(&renumbered(&keys, 7)), program, "{file}");
    }
}

#[test]
fn what_is_no_network_of_theirs_is_refused() {
    assert!(!matches(&Keys::default()));
    let weight = |layer: &str, leaf: &str| format!("{layer}/{layer}/{leaf}:0");
    let other: Keys = [
        (weight("embedding_1", "embeddings"), vec![1000, 32]),
        (weight("conv2d_1", "kernel"), vec![3, 3, 3, 32]),
    ]
    .into_iter()
    .collect();
    assert!(matches(&other));
    let message = refused(infer(&other, &[], &sized(16), &mut Report::default()));
    assert!(message.contains("no layer dense_1"), "{message}");
}
