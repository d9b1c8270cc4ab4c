//! `ddpm-gau.py`'s gated attention units over patches.
//!
//! A unit's dense layers and its two scales with shifts continue the network's own numbers, and are stored
//! below it in the file.

use anyhow::{Context, Result, ensure};

use super::image_side;
use super::numbers::{self, FirstNumbers};
use super::weights::{Weight, WeightList, check_shapes, keras};
use super::{MOST_WIDTH, Program};
use crate::config::{GauConfig, ModelConfig};
use crate::interop::hints::Hints;
use crate::interop::keys::Keys;
use crate::interop::layout::{Channels, Form};
use crate::interop::report::Report;

/// Largest patch that is accepted, in pixels.
const MOST_PATCH: i64 = 128;
/// Epsilon of all norms, Keras's.
const NORM_EPS: f64 = 1e-7;

/// Kinds of layers that have weights.
const UNIT: &str = "gated_attention_unit";
const SCALE_OFFSET: &str = "scale_offset";
const NORM: &str = "layer_normalization";
const KINDS: [&str; 5] = ["embedding", "dense", NORM, UNIT, SCALE_OFFSET];

/// The network and T.
///
/// # Errors
/// Weights that do not fit together, or hints that contradict the file.
pub(super) fn infer(keys: &Keys, hints: &Hints, report: &mut Report) -> Result<(ModelConfig, i64)> {
    let (model, timesteps) = read(keys)?;
    check_shapes(keys, &weights(&model, timesteps, keys)?, Program::Gau)?;
    ensure!(
        hints.blocks.is_none(),
        "blocks has no meaning for a network without levels; leave blocks out"
    );
    report.fact("timesteps", timesteps, "rows of the embedding");
    report.fact("base width", model.base_width, "columns of the embedding");
    report.fact("patch", model.patch, "rows of the first kernel");
    report.fact("layers", model.layers, "gated attention units");
    report.fact("units", model.units, "kernels of the units");
    report.fact("key width", model.key_width, "scales of the units");
    report.assume(format!(
        "units have swish and softmax, norms subtract no mean and have eps {NORM_EPS:e}, rotary positions have \
         the base 1000, fixed in ddpm-gau.py"
    ));
    let model = GauConfig {
        dropout: hints.dropout.unwrap_or(0.0),
        ..with_size(model, hints, report)?
    };
    Ok((ModelConfig::Gau(model), timesteps))
}

/// Every weight of a network, with the numbers that the layers in `keys` have.
///
/// # Errors
/// A kind of layer is missing in `keys`.
pub(super) fn weights(config: &GauConfig, timesteps: i64, keys: &Keys) -> Result<Vec<Weight>> {
    let (width, values) = (config.base_width, config.patch_values());
    let pixels = Channels::Pixels {
        colours: config.channels,
    };
    let mut list = WeightList::new(FirstNumbers::of(keys, &KINDS)?);
    let form = keras([pixels, Channels::Same]);
    list.dense("patch_in.weight", [values, width], form);
    list.embedding(
        [timesteps, width],
        Some("time_embedding.weight"),
        Form::Same,
    );
    for layer in 0..config.layers {
        unit(&mut list, layer as usize, config);
    }
    norm(&mut list, config.layers as usize, "norm_out", width);
    let form = keras([Channels::Same, pixels]);
    list.dense("patch_out.weight", [width, values], form);
    Ok(list.weights)
}

fn norm(list: &mut WeightList, n: usize, ours: &str, width: i64) {
    let theirs = list.first.weight(NORM, n, "gamma:0");
    list.push(theirs, vec![width], &format!("{ours}.weight"), Form::Same);
}

fn unit(list: &mut WeightList, n: usize, config: &GauConfig) {
    let ours = format!("layers.{n}");
    let (width, units, key) = (config.base_width, config.units, config.key_width);
    norm(list, n, &format!("{ours}.norm"), width);
    linear(
        list,
        n,
        &format!("{ours}.in_proj"),
        [width, 2 * units + key],
    );
    for (i, affine) in ["q_affine", "k_affine"].iter().enumerate() {
        let layer = list.first.layer(SCALE_OFFSET, 2 * n + i);
        for (theirs, part) in [("beta:0", "bias"), ("gamma:0", "weight")] {
            let theirs = within(list, n, &format!("{layer}/{theirs}"));
            let ours = format!("{ours}.{affine}.{part}");
            list.push(theirs, vec![key], &ours, Form::Same);
        }
    }
    linear(list, n, &format!("{ours}.out_proj"), [units, width]);
}

/// The next dense layer, in the n-th unit: kernel and bias.
fn linear(list: &mut WeightList, n: usize, ours: &str, [from, to]: [i64; 2]) {
    let layer = list.next_dense();
    let kernel = within(list, n, &format!("{layer}/kernel:0"));
    let form = keras([Channels::Same; 2]);
    list.push(kernel, vec![from, to], &format!("{ours}.weight"), form);
    let bias = within(list, n, &format!("{layer}/bias:0"));
    list.push(bias, vec![to], &format!("{ours}.bias"), Form::Same);
}

/// The path of a weight in the n-th unit.
fn within(list: &WeightList, n: usize, weight: &str) -> String {
    list.first.weight(UNIT, n, weight)
}

/// The settings behind the shapes: the network without its images' size, and T.
fn read(keys: &Keys) -> Result<(GauConfig, i64)> {
    let first = FirstNumbers::of(keys, &KINDS)?;
    let table = keys.shape(&first.weight("embedding", 0, "embeddings:0"), 2)?;
    let (timesteps, base_width) = (table[0], table[1]);
    let values = keys.shape(&first.weight("dense", 0, "kernel:0"), 2)?[0];
    let (channels, patch) = patch_of(values)?;
    // A norm before each unit and one at the end.
    let norms = numbers::count(keys, NORM, "gamma:0");
    ensure!(
        norms >= 2,
        "{norms} norms, want one before each gated attention unit and one at the end"
    );
    let kernel = |n: usize| {
        let dense = first.layer("dense", n);
        keys.shape(&first.weight(UNIT, 0, &format!("{dense}/kernel:0")), 2)
    };
    // [base_width, 2 units + key_width] and [units, base_width]
    let (joined, units) = (kernel(1)?[1], kernel(2)?[0]);
    let believed = 1..=MOST_WIDTH;
    ensure!(
        believed.contains(&base_width) && believed.contains(&units),
        "{base_width} channels between the units and {units} in them, want 1 to {MOST_WIDTH}"
    );
    ensure!(
        joined > 2 * units && joined <= 2 * units + MOST_WIDTH,
        "a unit's first kernel has {joined} columns, want more than twice the {units} rows of its second"
    );
    let model = GauConfig {
        height: 0,
        width: 0,
        channels,
        patch,
        base_width,
        layers: norms as i64 - 1,
        units,
        key_width: joined - 2 * units,
        norm_eps: NORM_EPS,
        classes: None,
        null_class: false,
        condition_channels: None,
        dropout: 0.0,
    };
    Ok((model, timesteps))
}

/// Colours of an image and side of a patch, whose product of colours and pixels is `values`: no square
/// number is three times another.
fn patch_of(values: i64) -> Result<(i64, i64)> {
    let side = |colours: i64| {
        let side = (values / colours).max(0).isqrt();
        ((1..=MOST_PATCH).contains(&side) && colours * side * side == values)
            .then_some((colours, side))
    };
    side(3).or_else(|| side(1)).with_context(|| {
        format!(
            "the first kernel reads {values} values of a patch, want the pixels of a square of up to {MOST_PATCH} \
             pixels, in 3 colours (BGR) or 1"
        )
    })
}

/// The model with its images' size, on which no weight depends.
fn with_size(model: GauConfig, hints: &Hints, report: &mut Report) -> Result<GauConfig> {
    let about = "side of the images it was trained on; ddpm-gau.py as published: 128";
    let Some(side) = image_side(about, hints, report)? else {
        return Ok(model);
    };
    ensure!(
        side % model.patch == 0,
        "image_size = {side}: want a multiple of the {0} pixels of a patch",
        model.patch
    );
    Ok(GauConfig {
        height: side,
        width: side,
        ..model
    })
}

#[cfg(test)]
mod tests;
