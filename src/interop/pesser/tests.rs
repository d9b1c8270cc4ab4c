use super::super::fixtures::{
    List, assert_covers, assert_refuses_all_damage, missing, model, parse, quietly, small,
};
use super::super::{openai, w86763777};
use super::*;
use crate::config::{Prediction, ScheduleKind, Sigma};
use crate::interop::Known;

const REAL: &str = include_str!("../testdata/pesser.txt");
const DIFFUSERS: &str = include_str!("../testdata/diffusers_plain.txt");

fn hints() -> Hints {
    Hints {
        image_size: Some((16, 16)),
        sigma: Some(Sigma::Posterior),
        ..Hints::default()
    }
}

/// What `Model(ch, ch_mult, num_res_blocks, attn_resolutions)` has, attention by level.
fn state_dict(ch: i64, mults: &[i64], blocks: usize, attention: &[usize]) -> List {
    let mut list = List::default();
    list.linear("temb.dense.0", ch, 4 * ch);
    list.linear("temb.dense.1", 4 * ch, 4 * ch);
    list.conv("conv_in", 3, ch, 3);
    let (mut now, mut kept) = (ch, vec![ch]);
    for (i, mult) in mults.iter().enumerate() {
        for r in 0..blocks {
            resnet(
                &mut list,
                &format!("down.{i}.block.{r}"),
                now,
                mult * ch,
                4 * ch,
            );
            now = mult * ch;
            kept.push(now);
            if attention.contains(&i) {
                attend(&mut list, &format!("down.{i}.attn.{r}"), now);
            }
        }
        if i + 1 < mults.len() {
            list.conv(&format!("down.{i}.downsample.conv"), now, now, 3);
            kept.push(now);
        }
    }
    resnet(&mut list, "mid.block_1", now, now, 4 * ch);
    attend(&mut list, "mid.attn_1", now);
    resnet(&mut list, "mid.block_2", now, now, 4 * ch);
    for (i, mult) in mults.iter().enumerate().rev() {
        for r in 0..=blocks {
            let from = now + kept.pop().unwrap();
            resnet(
                &mut list,
                &format!("up.{i}.block.{r}"),
                from,
                mult * ch,
                4 * ch,
            );
            now = mult * ch;
            if attention.contains(&i) {
                attend(&mut list, &format!("up.{i}.attn.{r}"), now);
            }
        }
        if i > 0 {
            list.conv(&format!("up.{i}.upsample.conv"), now, now, 3);
        }
    }
    list.norm("norm_out", now);
    list.conv("conv_out", now, 3, 3);
    list
}

fn resnet(list: &mut List, name: &str, from: i64, to: i64, time: i64) {
    list.norm(&format!("{name}.norm1"), from);
    list.conv(&format!("{name}.conv1"), from, to, 3);
    list.linear(&format!("{name}.temb_proj"), time, to);
    list.norm(&format!("{name}.norm2"), to);
    list.conv(&format!("{name}.conv2"), to, to, 3);
    if from != to {
        list.conv(&format!("{name}.nin_shortcut"), from, to, 1);
    }
}

fn attend(list: &mut List, name: &str, channels: i64) {
    list.norm(&format!("{name}.norm"), channels);
    for part in ["q", "k", "v", "proj_out"] {
        list.conv(&format!("{name}.{part}"), channels, channels, 1);
    }
}

#[test]
fn a_real_file_gives_its_settings() {
    let real = parse(REAL);
    let keys = real.keys();
    assert!(matches(&keys) && !openai::matches(&keys) && !w86763777::matches(&keys));
    let mut report = Report::default();
    let settings = infer(&keys, &hints(), &mut report).unwrap();
    let want = AttentionUNetConfig {
        norm_eps: 1e-6,
        freq_shift: 1,
        resample: Resample::ConvAsymmetric,
        ..small()
    };
    assert_eq!(model(&settings), &want);
    assert_eq!(missing(&report), [""; 0]);
    let diffusion = &settings.diffusion;
    assert_eq!(
        (diffusion.schedule, diffusion.timesteps),
        (ScheduleKind::Linear, 1000)
    );
    assert_eq!(diffusion.prediction, Prediction::Eps);
    assert!(diffusion.betas.is_empty());
    let sample = &settings.sample;
    assert_eq!(sample.sigma, Sigma::Posterior);
    assert!(sample.clip_x0 && !sample.last_noise);
    assert_covers(&layout(&want, &settings.origin), &real, DIFFUSERS);
}

#[test]
fn a_larger_network_is_found_back() {
    let list = state_dict(64, &[1, 1, 3], 2, &[1, 2]);
    let mut hints = hints();
    hints.image_size = Some((24, 32));
    let settings = infer(&list.keys(), &hints, &mut Report::default()).unwrap();
    let found = model(&settings);
    assert_eq!(found.widths, [64, 64, 192]);
    assert_eq!((found.base_width, found.blocks), (64, 2));
    assert_eq!(found.attention_down, [false, true, true]);
    assert_eq!(found.attention_up, [false, true, true]);
    assert_eq!((found.height, found.width), (24, 32));
    let entries = layout(found, &settings.origin);
    assert_eq!(entries.len(), list.tensors.len());
}

/// Key and parameter counts of the diffusers files that hold the same weights.
#[test]
fn published_networks_have_the_published_counts() {
    let cifar = state_dict(128, &[1, 2, 2, 2], 2, &[1]);
    let lsun = state_dict(128, &[1, 1, 2, 2, 4, 4], 2, &[4]);
    assert_eq!((cifar.tensors.len(), cifar.numbers()), (328, 35_746_307));
    assert_eq!((lsun.tensors.len(), lsun.numbers()), (450, 113_673_219));
    let files = [
        (cifar, Known::PesserCifar10, 32, Sigma::Beta, 0.1),
        (lsun, Known::PesserLsun256, 256, Sigma::Posterior, 0.0),
    ];
    for (list, known, side, sigma, dropout) in files {
        let hints = Hints {
            known: Some(known),
            ..Hints::default()
        };
        let mut report = Report::default();
        let settings = infer(&list.keys(), &hints, &mut report).unwrap();
        let found = model(&settings);
        assert_eq!(
            (found.height, found.width, found.dropout),
            (side, side, dropout)
        );
        assert_eq!(settings.sample.sigma, sigma);
        assert_eq!((missing(&report), report.assumptions.len()), (vec![], 0));
        let sigma = report
            .facts
            .iter()
            .find(|fact| fact.what == "sigma")
            .unwrap();
        assert_eq!(sigma.from, format!("--known {}", known.name()));
        assert_eq!(Known::like(found), [known]);
    }
}

#[test]
fn missing_hints_are_listed_with_the_known_file_that_has_them() {
    let mut report = Report::default();
    infer(&parse(REAL).keys(), &Hints::default(), &mut report).unwrap();
    assert_eq!(missing(&report), ["--image-size", "--sigma"]);
    assert!(!report.missing[0].about.contains("`hints.known` = "));
    let cifar = state_dict(128, &[1, 2, 2, 2], 2, &[1]);
    let mut report = Report::default();
    infer(&cifar.keys(), &Hints::default(), &mut report).unwrap();
    assert_eq!(missing(&report), ["--image-size", "--sigma"]);
    for missing in &report.missing {
        let known = "these shapes are those of `hints.known` = pesser-cifar10";
        assert!(missing.about.contains(known), "{}", missing.about);
    }
}

#[test]
fn other_betas_than_ours_are_written_out() {
    let mut hints = hints();
    hints.timesteps = Some(100);
    let settings = infer(&parse(REAL).keys(), &hints, &mut Report::default()).unwrap();
    let diffusion = &settings.diffusion;
    assert_eq!(diffusion.schedule, ScheduleKind::Explicit);
    assert_eq!((diffusion.betas.len(), diffusion.betas[0]), (100, 1e-4));
    assert!((diffusion.betas[99] - 0.02).abs() < 1e-15);
}

#[test]
fn hints_that_cannot_be_are_refused() {
    let refused = |change: fn(&mut Hints), word: &str| {
        let mut hints = hints();
        change(&mut hints);
        let error = infer(&parse(REAL).keys(), &hints, &mut Report::default()).unwrap_err();
        assert!(error.to_string().contains(word), "{error}");
    };
    refused(|h| h.num_heads = Some(4), "num_heads");
    refused(|h| h.head_channels = Some(4), "head_channels");
    refused(|h| h.rescale_timesteps = Some(true), "rescale_timesteps");
    refused(|h| h.sigma = Some(Sigma::Learned), "sigma = ");
    refused(|h| h.schedule = Some(ScheduleKind::Explicit), "schedule = ");
    refused(|h| h.timesteps = Some(0), "timesteps");
    refused(|h| h.image_size = Some((16, 17)), "16 × 17");
    refused(|h| h.image_size = Some((0, 16)), "0 × 16");
    refused(|h| h.image_size = Some((i64::MIN, i64::MAX)), "image_size");
    refused(|h| h.dropout = Some(f64::NAN), "dropout = ");
    refused(
        |h| h.known = Some(Known::PesserCifar10),
        "widths [32, 64] instead of [128",
    );
    refused(|h| h.known = Some(Known::Guided256), "is a file of openai");
}

#[test]
fn damage_is_refused() {
    let infer = quietly(infer, hints());
    assert_refuses_all_damage(&parse(REAL), &[], &infer);
    // As many levels as blocks: small lists that would make a huge network.
    let mut list = parse(REAL);
    for i in 2..5000 {
        list.add(format!("down.{i}.block.0.conv1.weight"), &[32, 32, 3, 3]);
        list.add(format!("down.0.block.{i}.conv1.weight"), &[32, 32, 3, 3]);
    }
    list.add("down.0.block.1.conv1.weight", &[32, 32, 3, 3]);
    let error = infer(&list.keys()).unwrap_err().to_string();
    assert!(
        error.contains("5000 levels of 5000 residual blocks"),
        "{error}"
    );
    let mut list = parse(REAL);
    list.add("down.18446744073709551616.block.0.conv1.weight", &[1]);
    let error = infer(&list.keys()).unwrap_err().to_string();
    assert!(error.contains("down.18446744073709551616"), "{error}");
}
