//! The network's settings behind the shapes in a file, for any family.

use anyhow::{Result, bail, ensure};

use super::names::{Grid, Names, Place};
use crate::config::{AttentionUNetConfig, Resample};
use crate::interop::{Keys, Report};

/// Groups of the group norms, in all of these families.
const NORM_GROUPS: i64 = 32;
/// Far above any size in a known network, and small enough that sums do not overflow.
const MAX_SIZE: i64 = 1 << 20;

/// The length of a tensor's axis.
///
/// # Errors
/// A missing tensor, another number of dimensions, or a length that no network has.
pub(in crate::interop) fn size(keys: &Keys, key: &str, dims: usize, axis: usize) -> Result<i64> {
    let shape = keys.shape(key, dims)?;
    let size = shape.get(axis).copied().unwrap_or(0);
    ensure!(
        (1..=MAX_SIZE).contains(&size),
        "tensor {key} is {shape:?}; want sizes from 1 to {MAX_SIZE}"
    );
    Ok(size)
}

/// The network's settings, as far as shapes show them. The rest is what most families have: norms of 32
/// groups and epsilon 1e-5, one head, sines first, no dropout; height and width are 0.
///
/// Only a few shapes are read: the caller checks the file against the whole layout.
///
/// # Errors
/// A tensor that is missing or of an impossible shape.
pub(in crate::interop) fn read(
    keys: &Keys,
    names: &Names,
    grid: Grid,
    resample: Resample,
) -> Result<AttentionUNetConfig> {
    let at = |place, part: &str| format!("{}{part}", (names.module)(place, grid));
    let conv_in = at(Place::ConvIn, ".weight");
    let time_in = at(Place::TimeIn, ".weight");
    let conv_out = at(Place::ConvOut, ".weight");
    let (channels, condition_channels) = image_channels(keys, &conv_in, &conv_out)?;
    let widths = (0..grid.levels)
        .map(|level| {
            let place = Place::DownResnet { level, block: 0 };
            width(keys, &at(place, &format!(".{}.weight", names.resnet.conv1)))
        })
        .collect::<Result<Vec<i64>>>()?;
    // Any part will do: an attention without one of them is damaged, not absent.
    let parts = names.attention.parts();
    let has = |place| {
        let mut parts = parts.iter();
        parts.any(|part| keys.any(&at(place, &format!(".{part}."))))
    };
    let levels = || 0..grid.levels;
    let first = Place::DownResnet { level: 0, block: 0 };
    let time_proj = at(first, &format!(".{}.weight", names.resnet.time));
    Ok(AttentionUNetConfig {
        height: 0,
        width: 0,
        channels,
        learned_variance: once_or_twice(keys, &conv_out, 4, channels)?,
        base_width: width(keys, &conv_in)?,
        scale_shift: once_or_twice(keys, &time_proj, 2, widths[0])?,
        widths,
        blocks: i64::try_from(grid.blocks)?,
        attention_down: levels()
            .map(|level| has(Place::DownAttention { level, block: 0 }))
            .collect(),
        attention_up: levels()
            .map(|level| has(Place::UpAttention { level, block: 0 }))
            .collect(),
        mid_attention: true,
        mid_attention_norm: true,
        heads: 1,
        heads_up: None,
        head_channels: None,
        norm_groups: NORM_GROUPS,
        norm_eps: 1e-5,
        resample,
        mid_scale: 1.0,
        time_channels: time_channels(keys, &time_in)?,
        time_width: size(keys, &time_in, 2, 0)?,
        freq_shift: 0,
        cos_first: false,
        time_scale: 1.0,
        classes: None,
        null_class: false,
        condition_channels,
        center_input: false,
        dropout: 0.0,
    })
}

/// Reports the settings read from the shapes.
pub(in crate::interop) fn note(model: &AttentionUNetConfig, report: &mut Report) {
    let levels = |on: &[bool]| -> Vec<usize> { (0..on.len()).filter(|&i| on[i]).collect() };
    let mut fact = |what: &str, value: String| report.fact(what, value, "shapes");
    fact("channels", model.channels.to_string());
    if let Some(condition) = model.condition_channels {
        fact("channels of an image beside it", condition.to_string());
    }
    fact("base width", model.base_width.to_string());
    fact("widths", format!("{:?}", model.widths));
    fact("blocks per level", model.blocks.to_string());
    let (down, up) = (levels(&model.attention_down), levels(&model.attention_up));
    fact("attention, way down", format!("levels {down:?}"));
    fact("attention, way up", format!("levels {up:?}"));
    fact("learned variance", model.learned_variance.to_string());
    fact("time scales and shifts", model.scale_shift.to_string());
    fact("time channels", model.time_channels.to_string());
    fact("time width", model.time_width.to_string());
}

/// Channels of an image, and of the image beside it in a network of super-resolution: then the first layer takes two, and the
/// last one makes one.
fn image_channels(keys: &Keys, conv_in: &str, conv_out: &str) -> Result<(i64, Option<i64>)> {
    let inputs = size(keys, conv_in, 4, 1)?;
    let made = size(keys, conv_out, 4, 0)?;
    match inputs {
        1 | 3 => Ok((inputs, None)),
        2 | 6 if made == inputs / 2 || made == inputs => Ok((inputs / 2, Some(inputs / 2))),
        _ => bail!(
            "tensor {conv_in} takes {inputs} channels, want 3 (RGB) or 1 (grey), or twice as many for a network that is given \
             a small image beside the noisy one; latent networks are not supported"
        ),
    }
}

fn width(keys: &Keys, conv: &str) -> Result<i64> {
    let width = size(keys, conv, 4, 0)?;
    ensure!(
        width % NORM_GROUPS == 0,
        "tensor {conv} has {width} output channels, want a multiple of {NORM_GROUPS}: the norms have \
         {NORM_GROUPS} groups"
    );
    Ok(width)
}

fn time_channels(keys: &Keys, time_in: &str) -> Result<i64> {
    let channels = size(keys, time_in, 2, 1)?;
    ensure!(
        channels >= 4 && channels % 2 == 0,
        "tensor {time_in} takes {channels} channels, want an even number of at least 4: half are sines"
    );
    Ok(channels)
}

/// True if a weight has twice `once` rows, false if `once`; other numbers are refused.
fn once_or_twice(keys: &Keys, key: &str, dims: usize, once: i64) -> Result<bool> {
    let rows = size(keys, key, dims, 0)?;
    ensure!(
        rows == once || rows == 2 * once,
        "tensor {key} has {rows} rows, want {once} or {}",
        2 * once
    );
    Ok(rows != once)
}
