//! Against the golden weights, which another program made from the same file.

use std::collections::BTreeSet;

use super::super::tests::{
    edited, golden_config, golden_names, inferred, keras_file, keys_of, refused, renumbered, sized,
};
use super::super::{layout, matches};
use super::*;

fn config(multipliers: &[i64], blocks: i64) -> ConcatUNetConfig {
    ConcatUNetConfig {
        height: 128,
        width: 128,
        channels: 3,
        base_width: 64,
        multipliers: multipliers.to_vec(),
        blocks,
        norm_groups: NORM_GROUPS,
        norm_eps: NORM_EPS,
        classes: None,
        null_class: false,
        condition_channels: None,
        dropout: 0.0,
    }
}

fn keys_for(config: &ConcatUNetConfig) -> Keys {
    let weights = weights(config, 1000, &Keys::default()).unwrap();
    weights.into_iter().map(|w| (w.theirs, w.shape)).collect()
}

/// The list of layers of a network, as far as it matters.
fn layers_of(config: &ConcatUNetConfig) -> Vec<String> {
    let mut layers = vec!["input_1".to_owned()];
    for level in 0..config.multipliers.len() {
        layers.extend((0..2 * config.blocks).map(|n| format!("group_norm_{n}")));
        if level + 1 < config.multipliers.len() {
            layers.push(format!("average_pooling2d_{level}"));
        }
    }
    layers
}

fn found(keys: &Keys, layers: &[String], hints: &Hints) -> Result<ConcatUNetConfig> {
    let settings = inferred(keys, layers, hints, &mut Report::default())?;
    match settings.model {
        ModelConfig::UnetConcat(model) => Ok(model),
        other => panic!("{other:?}"),
    }
}

fn message(result: Result<ConcatUNetConfig>) -> String {
    format!("{:#}", result.unwrap_err())
}

#[test]
fn a_real_file_is_understood() {
    let file = keras_file("keras_Dt_model.weights");
    let keys = keys_of(&file);
    assert!(matches(&keys));
    let mut report = Report::default();
    let settings = inferred(&keys, file.layers(), &sized(16), &mut report).unwrap();
    assert_eq!(settings.diffusion.timesteps, 1000);
    assert!(report.missing.is_empty());
    assert_eq!(settings.model, golden_config("keras_Dt"));
    // The table of sines and cosines has a place in the file and none among our parameters.
    let entries = layout(&settings.model, 1000, &keys).unwrap();
    let ours: BTreeSet<String> = entries.iter().flat_map(|e| e.ours.clone()).collect();
    assert_eq!((entries.len(), ours.len()), (60, 59));
    assert_eq!(ours, golden_names("keras_Dt"));
}

#[test]
fn every_network_is_found_again() {
    for (multipliers, blocks) in [
        (&[1, 2, 2][..], 1),
        (&[1, 1, 2, 2, 4, 4], 2),
        (&[1, 1], 2),
        (&[2, 1, 4], 3),
        // A block on the way up whose joined input is as wide as its output has no shortcut.
        (&[2, 1], 1),
        (&[3], 4),
    ] {
        let config = config(multipliers, blocks);
        let keys = keys_for(&config);
        let listed = found(&keys, &layers_of(&config), &sized(128));
        assert_eq!(listed.unwrap(), config);
        assert_eq!(found(&keys, &[], &sized(128)).unwrap(), config);
        let later = found(&renumbered(&keys, 29), &[], &sized(128));
        assert_eq!(later.unwrap(), config);
    }
}

#[test]
fn as_published_it_has_the_published_size() {
    let published = ConcatUNetConfig {
        base_width: 128,
        ..config(&[1, 1, 2, 2, 4, 4], 2)
    };
    let weights = weights(&published, 1000, &Keys::default()).unwrap();
    let numel = weights.iter().map(|w| w.shape.iter().product::<i64>());
    assert_eq!(numel.sum::<i64>(), 92_588_800);
    let last = |kind: &str| weights.iter().rfind(|w| w.theirs.starts_with(kind));
    for name in ["conv2d_64", "dense_53", "group_norm_63"] {
        let kind = name.trim_end_matches(|c: char| c.is_ascii_digit());
        assert!(last(kind).unwrap().theirs.starts_with(name), "{name}");
    }
    // Its widths alone say how many blocks per level has.
    let keys = keys_for(&published);
    assert_eq!(found(&keys, &[], &sized(128)).unwrap(), published);
}

#[test]
fn only_the_size_of_the_images_is_asked_for() {
    // Fifteen blocks of one width, besides the middle: five levels, or three, or one, and the joined inputs
    // tell which.
    for (levels, blocks) in [(5, 1), (3, 2), (1, 7)] {
        let config = config(&vec![1; levels], blocks);
        let mut report = Report::default();
        let keys = keys_for(&config);
        inferred(&keys, &[], &Hints::default(), &mut report).unwrap();
        let flags: Vec<&str> = report.missing.iter().map(|m| m.flag.as_str()).collect();
        assert_eq!(flags, ["--image-size N"]);
        assert_eq!(found(&keys, &[], &sized(128)).unwrap(), config);
    }
}

#[test]
fn hints_against_the_file_are_refused() {
    let config = config(&[1, 1, 2, 2, 4, 4], 2);
    let (keys, layers) = (keys_for(&config), layers_of(&config));
    let hinted = |hints: Hints| message(found(&keys, &layers, &hints));
    assert!(hinted(sized(48)).contains("want a multiple of 32"));
    let square = Hints {
        image_size: Some((128, 64)),
        ..Hints::default()
    };
    assert!(hinted(square).contains("square"));
    let blocks = Hints {
        blocks: Some(4),
        ..sized(128)
    };
    assert!(hinted(blocks).contains("2 blocks"));
    let timesteps = Hints {
        timesteps: Some(20),
        ..sized(128)
    };
    assert!(hinted(timesteps).contains("1000 rows"));

    let mut uneven = layers.clone();
    uneven.swap(4, 5);
    let uneven = message(found(&keys, &uneven, &sized(128)));
    assert!(uneven.contains("after the norms [3, 8"), "{uneven}");
    let more = [&layers[..], &["average_pooling2d_9".to_owned()]].concat();
    let more = message(found(&keys, &more, &sized(128)));
    assert!(more.contains("6 levels of 2 blocks"), "{more}");
}

#[test]
fn a_weight_too_many_too_few_or_misshaped_is_named() {
    let whole = keys_for(&config(&[1, 2], 1));
    let refuse = |keys: &Keys| refused(inferred(keys, &[], &sized(16), &mut Report::default()));
    let gone = refuse(&edited(&whole, |key, _| !key.starts_with("dense_4/")));
    assert!(
        gone.contains("dense_4") && gone.contains("down.1.0.shortcut"),
        "{gone}"
    );
    let misshaped = refuse(&edited(&whole, |key, shape| {
        if key.starts_with("conv2d_8/") {
            shape[2] = 99;
        }
        true
    }));
    assert!(
        misshaped.contains("conv2d_8") && misshaped.contains("99"),
        "{misshaped}"
    );
    let even = refuse(&edited(&whole, |key, _| !key.starts_with("group_norm_6/")));
    assert!(even.contains("14 group norms"), "{even}");
    let bias = ("dense_1/dense_1/bias:0".to_owned(), vec![256]);
    let more = whole.iter().map(|(k, s)| (k.to_owned(), s.to_vec()));
    let more = refuse(&more.chain([bias]).collect());
    assert!(
        more.contains("dense_1/dense_1/bias:0 has no place"),
        "{more}"
    );
}

#[test]
fn shapes_that_cannot_be_are_refused() {
    let whole = keys_for(&config(&[1, 2], 1));
    for size in [0, -64, i64::MAX, i64::MIN, i64::MAX / 64 * 64] {
        for dim in 0..4 {
            for layer in ["embedding_1", "conv2d_1", "conv2d_2", "conv2d_8", "dense_4"] {
                let keys = edited(&whole, |key, shape| {
                    if key.starts_with(layer) && dim < shape.len() {
                        shape[dim] = size;
                    }
                    true
                });
                // What is left as it was, or says only how many time steps there are, is checked later.
                let harmless = keys == whole || (layer == "embedding_1" && dim == 0);
                let settings = inferred(&keys, &[], &sized(16), &mut Report::default());
                assert!(harmless || settings.is_err(), "{layer} {dim} {size}");
            }
        }
    }
    // As many levels as no image can have.
    let deep = keys_for(&config(&[1; 17], 1));
    let error = refused(inferred(&deep, &[], &sized(16), &mut Report::default()));
    assert!(error.contains("1 to 16 levels"), "{error}");
}
