//! `ddpm2.py`'s U-Net: norms before convolutions, concatenated skips.
//!
//! The layers of a block are created in the order: shortcut if any, first norm and convolution, time projection,
//! second norm and convolution. On the way up the blocks' inputs are concatenated with skips and therefore wider
//! than the output before, so the kernels show where the way up begins, and with it levels and blocks.

use anyhow::{Result, ensure};

use super::assume_groups;
use super::check_width;
use super::colours;
use super::image_side;
use super::numbers::{self, FirstNumbers};
use super::poolings::Poolings;
use super::weights::{REGROUP, Weight, WeightList, check_shapes, keras};
use super::{NORM_EPS, NORM_GROUPS, Program};
use crate::config::{BlockWidths, ConcatUNetConfig, ModelConfig, sides_wanted};
use crate::interop::hints::Hints;
use crate::interop::keys::Keys;
use crate::interop::layout::{Channels, Form};
use crate::interop::report::Report;

/// Kinds of layers that have weights.
const KINDS: [&str; 4] = ["embedding", "conv2d", "dense", "group_norm"];

/// Most levels that are accepted.
const MOST_LEVELS: usize = 16;

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
    let found = Found::read(keys)?;
    let model = found.model()?;
    let weights = weights(&model, found.timesteps, keys)?;
    check_shapes(keys, &weights, Program::Ddpm2)?;
    check_poolings(&model, layers)?;
    ensure!(
        hints.blocks.is_none_or(|hint| hint == model.blocks),
        "blocks = {}: the file has {} blocks per level; leave blocks out",
        hints.blocks.unwrap_or_default(),
        model.blocks
    );
    report.fact("blocks", model.blocks, "inputs of the convolutions");
    report.fact("timesteps", found.timesteps, "rows of the embedding");
    report.fact("base width", found.base_width, "columns of the embedding");
    let multipliers = format!("{:?}", model.multipliers);
    report.fact("multipliers", multipliers, "widths of the convolutions");
    assume_groups(Program::Ddpm2, report);
    let model = ConcatUNetConfig {
        dropout: hints.dropout.unwrap_or(0.0),
        ..with_size(model, hints, report)?
    };
    Ok((ModelConfig::UnetConcat(model), found.timesteps))
}

/// Every weight of a network, with the numbers that the layers in `keys` have.
///
/// # Errors
/// A kind of layer is missing in `keys`.
pub(super) fn weights(
    config: &ConcatUNetConfig,
    timesteps: i64,
    keys: &Keys,
) -> Result<Vec<Weight>> {
    let (base, wide) = (config.base_width, config.time_width());
    let mut list = WeightList::new(FirstNumbers::of(keys, &KINDS)?);
    let table = Form::SineTable {
        timesteps,
        dim: base,
    };
    list.embedding([timesteps, base], None, table);
    for (name, from) in [("linear_1", base), ("linear_2", wide)] {
        let name = format!("time_embedding.{name}.weight");
        list.dense(&name, [from, wide], keras([Channels::Same; 2]));
    }
    let colours = [config.channels, base];
    list.conv("conv_in.weight", colours, [Channels::Reverse, REGROUP]);

    let plan = config.plan();
    let name = |way: &str, level: usize, b: usize| format!("{way}.{level}.{b}");
    for (level, blocks) in plan.down.iter().enumerate() {
        for (b, &widths) in blocks.iter().enumerate() {
            block(&mut list, &name("down", level, b), wide, widths);
        }
    }
    block(&mut list, "mid", wide, plan.mid);
    for (level, blocks) in plan.up.iter().enumerate() {
        for (b, &widths) in blocks.iter().enumerate() {
            block(&mut list, &name("up", level, b), wide, widths);
        }
    }
    list.norm("norm_out", plan.out);
    let colours = [plan.out, config.channels];
    list.conv("conv_out.weight", colours, [REGROUP, Channels::Reverse]);
    Ok(list.weights)
}

/// A concatenated input is regrouped like any other: its interleaved groups hold the channels of our contiguous ones.
fn block(list: &mut WeightList, name: &str, time_width: i64, widths: BlockWidths) {
    let BlockWidths { from, to } = widths;
    if from != to {
        list.shortcut(&format!("{name}.shortcut.weight"), [from, to]);
    }
    list.norm(&format!("{name}.norm1"), from);
    list.conv(&format!("{name}.conv1.weight"), [from, to], [REGROUP; 2]);
    let time_proj = format!("{name}.time_proj.weight");
    list.dense(
        &time_proj,
        [time_width, to],
        keras([Channels::Same, REGROUP]),
    );
    list.norm(&format!("{name}.norm2"), to);
    list.conv(&format!("{name}.conv2.weight"), [to, to], [REGROUP; 2]);
}

/// The settings behind the shapes.
struct Found {
    timesteps: i64,
    channels: i64,
    base_width: i64,
    /// Each residual block's channels, in the order of the network.
    blocks: Vec<BlockWidths>,
}

impl Found {
    fn read(keys: &Keys) -> Result<Found> {
        let first = FirstNumbers::of(keys, &KINDS)?;
        let table = keys.shape(&first.weight("embedding", 0, "embeddings:0"), 2)?;
        let conv = |n: usize| keys.shape(&first.weight("conv2d", n, "kernel:0"), 4);
        let (timesteps, base_width) = (table[0], table[1]);
        check_width(base_width, NORM_GROUPS, "the embedding of t")?;
        // Two norms a block and one at the end.
        let norms = numbers::count(keys, "group_norm", "gamma:0");
        ensure!(
            norms >= 9 && norms % 2 == 1,
            "{norms} group norms, want an odd number of 9 or more, as ddpm2.py's network has"
        );
        let mut blocks = Vec::new();
        for block in 0..norms / 2 {
            let kernel = conv(1 + 2 * block)?;
            let (from, to) = (kernel[2], kernel[3]);
            check_width(to, base_width, &format!("block {block}"))?;
            blocks.push(BlockWidths { from, to });
        }
        Ok(Found {
            timesteps,
            channels: colours(conv(0)?[2])?,
            base_width,
            blocks,
        })
    }

    /// The network without its images' size: with L levels of b blocks there are L b blocks on the way
    /// down, one in the middle, and L (b + 1) with concatenated inputs.
    fn model(&self) -> Result<ConcatUNetConfig> {
        let mut before = self.base_width;
        let mut plain = 0;
        for block in &self.blocks {
            plain += usize::from(block.from == before);
            before = block.to;
        }
        let joined = self.blocks.len() - plain;
        let levels = (joined + 1).saturating_sub(plain);
        ensure!(
            (1..=MOST_LEVELS).contains(&levels) && plain > 1 && (plain - 1) % levels == 0,
            "{plain} residual blocks with the output before as input and {joined} with a wider input; want \
             b and one more of the latter for each of 1 to {MOST_LEVELS} levels, and one of the former in \
             the middle"
        );
        let blocks = (plain - 1) / levels;
        let down = self.blocks[..plain - 1].iter().step_by(blocks);
        Ok(ConcatUNetConfig {
            height: 0,
            width: 0,
            channels: self.channels,
            base_width: self.base_width,
            multipliers: down.map(|block| block.to / self.base_width).collect(),
            blocks: blocks as i64,
            norm_groups: NORM_GROUPS,
            norm_eps: NORM_EPS,
            classes: None,
            null_class: false,
            condition_channels: None,
            dropout: 0.0,
        })
    }
}

/// Refuses a list of layers, if the file has one, that halves the image at other places.
fn check_poolings(model: &ConcatUNetConfig, layers: &[String]) -> Result<()> {
    let Some(poolings) = Poolings::of(layers) else {
        return Ok(());
    };
    let levels = model.multipliers.len() as i64;
    let wanted: Vec<i64> = (1..levels).map(|level| 2 * level * model.blocks).collect();
    ensure!(
        poolings.after == wanted,
        "it pools after the norms {:?}; its kernels are those of {levels} levels of {} blocks, which pool \
         after the norms {wanted:?}",
        poolings.after,
        model.blocks
    );
    Ok(())
}

/// The model with its images' size, on which no weight depends.
fn with_size(
    model: ConcatUNetConfig,
    hints: &Hints,
    report: &mut Report,
) -> Result<ConcatUNetConfig> {
    let about = "side of the images it was trained on; ddpm2.py as published: 128";
    let Some(side) = image_side(about, hints, report)? else {
        return Ok(model);
    };
    let factor = 1_i64 << (model.multipliers.len() - 1);
    ensure!(
        side % factor == 0,
        "image_size = {side}: {}",
        sides_wanted(factor)
    );
    Ok(ConcatUNetConfig {
        height: side,
        width: side,
        ..model
    })
}

#[cfg(test)]
mod tests;
