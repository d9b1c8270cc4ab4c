//! Against the golden weights, which another program made from the same file.

use std::collections::BTreeSet;
use std::path::PathBuf;

use safetensors::SafeTensors;

use super::*;
use crate::checkpoint::hdf5::Hdf5File;

fn in_weights(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("weights")
        .join(name)
}

fn keys_of(file: &Hdf5File) -> Keys {
    let tree = file.tree().iter();
    tree.map(|(name, _, shape)| (name.clone(), shape.iter().map(|&n| n as i64).collect()))
        .collect()
}

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
        dropout: 0.0,
    }
}

fn keys_for(config: &UNetConfig, first: FirstNumbers) -> Keys {
    let weights = weights(config, 1000, first).into_iter();
    weights.map(|w| (w.theirs, w.shape)).collect()
}

fn sized(side: i64) -> Hints {
    Hints {
        image_size: Some((side, side)),
        ..Hints::default()
    }
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

fn refused(result: Result<Settings>) -> String {
    format!("{:#}", result.unwrap_err())
}

fn unet(settings: Settings) -> UNetConfig {
    match settings.model {
        ModelConfig::Unet(model) => model,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_real_file_is_understood() {
    let file = Hdf5File::open(&in_weights("peers/keras_C_model.weights")).unwrap();
    let keys = keys_of(&file);
    assert!(matches(&keys));
    let mut report = Report::default();
    let settings = infer(&keys, file.layers(), &sized(16), &mut report).unwrap();
    assert_eq!(settings.diffusion.timesteps, 1000);
    assert!(report.missing.is_empty());

    let golden = std::fs::read(in_weights("golden/keras_C.safetensors")).unwrap();
    let (_, header) = SafeTensors::read_metadata(&golden).unwrap();
    let stored = &header.metadata().as_ref().unwrap()["config"];
    let model = unet(settings);
    assert_eq!(model, serde_json::from_str(stored).unwrap());

    let entries = layout(&model, 1000, FirstNumbers::of(&keys).unwrap());
    assert_eq!(entries.len(), 32);
}

#[test]
fn our_names_are_those_of_the_golden_weights() {
    let golden = std::fs::read(in_weights("golden/keras_A.safetensors")).unwrap();
    let golden = SafeTensors::deserialize(&golden).unwrap();
    let wanted: BTreeSet<&str> = (golden.names().into_iter())
        .filter_map(|name| name.strip_prefix("w."))
        .collect();
    let layout = layout(&config(&[1, 2, 2], 1), 1000, FirstNumbers::default());
    let ours: BTreeSet<&str> = layout.iter().map(|entry| entry.ours[0].as_str()).collect();
    assert_eq!(ours, wanted);
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
        let keys = keys_for(&config, FirstNumbers::default());
        let layers = layers_of(&config);
        let found = infer(&keys, &layers, &sized(128), &mut Report::default());
        assert_eq!(unet(found.unwrap()), config);
        let hints = Hints {
            blocks: Some(blocks),
            ..sized(128)
        };
        let ambiguous = infer(&keys, &[], &hints, &mut Report::default());
        assert_eq!(unet(ambiguous.unwrap()), config);
    }
}

#[test]
fn as_published_it_has_the_published_size() {
    let published = UNetConfig {
        base_width: 128,
        ..config(&[1, 1, 2, 2, 4, 4], 2)
    };
    let weights = weights(&published, 1000, FirstNumbers::default());
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
    let once = keys_for(&config, FirstNumbers::default());
    let later: Keys = (once.iter())
        .map(|(key, shape)| {
            let (layer, weight) = key.rsplit_once('/').unwrap();
            let (kind, number) = layer.split('/').next().unwrap().rsplit_once('_').unwrap();
            let layer = format!("{kind}_{}", number.parse::<u64>().unwrap() + 52);
            (format!("{layer}/{layer}/{weight}"), shape.to_vec())
        })
        .collect();
    let first = FirstNumbers::of(&later).unwrap();
    let found = infer(&later, &[], &sized(128), &mut Report::default()).unwrap();
    assert_eq!(unet(found), config);
    let names: BTreeSet<String> = (layout(&config, 1000, first).into_iter())
        .map(|entry| entry.theirs)
        .collect();
    assert!(names.contains("conv2d_53/conv2d_53/kernel:0"));
    assert!(later.iter().map(|(key, _)| key).eq(names.iter()));
}

#[test]
fn what_the_file_does_not_say_is_asked_for() {
    let keys = keys_for(&config(&[1, 1, 2, 2], 2), FirstNumbers::default());
    let mut report = Report::default();
    infer(&keys, &[], &Hints::default(), &mut report).unwrap();
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
    let keys = keys_for(&config, FirstNumbers::default());
    let layers = layers_of(&config);
    let hinted = |hints: Hints| infer(&keys, &layers, &hints, &mut Report::default());
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
    let uneven = infer(&keys, &uneven, &sized(128), &mut Report::default());
    assert!(refused(uneven).contains("after the blocks [1, 4"));
    let shifted = [layers.as_slice(), &layers[1..]].concat();
    let shifted = infer(&keys, &shifted, &sized(128), &mut Report::default());
    assert!(refused(shifted).contains("after the blocks"));
}

#[test]
fn other_networks_are_refused_by_name() {
    let keys = |list: &[(&str, &[i64])]| -> Keys {
        let weight = |layer: &str, inner: &str| format!("{layer}/{layer}/{inner}:0");
        let mut keys = vec![(weight("embedding_1", "embeddings"), vec![1000, 32])];
        keys.extend(list.iter().map(|(layer, shape)| {
            let inner = if shape.len() == 1 { "gamma" } else { "kernel" };
            (weight(layer, inner), shape.to_vec())
        }));
        keys.into_iter().collect()
    };
    let refuse = |keys: &Keys| {
        assert!(matches(keys));
        refused(infer(keys, &[], &sized(16), &mut Report::default()))
    };
    let ddpm2 = keys(&[
        ("dense_1", &[32, 128]),
        ("dense_2", &[128, 128]),
        ("conv2d_1", &[3, 3, 3, 32]),
        ("group_norm_1", &[32]),
    ]);
    assert!(refuse(&ddpm2).contains("ddpm2.py"));
    let gau = keys(&[("dense_1", &[192, 128]), ("gated_attention_unit_1", &[640])]);
    assert!(refuse(&gau).contains("GAU"));
    let other = keys(&[("conv2d_1", &[3, 3, 3, 32]), ("conv2d_2", &[3, 3, 32, 64])]);
    assert!(refuse(&other).contains("no layer dense_1"));
    // A first block four times as wide looks like ddpm2.py's first dense layer, not its second.
    let wide = keys_for(&config(&[4, 4], 1), FirstNumbers::default());
    assert!(
        infer(
            &wide,
            &[],
            &Hints {
                blocks: Some(1),
                ..sized(16)
            },
            &mut Report::default()
        )
        .is_ok()
    );
    assert!(!matches(&Keys::default()));
}

#[test]
fn a_weight_too_many_too_few_or_misshaped_is_named() {
    let whole = keys_for(&config(&[1, 2], 1), FirstNumbers::default());
    let edited = |edit: &dyn Fn(&str, &mut Vec<i64>) -> bool| {
        let keys: Keys = (whole.iter())
            .filter_map(|(key, shape)| {
                let mut shape = shape.to_vec();
                edit(key, &mut shape).then(|| (key.to_owned(), shape))
            })
            .collect();
        refused(infer(&keys, &[], &sized(16), &mut Report::default()))
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
    let error = refused(infer(&more, &[], &sized(16), &mut Report::default()));
    assert!(
        error.contains("dense_1/dense_1/bias:0 has no place"),
        "{error}"
    );
}
