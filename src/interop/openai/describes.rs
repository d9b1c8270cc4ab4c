//! The networks of our own training that OpenAI's code has too.

use anyhow::{Result, ensure};

use crate::checkpoint::{AttentionOrder, Family, Origin};
use crate::config::{AttentionUNetConfig, Resample};
use crate::interop::settings::spelled;

/// The arrangement of such a network in OpenAI's files: that of improved-diffusion, and of guided-diffusion by default.
///
/// # Errors
/// A setting that their code does not have, named.
pub(in crate::interop) fn origin_for(
    model: &AttentionUNetConfig,
    timesteps: i64,
) -> Result<Origin> {
    let m = model;
    let scaled = 1000.0 / timesteps as f64;
    let theirs = [
        (
            "norm_groups",
            spelled(&m.norm_groups),
            m.norm_groups == 32,
            "32",
        ),
        ("norm_eps", spelled(&m.norm_eps), m.norm_eps == 1e-5, "1e-5"),
        ("freq_shift", spelled(&m.freq_shift), m.freq_shift == 0, "0"),
        ("cos_first", spelled(&m.cos_first), m.cos_first, "true"),
        (
            "time_channels",
            spelled(&m.time_channels),
            m.time_channels == m.base_width,
            "the base width",
        ),
        (
            "time_width",
            spelled(&m.time_width),
            m.time_width == 4 * m.base_width,
            "four times the base width",
        ),
        (
            "time_scale",
            spelled(&m.time_scale),
            m.time_scale == 1.0 || (m.time_scale - scaled).abs() < 1e-9,
            "1, or 1000 / T",
        ),
        (
            "resample",
            spelled(&m.resample),
            m.resample != Resample::ConvAsymmetric,
            "conv or resnet",
        ),
        (
            "attention_up",
            spelled(&m.attention_up),
            m.attention_up == m.attention_down,
            "the levels of attention_down",
        ),
        (
            "mid_attention",
            spelled(&m.mid_attention),
            m.mid_attention,
            "true",
        ),
        (
            "mid_attention_norm",
            spelled(&m.mid_attention_norm),
            m.mid_attention_norm,
            "true",
        ),
        ("mid_scale", spelled(&m.mid_scale), m.mid_scale == 1.0, "1"),
        (
            "center_input",
            spelled(&m.center_input),
            !m.center_input,
            "false",
        ),
    ];
    for (setting, seen, ok, want) in theirs {
        ensure!(
            ok,
            "model.{setting} = {seen} cannot be written in the layout of {}, whose networks all have {want}",
            Family::Openai
        );
    }
    Ok(Origin {
        attention_order: Some(AttentionOrder::Legacy),
        ..Origin::new(Family::Openai)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{ModelConfig, Preset};

    #[test]
    fn networks_that_their_code_has_are_described_and_others_refused_by_name() {
        let of = |preset: Preset| {
            let config = preset.config();
            let ModelConfig::UnetAttention(mut model) = config.model else {
                panic!("another network");
            };
            (model.classes, model.null_class) = (Some(10), true);
            origin_for(&model, config.diffusion.timesteps)
        };
        let origin = of(Preset::ImprovedCifar10).unwrap();
        assert_eq!(origin.attention_order, Some(AttentionOrder::Legacy));
        let error = of(Preset::DdpmCifar10).unwrap_err().to_string();
        assert!(error.contains("model.norm_eps = 1e-6"), "{error}");
    }
}
