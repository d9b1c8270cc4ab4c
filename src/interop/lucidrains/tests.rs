//! Settings through keys and buffers and back; here what the tests of all files need.

mod buffers;
mod refusals;

use super::Buffers;
use super::diffusion::buffers as buffers_of;
use super::infer;
use super::layout;
use super::matches;
use super::table::parameters;
use crate::checkpoint::Family;
use crate::config::{
    DiffusionConfig, LossKind, LucidrainsConfig, LucidrainsNorm, LucidrainsStructure, ModelConfig,
    Prediction, ScheduleKind, Sigma,
};
use crate::interop::Settings;
use crate::interop::{Form, Hints, Keys, Report};
use crate::model::LucidrainsUNet;

pub(super) fn plain() -> LucidrainsConfig {
    LucidrainsConfig {
        height: 32,
        width: 32,
        channels: 3,
        learned_variance: false,
        base_width: 16,
        init_width: 16,
        multipliers: vec![1, 2],
        heads: vec![4, 4],
        head_channels: vec![32, 32],
        full_attention: vec![false, true],
        norm: LucidrainsNorm::Rms,
        structure: LucidrainsStructure::Main,
        classes: None,
        null_class: false,
        condition_channels: None,
        dropout: 0.0,
    }
}

/// The network with classes.
pub(super) fn guided() -> LucidrainsConfig {
    LucidrainsConfig {
        full_attention: vec![false, false],
        structure: LucidrainsStructure::ClassifierFreeGuidance,
        classes: Some(7),
        null_class: true,
        ..plain()
    }
}

/// Networks that differ from the plain one in each setting.
pub(super) fn various() -> Vec<LucidrainsConfig> {
    vec![
        plain(),
        LucidrainsConfig {
            multipliers: vec![3],
            heads: vec![2],
            head_channels: vec![4],
            full_attention: vec![false],
            channels: 1,
            learned_variance: true,
            ..plain()
        },
        LucidrainsConfig {
            height: 24,
            width: 40,
            multipliers: vec![1, 2, 2, 4],
            heads: vec![1, 2, 3, 4],
            head_channels: vec![8, 6, 4, 2],
            full_attention: vec![true, false, true, false],
            norm: LucidrainsNorm::Group,
            init_width: 24,
            ..plain()
        },
        guided(),
        LucidrainsConfig {
            multipliers: vec![2, 1, 1],
            heads: vec![4; 3],
            head_channels: vec![32; 3],
            full_attention: vec![false; 3],
            classes: Some(1),
            learned_variance: true,
            init_width: 12,
            ..guided()
        },
    ]
}

pub(super) fn keys(config: &LucidrainsConfig) -> Keys {
    parameters(config).into_iter().collect()
}

pub(super) fn size_hint() -> Hints {
    Hints {
        image_size: Some((32, 32)),
        ..Hints::default()
    }
}

pub(super) fn of_schedule(
    schedule: ScheduleKind,
    timesteps: i64,
    prediction: Prediction,
) -> DiffusionConfig {
    DiffusionConfig {
        timesteps,
        schedule,
        betas: Vec::new(),
        prediction,
        loss: LossKind::Mse,
    }
}

/// The package's buffers for a schedule and an objective.
pub(super) fn stored(config: &DiffusionConfig) -> Buffers {
    let all = buffers_of(config);
    let get = |name| Some(all.iter().find(|(n, _)| *n == name).unwrap().1.clone());
    Buffers {
        betas: get("betas"),
        loss_weight: get("loss_weight"),
        version: Some("2.3.4".to_owned()),
    }
}

pub(super) fn usual() -> Buffers {
    stored(&of_schedule(ScheduleKind::Sigmoid, 1000, Prediction::V))
}

pub(super) fn refusal(keys: &Keys, buffers: &Buffers, hints: &Hints) -> String {
    assert!(
        matches(keys),
        "a refusal needs a network that is recognised"
    );
    let error = infer(keys, buffers, hints, &mut Report::default()).unwrap_err();
    format!("{error:#}")
}

/// Without the keys that `gone` names, with the ones of `new`.
pub(super) fn changed(
    config: &LucidrainsConfig,
    gone: fn(&str) -> bool,
    new: &[(&str, &[i64])],
) -> Keys {
    let kept = parameters(config).into_iter().filter(|(key, _)| !gone(key));
    let new = new
        .iter()
        .map(|(key, shape)| ((*key).to_owned(), shape.to_vec()));
    kept.chain(new).collect()
}

#[test]
fn settings_survive_the_way_through_keys_and_buffers() {
    for config in various() {
        let hints = Hints {
            image_size: Some((config.height, config.width)),
            dropout: Some(0.1),
            ..Hints::default()
        };
        let mut report = Report::default();
        let Settings {
            model,
            diffusion,
            sample,
            origin,
        } = infer(&keys(&config), &usual(), &hints, &mut report).unwrap();
        let learned = config.learned_variance;
        let want = LucidrainsConfig {
            dropout: 0.1,
            ..config
        };
        assert_eq!(model, ModelConfig::Lucidrains(want));
        assert_eq!(
            (diffusion.schedule, diffusion.timesteps),
            (ScheduleKind::Sigmoid, 1000)
        );
        let (prediction, sigma) = if learned {
            (Prediction::Eps, Sigma::Learned)
        } else {
            (Prediction::V, Sigma::Posterior)
        };
        assert_eq!((diffusion.prediction, sample.sigma), (prediction, sigma));
        assert_eq!((sample.clip_x0, sample.last_noise), (true, false));
        assert_eq!(
            (origin.family, origin.version.as_deref()),
            (Family::Lucidrains, Some("2.3.4"))
        );
        assert_eq!(report.missing, []);
    }
}

#[test]
fn the_table_is_the_networks() {
    for config in various() {
        let params = LucidrainsUNet::new(&config, 0).params();
        let network: Vec<(String, Vec<i64>)> = params
            .into_iter()
            .map(|p| (p.name, p.tensor.size()))
            .collect();
        let (mut network, mut table) = (network, parameters(&config));
        let layout = layout(&config).unwrap();
        for (entry, (key, _)) in layout.iter().zip(&table) {
            assert_eq!(
                (&entry.theirs, &entry.ours, &entry.form),
                (key, &vec![key.clone()], &Form::Same)
            );
        }
        assert_eq!(layout.len(), network.len());
        if config.classes.is_some() {
            // The package's order is another one.
            network.sort();
            table.sort();
        }
        assert_eq!(network, table);
    }
}

#[test]
fn other_programs_networks_are_not_matched() {
    assert!(matches(&keys(&plain())));
    assert!(!matches(&Keys::default()));
    for gone in ["time_mlp.", "downs.", "ups.", "mid_block1.", "final_conv."] {
        let rest: Keys = parameters(&plain())
            .into_iter()
            .filter(|(key, _)| !key.starts_with(gone))
            .collect();
        assert!(!matches(&rest), "{gone}");
    }
}

#[test]
fn what_the_file_leaves_open_is_asked_for() {
    let asked = |buffers: &Buffers| -> Vec<String> {
        let mut report = Report::default();
        infer(&keys(&plain()), buffers, &Hints::default(), &mut report).unwrap();
        report.missing.into_iter().map(|hint| hint.flag).collect()
    };
    assert_eq!(asked(&usual()), ["--image-size SIZE"]);
    assert_eq!(
        asked(&Buffers::default()),
        [
            "--image-size SIZE",
            "--schedule NAME",
            "--timesteps N",
            "--prediction eps|x0|v"
        ]
    );
    let mut strange = usual();
    strange.loss_weight.as_mut().unwrap()[500] *= 2.0;
    assert_eq!(
        asked(&strange),
        ["--image-size SIZE", "--prediction eps|x0|v"]
    );
}

#[test]
fn hints_that_contradict_the_file_are_refused() {
    let hints = |change: fn(&mut Hints)| {
        let mut hints = size_hint();
        change(&mut hints);
        hints
    };
    for (hints, want) in [
        (
            hints(|h| h.prediction = Some(Prediction::Eps)),
            "prediction = eps",
        ),
        (
            hints(|h| h.schedule = Some(ScheduleKind::Linear)),
            "schedule = linear",
        ),
        (hints(|h| h.timesteps = Some(500)), "betas has 1000 values"),
        (hints(|h| h.num_heads = Some(8)), "num_heads = 8"),
        (hints(|h| h.head_channels = Some(64)), "head_channels = 64"),
        (
            hints(|h| h.image_size = Some((32, 31))),
            "32x31: for each side want a multiple of 2",
        ),
    ] {
        let message = refusal(&keys(&plain()), &usual(), &hints);
        assert!(message.contains(want), "{message}");
    }
    let agreeing = Hints {
        prediction: Some(Prediction::V),
        num_heads: Some(4),
        sigma: Some(Sigma::Beta),
        clip_x0: Some(false),
        ..size_hint()
    };
    let found = infer(&keys(&plain()), &usual(), &agreeing, &mut Report::default()).unwrap();
    assert_eq!(
        (found.sample.sigma, found.sample.clip_x0),
        (Sigma::Beta, false)
    );
}

#[test]
fn networks_with_classes_that_the_package_does_not_have_are_not_written_for_it() {
    for (config, want) in [
        (
            LucidrainsConfig {
                null_class: false,
                condition_channels: None,
                ..guided()
            },
            "has no class that means \"no class\"",
        ),
        (
            LucidrainsConfig {
                structure: LucidrainsStructure::Main,
                ..guided()
            },
            "out of the network of the main file",
        ),
        (
            LucidrainsConfig {
                heads: vec![4, 8],
                ..guided()
            },
            "this one [4, 8] of [32, 32]",
        ),
    ] {
        let error = layout(&config).unwrap_err().to_string();
        assert!(error.contains(want), "{error}");
    }
}
