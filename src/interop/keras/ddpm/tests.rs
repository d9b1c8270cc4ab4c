//! Against the golden weights, which another program made from the same file.

use std::collections::BTreeSet;

use super::super::tests::{
    golden_config, golden_names, inferred, keras_file, keys_of, refused, renumbered, sized,
};
use super::super::{layout, matches};
use super::*;
use crate::interop::Settings;

fn config(multipliers: &[i64], blocks: i64) -> UNetConfig {
    UNetConfig {
        height: 128,
        width: 128,
        channels: 3,
        base_width: 64,
        multipliers: multipliers.to_vec(),
        blocks,
        min_pixel: MIN_PIXEL,
        norm: Norm::Group,
        norm_groups: NORM_GROUPS,
        norm_eps: NORM_EPS,
        time_embedding: TimeEmbedding::Trainable,
        classes: None,
        null_class: false,
        condition_channels: None,
        dropout: 0.0,
    }
}

fn keys_for(config: &UNetConfig) -> Keys {
    let weights = weights(config, 1000, &Keys::default()).unwrap();
    weights.into_iter().map(|w| (w.theirs, w.shape)).collect()
}

/// The list of layers of a network, as far as it matters.
fn layers_of(config: &UNetConfig) -> Vec<String> {
    let mut layers = vec!["input_1".to_owned()];
    for level in config.levels() {
        layers.extend((0..config.blocks).map(|n| format!("group_norm_{n}")));
        if level.pools {
            layers.push("average_pooling2d_7".to_owned());
        }
    }
    layers.push("group_norm_99".to_owned());
    layers
}

fn unet(settings: Settings) -> UNetConfig {
    match settings.model {
        ModelConfig::Unet(model) => model,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_real_file_is_understood() {
    let file = keras_file("keras_C_model.weights");
    let keys = keys_of(&file);
    assert!(matches(&keys));
    let mut report = Report::default();
    let settings = inferred(&keys, file.layers(), &sized(16), &mut report).unwrap();
    assert_eq!(settings.diffusion.timesteps, 1000);
    assert!(report.missing.is_empty());
    assert_eq!(settings.model, golden_config("keras_C"));
    assert_eq!(layout(&settings.model, 1000, &keys).unwrap().len(), 32);
}

#[test]
fn our_names_are_those_of_the_golden_weights() {
    let weights = weights(&config(&[1, 2, 2], 1), 1000, &Keys::default()).unwrap();
    let ours: BTreeSet<String> = weights.into_iter().filter_map(|w| w.ours).collect();
    assert_eq!(ours, golden_names("keras_A"));
}

#[test]
fn every_network_is_found_again() {
    for (multipliers, blocks) in [
        (&[1, 2, 2][..], 1),
        (&[1, 1, 2, 2, 4, 4], 2),
        (&[1, 1], 2),
        (&[2, 1, 4], 3),
        (&[4, 4, 4, 4, 4, 4], 1),
    ] {
        let config = config(multipliers, blocks);
        let keys = keys_for(&config);
        let layers = layers_of(&config);
        let found = inferred(&keys, &layers, &sized(128), &mut Report::default());
        assert_eq!(unet(found.unwrap()), config);
        let hints = Hints {
            blocks: Some(blocks),
            ..sized(128)
        };
        let ambiguous = inferred(&keys, &[], &hints, &mut Report::default());
        assert_eq!(unet(ambiguous.unwrap()), config);
    }
}

#[test]
fn as_published_it_has_the_published_size() {
    let published = UNetConfig {
        base_width: 128,
        ..config(&[1, 1, 2, 2, 4, 4], 2)
    };
    let weights = weights(&published, 1000, &Keys::default()).unwrap();
    let numel = weights.iter().map(|w| w.shape.iter().product::<i64>());
    assert_eq!(numel.sum::<i64>(), 50_514_176);
    let last = |kind: &str| weights.iter().rfind(|w| w.theirs.starts_with(kind));
    for name in ["conv2d_52", "dense_29", "group_norm_26"] {
        let kind = name.trim_end_matches(|c: char| c.is_ascii_digit());
        assert!(last(kind).unwrap().theirs.starts_with(name), "{name}");
    }
}

#[test]
fn a_network_built_after_others_is_found_by_its_numbers() {
    let config = config(&[1, 2], 1);
    let later = renumbered(&keys_for(&config), 52);
    let found = inferred(&later, &[], &sized(128), &mut Report::default()).unwrap();
    let entries = layout(&found.model, 1000, &later).unwrap();
    assert_eq!(unet(found), config);
    let names: BTreeSet<String> = entries.into_iter().map(|entry| entry.theirs).collect();
    assert!(names.contains("conv2d_53/conv2d_53/kernel:0"));
    assert!(later.iter().map(|(key, _)| key).eq(names.iter()));
}

#[test]
fn what_the_file_does_not_say_is_asked_for() {
    let keys = keys_for(&config(&[1, 1, 2, 2], 2));
    let mut report = Report::default();
    inferred(&keys, &[], &Hints::default(), &mut report).unwrap();
    let flags: Vec<&str> = report.missing.iter().map(|m| m.flag.as_str()).collect();
    assert_eq!(flags, ["--blocks N", "--image-size N"]);
    let about = &report.missing[0].about;
    for choice in [
        "1 (multipliers [1, 1, 1, 1, 2, 2, 2, 2])",
        "2 (multipliers [1, 1, 2, 2])",
        "4 (multipliers [1, 2])",
    ] {
        assert!(about.contains(choice), "{about}");
    }
    assert_eq!(about.matches("multipliers").count(), 3);
}

#[test]
fn hints_against_the_file_are_refused() {
    let config = config(&[1, 1, 2, 2, 4, 4], 2);
    let keys = keys_for(&config);
    let layers = layers_of(&config);
    let hinted = |hints: Hints| inferred(&keys, &layers, &hints, &mut Report::default());
    assert!(refused(hinted(sized(64))).contains("would pool 4 times, the file has 5"));
    let square = Hints {
        image_size: Some((128, 64)),
        ..Hints::default()
    };
    assert!(refused(hinted(square)).contains("square"));
    let blocks = Hints {
        blocks: Some(4),
        ..sized(128)
    };
    assert!(refused(hinted(blocks)).contains("2 blocks"));
    let timesteps = Hints {
        timesteps: Some(20),
        ..sized(128)
    };
    assert!(refused(hinted(timesteps)).contains("1000 rows"));

    let mut uneven = layers.clone();
    uneven.swap(2, 3);
    let uneven = inferred(&keys, &uneven, &sized(128), &mut Report::default());
    assert!(refused(uneven).contains("after the norms [1, 4"));
    let shifted = [layers.as_slice(), &layers[1..]].concat();
    let shifted = inferred(&keys, &shifted, &sized(128), &mut Report::default());
    assert!(refused(shifted).contains("after the norms"));
}

#[test]
fn a_first_block_four_times_as_wide_is_not_ddpm2() {
    // It looks like ddpm2.py's first dense layer, not like its second.
    let wide = keys_for(&config(&[4, 4], 1));
    let hints = Hints {
        blocks: Some(1),
        ..sized(16)
    };
    let found = inferred(&wide, &[], &hints, &mut Report::default()).unwrap();
    assert_eq!(unet(found).multipliers, [4, 4]);
}

#[test]
fn a_weight_too_many_too_few_or_misshaped_is_named() {
    let whole = keys_for(&config(&[1, 2], 1));
    let edited = |edit: &dyn Fn(&str, &mut Vec<i64>) -> bool| {
        let keys: Keys = (whole.iter())
            .filter_map(|(key, shape)| {
                let mut shape = shape.to_vec();
                edit(key, &mut shape).then(|| (key.to_owned(), shape))
            })
            .collect();
        refused(inferred(&keys, &[], &sized(16), &mut Report::default()))
    };
    let gone = edited(&|key, _| !key.starts_with("dense_3/"));
    assert!(
        gone.contains("dense_3") && gone.contains("down.1.0.time_proj"),
        "{gone}"
    );
    let misshaped = edited(&|key, shape| {
        if key.starts_with("conv2d_8/") {
            shape[2] = 99;
        }
        true
    });
    assert!(
        misshaped.contains("conv2d_8") && misshaped.contains("99"),
        "{misshaped}"
    );
    let odd = edited(&|key, _| !key.starts_with("group_norm_6/"));
    assert!(odd.contains("5 group norms"), "{odd}");

    let more = whole
        .iter()
        .map(|(key, shape)| (key.to_owned(), shape.to_vec()));
    let bias = ("dense_1/dense_1/bias:0".to_owned(), vec![64]);
    let more: Keys = more.chain([bias]).collect();
    let error = refused(inferred(&more, &[], &sized(16), &mut Report::default()));
    assert!(
        error.contains("dense_1/dense_1/bias:0 has no place"),
        "{error}"
    );
}
