//! Every weight of a network: their name and shape, our name, and the conversion.

use std::collections::BTreeSet;

use anyhow::{Context, Result, bail, ensure};

use super::numbers::FirstNumbers;
use super::{NORM_GROUPS, Program};
use crate::interop::keys::Keys;
use crate::interop::layout::{Channels, Entry, Form};

/// Channels of a feature map, whose norm groups are interleaved there and contiguous here.
pub(super) const REGROUP: Channels = Channels::Regroup {
    groups: NORM_GROUPS,
};

/// One weight of theirs.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Weight {
    pub(super) theirs: String,
    pub(super) shape: Vec<i64>,
    /// `None` for a table that is not a parameter of ours.
    pub(super) ours: Option<String>,
    pub(super) form: Form,
}

impl Weight {
    pub(super) fn into_entry(self) -> Entry {
        Entry {
            theirs: self.theirs,
            ours: self.ours.into_iter().collect(),
            form: self.form,
        }
    }
}

/// A kernel or a vector with these channels on its input and output axes.
pub(super) fn keras([input, output]: [Channels; 2]) -> Form {
    Form::Keras {
        output,
        input,
        dense_as_conv: false,
    }
}

/// The weights so far, with the number of layers of each kind.
#[derive(Debug)]
pub(super) struct WeightList {
    pub(super) first: FirstNumbers,
    convs: usize,
    denses: usize,
    norms: usize,
    pub(super) weights: Vec<Weight>,
}

impl WeightList {
    pub(super) fn new(first: FirstNumbers) -> WeightList {
        WeightList {
            first,
            convs: 0,
            denses: 0,
            norms: 0,
            weights: Vec::new(),
        }
    }

    /// The next weight, under its full name there.
    pub(super) fn push(&mut self, theirs: String, shape: Vec<i64>, ours: &str, form: Form) {
        self.weights.push(Weight {
            theirs,
            shape,
            ours: Some(ours.to_owned()),
            form,
        });
    }

    /// The table with a row for every t.
    pub(super) fn embedding(&mut self, shape: [i64; 2], ours: Option<&str>, form: Form) {
        self.weights.push(Weight {
            theirs: self.first.weight("embedding", 0, "embeddings:0"),
            shape: shape.to_vec(),
            ours: ours.map(str::to_owned),
            form,
        });
    }

    /// The next dense layer's name, as in `dense_4`.
    pub(super) fn next_dense(&mut self) -> String {
        self.denses += 1;
        self.first.layer("dense", self.denses - 1)
    }

    /// The kernel of the next dense layer.
    pub(super) fn dense(&mut self, ours: &str, shape: [i64; 2], form: Form) {
        let layer = self.next_dense();
        let theirs = format!("{layer}/{layer}/kernel:0");
        self.push(theirs, shape.to_vec(), ours, form);
    }

    /// A dense layer over the channels of each pixel, which is a 1×1 convolution here.
    pub(super) fn shortcut(&mut self, ours: &str, shape: [i64; 2]) {
        let form = Form::Keras {
            output: REGROUP,
            input: REGROUP,
            dense_as_conv: true,
        };
        self.dense(ours, shape, form);
    }

    /// The kernel of the next 3×3 convolution.
    pub(super) fn conv(&mut self, ours: &str, [from, to]: [i64; 2], channels: [Channels; 2]) {
        let theirs = self.first.weight("conv2d", self.convs, "kernel:0");
        self.push(theirs, vec![3, 3, from, to], ours, keras(channels));
        self.convs += 1;
    }

    /// Shift and scale of the next group norm; `ours` is without their names.
    pub(super) fn norm(&mut self, ours: &str, width: i64) {
        for (theirs, part) in [("beta:0", "bias"), ("gamma:0", "weight")] {
            let theirs = self.first.weight("group_norm", self.norms, theirs);
            let form = keras([Channels::Same, REGROUP]);
            self.push(theirs, vec![width], &format!("{ours}.{part}"), form);
        }
        self.norms += 1;
    }
}

/// Checks that the file has exactly these weights.
pub(super) fn check_shapes(keys: &Keys, weights: &[Weight], program: Program) -> Result<()> {
    for weight in weights {
        let becomes = || match &weight.ours {
            Some(ours) => format!("it would be {ours}"),
            None => "it would be the table of time steps".to_owned(),
        };
        let seen = keys.shape(&weight.theirs, weight.shape.len());
        let seen = seen.with_context(becomes)?;
        ensure!(
            seen == weight.shape,
            "tensor {} is {seen:?}, want {:?}: {}",
            weight.theirs,
            weight.shape,
            becomes()
        );
    }
    let known: BTreeSet<&str> = weights.iter().map(|w| w.theirs.as_str()).collect();
    if let Some((extra, _)) = keys.iter().find(|(key, _)| !known.contains(key)) {
        bail!(
            "tensor {extra} has no place in {}'s network",
            program.name()
        );
    }
    Ok(())
}
