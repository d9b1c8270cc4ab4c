use super::super::fixtures::{
    List, assert_covers, assert_refuses_all_damage, missing, model, parse, small,
};
use super::super::{openai, pesser};
use super::*;
use crate::config::{Prediction, ScheduleKind, Sigma};
use crate::interop::Known;

const REAL: &str = include_str!("../testdata/w86763777.txt");
const DIFFUSERS: &str = include_str!("../testdata/diffusers_plain.txt");
const X_T: &[i64] = &[4, 3, 16, 16];

/// What `UNet(T, ch, ch_mult, attn, num_res_blocks)` has.
fn state_dict(t: i64, ch: i64, mults: &[i64], blocks: usize, attention: &[usize]) -> List {
    let mut list = List::default();
    list.add("time_embedding.timembedding.0.weight", &[t, ch]);
    list.linear("time_embedding.timembedding.1", ch, 4 * ch);
    list.linear("time_embedding.timembedding.3", 4 * ch, 4 * ch);
    list.conv("head", 3, ch, 3);
    let (mut now, mut kept, mut index) = (ch, vec![ch], 0);
    for (i, mult) in mults.iter().enumerate() {
        for _ in 0..blocks {
            let name = format!("downblocks.{index}");
            block(
                &mut list,
                &name,
                (now, mult * ch),
                ch,
                attention.contains(&i),
            );
            now = mult * ch;
            kept.push(now);
            index += 1;
        }
        if i + 1 < mults.len() {
            list.conv(&format!("downblocks.{index}.main"), now, now, 3);
            kept.push(now);
            index += 1;
        }
    }
    block(&mut list, "middleblocks.0", (now, now), ch, true);
    block(&mut list, "middleblocks.1", (now, now), ch, false);
    index = 0;
    for (i, mult) in mults.iter().enumerate().rev() {
        for _ in 0..=blocks {
            let from = now + kept.pop().unwrap();
            let name = format!("upblocks.{index}");
            block(
                &mut list,
                &name,
                (from, mult * ch),
                ch,
                attention.contains(&i),
            );
            now = mult * ch;
            index += 1;
        }
        if i > 0 {
            list.conv(&format!("upblocks.{index}.main"), now, now, 3);
            index += 1;
        }
    }
    list.norm("tail.0", now);
    list.conv("tail.2", now, 3, 3);
    list
}

fn block(list: &mut List, name: &str, (from, to): (i64, i64), ch: i64, attention: bool) {
    list.norm(&format!("{name}.block1.0"), from);
    list.conv(&format!("{name}.block1.2"), from, to, 3);
    list.linear(&format!("{name}.temb_proj.1"), 4 * ch, to);
    list.norm(&format!("{name}.block2.0"), to);
    list.conv(&format!("{name}.block2.3"), to, to, 3);
    if from != to {
        list.conv(&format!("{name}.shortcut"), from, to, 1);
    }
    if attention {
        list.norm(&format!("{name}.attn.group_norm"), to);
        for part in ["proj_q", "proj_k", "proj_v", "proj"] {
            list.conv(&format!("{name}.attn.{part}"), to, to, 1);
        }
    }
}

#[test]
fn a_real_file_gives_its_settings() {
    let real = parse(REAL);
    let keys = real.keys();
    assert!(matches(&keys) && !openai::matches(&keys) && !pesser::matches(&keys));
    let mut report = Report::default();
    let settings = infer(&keys, Some(X_T), &Hints::default(), &mut report).unwrap();
    assert_eq!(model(&settings), &small());
    assert_eq!(missing(&report), [""; 0]);
    let diffusion = &settings.diffusion;
    assert_eq!(
        (diffusion.schedule, diffusion.timesteps),
        (ScheduleKind::Linear, 1000)
    );
    assert_eq!(diffusion.prediction, Prediction::Eps);
    let sample = &settings.sample;
    assert_eq!(sample.sigma, Sigma::Beta);
    assert!(!sample.clip_x0 && !sample.last_noise);
    let taken = [
        "schedule = linear",
        "prediction = eps",
        "sigma = beta",
        "dropout = 0",
    ];
    assert_eq!(report.assumptions.len(), taken.len());
    for (seen, want) in report.assumptions.iter().zip(taken) {
        assert!(seen.starts_with(want), "{seen}");
    }
    assert_covers(&layout(&small(), &settings.origin, 1000), &real, DIFFUSERS);
}

#[test]
fn special_forms_are_where_they_belong() {
    let layout = layout(&small(), &Origin::new(Family::W86763777), 1000);
    let of = |theirs: &str| layout.iter().find(|e| e.theirs == theirs).unwrap();
    let table = Form::SineTable {
        timesteps: 1000,
        dim: 32,
    };
    assert_eq!(of("time_embedding.timembedding.0.weight").form, table);
    let first = of("time_embedding.timembedding.1.weight");
    assert_eq!(first.form, Form::InterleavedColumns);
    assert_eq!(first.ours, ["time_embedding.linear_1.weight"]);
    assert_eq!(of("time_embedding.timembedding.1.bias").form, Form::Same);
    assert_eq!(of("time_embedding.timembedding.3.weight").form, Form::Same);
}

#[test]
fn a_larger_network_is_found_back() {
    let list = state_dict(400, 64, &[1, 2, 4], 2, &[0, 2]);
    let x_t = [64, 3, 32, 32];
    let mut report = Report::default();
    let settings = infer(&list.keys(), Some(&x_t), &Hints::default(), &mut report).unwrap();
    let found = model(&settings);
    assert_eq!(found.widths, [64, 128, 256]);
    assert_eq!((found.base_width, found.blocks), (64, 2));
    assert_eq!(found.attention_down, [true, false, true]);
    assert_eq!(found.attention_up, [true, false, true]);
    let diffusion = &settings.diffusion;
    assert_eq!((diffusion.timesteps, diffusion.betas.len()), (400, 400));
    assert_eq!(diffusion.schedule, ScheduleKind::Explicit);
    let entries = layout(found, &settings.origin, 400);
    assert_eq!(entries.len(), list.tensors.len());
}

/// Its README's network: the 328 tensors of Ho et al.'s CIFAR-10 network and the table.
#[test]
fn the_default_network_has_329_keys() {
    let list = state_dict(1000, 128, &[1, 2, 2, 2], 2, &[1]);
    assert_eq!(
        (list.tensors.len(), list.numbers()),
        (329, 35_746_307 + 128_000)
    );
    let settings = infer(
        &list.keys(),
        Some(&[64, 3, 32, 32]),
        &Hints::default(),
        &mut Report::default(),
    )
    .unwrap();
    assert_eq!(model(&settings).widths, [128, 256, 256, 256]);
    // Same sizes as pesser's, but padded otherwise: no known file.
    assert_eq!(Known::like(model(&settings)), []);
}

#[test]
fn the_image_size_is_asked_for_where_the_file_has_no_noise() {
    let keys = parse(REAL).keys();
    let mut report = Report::default();
    infer(&keys, None, &Hints::default(), &mut report).unwrap();
    assert_eq!(missing(&report), ["--image-size"]);
    let hints = Hints {
        image_size: Some((8, 24)),
        ..Hints::default()
    };
    let mut report = Report::default();
    let settings = infer(&keys, None, &hints, &mut report).unwrap();
    assert_eq!((model(&settings).height, model(&settings).width), (8, 24));
    assert_eq!(missing(&report), [""; 0]);
}

#[test]
fn what_contradicts_the_file_is_refused() {
    let refused = |x_t: &[i64], change: fn(&mut Hints), word: &str| {
        let mut hints = Hints::default();
        change(&mut hints);
        let keys = parse(REAL).keys();
        let error = infer(&keys, Some(x_t), &hints, &mut Report::default()).unwrap_err();
        assert!(error.to_string().contains(word), "{error}");
    };
    refused(
        X_T,
        |h| h.image_size = Some((32, 32)),
        "image_size = 32 × 32",
    );
    refused(X_T, |h| h.timesteps = Some(500), "timesteps");
    refused(X_T, |h| h.num_heads = Some(2), "num_heads");
    refused(X_T, |h| h.sigma = Some(Sigma::Learned), "sigma = ");
    refused(
        X_T,
        |h| h.known = Some(Known::PesserCifar10),
        "known = pesser-cifar10",
    );
    refused(&[3, 16, 16], |_| (), "x_T is [3, 16, 16]");
    refused(&[4, 1, 16, 16], |_| (), "x_T is [4, 1, 16, 16]");
    refused(&[4, 3, 16, 15], |_| (), "16 × 15");
    refused(&[4, 3, 0, 16], |_| (), "0 × 16");
    refused(&[4, 3, i64::MAX, i64::MIN], |_| (), "x_T");
}

#[test]
fn damage_is_refused() {
    let infer = |keys: &Keys| infer(keys, Some(X_T), &Hints::default(), &mut Report::default());
    // T is the table's business.
    assert_refuses_all_damage(&parse(REAL), &[(TABLE, 0)], infer);
    let mut list = parse(REAL);
    list.tensors[0].1[0] = 1_000_000;
    let error = infer(&list.keys()).unwrap_err().to_string();
    assert!(error.contains("1000000 time steps"), "{error}");
    let mut list = parse(REAL);
    list.add("downblocks.4294967296.main.weight", &[32, 32, 3, 3]);
    let error = infer(&list.keys()).unwrap_err().to_string();
    assert!(error.contains("downblocks.4294967296"), "{error}");
}
