use super::super::fixtures::{missing, model, parse};
use super::nets::*;
use super::*;
use crate::config::ScheduleKind;
use crate::interop::Known;

#[test]
fn known_files_need_no_other_hint() {
    for (known, net) in published() {
        let hints = Hints {
            known: Some(known),
            ..Hints::default()
        };
        let mut report = Report::default();
        let settings = infer(&net.state_dict().keys(), &hints, &mut report).unwrap();
        assert_eq!((missing(&report), report.assumptions.len()), (vec![], 0));
        let found = model(&settings);
        let own = known.hints();
        assert_eq!(Some((found.height, found.width)), own.image_size);
        assert_eq!(found.head_channels, own.head_channels);
        assert_eq!(found.heads, own.num_heads.unwrap_or(1));
        assert_eq!(Some(found.dropout), own.dropout);
        assert_eq!(Some(settings.diffusion.timesteps), own.timesteps);
        let rescaled = settings.diffusion.timesteps == 4000;
        assert_eq!(found.time_scale, if rescaled { 0.25 } else { 1.0 });
        assert!(Known::like(found).contains(&known));
    }
}

#[test]
fn given_hints_win_over_published_ones() {
    let (known, net) = published()[1].clone();
    let hints = Hints {
        known: Some(known),
        head_channels: Some(32),
        timesteps: Some(1000),
        ..Hints::default()
    };
    let mut report = Report::default();
    let settings = infer(&net.state_dict().keys(), &hints, &mut report).unwrap();
    let found = model(&settings);
    assert_eq!((found.head_channels, found.heads), (Some(32), 1));
    assert_eq!(
        (settings.diffusion.timesteps, found.time_scale),
        (1000, 1.0)
    );
    let from = |what: &str| {
        let fact = report.facts.iter().find(|fact| fact.what == what);
        fact.unwrap().from.clone()
    };
    assert_eq!(from("timesteps"), "--timesteps");
    assert_eq!(from("schedule"), "--known improved-cifar10");
}

#[test]
fn missing_hints_are_listed_with_the_known_file_that_has_them() {
    let mut report = Report::default();
    let keys = parse(IMPROVED).keys();
    infer(&keys, &Hints::default(), &mut report).unwrap();
    let all = [
        "--num-heads",
        "--attention-order",
        "--image-size",
        "--schedule",
        "--timesteps",
        "--rescale-timesteps",
    ];
    assert_eq!(missing(&report), all);
    assert!(!report.missing[0].about.contains("`hints.known` = "));
    for (known, net) in published() {
        let mut report = Report::default();
        infer(&net.state_dict().keys(), &Hints::default(), &mut report).unwrap();
        assert_eq!(missing(&report), all);
        for missing in &report.missing {
            assert!(
                missing.about.contains("`hints.known` = "),
                "{}",
                missing.about
            );
            assert!(missing.about.contains(&known.name()), "{}", missing.about);
        }
    }
}

#[test]
fn each_required_hint_is_missing_alone() {
    let alone = |change: fn(&mut Hints), flag: &str| {
        let mut hints = hints();
        change(&mut hints);
        let mut report = Report::default();
        infer(&parse(IMPROVED).keys(), &hints, &mut report).unwrap();
        assert_eq!(missing(&report), [flag]);
    };
    alone(|h| h.num_heads = None, "--num-heads");
    alone(|h| h.attention_order = None, "--attention-order");
    alone(|h| h.image_size = None, "--image-size");
    alone(|h| h.schedule = None, "--schedule");
    alone(|h| h.timesteps = Some(4000), "--rescale-timesteps");
}

#[test]
fn one_head_needs_no_order() {
    let hints = Hints {
        num_heads: Some(1),
        attention_order: None,
        ..hints()
    };
    let settings = infer_well(&parse(IMPROVED), &hints);
    assert_eq!(
        settings.origin.attention_order,
        Some(AttentionOrder::Legacy)
    );
    let mut report = Report::default();
    let two_up = Hints {
        num_heads_upsample: Some(2),
        ..hints
    };
    infer(&parse(IMPROVED).keys(), &two_up, &mut report).unwrap();
    assert_eq!(missing(&report), ["--attention-order"]);
}

#[test]
fn a_network_without_learned_variance_has_fixed_large() {
    let list = three_levels().state_dict();
    let mut report = Report::default();
    let settings = infer(&list.keys(), &hints(), &mut report).unwrap();
    assert_eq!(settings.sample.sigma, Sigma::Beta);
    let assumed = report.assumptions.iter();
    assert_eq!(assumed.filter(|a| a.starts_with("sigma = beta")).count(), 1);
    let posterior = Hints {
        sigma: Some(Sigma::Posterior),
        ..hints()
    };
    assert_eq!(infer_well(&list, &posterior).sample.sigma, Sigma::Posterior);
}

#[test]
fn hints_that_cannot_be_are_refused() {
    let refused = |change: fn(&mut Hints), word: &str| {
        let mut hints = hints();
        change(&mut hints);
        let error = error(&parse(IMPROVED), &hints);
        assert!(error.contains(word), "{error}");
    };
    refused(|h| h.head_channels = Some(16), "leave num_heads");
    refused(|h| h.blocks = Some(2), "blocks = ");
    refused(|h| h.num_heads = Some(0), "num_heads = 0: want a divisor");
    refused(|h| h.num_heads = Some(5), "num_heads = 5: want a divisor");
    refused(|h| h.num_heads = Some(-4), "num_heads = -4: want a divisor");
    refused(
        |h| h.num_heads_upsample = Some(3),
        "num_heads_upsample = 3: want a divisor",
    );
    refused(
        |h| (h.num_heads, h.head_channels) = (None, Some(48)),
        "head_channels = 48: want a divisor",
    );
    refused(|h| h.schedule = Some(ScheduleKind::Explicit), "schedule = ");
    refused(|h| h.timesteps = Some(-1), "timesteps");
    refused(|h| h.image_size = Some((31, 32)), "31 × 32");
    refused(|h| h.dropout = Some(1.0), "dropout = ");
    refused(
        |h| h.known = Some(Known::ImprovedCifar10),
        "blocks per level 1 instead of 3",
    );
    refused(
        |h| h.known = Some(Known::PesserLsun256),
        "is a file of pesser",
    );
}
