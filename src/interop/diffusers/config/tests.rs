//! Every knob: understood, refused by name, or passed over; and the way back.

use serde_json::{Value, json};

use super::super::tests::{CIFAR, CONFIG, parsed};
use super::super::to_config::to_config;
use super::*;

/// The peer's file with these knobs changed.
fn with(knobs: Value) -> String {
    let mut config: Value = serde_json::from_str(CONFIG).unwrap();
    for (knob, value) in knobs.as_object().unwrap() {
        config[knob] = value.clone();
    }
    config.to_string()
}

fn refused(knobs: Value) -> String {
    match parse(&with(knobs.clone())) {
        Ok(_) => panic!("{knobs} was taken"),
        Err(error) => format!("{error:#}"),
    }
}

#[test]
fn what_our_network_has_not_is_refused_by_knob_and_value() {
    for (knob, value) in [
        ("_class_name", json!("UNet2DConditionModel")),
        ("_class_name", json!(null)),
        ("act_fn", json!("gelu")),
        ("act_fn", json!("mish")),
        ("time_embedding_type", json!("fourier")),
        ("time_embedding_type", json!("learned")),
        ("class_embed_type", json!("timestep")),
        ("class_embed_type", json!("identity")),
        ("mid_block_type", json!(null)),
        ("mid_block_type", json!("UNetMidBlock2DCrossAttn")),
        ("in_channels", json!(4)),
        ("out_channels", json!(4)),
        ("out_channels", json!(1)),
        ("attn_norm_num_groups", json!(8)),
        ("norm_num_groups", json!(null)),
        ("norm_num_groups", json!(0)),
        ("norm_num_groups", json!(64)),
        ("resnet_time_scale_shift", json!("spatial")),
        ("resnet_time_scale_shift", json!("ada_group")),
        ("attention_head_dim", json!(5)),
        ("attention_head_dim", json!(0)),
        ("attention_head_dim", json!(128)),
        ("attention_head_dim", json!([8, 16])),
        (
            "down_block_types",
            json!(["DownBlock2D", "CrossAttnDownBlock2D"]),
        ),
        (
            "down_block_types",
            json!(["SkipDownBlock2D", "DownBlock2D"]),
        ),
        ("up_block_types", json!(["AttnSkipUpBlock2D", "UpBlock2D"])),
        ("up_block_types", json!(["AttnDownBlock2D", "UpBlock2D"])),
        ("up_block_types", json!(["UpBlock2D"])),
        ("downsample_padding", json!(2)),
        ("downsample_padding", json!(null)),
        ("upsample_type", json!("kernel")),
        ("mid_block_scale_factor", json!(0)),
        ("norm_eps", json!(-1e-5)),
        ("norm_eps", json!("small")),
        ("dropout", json!(1)),
        ("freq_shift", json!(2)),
        ("freq_shift", json!(0.5)),
        ("flip_sin_to_cos", json!("yes")),
        ("sample_size", json!(33)),
        ("sample_size", json!([32])),
        ("sample_size", json!([32, 32, 32])),
        ("sample_size", json!(0)),
        ("layers_per_block", json!(0)),
        ("layers_per_block", json!([2, 2])),
        ("num_class_embeds", json!(0)),
        ("block_out_channels", json!([])),
        ("block_out_channels", json!([33, 64])),
        ("block_out_channels", json!([32, -64])),
        ("block_out_channels", json!("32")),
    ] {
        let message = refused(json!({ knob: value }));
        let shown = format!("config.json: {knob} = {value}");
        assert!(message.contains(&shown), "{message}");
    }
}

#[test]
fn absurd_networks_are_refused_before_they_are_counted() {
    for knobs in [
        json!({"block_out_channels": [32, 1i64 << 40]}),
        json!({"block_out_channels": vec![16384; 1000]}),
        json!({"layers_per_block": 1_000_000_000}),
        json!({"num_class_embeds": 1_000_000_000}),
        json!({"sample_size": 1 << 30}),
        json!({"time_embedding_dim": 1i64 << 40}),
        json!({"in_channels": i64::MAX}),
        json!({"out_channels": 1e300}),
    ] {
        assert!(refused(knobs).contains("want"));
    }
    let huge = refused(json!({
        "block_out_channels": [16384, 16384], "norm_num_groups": 32, "layers_per_block": 64,
    }));
    assert!(huge.contains("parameters, want at most"), "{huge}");
}

#[test]
fn missing_knobs_have_the_class_defaults_and_null_is_not_missing() {
    let m = parsed(r#"{"_class_name": "UNet2DModel"}"#);
    assert_eq!(m.widths, [224, 448, 672, 896]);
    assert_eq!(m.attention_down, [false, true, true, true]);
    assert_eq!(m.attention_up, [false, true, true, true]);
    assert_eq!(m.head_channels, Some(8));
    assert_eq!((m.blocks, m.norm_groups, m.norm_eps), (2, 32, 1e-5));
    assert_eq!((m.time_channels, m.time_width), (224, 896));
    assert_eq!(
        (m.cos_first, m.freq_shift, m.resample),
        (true, 0, Resample::Conv)
    );
    let (_, size_known) = parse(r#"{"_class_name": "UNet2DModel"}"#).unwrap();
    assert!(!size_known);
    assert_eq!(parsed(CIFAR).head_channels, None);
}

#[test]
fn knobs_of_the_ema_and_of_no_network_are_passed_over() {
    let text =
        with(json!({"decay": 0.9999, "power": 0.75, "use_ema_warmup": true, "_name_or_path": "x"}));
    assert_eq!(parsed(&text), parsed(CONFIG));
}

#[test]
fn the_middle_attention_lacks_a_norm_only_with_scale_shift_and_no_groups() {
    let norm = |scale_shift: &str, groups: Value| {
        parsed(&with(json!({
            "resnet_time_scale_shift": scale_shift, "attn_norm_num_groups": groups,
        })))
        .mid_attention_norm
    };
    assert!(norm("default", json!(null)));
    assert!(norm("default", json!(32)));
    assert!(!norm("scale_shift", json!(null)));
    assert!(norm("scale_shift", json!(32)));
}

#[test]
fn one_way_of_resampling_is_found_for_all_levels() {
    let resample = |down: [&str; 2], up: [&str; 2], kind: &str, padding: i64| {
        parse(&with(json!({
            "down_block_types": down, "up_block_types": up,
            "downsample_type": kind, "upsample_type": kind, "downsample_padding": padding,
        })))
        .map(|(m, _)| m.resample)
    };
    let plain = (["DownBlock2D", "DownBlock2D"], ["UpBlock2D", "UpBlock2D"]);
    assert_eq!(
        resample(plain.0, plain.1, "conv", 1).unwrap(),
        Resample::Conv
    );
    assert_eq!(
        resample(plain.0, plain.1, "conv", 0).unwrap(),
        Resample::ConvAsymmetric
    );
    // Plain blocks do not read the knob.
    assert_eq!(
        resample(plain.0, plain.1, "resnet", 1).unwrap(),
        Resample::Conv
    );
    let attention = (["AttnDownBlock2D"; 2], ["AttnUpBlock2D"; 2]);
    assert_eq!(
        resample(attention.0, attention.1, "resnet", 1).unwrap(),
        Resample::Resnet
    );
    let resnet = (
        ["ResnetDownsampleBlock2D", "DownBlock2D"],
        ["ResnetUpsampleBlock2D", "UpBlock2D"],
    );
    // The first of the way up is the lowest level, and the last doubles nothing.
    assert_eq!(
        resample(resnet.0, resnet.1, "conv", 5).unwrap(),
        Resample::Resnet
    );
    let mixed = resample(resnet.0, plain.1, "conv", 1)
        .unwrap_err()
        .to_string();
    assert!(mixed.contains("one kind for all levels"), "{mixed}");
    assert!(mixed.contains("ResnetDownsampleBlock2D"), "{mixed}");
}

#[test]
fn prefixes_of_the_first_versions_are_dropped() {
    let text = with(json!({"down_block_types": ["UNetResDownBlock2D", "UNetResAttnDownBlock2D"]}));
    assert_eq!(parsed(&text), parsed(CONFIG));
}

#[test]
fn sizes_may_be_oblong() {
    let m = parsed(&with(json!({"sample_size": [32, 48]})));
    assert_eq!((m.height, m.width), (32, 48));
    assert_eq!(to_config(&m).unwrap()["sample_size"], json!([32, 48]));
}

#[test]
fn settings_survive_the_way_there_and_back() {
    for knobs in [
        json!({}),
        json!({"attention_head_dim": 16, "resnet_time_scale_shift": "scale_shift"}),
        json!({"resnet_time_scale_shift": "scale_shift", "attn_norm_num_groups": 32}),
        json!({"add_attention": false, "num_class_embeds": 10, "dropout": 0.25}),
        json!({"out_channels": 6, "mid_block_scale_factor": 1.5, "center_input_sample": true}),
        json!({"in_channels": 1, "out_channels": 1, "time_embedding_dim": 96, "freq_shift": 0}),
        json!({"downsample_type": "resnet", "upsample_type": "resnet",
            "down_block_types": ["AttnDownBlock2D", "DownBlock2D"],
            "up_block_types": ["ResnetUpsampleBlock2D", "UpBlock2D"]}),
        json!({"block_out_channels": [64], "down_block_types": ["DownBlock2D"],
            "up_block_types": ["AttnUpBlock2D"]}),
    ] {
        let there = parsed(&with(knobs));
        let back = to_config(&there).unwrap().to_string();
        assert_eq!(parsed(&back), there, "{back}");
    }
}

#[test]
fn what_their_network_has_not_is_refused_by_setting() {
    type Edit = fn(&mut AttentionUNetConfig);
    let edits: [(&str, Edit); 8] = [
        ("base_width = 64", |m| m.base_width = 64),
        ("time_channels = 64", |m| m.time_channels = 64),
        ("time_scale = 0.25", |m| m.time_scale = 0.25),
        ("mid_attention_norm = false", |m| {
            m.mid_attention_norm = false
        }),
        ("heads = 4", |m| {
            m.attention_down = vec![true, true];
            m.heads = 4;
        }),
        ("heads = 1 (heads_up = 2)", |m| m.heads_up = Some(2)),
        ("heads = 0", |m| m.heads = 0),
        ("widths = []", |m| m.widths.clear()),
    ];
    for (named, edit) in edits {
        let mut m = parsed(CONFIG);
        edit(&mut m);
        let message = to_config(&m).unwrap_err().to_string();
        assert!(message.contains(&format!("model.{named} ")), "{message}");
    }
}

#[test]
fn a_number_of_heads_becomes_their_size_where_all_are_equal() {
    let mut m = parsed(CONFIG);
    // Only width 64 has attention.
    m.heads = 4;
    assert_eq!(to_config(&m).unwrap()["attention_head_dim"], json!(16));
    m.attention_down = vec![true, true];
    let message = to_config(&m).unwrap_err().to_string();
    assert!(message.contains("heads of 8 and 16 channels"), "{message}");
    m.head_channels = Some(8);
    assert_eq!(to_config(&m).unwrap()["attention_head_dim"], json!(8));
}
