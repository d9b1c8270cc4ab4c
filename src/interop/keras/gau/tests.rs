//! Against the golden weights, which another program made from the same file.

use std::collections::BTreeSet;

use super::super::tests::{
    edited, golden_config, golden_names, inferred, keras_file, keys_of, refused, renumbered, sized,
};
use super::super::{layout, matches};
use super::*;

fn published() -> GauConfig {
    GauConfig {
        height: 128,
        width: 128,
        channels: 3,
        patch: 8,
        base_width: 768,
        layers: 24,
        units: 1536,
        key_width: 128,
        norm_eps: NORM_EPS,
        classes: None,
        null_class: false,
        condition_channels: None,
        dropout: 0.0,
    }
}

fn keys_for(config: &GauConfig) -> Keys {
    let weights = weights(config, 1000, &Keys::default()).unwrap();
    weights.into_iter().map(|w| (w.theirs, w.shape)).collect()
}

fn found(keys: &Keys, hints: &Hints) -> Result<GauConfig> {
    let settings = inferred(keys, &[], hints, &mut Report::default())?;
    match settings.model {
        ModelConfig::Gau(model) => Ok(model),
        other => panic!("{other:?}"),
    }
}

fn message(keys: &Keys) -> String {
    refused(inferred(keys, &[], &sized(16), &mut Report::default()))
}

#[test]
fn a_real_file_is_understood() {
    let file = keras_file("keras_G_model.weights");
    let keys = keys_of(&file);
    assert!(matches(&keys));
    let mut report = Report::default();
    let settings = inferred(&keys, file.layers(), &sized(32), &mut report).unwrap();
    assert_eq!(settings.diffusion.timesteps, 1000);
    assert!(report.missing.is_empty());
    assert_eq!(settings.model, golden_config("keras_G"));
    let entries = layout(&settings.model, 1000, &keys).unwrap();
    let ours: BTreeSet<String> = entries.into_iter().flat_map(|e| e.ours).collect();
    assert_eq!(ours, golden_names("keras_G"));
}

#[test]
fn every_network_is_found_again() {
    for config in [
        published(),
        GauConfig {
            channels: 1,
            patch: 4,
            base_width: 20,
            layers: 1,
            units: 50,
            key_width: 8,
            ..published()
        },
        GauConfig {
            patch: 1,
            layers: 11,
            ..published()
        },
    ] {
        let keys = keys_for(&config);
        assert_eq!(found(&keys, &sized(128)).unwrap(), config);
        assert_eq!(found(&renumbered(&keys, 29), &sized(128)).unwrap(), config);
    }
}

#[test]
fn as_published_it_has_the_published_size() {
    let weights = weights(&published(), 1000, &Keys::default()).unwrap();
    let numel = weights.iter().map(|w| w.shape.iter().product::<i64>());
    assert_eq!(numel.sum::<i64>(), 88_483_584);
    let has = |name: &str| weights.iter().any(|w| w.theirs == name);
    assert!(has("dense_50/dense_50/kernel:0"));
    let unit = "gated_attention_unit_24/gated_attention_unit_24";
    assert!(has(&format!("{unit}/dense_49/bias:0")));
    assert!(has(&format!("{unit}/scale_offset_48/gamma:0")));
}

#[test]
fn only_the_size_of_the_images_is_asked_for() {
    let keys = keys_for(&published());
    let mut report = Report::default();
    inferred(&keys, &[], &Hints::default(), &mut report).unwrap();
    let flags: Vec<&str> = report.missing.iter().map(|m| m.flag.as_str()).collect();
    assert_eq!(flags, ["--image-size N"]);
    let refuse = |hints| format!("{:#}", found(&keys, &hints).unwrap_err());
    assert!(refuse(sized(100)).contains("want a multiple of the 8 pixels"));
    let blocks = Hints {
        blocks: Some(2),
        ..sized(128)
    };
    assert!(refuse(blocks).contains("without levels"));
}

#[test]
fn a_weight_too_many_too_few_or_misshaped_is_named() {
    let whole = keys_for(&GauConfig {
        layers: 2,
        ..published()
    });
    let gone = message(&edited(&whole, |key, _| !key.contains("/dense_4/bias")));
    assert!(
        gone.contains("dense_4") && gone.contains("layers.1.in_proj.bias"),
        "{gone}"
    );
    let misshaped = message(&edited(&whole, |key, shape| {
        if key.contains("/scale_offset_3/") {
            shape[0] = 99;
        }
        true
    }));
    assert!(
        misshaped.contains("scale_offset_3") && misshaped.contains("99"),
        "{misshaped}"
    );
    // A norm fewer is a unit fewer, whose weights then have no place.
    let fewer = message(&edited(&whole, |key, _| {
        !key.starts_with("layer_normalization_3")
    }));
    assert!(fewer.contains("dense_4"), "{fewer}");
}

#[test]
fn shapes_that_cannot_be_are_refused() {
    let whole = keys_for(&GauConfig {
        layers: 2,
        ..published()
    });
    for size in [0, -8, i64::MAX, i64::MIN, 190] {
        for dim in 0..2 {
            for layer in [
                "embedding_1",
                "dense_1/",
                "dense_6/",
                "/dense_2/",
                "/dense_3/",
            ] {
                let keys = edited(&whole, |key, shape| {
                    if key.contains(layer) && dim < shape.len() {
                        shape[dim] = size;
                    }
                    true
                });
                // How many time steps there are is checked later.
                let harmless = layer == "embedding_1" && dim == 0;
                let settings = inferred(&keys, &[], &sized(16), &mut Report::default());
                assert!(harmless || settings.is_err(), "{layer} {dim} {size}");
            }
        }
    }
}
