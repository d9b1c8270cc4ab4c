//! `config.json` of a `UNet2DModel`, read as our settings.
//!
//! Every knob that changes the network is understood or refused by name. A missing knob has the
//! default of `UNet2DModel.__init__`: old files lack the newer ones. Knobs that the class does not
//! have, such as those of the EMA, change nothing and are ignored.

use anyhow::{Result, ensure};
use serde_json::Value;

use super::knobs::Knobs;
use super::params::parameters;
use crate::config::{AttentionUNetConfig, MAX_SIDE, Resample, sides_wanted};

/// The file, in messages.
pub(super) const FILE: &str = "config.json";
/// The class that is read and written.
pub(super) const CLASS: &str = "UNet2DModel";

/// Most parameters that are accepted: 40 GB in single precision.
const MAX_PARAMETERS: i64 = 10_000_000_000;

/// The settings that a `config.json` describes, and true if it contains the size of an image; without
/// one, the smallest possible size stands in.
///
/// # Errors
/// A file of another class than `UNet2DModel`, or a knob not supported here, named with its value.
pub(super) fn parse(text: &str) -> Result<(AttentionUNetConfig, bool)> {
    let knobs = Knobs::parse(FILE, text)?;
    refuse_other_networks(&knobs)?;
    let levels = Levels::read(&knobs)?;
    let first = levels.widths[0];
    let scale_shift = scale_shift(&knobs)?;
    let norm_groups = norm_groups(&knobs, &levels.widths)?;
    let (channels, learned_variance, condition_channels) = channels(&knobs)?;
    let (size, size_known) = size(&knobs, levels.widths.len())?;
    let model = AttentionUNetConfig {
        height: size.0,
        width: size.1,
        channels,
        learned_variance,
        base_width: first,
        blocks: knobs.int("layers_per_block", 2, 1..=64)?,
        mid_attention: knobs.flag("add_attention", true)?,
        mid_attention_norm: mid_attention_norm(&knobs, norm_groups, scale_shift)?,
        heads: 1,
        heads_up: None,
        head_channels: head_channels(&knobs, &levels)?,
        norm_groups,
        norm_eps: knobs.positive("norm_eps", 1e-5)?,
        scale_shift,
        resample: levels.resample,
        mid_scale: knobs.positive("mid_block_scale_factor", 1.0)?,
        time_channels: first,
        time_width: time_width(&knobs, first)?,
        freq_shift: freq_shift(&knobs, first)?,
        cos_first: knobs.flag("flip_sin_to_cos", true)?,
        time_scale: 1.0,
        classes: knobs.optional_int("num_class_embeds", 1..=1_000_000)?,
        null_class: false,
        condition_channels,
        center_input: knobs.flag("center_input_sample", false)?,
        dropout: dropout(&knobs)?,
        widths: levels.widths,
        attention_down: levels.attention_down,
        attention_up: levels.attention_up,
    };
    let total: i64 = parameters(&model)
        .iter()
        .map(|(_, shape)| shape.iter().product::<i64>())
        .sum();
    ensure!(
        total <= MAX_PARAMETERS,
        "{FILE} describes a network of {total} parameters, want at most {MAX_PARAMETERS}"
    );
    Ok((model, size_known))
}

/// The class in `_class_name`, of a network or of anything else that diffusers saves.
///
/// # Errors
/// Not a JSON object.
pub(super) fn class_of(text: &str) -> Result<Option<String>> {
    let knobs = Knobs::parse(FILE, text)?;
    let class = knobs.get("_class_name").and_then(Value::as_str);
    Ok(class.map(str::to_owned))
}

fn refuse_other_networks(knobs: &Knobs) -> Result<()> {
    let refuse = |ok: bool, knob: &str, wanted: &str| {
        ensure!(ok, knobs.refused(knob, wanted));
        Ok(())
    };
    refuse(
        knobs.word("_class_name", "")? == CLASS,
        "_class_name",
        "want UNet2DModel, the only diffusers network that is read",
    )?;
    let act_fn = knobs.word("act_fn", "silu")?.to_lowercase();
    refuse(
        matches!(act_fn.as_str(), "silu" | "swish"),
        "act_fn",
        "want silu (also called swish); no other activation is built in",
    )?;
    refuse(
        knobs.word("time_embedding_type", "positional")? == "positional",
        "time_embedding_type",
        "want positional; random Fourier features and learned tables are not built in",
    )?;
    refuse(
        !knobs.is_set("class_embed_type"),
        "class_embed_type",
        "want null: classes are read from num_class_embeds alone",
    )?;
    let middle = knobs.get("mid_block_type");
    refuse(
        middle.is_none_or(|v| v == "UNetMidBlock2D"),
        "mid_block_type",
        "want UNetMidBlock2D; a network without a middle block is not built in",
    )
}

/// Channels of an image, true for a learned variance, and the channels of an image beside it: then the network takes two
/// images, and makes one.
fn channels(knobs: &Knobs) -> Result<(i64, bool, Option<i64>)> {
    let inputs = knobs.int("in_channels", 3, 1..=1_000_000)?;
    let made = knobs.int("out_channels", 3, 1..=1_000_000)?;
    let (channels, condition) = match inputs {
        1 | 3 => (inputs, None),
        2 | 6 if made == inputs / 2 || made == inputs => (inputs / 2, Some(inputs / 2)),
        _ => {
            return Err(knobs.refused(
                "in_channels",
                "want 3 (colour) or 1 (grey), or twice as many for a network that is given a small image beside the noisy \
                 one; latent networks and more channels are not read",
            ));
        }
    };
    ensure!(
        made == channels || made == 2 * channels,
        knobs.refused(
            "out_channels",
            format!(
                "want {channels} as in_channels, or {} for a learned variance",
                2 * channels
            )
        )
    );
    Ok((channels, made == 2 * channels, condition))
}

fn scale_shift(knobs: &Knobs) -> Result<bool> {
    match knobs.word("resnet_time_scale_shift", "default")? {
        "default" => Ok(false),
        "scale_shift" => Ok(true),
        _ => Err(knobs.refused(
            "resnet_time_scale_shift",
            "want default or scale_shift; the others are not built in",
        )),
    }
}

fn norm_groups(knobs: &Knobs, widths: &[i64]) -> Result<i64> {
    let groups = knobs.int("norm_num_groups", 32, 1..=MAX_WIDTH)?;
    let odd = widths.iter().find(|w| *w % groups != 0);
    ensure!(
        odd.is_none(),
        knobs.refused(
            "norm_num_groups",
            format!("must divide every width, such as {}", odd.unwrap_or(&0))
        )
    );
    Ok(groups)
}

/// True if the middle attention normalises: with `scale_shift` only where a number of groups is given.
fn mid_attention_norm(knobs: &Knobs, norm_groups: i64, scale_shift: bool) -> Result<bool> {
    let groups = knobs.optional_int("attn_norm_num_groups", 1..=MAX_WIDTH)?;
    ensure!(
        groups.is_none_or(|g| g == norm_groups),
        knobs.refused(
            "attn_norm_num_groups",
            format!(
                "want null, or {norm_groups} as norm_num_groups: all norms have the same number of groups"
            )
        )
    );
    Ok(groups.is_some() || !scale_shift)
}

fn head_channels(knobs: &Knobs, levels: &Levels) -> Result<Option<i64>> {
    // Missing means 8 and null means one head: the two differ.
    if knobs.get("attention_head_dim").is_some_and(Value::is_null) {
        return Ok(None);
    }
    let each = knobs.int("attention_head_dim", 8, 1..=MAX_WIDTH)?;
    let middle = knobs.flag("add_attention", true)?;
    let last = levels.widths.len() - 1;
    for (level, width) in levels.widths.iter().enumerate() {
        let attends =
            levels.attention_down[level] || levels.attention_up[level] || (level == last && middle);
        ensure!(
            !attends || width % each == 0,
            knobs.refused(
                "attention_head_dim",
                format!("must divide the width of every level with attention, such as {width}")
            )
        );
    }
    Ok(Some(each))
}

fn time_width(knobs: &Knobs, first: i64) -> Result<i64> {
    // Python treats 0 as "not given" too.
    let given = knobs.optional_int("time_embedding_dim", 0..=4 * MAX_WIDTH)?;
    Ok(given.filter(|&w| w > 0).unwrap_or(4 * first))
}

fn freq_shift(knobs: &Knobs, first: i64) -> Result<i64> {
    let shift = knobs.int("freq_shift", 0, 0..=1)?;
    ensure!(
        first / 2 > shift,
        knobs.refused(
            "freq_shift",
            format!("must be less than half of the first width, {first}")
        )
    );
    Ok(shift)
}

fn dropout(knobs: &Knobs) -> Result<f64> {
    let dropout = knobs.float("dropout", 0.0)?;
    ensure!(
        (0.0..1.0).contains(&dropout),
        knobs.refused("dropout", "want 0 <= dropout < 1")
    );
    Ok(dropout)
}

/// Height and width of an image, and true if the file contains them.
fn size(knobs: &Knobs, levels: usize) -> Result<((i64, i64), bool)> {
    let factor = 1 << (levels - 1);
    let sides = match knobs.get("sample_size") {
        None | Some(Value::Null) => return Ok(((factor, factor), false)),
        Some(Value::Array(_)) => knobs.ints("sample_size", &[], 1..=MAX_SIDE)?,
        Some(_) => vec![knobs.int("sample_size", 0, 1..=MAX_SIDE)?; 2],
    };
    let &[height, width] = sides.as_slice() else {
        return Err(knobs.refused("sample_size", "want a number, or [height, width]"));
    };
    ensure!(
        height % factor == 0 && width % factor == 0,
        knobs.refused("sample_size", sides_wanted(factor))
    );
    Ok(((height, width), true))
}

const MAX_WIDTH: i64 = 16_384;
const MAX_LEVELS: usize = 14;

/// The lists of block types, level by level from the full resolution downwards.
struct Levels {
    widths: Vec<i64>,
    attention_down: Vec<bool>,
    attention_up: Vec<bool>,
    resample: Resample,
}

impl Levels {
    fn read(knobs: &Knobs) -> Result<Levels> {
        let widths = widths(knobs)?;
        let down = blocks(knobs, &DOWN, widths.len())?;
        let mut up = blocks(knobs, &UP, widths.len())?;
        // The file lists the way up from the lowest resolution.
        up.reverse();
        Ok(Levels {
            attention_down: down.iter().map(|b| *b == Block::Attention).collect(),
            attention_up: up.iter().map(|b| *b == Block::Attention).collect(),
            resample: resample(knobs, &down, &up)?,
            widths,
        })
    }
}

fn widths(knobs: &Knobs) -> Result<Vec<i64>> {
    let widths = knobs.ints("block_out_channels", &[224, 448, 672, 896], 1..=MAX_WIDTH)?;
    ensure!(
        (1..=MAX_LEVELS).contains(&widths.len()),
        knobs.refused(
            "block_out_channels",
            format!("want 1 to {MAX_LEVELS} widths")
        )
    );
    ensure!(
        widths[0] % 2 == 0,
        knobs.refused(
            "block_out_channels",
            "want an even first width: half of the time embedding is sines"
        )
    );
    Ok(widths)
}

/// One entry of `down_block_types` or `up_block_types`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Block {
    Plain,
    Attention,
    Resnet,
}

/// The way down or up through the levels, as the file spells it.
struct Way {
    knob: &'static str,
    types: [(&'static str, Block); 3],
    default: [&'static str; 4],
    resampling: &'static str,
}

const DOWN: Way = Way {
    knob: "down_block_types",
    types: [
        ("DownBlock2D", Block::Plain),
        ("AttnDownBlock2D", Block::Attention),
        ("ResnetDownsampleBlock2D", Block::Resnet),
    ],
    default: [
        "DownBlock2D",
        "AttnDownBlock2D",
        "AttnDownBlock2D",
        "AttnDownBlock2D",
    ],
    resampling: "downsample_type",
};

const UP: Way = Way {
    knob: "up_block_types",
    types: [
        ("UpBlock2D", Block::Plain),
        ("AttnUpBlock2D", Block::Attention),
        ("ResnetUpsampleBlock2D", Block::Resnet),
    ],
    default: [
        "AttnUpBlock2D",
        "AttnUpBlock2D",
        "AttnUpBlock2D",
        "UpBlock2D",
    ],
    resampling: "upsample_type",
};

/// The blocks of one way, in the file's order.
fn blocks(knobs: &Knobs, way: &Way, levels: usize) -> Result<Vec<Block>> {
    let names = knobs.words(way.knob, &way.default)?;
    ensure!(
        names.len() == levels,
        knobs.refused(
            way.knob,
            format!("want {levels} types, as block_out_channels has {levels} widths")
        )
    );
    names
        .iter()
        .map(|name| {
            // diffusers drops this prefix of its first versions too.
            let name = name.strip_prefix("UNetRes").unwrap_or(name);
            let found = way.types.iter().find(|(known, _)| *known == name);
            found.map(|(_, block)| *block).ok_or_else(|| {
                let known: Vec<_> = way.types.iter().map(|(known, _)| *known).collect();
                knobs.refused(
                    way.knob,
                    format!("{name:?} is not built in, want {}", known.join(", ")),
                )
            })
        })
        .collect()
}

/// The resampling of all levels: one kind for the whole network, on which the block types and the two
/// `…sample_type` knobs must agree. Both lists run from the full resolution downwards.
fn resample(knobs: &Knobs, down: &[Block], up: &[Block]) -> Result<Resample> {
    let last = down.len() - 1;
    // The lowest level is not halved, and the first one not doubled.
    let halved = down[..last].iter().map(|b| (&DOWN, *b));
    let doubled = up[1..].iter().map(|b| (&UP, *b));
    let mut seen: Option<bool> = None;
    for (way, block) in halved.chain(doubled) {
        let resnet = by_resnet(knobs, way, block)?;
        ensure!(
            *seen.get_or_insert(resnet) == resnet,
            "{}; {}; {}; {}: some levels are resampled by convolutions and others by residual blocks, \
             and this program has one kind for all levels",
            knobs.shown(DOWN.knob),
            knobs.shown(DOWN.resampling),
            knobs.shown(UP.knob),
            knobs.shown(UP.resampling)
        );
    }
    if seen == Some(true) {
        return Ok(Resample::Resnet);
    }
    match knobs.int("downsample_padding", 1, 0..=1)? {
        0 => Ok(Resample::ConvAsymmetric),
        _ => Ok(Resample::Conv),
    }
}

/// True if a residual block resamples after `block`; only the attention blocks read the knob.
fn by_resnet(knobs: &Knobs, way: &Way, block: Block) -> Result<bool> {
    match block {
        Block::Plain => Ok(false),
        Block::Resnet => Ok(true),
        Block::Attention if !knobs.is_set(way.resampling) => Ok(false),
        Block::Attention => match knobs.word(way.resampling, "conv")? {
            "conv" => Ok(false),
            "resnet" => Ok(true),
            _ => Err(knobs.refused(way.resampling, "want conv or resnet")),
        },
    }
}

#[cfg(test)]
mod tests;
