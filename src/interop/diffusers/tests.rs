//! A real folder, the two best-known public networks, and keys that do not fit.
//!
//! `fixtures/peer_*` are the files of a small pipeline that diffusers 0.42.1 saved.

use super::*;
use crate::config::{LossKind, Prediction, Resample, ScheduleKind, UNetConfig};

pub(super) const CONFIG: &str = include_str!("fixtures/peer_unet_config.json");
const SCHEDULER: &str = include_str!("fixtures/peer_scheduler_config.json");
const INDEX: &str = include_str!("fixtures/peer_model_index.json");
const KEYS: &str = include_str!("fixtures/peer_keys.txt");

/// `google/ddpm-cifar10-32`, as old files are: without the newer knobs.
pub(super) const CIFAR: &str = r#"{"_class_name": "UNet2DModel", "_diffusers_version": "0.0.4",
    "act_fn": "silu", "attention_head_dim": null, "block_out_channels": [128, 256, 256, 256],
    "center_input_sample": false,
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"],
    "downsample_padding": 0, "flip_sin_to_cos": false, "freq_shift": 1, "in_channels": 3,
    "layers_per_block": 2, "mid_block_scale_factor": 1, "norm_eps": 1e-06, "norm_num_groups": 32,
    "out_channels": 3, "sample_size": 32, "time_embedding_type": "positional",
    "up_block_types": ["UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"]}"#;

/// `train_unconditional.py`'s default.
const TRAINED_256: &str = r#"{"_class_name": "UNet2DModel", "sample_size": 256, "layers_per_block": 2,
    "block_out_channels": [128, 128, 256, 256, 512, 512],
    "down_block_types": ["DownBlock2D", "DownBlock2D", "DownBlock2D", "DownBlock2D", "AttnDownBlock2D",
        "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "AttnUpBlock2D", "UpBlock2D", "UpBlock2D", "UpBlock2D",
        "UpBlock2D"]}"#;

pub(super) fn parsed(text: &str) -> AttentionUNetConfig {
    config::parse(text).unwrap().0
}

fn peer_keys() -> Keys {
    KEYS.lines()
        .map(|line| {
            let mut words = line.split(' ');
            let name = words.next().unwrap().to_owned();
            (name, words.map(|n| n.parse().unwrap()).collect())
        })
        .collect()
}

/// The keys with each name or shape changed by `edit`; none drops one.
fn edited(keys: &Keys, edit: impl Fn(&str, &[i64]) -> Option<(String, Vec<i64>)>) -> Keys {
    keys.iter()
        .filter_map(|(key, shape)| edit(key, shape))
        .collect()
}

fn inferred(config: &str, keys: &Keys, hints: &Hints) -> (Result<Settings>, Report) {
    let mut report = Report::default();
    let settings = infer(config, Some(SCHEDULER), keys, hints, &mut report);
    (settings, report)
}

fn total(m: &AttentionUNetConfig) -> i64 {
    parameters(m)
        .iter()
        .map(|(_, shape)| shape.iter().product::<i64>())
        .sum()
}

#[test]
fn a_real_folder_is_read() {
    let keys = peer_keys();
    assert!(matches(&keys));
    let (settings, report) = inferred(CONFIG, &keys, &Hints::default());
    let settings = settings.unwrap();
    let ModelConfig::UnetAttention(m) = &settings.model else {
        panic!("{:?}", settings.model);
    };
    assert_eq!(
        (m.height, m.width, m.channels, m.base_width),
        (32, 32, 3, 32)
    );
    assert_eq!((m.widths.as_slice(), m.blocks), ([32, 64].as_slice(), 1));
    assert_eq!(m.attention_down, [false, true]);
    assert_eq!(m.attention_up, [false, true]);
    assert_eq!(m.resample, Resample::ConvAsymmetric);
    assert_eq!((m.heads, m.head_channels), (1, None));
    assert_eq!((m.freq_shift, m.cos_first, m.norm_eps), (1, false, 1e-6));
    assert_eq!((m.time_channels, m.time_width), (32, 128));
    assert!(m.mid_attention && m.mid_attention_norm);
    assert_eq!(settings.diffusion.schedule, ScheduleKind::Linear);
    assert_eq!(settings.diffusion.timesteps, 1000);
    assert_eq!(settings.sample.sigma, Sigma::Posterior);
    assert!(settings.sample.clip_x0 && !settings.sample.last_noise);
    assert_eq!(settings.origin, Origin::new(Family::Diffusers));
    assert_eq!(layout(m, &settings.origin).len(), keys.len());
    assert!(report.missing.is_empty(), "{:?}", report.missing);
    assert!(
        report
            .facts
            .iter()
            .any(|f| f.what == "widths" && f.value == "[32, 64]")
    );
}

#[test]
fn the_real_files_are_written_back() {
    let (settings, _) = inferred(CONFIG, &peer_keys(), &Hints::default());
    let s = settings.unwrap();
    let files = pipeline_files(&s.model, &s.diffusion, &s.sample).unwrap();
    let json = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
    let wanted = [
        ("model_index.json", json(INDEX)),
        ("unet/config.json", {
            // They wrote a whole number where we write 1.0.
            let mut config = json(CONFIG);
            config["mid_block_scale_factor"] = 1.0.into();
            config
        }),
        ("scheduler/scheduler_config.json", json(SCHEDULER)),
    ];
    for ((path, text), (wanted_path, wanted)) in files.iter().zip(wanted) {
        assert_eq!((*path, json(text)), (wanted_path, wanted));
    }
    assert_eq!(files.len(), 3);
}

#[test]
fn public_networks_have_their_published_counts() {
    let cifar = parsed(CIFAR);
    assert_eq!((parameters(&cifar).len(), total(&cifar)), (328, 35_746_307));
    assert_eq!(cifar.attention_up, [false, true, false, false]);
    assert_eq!(cifar.head_channels, None);
    let large = parsed(TRAINED_256);
    assert_eq!(
        (parameters(&large).len(), total(&large)),
        (450, 113_673_219)
    );
    assert_eq!(
        large.attention_down,
        [false, false, false, false, true, false]
    );
    assert_eq!(
        large.attention_up,
        [false, false, false, false, true, false]
    );
    // The script leaves these to the class.
    assert_eq!(large.resample, Resample::Conv);
    assert_eq!((large.cos_first, large.freq_shift), (true, 0));
    assert_eq!((large.norm_eps, large.head_channels), (1e-5, Some(8)));
}

#[test]
fn every_missing_unexpected_and_misshaped_key_is_named() {
    let m = parsed(CONFIG);
    let keys = edited(&peer_keys(), |key, shape| match key {
        "conv_in.bias" => None,
        "conv_norm_out.weight" => Some(("conv_norm_out.gamma".into(), shape.to_vec())),
        "mid_block.attentions.0.to_q.weight" => Some((key.into(), vec![64, 32])),
        "conv_out.weight" => Some((key.into(), vec![6, 32, 3, 3])),
        _ => Some((key.into(), shape.to_vec())),
    });
    let error = check_fit(&m, &keys).unwrap_err().to_string();
    let lines: Vec<_> = error.lines().skip(1).map(str::trim).collect();
    assert_eq!(
        lines,
        [
            "missing: conv_in.bias",
            "missing: conv_norm_out.weight",
            "unexpected: conv_norm_out.gamma",
            "wrong shape: conv_out.weight [6, 32, 3, 3], want [3, 32, 3, 3]",
            "wrong shape: mid_block.attentions.0.to_q.weight [64, 32], want [64, 64]",
        ]
    );
    let (settings, _) = inferred(CONFIG, &keys, &Hints::default());
    assert_eq!(settings.unwrap_err().to_string(), error);
    assert!(check_fit(&m, &peer_keys()).is_ok());
}

#[test]
fn old_attention_names_and_shapes_are_read() {
    let m = parsed(CONFIG);
    let old = edited(&peer_keys(), |key, shape| {
        let name = old_name(key);
        let square = name != key && key.ends_with(".weight");
        let ones: &[i64] = if square { &[1, 1] } else { &[] };
        Some((name, [shape, ones].concat()))
    });
    assert!(old.has("mid_block.attentions.0.proj_attn.bias"));
    assert!(old.has("mid_block.attentions.0.group_norm.weight"));
    let (settings, _) = inferred(CONFIG, &old, &Hints::default());
    let settings = settings.unwrap();
    assert!(settings.origin.old_attention_names);
    let entries = layout_for(&m, &old);
    let find = |ours: &str| entries.iter().find(|e| e.ours == [ours]).unwrap();
    let query = find("down_blocks.1.attentions.0.to_q.weight");
    assert_eq!(query.theirs, "down_blocks.1.attentions.0.query.weight");
    assert_eq!(query.form, Form::Pointwise { ones: 2 });
    let bias = find("down_blocks.1.attentions.0.to_out.0.bias");
    assert_eq!(bias.theirs, "down_blocks.1.attentions.0.proj_attn.bias");
    assert_eq!(bias.form, Form::Same);
    // Only attention weights may be 1x1 convolutions, and only in files that are read.
    assert!(
        layout(&m, &settings.origin)
            .iter()
            .all(|e| e.form == Form::Same)
    );
    let grown = edited(&peer_keys(), |key, shape| {
        let ones: &[i64] = if key == "time_embedding.linear_1.weight" {
            &[1, 1]
        } else {
            &[]
        };
        Some((key.into(), [shape, ones].concat()))
    });
    let error = check_fit(&m, &grown).unwrap_err().to_string();
    assert!(
        error.contains("wrong shape: time_embedding.linear_1.weight"),
        "{error}"
    );
}

#[test]
fn weights_of_other_networks_do_not_match() {
    let keys = peer_keys();
    assert!(!matches(&keys.below("down_blocks.")));
    assert!(!matches(&edited(&keys, |key, shape| {
        (!key.starts_with("up_blocks.")).then(|| (key.into(), shape.to_vec()))
    })));
    assert!(!matches(&Keys::default()));
    assert!(no_config().to_string().contains("put the config.json"));
}

#[test]
fn hints_that_config_json_answers_are_refused() {
    let hints = Hints {
        num_heads: Some(4),
        ..Hints::default()
    };
    let (settings, _) = inferred(CONFIG, &peer_keys(), &hints);
    let error = settings.unwrap_err().to_string();
    assert!(error.contains("num_heads"), "{error}");
}

#[test]
fn a_size_that_is_not_there_is_asked_for() {
    let nameless = CONFIG.replace("\"sample_size\": 32", "\"sample_size\": null");
    let (settings, report) = inferred(&nameless, &peer_keys(), &Hints::default());
    assert!(settings.is_ok());
    assert_eq!(report.missing[0].flag, "--image-size HxW");

    let mut hints = Hints {
        image_size: Some((16, 24)),
        ..Hints::default()
    };
    let (settings, report) = inferred(&nameless, &peer_keys(), &hints);
    assert_eq!(settings.unwrap().model.chw(), [3, 16, 24]);
    assert!(report.missing.is_empty());

    let (settings, report) = inferred(CONFIG, &peer_keys(), &hints);
    assert_eq!(settings.unwrap().model.chw(), [3, 16, 24]);
    assert!(
        report.assumptions[0].contains("not 32x32"),
        "{:?}",
        report.assumptions
    );

    hints.image_size = Some((16, 25));
    let (settings, _) = inferred(CONFIG, &peer_keys(), &hints);
    assert!(
        settings
            .unwrap_err()
            .to_string()
            .contains("want a multiple of 2 up")
    );
}

#[test]
fn other_networks_have_no_pipeline() {
    let model = ModelConfig::Unet(UNetConfig {
        height: 32,
        width: 32,
        channels: 3,
        base_width: 32,
        multipliers: vec![1, 2],
        blocks: 1,
        min_pixel: 4,
        norm: crate::config::Norm::Group,
        norm_groups: 8,
        norm_eps: 1e-5,
        time_embedding: crate::config::TimeEmbedding::Trainable,
        classes: None,
        null_class: false,
        condition_channels: None,
        dropout: 0.0,
    });
    let (settings, _) = inferred(CONFIG, &peer_keys(), &Hints::default());
    let s = settings.unwrap();
    let error = pipeline_files(&model, &s.diffusion, &s.sample).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("diffusers has no network like this"),
        "{error}"
    );
}

#[test]
fn learned_variances_are_written_as_the_only_kind_that_diffusers_takes() {
    let mut m = parsed(CONFIG);
    let diffusion = DiffusionConfig {
        timesteps: 10,
        schedule: ScheduleKind::Cosine,
        betas: vec![],
        prediction: Prediction::Eps,
        loss: LossKind::Mse,
    };
    let mut sample = SampleConfig {
        sigma: Sigma::Learned,
        clip_x0: true,
        last_noise: true,
        images: 1,
        every_steps: 0,
    };
    let files = |m: &AttentionUNetConfig, sample: &SampleConfig| {
        pipeline_files(&ModelConfig::UnetAttention(m.clone()), &diffusion, sample)
    };
    assert!(
        files(&m, &sample)
            .unwrap_err()
            .to_string()
            .contains("predicts no variance")
    );
    m.learned_variance = true;
    sample.sigma = Sigma::Beta;
    let written = files(&m, &sample).unwrap();
    assert!(written[1].1.contains("\"out_channels\": 6"));
    assert!(
        written[2]
            .1
            .contains("\"variance_type\": \"learned_range\"")
    );
    m.classes = Some(10);
    let notes = pipeline_notes(&ModelConfig::UnetAttention(m), &sample);
    assert_eq!(notes.len(), 3, "{notes:?}");
}
