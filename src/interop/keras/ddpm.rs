//! `ddpm.py`'s simplified U-Net.
//!
//! The layers of a block are created in the order: shortcut if any, time projection, two convolutions, norm.
//! Kernels do not show how the blocks are split into levels: each width on the way up is the width
//! before on the way down, whatever the poolings. The file's list of layers shows it, with its poolings
//! between the norms.

use anyhow::{Result, ensure};

use super::assume_groups;
use super::check_width;
use super::colours;
use super::image_side;
use super::numbers::{self, FirstNumbers};
use super::poolings::Poolings;
use super::weights::{REGROUP, Weight, WeightList, check_shapes, keras};
use super::{NORM_EPS, NORM_GROUPS, Program};
use crate::config::{ModelConfig, Norm, TimeEmbedding, UNetConfig};
use crate::interop::hints::Hints;
use crate::interop::keys::Keys;
use crate::interop::layout::{Channels, Form};
use crate::interop::report::Report;

/// `min_pixel` of `ddpm.py`: a level with this side is not pooled.
pub(super) const MIN_PIXEL: i64 = 4;

/// Kinds of layers that have weights.
const KINDS: [&str; 4] = ["embedding", "conv2d", "dense", "group_norm"];

/// The network and T.
///
/// # Errors
/// Weights that do not fit together, or hints that contradict the file.
pub(super) fn infer(
    keys: &Keys,
    layers: &[String],
    hints: &Hints,
    report: &mut Report,
) -> Result<(ModelConfig, i64)> {
    let found = Found::read(keys, &FirstNumbers::of(keys, &KINDS)?)?;
    let poolings = Poolings::of(layers);
    let blocks = infer_blocks(&found, poolings.as_ref(), hints, report)?;
    let model = UNetConfig {
        height: 0,
        width: 0,
        channels: found.channels,
        base_width: found.base_width,
        multipliers: found.multipliers(blocks),
        blocks,
        min_pixel: MIN_PIXEL,
        norm: Norm::Group,
        norm_groups: NORM_GROUPS,
        norm_eps: NORM_EPS,
        time_embedding: TimeEmbedding::Trainable,
        classes: None,
        null_class: false,
        condition_channels: None,
        dropout: hints.dropout.unwrap_or(0.0),
    };
    let weights = weights(&model, found.timesteps, keys)?;
    check_shapes(keys, &weights, Program::Ddpm)?;
    report.fact("timesteps", found.timesteps, "rows of the embedding");
    report.fact("base width", found.base_width, "columns of the embedding");
    let multipliers = format!("{:?}", model.multipliers);
    report.fact("multipliers", multipliers, "widths of the convolutions");
    assume_groups(Program::Ddpm, report);
    let model = with_size(model, poolings.as_ref(), hints, report)?;
    Ok((ModelConfig::Unet(model), found.timesteps))
}

/// Every weight of a network, with the numbers that the layers in `keys` have.
///
/// # Errors
/// A kind of layer is missing in `keys`.
pub(super) fn weights(config: &UNetConfig, timesteps: i64, keys: &Keys) -> Result<Vec<Weight>> {
    let base = config.base_width;
    let mut list = WeightList::new(FirstNumbers::of(keys, &KINDS)?);
    list.embedding([timesteps, base], Some("time_embedding.weight"), Form::Same);
    list.conv(
        "conv_in.weight",
        [config.channels, base],
        [Channels::Reverse, REGROUP],
    );

    let blocks = config.blocks.max(1) as usize;
    let widths = config.multipliers.iter().map(|m| m * base);
    let down: Vec<i64> = widths.flat_map(|w| vec![w; blocks]).collect();
    let mut width = base;
    for (n, &to) in down.iter().enumerate() {
        let name = format!("down.{}.{}", n / blocks, n % blocks);
        block(&mut list, &name, base, &mut width, to);
    }
    let deepest = width;
    block(&mut list, "mid", base, &mut width, deepest);
    // Skips join one place late: each block on the way up is as wide as what came before its
    // counterpart on the way down.
    let before = [base].into_iter().chain(down.iter().copied());
    let up: Vec<i64> = before.take(down.len()).collect();
    for (n, &to) in up.iter().rev().enumerate() {
        let name = format!("up.{}.{}", n / blocks, n % blocks);
        block(&mut list, &name, base, &mut width, to);
    }
    list.norm("norm_out", width);
    list.conv(
        "conv_out.weight",
        [width, config.channels],
        [REGROUP, Channels::Reverse],
    );
    Ok(list.weights)
}

fn block(list: &mut WeightList, name: &str, time_width: i64, width: &mut i64, to: i64) {
    let from = std::mem::replace(width, to);
    if from != to {
        list.shortcut(&format!("{name}.shortcut.weight"), [from, to]);
    }
    let time_proj = format!("{name}.time_proj.weight");
    list.dense(
        &time_proj,
        [time_width, from],
        keras([Channels::Same, REGROUP]),
    );
    list.conv(&format!("{name}.conv1.weight"), [from, to], [REGROUP; 2]);
    list.conv(&format!("{name}.conv2.weight"), [to, to], [REGROUP; 2]);
    list.norm(&format!("{name}.norm"), to);
}

/// The settings behind the shapes.
struct Found {
    timesteps: i64,
    channels: i64,
    base_width: i64,
    /// Width of each block on the way down, at least one.
    down: Vec<i64>,
}

impl Found {
    fn read(keys: &Keys, first: &FirstNumbers) -> Result<Found> {
        let table = keys.shape(&first.weight("embedding", 0, "embeddings:0"), 2)?;
        let conv = |n: usize| keys.shape(&first.weight("conv2d", n, "kernel:0"), 4);
        let (timesteps, base_width) = (table[0], table[1]);
        let channels = colours(conv(0)?[2])?;
        check_width(base_width, NORM_GROUPS, "the embedding of t")?;
        // One norm a block and one at the end; as many blocks up as down and one between.
        let norms = numbers::count(keys, "group_norm", "gamma:0");
        ensure!(
            norms >= 4 && norms.is_multiple_of(2),
            "{norms} group norms, want an even number of 4 or more, as ddpm.py's network has"
        );
        let down = (0..norms / 2 - 1).map(|block| Ok(conv(1 + 2 * block)?[3]));
        let down = down.collect::<Result<Vec<i64>>>()?;
        for (block, &width) in down.iter().enumerate() {
            check_width(width, base_width, &format!("block {block}"))?;
        }
        Ok(Found {
            timesteps,
            channels,
            base_width,
            down,
        })
    }

    /// The numbers of blocks per level that split the way down into levels of one width.
    fn possible_blocks(&self) -> Vec<i64> {
        let even = |blocks: &usize| {
            self.down.len().is_multiple_of(*blocks)
                && (self.down.chunks(*blocks)).all(|level| level.iter().all(|w| *w == level[0]))
        };
        let possible = (1..=self.down.len()).filter(even);
        possible.map(|blocks| blocks as i64).collect()
    }

    fn multipliers(&self, blocks: i64) -> Vec<i64> {
        let widths = self.down.iter().step_by(blocks.max(1) as usize);
        widths.map(|width| width / self.base_width).collect()
    }
}

fn infer_blocks(
    found: &Found,
    poolings: Option<&Poolings>,
    hints: &Hints,
    report: &mut Report,
) -> Result<i64> {
    let possible = found.possible_blocks();
    let choices: Vec<String> = (possible.iter())
        .map(|&blocks| format!("{blocks} (multipliers {:?})", found.multipliers(blocks)))
        .collect();
    let choices = choices.join(", ");
    let stored = poolings.map(Poolings::even).transpose()?;
    let blocks = match (stored, &possible[..]) {
        (Some(stored), _) => {
            report.fact(
                "blocks",
                stored,
                "norms before the first pooling in layer_names",
            );
            stored
        }
        (None, [only]) => {
            report.fact("blocks", only, "widths of the convolutions");
            *only
        }
        (None, _) => {
            let about = format!(
                "residual blocks per level; the weights fit {choices}. ddpm.py as published has 2"
            );
            report.need(&hints.blocks, "--blocks N", &about, possible[0])
        }
    };
    ensure!(
        possible.contains(&blocks),
        "blocks = {blocks}: this does not fit the weights; want one of: {choices}"
    );
    ensure!(
        hints.blocks.is_none_or(|hint| hint == blocks),
        "blocks = {}: the file has {blocks} blocks per level; leave blocks out",
        hints.blocks.unwrap_or_default()
    );
    Ok(blocks)
}

/// The model with its images' size, on which no weight depends.
fn with_size(
    model: UNetConfig,
    poolings: Option<&Poolings>,
    hints: &Hints,
    report: &mut Report,
) -> Result<UNetConfig> {
    let about = "side of the images it was trained on, which also decides how often it pools \
                 (no level of 4 pixels is pooled); ddpm.py as published: 128";
    let Some(side) = image_side(about, hints, report)? else {
        return Ok(model);
    };
    let model = UNetConfig {
        height: side,
        width: side,
        ..model
    };
    let pools = model.levels().iter().filter(|level| level.pools).count();
    let stored = poolings.map_or(pools, |poolings| poolings.after.len());
    ensure!(
        pools == stored,
        "image_size = {side}: this network would pool {pools} times, the file has {stored} poolings; \
         give the size it was trained on"
    );
    Ok(model)
}

#[cfg(test)]
mod tests;
