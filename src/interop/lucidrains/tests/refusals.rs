//! Every refusal of a network.

use super::super::infer;
use super::changed;
use super::guided;
use super::keys;
use super::plain;
use super::refusal;
use super::size_hint;
use super::usual;
use crate::config::{LucidrainsConfig, LucidrainsNorm};
use crate::interop::Report;
use crate::interop::lucidrains::Buffers;

#[test]
fn old_versions_are_refused_by_what_is_seen() {
    let four: &[i64] = &[16, 16, 4, 4];
    for (gone, new, seen) in [
        (
            (|key| key.contains("downs.0.0.block")) as fn(&str) -> bool,
            ("downs.0.0.ds_conv.weight", &[16i64, 1, 7, 7] as &[i64]),
            "ConvNeXt",
        ),
        (
            |key| key.contains("downs.0.0.block"),
            ("downs.0.0.block1.block.0.weight", &[16, 16, 3, 3]),
            "before 0.16",
        ),
        (
            |key| key.starts_with("final_res"),
            ("x", &[1]),
            "no final_res_block",
        ),
        (
            |key| key.starts_with("downs.0.3"),
            ("downs.0.3.weight", four),
            "4x4 convolution",
        ),
        (
            |key| key.starts_with("downs.0.2"),
            ("downs.0.2.fn.fn.to_qkv.weight", &[384, 16, 1, 1]),
            "before 1.8",
        ),
        (
            |key| key.ends_with("mem_kv"),
            ("x", &[1]),
            "no downs.0.2.mem_kv",
        ),
    ] {
        let message = refusal(&changed(&plain(), gone, &[new]), &usual(), &size_hint());
        assert!(
            message.contains(seen) && message.contains("want version 1.9 or later"),
            "{message}"
        );
    }
}

#[test]
fn old_version_numbers_are_refused_and_others_are_not() {
    let with = |version: &str| Buffers {
        version: Some(version.to_owned()),
        ..usual()
    };
    for old in ["0.32.0", "1.8.15", "1.0.1"] {
        let message = refusal(&keys(&plain()), &with(old), &size_hint());
        assert!(
            message.contains(old) && message.contains("want version 1.9"),
            "{message}"
        );
    }
    for new in ["1.9.0", "1.10.17", "2.0.0", "3.1", "of my own"] {
        infer(
            &keys(&plain()),
            &with(new),
            &size_hint(),
            &mut Report::default(),
        )
        .unwrap();
    }
}

/// A network, which of its keys go, what comes instead, and what the refusal must say.
type Case<'a> = (
    LucidrainsConfig,
    fn(&str) -> bool,
    &'a [(&'a str, &'a [i64])],
    &'a str,
);

#[test]
fn networks_of_other_kinds_are_refused_by_name() {
    let conditioned = |key: &str| key == "init_conv.weight";
    let thrice = |key: &str| key.starts_with("final_conv");
    let odd = |key: &str| key == "time_mlp.1.weight";
    let none = |_: &str| false;
    let six: &[i64] = &[16, 6, 7, 7];
    let cases: [Case; 11] = [
        (
            plain(),
            conditioned,
            &[("init_conv.weight", six)],
            "self_condition",
        ),
        (
            plain(),
            none,
            &[("time_mlp.0.weights", &[8])],
            "learned_sinusoidal_cond",
        ),
        (
            guided(),
            |key: &str| key == "downs.0.0.block1.norm.g",
            &[("downs.0.0.block1.norm.weight", &[16])],
            "want version 2.0 or later",
        ),
        (
            guided(),
            |key: &str| key == "mid_attn.fn.fn.to_qkv.weight",
            &[("mid_attn.fn.fn.to_qkv.weight", &[192, 32, 1, 1])],
            "has 192 rows, want 384 for 4 heads of 32 channels",
        ),
        (
            plain(),
            none,
            &[("null_classes_emb", &[16])],
            "downs.0.3.weight",
        ),
        (
            plain(),
            conditioned,
            &[("init_conv.weight", &[16, 3, 7])],
            "Unet1D",
        ),
        (
            plain(),
            thrice,
            &[("final_conv.weight", &[9, 16, 1, 1])],
            "returns 9 channels, want 3, or 6",
        ),
        (
            LucidrainsConfig {
                channels: 4,
                ..plain()
            },
            none,
            &[],
            "takes 4 channels, want 3 (colour) or 1 (grey)",
        ),
        (
            plain(),
            odd,
            &[("time_mlp.1.weight", &[28, 7])],
            "takes 7 channels (`dim`), want an even",
        ),
        (
            LucidrainsConfig {
                norm: LucidrainsNorm::Group,
                base_width: 12,
                init_width: 12,
                ..plain()
            },
            none,
            &[],
            "12 channels, want multiples of 8",
        ),
        (
            LucidrainsConfig {
                base_width: 32,
                init_width: 16,
                ..plain()
            },
            |key| key == "downs.0.3.1.weight",
            &[("downs.0.3.1.weight", &[24, 64, 1, 1])],
            "downs.0.3.1.weight returns 24 channels, want a multiple of 32",
        ),
    ];
    for (config, gone, new, want) in cases {
        let message = refusal(&changed(&config, gone, new), &usual(), &size_hint());
        assert!(message.contains(want), "{message}\nwant {want}");
    }
}

#[test]
fn tensors_that_do_not_belong_together_are_named() {
    let gone = |key: &str| key == "ups.1.0.mlp.1.bias" || key == "ups.0.2.to_qkv.weight";
    let new: [(&str, &[i64]); 2] = [
        ("ups.0.2.to_qkv.weight", &[96, 32, 1, 1]),
        ("ups.7.weight", &[2]),
    ];
    let message = refusal(&changed(&plain(), gone, &new), &usual(), &size_hint());
    for want in [
        "ups.1.0.mlp.1.bias is missing, want [32]",
        "ups.0.2.to_qkv.weight is [96, 32, 1, 1], want [384, 32, 1, 1]",
        "ups.7.weight [2] is not in this network",
    ] {
        assert!(message.contains(want), "{message}");
    }
}

#[test]
fn sizes_nobody_can_have_are_refused_before_memory_is_taken() {
    let wide = |key: &str| key == "downs.0.2.mem_kv";
    for shape in [[2, 1 << 40, 1 << 40, 4], [2, 0, 32, 4], [2, -1, 32, 4]] {
        let keys = changed(&plain(), wide, &[("downs.0.2.mem_kv", &shape)]);
        let message = refusal(&keys, &usual(), &size_hint());
        assert!(message.contains("downs.0.2.mem_kv is"), "{message}");
    }
    let deep: Vec<String> = (2..40).map(|i| format!("downs.{i}.x")).collect();
    let deep: Vec<(&str, &[i64])> = deep.iter().map(|key| (key.as_str(), &[1i64][..])).collect();
    let message = refusal(&changed(&plain(), |_| false, &deep), &usual(), &size_hint());
    assert!(message.contains("40 levels"), "{message}");
}
