//! Lists of keys and shapes for the families' tests: of real files, and written by small generators.

use std::collections::BTreeMap;

use anyhow::Result;

use super::Settings;
use crate::config::{AttentionUNetConfig, ModelConfig, Resample};
use crate::interop::{Entry, Form, Hints, Keys, Report};

/// A list of tensors under construction.
#[derive(Debug, Default)]
pub(super) struct List {
    pub(super) tensors: Vec<(String, Vec<i64>)>,
}

impl List {
    pub(super) fn keys(&self) -> Keys {
        self.tensors.iter().cloned().collect()
    }

    pub(super) fn add(&mut self, name: impl Into<String>, shape: &[i64]) {
        self.tensors.push((name.into(), shape.to_vec()));
    }

    fn pair(&mut self, name: &str, shape: &[i64]) {
        self.add(format!("{name}.weight"), shape);
        self.add(format!("{name}.bias"), &shape[..1]);
    }

    pub(super) fn norm(&mut self, name: &str, channels: i64) {
        self.pair(name, &[channels]);
    }

    pub(super) fn linear(&mut self, name: &str, from: i64, to: i64) {
        self.pair(name, &[to, from]);
    }

    pub(super) fn conv(&mut self, name: &str, from: i64, to: i64, side: i64) {
        self.pair(name, &[to, from, side, side]);
    }

    pub(super) fn conv1d(&mut self, name: &str, from: i64, to: i64) {
        self.pair(name, &[to, from, 1]);
    }

    pub(super) fn numbers(&self) -> i64 {
        let numbers = |(_, shape): &(String, Vec<i64>)| shape.iter().product::<i64>();
        self.tensors.iter().map(numbers).sum()
    }
}

/// The tensors of a text with a name and a shape a line.
pub(super) fn parse(text: &str) -> List {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let tensors = lines.map(|line| {
        let mut words = line.split(' ');
        let name = words.next().unwrap().to_owned();
        (name, words.map(|word| word.parse().unwrap()).collect())
    });
    List {
        tensors: tensors.collect(),
    }
}

/// The settings of the small real files, as far as they are equal.
pub(super) fn small() -> AttentionUNetConfig {
    AttentionUNetConfig {
        height: 16,
        width: 16,
        channels: 3,
        learned_variance: false,
        base_width: 32,
        widths: vec![32, 64],
        blocks: 1,
        attention_down: vec![false, true],
        attention_up: vec![false, true],
        mid_attention: true,
        mid_attention_norm: true,
        heads: 1,
        heads_up: None,
        head_channels: None,
        norm_groups: 32,
        norm_eps: 1e-5,
        scale_shift: false,
        resample: Resample::Conv,
        mid_scale: 1.0,
        time_channels: 32,
        time_width: 128,
        freq_shift: 0,
        cos_first: false,
        time_scale: 1.0,
        classes: None,
        null_class: false,
        condition_channels: None,
        center_input: false,
        dropout: 0.0,
    }
}

pub(super) fn model(settings: &Settings) -> &AttentionUNetConfig {
    match &settings.model {
        ModelConfig::UnetAttention(model) => model,
        other => panic!("{:?}", other.kind()),
    }
}

/// The flags of the missing hints.
pub(super) fn missing(report: &Report) -> Vec<&str> {
    let missing = report.missing.iter();
    missing.map(|m| m.flag.split(' ').next().unwrap()).collect()
}

/// Checks a layout against a file's tensors, each to be there once, and against the names and shapes of
/// diffusers' network with the same settings.
pub(super) fn assert_covers(layout: &[Entry], theirs: &List, diffusers: &str) {
    let shapes: BTreeMap<_, _> = theirs.tensors.iter().cloned().collect();
    let mut names: Vec<&str> = layout.iter().map(|e| e.theirs.as_str()).collect();
    names.sort_unstable();
    assert_eq!(names, shapes.keys().collect::<Vec<_>>());
    let mut ours: Vec<(String, Vec<i64>)> = Vec::new();
    for entry in layout {
        let shape = our_shape(entry, &shapes[&entry.theirs]);
        ours.extend(entry.ours.iter().map(|name| (name.clone(), shape.clone())));
    }
    ours.sort();
    let mut want = parse(diffusers).tensors;
    want.sort();
    assert_eq!(ours, want);
}

fn our_shape(entry: &Entry, theirs: &[i64]) -> Vec<i64> {
    match entry.form {
        Form::Same | Form::InterleavedColumns => theirs.to_vec(),
        Form::Pointwise { ones } => strip_ones(theirs, ones),
        Form::Qkv { ones, .. } => {
            assert_eq!(entry.ours.len(), 3, "{entry:?}");
            let mut shape = strip_ones(theirs, ones);
            assert_eq!(shape[0] % 3, 0, "{entry:?}");
            shape[0] /= 3;
            shape
        }
        Form::SineTable { timesteps, dim } => {
            assert_eq!((theirs, entry.ours.len()), (&[timesteps, dim][..], 0));
            Vec::new()
        }
        Form::Keras { .. } => panic!("{entry:?}"),
    }
}

fn strip_ones(shape: &[i64], ones: usize) -> Vec<i64> {
    let (kept, stripped) = shape.split_at(shape.len() - ones);
    assert_eq!(stripped, vec![1; ones]);
    kept.to_vec()
}

/// Breaks a good file in every small way and expects an error that names a tensor each time: every tensor
/// missing, with an axis fewer, with an odd size in an axis; and one tensor too many. `free` are axes
/// of arbitrary size.
pub(super) fn assert_refuses_all_damage(
    good: &List,
    free: &[(&str, usize)],
    infer: impl Fn(&Keys) -> Result<Settings>,
) {
    infer(&good.keys()).unwrap();
    // `broken`: the tensor that the error must name, where it can be known.
    let refused = |list: List, broken: Option<&str>, how: &str| {
        let error = format!("{:#}", infer(&list.keys()).expect_err(how));
        let named = error.split([' ', ',', ';', ':']).any(|word| {
            let list = word.ends_with("_blocks") || word == "downblocks";
            let mut names = good.tensors.iter().map(|(name, _)| name.as_str());
            list || broken.map_or_else(|| names.any(|name| word == name), |name| word == name)
        });
        assert!(named, "{how}: {error}");
    };
    let copy = || List {
        tensors: good.tensors.clone(),
    };
    for (at, (name, shape)) in good.tensors.iter().enumerate() {
        let mut list = copy();
        list.tensors.remove(at);
        refused(list, Some(name), &format!("without {name}"));
        let mut list = copy();
        list.tensors[at].1.pop();
        refused(list, Some(name), &format!("{name} with an axis fewer"));
        for (axis, length) in shape.iter().enumerate() {
            for size in [0, -1, length + 1, i64::MAX] {
                if size == length + 1 && free.contains(&(name.as_str(), axis)) {
                    continue;
                }
                let mut list = copy();
                list.tensors[at].1[axis] = size;
                refused(list, None, &format!("{name} with {size} in axis {axis}"));
            }
        }
        let mut list = copy();
        let more = format!("{name}.more");
        list.add(&more, shape);
        refused(list, Some(&more), &format!("{more} too"));
    }
}

/// Infers without keeping the report.
pub(super) fn quietly(
    infer: impl Fn(&Keys, &Hints, &mut Report) -> Result<Settings>,
    hints: Hints,
) -> impl Fn(&Keys) -> Result<Settings> {
    move |keys| infer(keys, &hints, &mut Report::default())
}
