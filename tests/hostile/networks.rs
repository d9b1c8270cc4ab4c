//! Files whose names and shapes describe impossible networks.

use std::path::Path;

use ddpm::checkpoint::{Contents, Meta, read_checkpoint, write_checkpoint};
use ddpm::config::{ModelConfig, Preset};
use ddpm::interop::describe;
use ddpm::interop::{Foreign, Request};

use crate::build::*;
use crate::readers::with_file;

/// Names of Keras's layers with a kernel or another weight each, and where the shape begins.
type Layers<'a> = &'a [(&'a str, &'a [i64])];

/// A safetensors file of zeros under Keras's names.
fn keras(layers: Layers) -> Vec<u8> {
    let mut end = 0;
    let entry = |(layer, shape): &(&str, &[i64])| {
        let name = match layer.split_once('/') {
            Some((outer, inner)) => format!("{outer}/{outer}/{inner}:0"),
            None if layer.starts_with("embedding") => format!("{layer}/{layer}/embeddings:0"),
            None if shape.len() == 1 => format!("{layer}/{layer}/gamma:0"),
            None => format!("{layer}/{layer}/kernel:0"),
        };
        let start = end;
        end += match shape.contains(&0) {
            true => 0,
            false => 4 * shape.iter().product::<i64>(),
        };
        format!(
            "\"{name}\":{{\"dtype\":\"F32\",\"shape\":{shape:?},\"data_offsets\":[{start},{end}]}}"
        )
    };
    let entries: Vec<String> = layers.iter().map(entry).collect();
    safetensors_of(format!("{{{}}}", entries.join(",")), end as usize)
}

#[track_caller]
fn refused_network(layers: Layers, words: &str) {
    with_file("keras.safetensors", &keras(layers), |path: &Path| {
        let error = Foreign::examine(path, &Request::default()).unwrap_err();
        let message = format!("{error:#}");
        assert!(message.contains(words), "wanted {words:?} in {message:?}");
        assert!(message.contains(&path.display().to_string()), "{message}");
        describe(path).unwrap();
    });
}

#[test]
fn units_of_no_size_or_too_much_are_refused() {
    let _bound = memory_bound();
    let huge = i64::MAX;
    let unit = "gated_attention_unit_1";
    let (first, second) = (
        format!("{unit}/dense_2/kernel"),
        format!("{unit}/dense_3/kernel"),
    );
    let offset = format!("{unit}/scale_offset_1/gamma");
    let network = |values: i64, width: i64, joined: i64, units: i64, words: &str| {
        refused_network(
            &[
                ("dense_1", &[values, 0]),
                ("embedding_1", &[0, width]),
                ("layer_normalization_1", &[0]),
                ("layer_normalization_2", &[0]),
                (&first, &[0, joined]),
                (&second, &[units, 0]),
                (&offset, &[0]),
            ],
            words,
        );
    };
    network(0, 0, 0, 0, "the first kernel reads 0 values of a patch");
    network(
        huge,
        64,
        3,
        1,
        "values of a patch, want the pixels of a square",
    );
    network(192, 0, 0, 0, "want 1 to 65536");
    network(192, huge, huge, huge, "want 1 to 65536");
    network(192, 64, huge, 65_536, "want more than twice the 65536 rows");
    network(
        192,
        64,
        131_072,
        65_536,
        "want more than twice the 65536 rows",
    );
    // Possible shapes of a network without any data.
    network(192, 64, 131_200, 65_536, "[192, 0], want [192, 64]");
}

#[test]
fn u_nets_of_no_size_or_too_much_are_refused() {
    let _bound = memory_bound();
    // Larger, and libtorch itself refuses the tensor.
    let huge = 1 << 40;
    let norms: Vec<String> = (1..=9).map(|n| format!("group_norm_{n}")).collect();
    let convs: Vec<String> = (1..=10).map(|n| format!("conv2d_{n}")).collect();
    let network = |base: i64, blocks: [i64; 2], words: &str| {
        let wide = 4 * base;
        let (table, first, second) = ([0, base], [base, wide], [wide, wide]);
        let kernel = [0, 0, blocks[0], blocks[1]];
        let mut layers: Vec<(&str, &[i64])> = vec![
            ("embedding_1", &table),
            ("dense_1", &first),
            ("dense_2", &second),
            ("conv2d_1", &[3, 3, 3, 0]),
        ];
        layers.extend(norms.iter().map(|name| (name.as_str(), &[0][..])));
        layers.extend(convs[1..].iter().map(|name| (name.as_str(), &kernel[..])));
        refused_network(&layers, words);
    };
    network(0, [0, 0], "the embedding of t is 0 channels wide");
    network(
        48,
        [0, 0],
        "48 channels wide, want a multiple of 32 up to 65536",
    );
    network(64, [0, 0], "block 0 is 0 channels wide");
    network(64, [64, huge], "want a multiple of 64 up to 65536");
    network(
        64,
        [huge, 64],
        "0 residual blocks with the output before as input",
    );
    network(
        64,
        [64, 64],
        "4 residual blocks with the output before as input",
    );
}

/// The error for a file of ours without tensors whose settings describe this network.
fn said(edit: impl FnOnce(&mut ModelConfig), preset: Preset) -> String {
    let mut config = preset.config();
    edit(&mut config.model);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("said.safetensors");
    write_checkpoint(&path, &Meta::new(Contents::Weights, &config), &[]).unwrap();
    format!("{:#}", read_checkpoint(&path).unwrap_err())
}

#[test]
fn settings_that_cannot_be_are_refused_by_name() {
    let _bound = memory_bound();
    for (patch, layers, width, units, words) in [
        (0, 24, 768, 1536, "model.patch = 0"),
        (-8, 24, 768, 1536, "model.patch = -8"),
        (8, i64::MAX, 768, 1536, "model.layers"),
        (8, 24, i64::MAX, 1536, "model.base_width"),
        (8, 24, 768, i64::MIN, "model.units"),
    ] {
        let edit = |model: &mut ModelConfig| {
            let ModelConfig::Gau(m) = model else {
                panic!("the preset's network has no units");
            };
            (m.patch, m.layers, m.base_width, m.units) = (patch, layers, width, units);
        };
        let message = said(edit, Preset::KerasGau);
        assert!(message.contains(words), "wanted {words:?} in {message:?}");
    }
    for (base_width, multipliers, blocks, words) in [
        (0, vec![1], 1, "model.base_width = 0"),
        (i64::MAX - 1, vec![1], 1, "model.base_width"),
        (64, vec![], 1, "model.multipliers"),
        (64, vec![i64::MAX], 1, "model.multipliers"),
        (16_384, vec![65_536], 1, "model.multipliers"),
        (64, vec![1], i64::MAX, "model.blocks"),
    ] {
        let edit = |model: &mut ModelConfig| {
            let ModelConfig::UnetConcat(m) = model else {
                panic!("the preset's network joins no skips");
            };
            (m.base_width, m.multipliers, m.blocks) = (base_width, multipliers, blocks);
        };
        let message = said(edit, Preset::KerasDdpm2);
        assert!(message.contains(words), "wanted {words:?} in {message:?}");
    }
}
