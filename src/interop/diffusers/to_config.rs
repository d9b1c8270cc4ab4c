//! Our settings as `config.json` of a `UNet2DModel`; settings that class lacks are refused by name.

use std::fmt::Display;

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use super::VERSION;
use super::config::CLASS;
use crate::config::{AttentionUNetConfig, Resample, class_rows, input_channels};

/// The contents of `config.json`.
///
/// # Errors
/// A setting that `UNet2DModel` does not have, named with its value.
pub(crate) fn to_config(m: &AttentionUNetConfig) -> Result<Value> {
    refuse_what_they_lack(m)?;
    let resnet = m.resample == Resample::Resnet;
    let down = blocks(
        m,
        &m.attention_down,
        ["AttnDownBlock2D", "DownBlock2D", "ResnetDownsampleBlock2D"],
    );
    let mut up = blocks(
        m,
        &m.attention_up,
        ["AttnUpBlock2D", "UpBlock2D", "ResnetUpsampleBlock2D"],
    );
    // They list the way up from the lowest resolution.
    up.reverse();
    let resample_type = if resnet { "resnet" } else { "conv" };
    Ok(json!({
        "_class_name": CLASS,
        "_diffusers_version": VERSION,
        "act_fn": "silu",
        "add_attention": m.mid_attention,
        "attention_head_dim": head_channels(m)?,
        "attn_norm_num_groups": (m.scale_shift && m.mid_attention_norm).then_some(m.norm_groups),
        "block_out_channels": m.widths,
        "center_input_sample": m.center_input,
        "class_embed_type": null,
        "down_block_types": down,
        "downsample_padding": i64::from(m.resample != Resample::ConvAsymmetric),
        "downsample_type": resample_type,
        "dropout": m.dropout,
        "flip_sin_to_cos": m.cos_first,
        "freq_shift": m.freq_shift,
        "in_channels": input_channels(m.channels, m.condition_channels),
        "layers_per_block": m.blocks,
        "mid_block_scale_factor": m.mid_scale,
        "mid_block_type": "UNetMidBlock2D",
        "norm_eps": m.norm_eps,
        "norm_num_groups": m.norm_groups,
        "num_class_embeds": class_rows(m.classes, m.null_class),
        "num_train_timesteps": null,
        "out_channels": m.channels * if m.learned_variance { 2 } else { 1 },
        "resnet_time_scale_shift": if m.scale_shift { "scale_shift" } else { "default" },
        "sample_size": sample_size(m),
        "time_embedding_dim": (m.time_width != 4 * m.base_width).then_some(m.time_width),
        "time_embedding_type": "positional",
        "up_block_types": up,
        "upsample_type": resample_type,
    }))
}

fn refuse_what_they_lack(m: &AttentionUNetConfig) -> Result<()> {
    let levels = m.widths.len();
    let whole = levels > 0 && m.attention_down.len() == levels && m.attention_up.len() == levels;
    refuse(
        whole,
        "widths",
        format!("{:?}", m.widths),
        "want one width per level, and attention_down and attention_up of the same length",
    )?;
    let first = m.widths[0];
    refuse(
        m.base_width == first,
        "base_width",
        m.base_width,
        format!("its first convolution is as wide as its first level, {first}"),
    )?;
    refuse(
        m.time_channels == first,
        "time_channels",
        m.time_channels,
        format!("the length of its sinusoidal embedding is the width of its first level, {first}"),
    )?;
    refuse(
        m.time_scale == 1.0,
        "time_scale",
        m.time_scale,
        "it embeds t unscaled",
    )?;
    refuse(
        m.mid_attention_norm || m.scale_shift || !m.mid_attention,
        "mid_attention_norm",
        m.mid_attention_norm,
        "its middle attention lacks a norm only where scale_shift is on",
    )
}

fn refuse(ok: bool, setting: &str, seen: impl Display, reason: impl Display) -> Result<()> {
    ensure!(
        ok,
        "model.{setting} = {seen} cannot be written for diffusers' {CLASS}: {reason}"
    );
    Ok(())
}

/// Block types from the full resolution downwards; `names` with attention, plain, resampled by
/// residual blocks.
fn blocks(
    m: &AttentionUNetConfig,
    attention: &[bool],
    names: [&'static str; 3],
) -> Vec<&'static str> {
    let plain = names[if m.resample == Resample::Resnet { 2 } else { 1 }];
    attention
        .iter()
        .map(|attends| if *attends { names[0] } else { plain })
        .collect()
}

/// Their single `attention_head_dim`: channels per head, or none for one head everywhere.
fn head_channels(m: &AttentionUNetConfig) -> Result<Option<i64>> {
    let lowest = m.widths.len() - 1;
    let mut places = Vec::new();
    for (level, &width) in m.widths.iter().enumerate() {
        if m.attention_down[level] || (level == lowest && m.mid_attention) {
            places.push((width, m.heads_of(width, false)));
        }
        if m.attention_up[level] {
            places.push((width, m.heads_of(width, true)));
        }
    }
    for &(width, heads) in &places {
        refuse(
            heads > 0 && width % heads == 0,
            "heads",
            heads,
            format!("they must divide the {width} channels of an attention"),
        )?;
    }
    if m.head_channels.is_some() {
        return Ok(m.head_channels);
    }
    if places.iter().all(|&(_, heads)| heads == 1) {
        return Ok(None);
    }
    let mut sizes: Vec<i64> = places.iter().map(|(width, heads)| width / heads).collect();
    sizes.sort_unstable();
    sizes.dedup();
    let heads = match m.heads_up {
        Some(up) if up != m.heads => format!("{} (heads_up = {up})", m.heads),
        _ => m.heads.to_string(),
    };
    refuse(
        sizes.len() == 1,
        "heads",
        heads,
        format!(
            "its attention_head_dim is one number for all levels, and these levels have heads of {} channels",
            sizes
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
                .join(" and ")
        ),
    )?;
    Ok(sizes.first().copied())
}

/// One number for a square, as older versions want it.
fn sample_size(m: &AttentionUNetConfig) -> Value {
    if m.height == m.width {
        json!(m.height)
    } else {
        json!([m.height, m.width])
    }
}
