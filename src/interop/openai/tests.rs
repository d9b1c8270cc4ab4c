use super::super::fixtures::{
    List, assert_covers, assert_refuses_all_damage, model, parse, quietly, small,
};
use super::super::{pesser, w86763777};
use super::nets::*;
use super::*;
use crate::config::{Prediction, ScheduleKind};
use crate::interop::Form;
use crate::interop::Known;

const GUIDED: &str = include_str!("../testdata/guided.txt");
const DIFFUSERS_IMPROVED: &str = include_str!("../testdata/diffusers_improved.txt");
const DIFFUSERS_GUIDED: &str = include_str!("../testdata/diffusers_guided.txt");
const DIFFUSERS_THREE_LEVELS: &str = include_str!("../testdata/diffusers_three_levels.txt");

#[test]
fn a_real_improved_file_gives_its_settings() {
    let real = parse(IMPROVED);
    let keys = real.keys();
    assert!(matches(&keys) && !pesser::matches(&keys) && !w86763777::matches(&keys));
    let hints = Hints {
        schedule: Some(ScheduleKind::Cosine),
        timesteps: Some(4000),
        rescale_timesteps: Some(true),
        num_heads_upsample: Some(2),
        dropout: Some(0.3),
        image_size: Some((32, 32)),
        ..hints()
    };
    let settings = infer_well(&real, &hints);
    let want = AttentionUNetConfig {
        height: 32,
        width: 32,
        learned_variance: true,
        heads: 4,
        heads_up: Some(2),
        scale_shift: true,
        cos_first: true,
        time_scale: 0.25,
        dropout: 0.3,
        ..small()
    };
    assert_eq!(model(&settings), &want);
    let diffusion = &settings.diffusion;
    assert_eq!(
        (diffusion.schedule, diffusion.timesteps),
        (ScheduleKind::Cosine, 4000)
    );
    assert_eq!(diffusion.prediction, Prediction::Eps);
    let sample = &settings.sample;
    assert_eq!(sample.sigma, Sigma::Learned);
    assert!(sample.clip_x0 && !sample.last_noise);
    assert_covers(&layout(&want, &settings.origin), &real, DIFFUSERS_IMPROVED);
}

#[test]
fn a_real_guided_file_gives_its_settings() {
    let real = parse(GUIDED);
    assert!(matches(&real.keys()));
    let hints = Hints {
        num_heads: None,
        head_channels: Some(16),
        attention_order: Some(AttentionOrder::New),
        ..hints()
    };
    let settings = infer_well(&real, &hints);
    let want = AttentionUNetConfig {
        height: 64,
        width: 64,
        learned_variance: true,
        head_channels: Some(16),
        scale_shift: true,
        resample: Resample::Resnet,
        cos_first: true,
        ..small()
    };
    assert_eq!(model(&settings), &want);
    assert_eq!(settings.origin.attention_order, Some(AttentionOrder::New));
    assert_covers(&layout(&want, &settings.origin), &real, DIFFUSERS_GUIDED);
}

#[test]
fn fused_weights_carry_heads_and_order() {
    let mut config = three_levels().config();
    (config.heads, config.heads_up) = (4, Some(2));
    let mut origin = Origin::new(Family::Openai);
    origin.attention_order = Some(AttentionOrder::New);
    let layout = layout(&config, &origin);
    let of = |theirs: &str| layout.iter().find(|e| e.theirs == theirs).unwrap();
    let qkv = |heads, ones| Form::Qkv {
        heads,
        order: QkvOrder::New,
        ones,
    };
    assert_eq!(of("input_blocks.4.1.qkv.weight").form, qkv(4, 1));
    assert_eq!(of("middle_block.1.qkv.bias").form, qkv(4, 0));
    let up = of("output_blocks.0.1.qkv.weight");
    assert_eq!(up.form, qkv(2, 1));
    let ours = ["q", "k", "v"].map(|x| format!("up_blocks.0.attentions.0.to_{x}.weight"));
    assert_eq!(up.ours, ours);
}

#[test]
fn other_networks_are_found_back() {
    let half = Net {
        model_channels: 64,
        widths: vec![32, 64, 64, 128, 128],
        blocks: 1,
        attention: vec![2, 4],
        ..three_levels()
    };
    let flat = Net {
        widths: vec![64],
        model_channels: 64,
        blocks: 3,
        attention: vec![],
        ..three_levels()
    };
    for net in [three_levels(), half, flat] {
        for bits in 0..16 {
            let net = Net {
                scale_shift: bits & 1 != 0,
                // With one level there is no resampling to tell.
                updown: bits & 2 != 0 && net.widths.len() > 1,
                classes: (bits & 4 != 0).then_some(1000),
                learn_sigma: bits & 8 != 0,
                ..net.clone()
            };
            let list = net.state_dict();
            let settings = infer_well(&list, &hints());
            assert_eq!(model(&settings), &net.config(), "{net:?}");
            let mut names: Vec<String> = layout(&net.config(), &settings.origin)
                .into_iter()
                .map(|entry| entry.theirs)
                .collect();
            names.sort();
            let keys = list.keys();
            assert_eq!(names, keys.iter().map(|(key, _)| key).collect::<Vec<_>>());
        }
    }
}

#[test]
fn three_levels_have_diffusers_names() {
    let net = three_levels();
    let layout = layout(&net.config(), &Origin::new(Family::Openai));
    assert_covers(&layout, &net.state_dict(), DIFFUSERS_THREE_LEVELS);
}

/// The generator against what is published: if it were wrong, so would be the tests that build on it.
#[test]
fn published_networks_have_the_published_sizes() {
    let size = |known| {
        let (_, net) = published().into_iter().find(|(k, _)| *k == known).unwrap();
        net.state_dict().numbers()
    };
    // Ho et al.'s LSUN network and three more channels from the last convolution.
    let more = 3 * (128 * 9 + 1);
    assert_eq!(size(Known::ImprovedLsun256), 113_673_219 + more);
    // The files' names, rounded down to one digit: 50M, 100M.
    assert_eq!(size(Known::ImprovedCifar10) / 10_000_000, 5);
    assert_eq!(size(Known::ImprovedImagenet64) / 100_000_000, 1);
    // improved-diffusion's README: its class-conditional ImageNet-64 network has 270M.
    let (_, imagenet) = published()[0].clone();
    let conditional = Net {
        model_channels: 192,
        widths: vec![192, 384, 576, 768],
        classes: Some(1000),
        ..imagenet
    };
    let millions = conditional.state_dict().numbers() / 1_000_000;
    assert!((265..275).contains(&millions), "{millions}");
}

#[test]
fn damage_is_refused() {
    let infer = quietly(infer, hints());
    assert_refuses_all_damage(&parse(IMPROVED), &[], &infer);
    assert_refuses_all_damage(&parse(GUIDED), &[], &infer);
    let mut labelled = Net {
        classes: None,
        ..three_levels()
    }
    .state_dict();
    labelled.add(CLASSES, &[10, 127]);
    assert!(error(&labelled, &hints()).contains("label_emb.weight is [10, 127]"));
}

#[test]
fn networks_of_other_kinds_are_refused_with_the_reason() {
    let without = |list: &List, parts: &[&str]| List {
        tensors: list
            .tensors
            .iter()
            .filter(|(name, _)| !parts.iter().any(|part| name.contains(part)))
            .cloned()
            .collect(),
    };
    let real = parse(IMPROVED);
    let no_conv = without(&real, &[".0.op.", ".2.conv."]);
    let seen = error(&no_conv, &hints());
    assert!(seen.contains("nothing in input_blocks.2"), "{seen}");
    assert!(seen.contains("conv_resample=False"), "{seen}");
    let classifier = without(&real, &["output_blocks."]);
    assert!(error(&classifier, &hints()).contains("classifiers"));
    let no_out = without(&real, &["out.2."]);
    assert!(error(&no_out, &hints()).contains("no tensor out.2.weight"));
    assert!(error(&taking(4), &hints()).contains("takes 4 channels"));
}

/// A real file whose first layer takes so many channels.
fn taking(channels: i64) -> List {
    let mut list = parse(IMPROVED);
    let conv_in = list.tensors.iter_mut();
    for (_, shape) in conv_in.filter(|(name, _)| name == "input_blocks.0.0.weight") {
        shape[1] = channels;
    }
    list
}

#[test]
fn a_network_that_takes_two_images_is_given_one_beside_x_t() {
    let of = |channels| model(&infer_well(&taking(channels), &hints())).clone();
    let (plain, enlarger) = (of(3), of(6));
    assert_eq!(
        (enlarger.channels, enlarger.condition_channels),
        (3, Some(3))
    );
    let same = AttentionUNetConfig {
        condition_channels: None,
        ..enlarger
    };
    assert_eq!(same, plain);
}

#[test]
fn hostile_indices_are_refused() {
    for name in [
        "input_blocks.18446744073709551616.0.op.weight",
        "input_blocks.9223372036854775807.0.op.weight",
        "output_blocks.4294967296.0.in_layers.0.weight",
        "input_blocks..weight",
        "input_blocks.-1.weight",
        "output_blocks.01.2.conv.weight",
        "output_blocks.0.2.conv.weight",
        "middle_block.3.norm.weight",
        "",
    ] {
        let mut list = parse(IMPROVED);
        list.add(name, &[32, 32, 3, 3]);
        let seen = error(&list, &hints());
        assert!(
            seen.contains("_block") || seen.contains("tensor "),
            "{seen}"
        );
    }
    // Upsamplings in every entry: many levels of no blocks.
    let mut list = parse(IMPROVED);
    for i in 0..4 {
        list.add(format!("output_blocks.{i}.1.conv.weight"), &[32, 32, 3, 3]);
    }
    assert!(error(&list, &hints()).contains("an upsampling in output_blocks [0, 1, 2, 3]"));
}
