//! Every weight of `ddpm.py`'s network: their name and shape, our name, and how to turn one into the
//! other.

use std::collections::BTreeSet;

use anyhow::{Context, Result, bail, ensure};

use super::numbers::{self, FirstNumbers};
use crate::checkpoint::import::keys::Keys;
use crate::checkpoint::import::layout::{Channels, Entry, Form};
use crate::config::UNetConfig;

/// Their names for our parameters, in the order of creation (a norm's beta before its gamma);
/// `first` says with which numbers their layers begin.
pub(in crate::checkpoint::import) fn layout(
    config: &UNetConfig,
    timesteps: i64,
    first: FirstNumbers,
) -> Vec<Entry> {
    let weights = weights(config, timesteps, first).into_iter();
    weights
        .map(|weight| Entry::of(weight.theirs, weight.ours, weight.form))
        .collect()
}

/// One weight of theirs.
pub(super) struct Weight {
    pub(super) theirs: String,
    pub(super) shape: Vec<i64>,
    ours: String,
    form: Form,
}

/// Every weight that a network has.
pub(super) fn weights(config: &UNetConfig, timesteps: i64, first: FirstNumbers) -> Vec<Weight> {
    let base = config.base_width;
    let mut list = WeightList {
        first,
        base_width: base,
        groups: config.norm_groups,
        convs: 0,
        denses: 0,
        norms: 0,
        weights: Vec::new(),
    };
    let (regroup, reverse) = (list.regroup(), Channels::Reverse);
    list.weights.push(Weight {
        theirs: numbers::path("embedding", first.embedding, "embeddings:0"),
        shape: vec![timesteps, base],
        ours: "time_embedding.weight".to_owned(),
        form: Form::Same,
    });
    list.conv(
        "conv_in.weight",
        [config.channels, base],
        [reverse, regroup],
    );

    let blocks = config.blocks.max(1) as usize;
    let widths = config.multipliers.iter().map(|m| m * base);
    let down: Vec<i64> = widths.flat_map(|w| vec![w; blocks]).collect();
    let mut width = base;
    for (n, &to) in down.iter().enumerate() {
        list.block(
            &format!("down.{}.{}", n / blocks, n % blocks),
            &mut width,
            to,
        );
    }
    let deepest = width;
    list.block("mid", &mut width, deepest);
    // Skips join one place late: each block on the way up is as wide as what came before its
    // counterpart on the way down.
    let before = [base].into_iter().chain(down.iter().copied());
    let up: Vec<i64> = before.take(down.len()).collect();
    for (n, &to) in up.iter().rev().enumerate() {
        list.block(&format!("up.{}.{}", n / blocks, n % blocks), &mut width, to);
    }
    list.norm("norm_out", width);
    list.conv(
        "conv_out.weight",
        [width, config.channels],
        [regroup, reverse],
    );
    list.weights
}

/// Weights so far, with how many layers of each kind they took.
struct WeightList {
    first: FirstNumbers,
    base_width: i64,
    groups: i64,
    convs: usize,
    denses: usize,
    norms: usize,
    weights: Vec<Weight>,
}

impl WeightList {
    fn regroup(&self) -> Channels {
        Channels::Regroup {
            groups: self.groups,
        }
    }

    fn block(&mut self, name: &str, width: &mut i64, to: i64) {
        let (from, regroup) = (*width, self.regroup());
        if from != to {
            let form = Form::Keras {
                output: regroup,
                input: regroup,
                dense_as_conv: true,
            };
            self.dense(format!("{name}.shortcut.weight"), [from, to], form);
        }
        let form = Form::Keras {
            output: regroup,
            input: Channels::Same,
            dense_as_conv: false,
        };
        self.dense(
            format!("{name}.time_proj.weight"),
            [self.base_width, from],
            form,
        );
        self.conv(&format!("{name}.conv1.weight"), [from, to], [regroup; 2]);
        self.conv(&format!("{name}.conv2.weight"), [to, to], [regroup; 2]);
        self.norm(&format!("{name}.norm"), to);
        *width = to;
    }

    fn dense(&mut self, ours: String, [from, to]: [i64; 2], form: Form) {
        self.weights.push(Weight {
            theirs: self.first.dense(self.denses),
            shape: vec![from, to],
            ours,
            form,
        });
        self.denses += 1;
    }

    fn conv(&mut self, ours: &str, [from, to]: [i64; 2], [input, output]: [Channels; 2]) {
        self.weights.push(Weight {
            theirs: self.first.conv2d(self.convs),
            shape: vec![3, 3, from, to],
            ours: ours.to_owned(),
            form: Form::Keras {
                output,
                input,
                dense_as_conv: false,
            },
        });
        self.convs += 1;
    }

    fn norm(&mut self, ours: &str, width: i64) {
        for (theirs, part) in [("beta:0", "bias"), ("gamma:0", "weight")] {
            self.weights.push(Weight {
                theirs: self.first.group_norm(self.norms, theirs),
                shape: vec![width],
                ours: format!("{ours}.{part}"),
                form: Form::Keras {
                    output: self.regroup(),
                    input: Channels::Same,
                    dense_as_conv: false,
                },
            });
        }
        self.norms += 1;
    }
}

/// Checks that the file has exactly these weights.
pub(super) fn check_shapes(keys: &Keys, weights: &[Weight]) -> Result<()> {
    for weight in weights {
        let seen = keys.shape(&weight.theirs, weight.shape.len());
        let seen = seen.with_context(|| format!("it would be {}", weight.ours))?;
        ensure!(
            seen == weight.shape,
            "tensor {} is {seen:?}, want {:?} to be {}",
            weight.theirs,
            weight.shape,
            weight.ours
        );
    }
    let known: BTreeSet<&str> = weights.iter().map(|w| w.theirs.as_str()).collect();
    if let Some((extra, _)) = keys.iter().find(|(key, _)| !known.contains(key)) {
        bail!("tensor {extra} has no place in ddpm.py's network");
    }
    Ok(())
}
