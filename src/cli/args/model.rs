//! Flags for the settings of the network.

use anyhow::{Result, bail};
use clap::Args;

use super::values::{Size, set};
use crate::config::{
    AttentionUNetConfig, ConcatUNetConfig, GauConfig, ModelConfig, ModelKind, Norm, Resample,
    RunConfig, TimeEmbedding, UNetConfig,
};

#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Network")]
pub(in crate::cli) struct ModelArgs {
    /// Network
    #[arg(long, value_enum)]
    model: Option<ModelKind>,
    /// Image size: 128, or 96x128 (height x width)
    #[arg(long, value_name = "PIXELS")]
    size: Option<Size>,
    /// 3 (colour) or 1 (grey)
    #[arg(long, value_name = "N", hide_short_help = true)]
    channels: Option<i64>,
    /// Channels of the first level, or of a patch embedding (gau)
    #[arg(long, value_name = "N", hide_short_help = true)]
    base_width: Option<i64>,
    /// Channels of each level as multiples of --base-width, for example 1,2,2 (not gau)
    #[arg(
        long,
        value_name = "N,…",
        value_delimiter = ',',
        hide_short_help = true
    )]
    multipliers: Option<Vec<i64>>,
    /// Residual blocks per level (unet, unet-attention, unet-concat)
    #[arg(long, value_name = "N", hide_short_help = true)]
    blocks: Option<i64>,
    /// Number of groups in group norms (unet, unet-attention, unet-concat)
    #[arg(long, value_name = "N", hide_short_help = true)]
    norm_groups: Option<i64>,
    /// Dropout rate in the residual blocks or layers
    #[arg(long, value_name = "P", hide_short_help = true)]
    dropout: Option<f64>,
    /// unet: no pooling of feature maps whose shorter side is this small
    #[arg(long, value_name = "PIXELS", hide_short_help = true)]
    min_pixel: Option<i64>,
    /// unet: normalisation
    #[arg(long, value_enum, hide_short_help = true)]
    norm: Option<Norm>,
    /// unet: time embedding
    #[arg(long, value_enum, hide_short_help = true)]
    time_embedding: Option<TimeEmbedding>,
    /// unet-attention: sides of the feature maps with attention, for example 16,8
    #[arg(
        long,
        value_name = "PIXELS,…",
        value_delimiter = ',',
        hide_short_help = true
    )]
    attention: Option<Vec<i64>>,
    /// unet-attention: number of attention heads
    #[arg(long, value_name = "N", hide_short_help = true)]
    heads: Option<i64>,
    /// unet-attention: channels per attention head, instead of --heads
    #[arg(
        long,
        value_name = "N",
        conflicts_with = "heads",
        hide_short_help = true
    )]
    head_channels: Option<i64>,
    /// unet-attention: scale-shift norm (adaptive group norm) for the time embedding
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", require_equals = true, hide_possible_values = true, hide_short_help = true)]
    scale_shift: Option<bool>,
    /// unet-attention: downsampling and upsampling layers
    #[arg(long, value_enum, hide_short_help = true)]
    resample: Option<Resample>,
    /// unet-attention: the network predicts variances too (sample with --sigma learned)
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", require_equals = true, hide_possible_values = true, hide_short_help = true)]
    learned_variance: Option<bool>,
    /// gau: side length of a patch
    #[arg(long, value_name = "PIXELS", hide_short_help = true)]
    patch: Option<i64>,
    /// gau: number of Gated Attention Units
    #[arg(long, value_name = "N", hide_short_help = true)]
    layers: Option<i64>,
}

impl ModelArgs {
    /// Replaces the settings that flags are given for.
    ///
    /// # Errors
    /// A flag that belongs to another kind of network.
    pub(in crate::cli) fn apply(&self, config: &mut RunConfig) -> Result<()> {
        let model = &mut config.model;
        if let Some(kind) = self.model.filter(|k| *k != model.kind()) {
            *model = kind.config(model.chw());
        }
        let [mut channels, mut height, mut width] = model.chw();
        if let Some(size) = self.size {
            (height, width) = (size.height, size.width);
        }
        set(&mut channels, &self.channels);
        model.set_chw([channels, height, width]);
        if let Some(dropout) = self.dropout {
            model.set_dropout(dropout);
        }
        self.refuse_others(model.kind())?;
        match model {
            ModelConfig::Unet(m) => self.apply_unet(m),
            ModelConfig::UnetAttention(m) => self.apply_attention(m),
            ModelConfig::UnetConcat(m) => self.apply_concat(m),
            ModelConfig::Gau(m) => self.apply_gau(m),
            ModelConfig::Lucidrains(m) => {
                if let Some(base) = self.base_width {
                    (m.base_width, m.init_width) = (base, base);
                }
                if let Some(multipliers) = &self.multipliers {
                    let levels = multipliers.len();
                    m.multipliers.clone_from(multipliers);
                    m.heads.resize(levels, m.heads[0]);
                    m.head_channels.resize(levels, m.head_channels[0]);
                    m.full_attention = (0..levels).map(|i| i + 1 == levels).collect();
                }
            }
        }
        Ok(())
    }

    fn refuse_others(&self, kind: ModelKind) -> Result<()> {
        use ModelKind::{Gau, Lucidrains, Unet, UnetAttention, UnetConcat};
        let levels: &[ModelKind] = &[Unet, UnetAttention, UnetConcat, Lucidrains];
        let blocks: &[ModelKind] = &[Unet, UnetAttention, UnetConcat];
        let attention: &[ModelKind] = &[UnetAttention];
        let flags: [(&str, bool, &[ModelKind]); 14] = [
            ("--multipliers", self.multipliers.is_some(), levels),
            ("--blocks", self.blocks.is_some(), blocks),
            ("--norm-groups", self.norm_groups.is_some(), blocks),
            ("--min-pixel", self.min_pixel.is_some(), &[Unet]),
            ("--norm", self.norm.is_some(), &[Unet]),
            ("--time-embedding", self.time_embedding.is_some(), &[Unet]),
            ("--attention", self.attention.is_some(), attention),
            ("--heads", self.heads.is_some(), attention),
            ("--head-channels", self.head_channels.is_some(), attention),
            ("--scale-shift", self.scale_shift.is_some(), attention),
            ("--resample", self.resample.is_some(), attention),
            (
                "--learned-variance",
                self.learned_variance.is_some(),
                attention,
            ),
            ("--patch", self.patch.is_some(), &[Gau]),
            ("--layers", self.layers.is_some(), &[Gau]),
        ];
        for (flag, given, kinds) in flags {
            if given && !kinds.contains(&kind) {
                let kinds: Vec<String> = kinds.iter().map(|k| k.name()).collect();
                bail!(
                    "{flag} is a setting of {}, and this network is {}; leave it out, or choose another --model",
                    kinds.join(" and "),
                    kind.name()
                );
            }
        }
        Ok(())
    }

    fn apply_unet(&self, m: &mut UNetConfig) {
        set(&mut m.base_width, &self.base_width);
        set(&mut m.multipliers, &self.multipliers);
        set(&mut m.blocks, &self.blocks);
        set(&mut m.min_pixel, &self.min_pixel);
        set(&mut m.norm, &self.norm);
        set(&mut m.norm_groups, &self.norm_groups);
        set(&mut m.time_embedding, &self.time_embedding);
    }

    fn apply_concat(&self, m: &mut ConcatUNetConfig) {
        set(&mut m.base_width, &self.base_width);
        set(&mut m.multipliers, &self.multipliers);
        set(&mut m.blocks, &self.blocks);
        set(&mut m.norm_groups, &self.norm_groups);
    }

    fn apply_gau(&self, m: &mut GauConfig) {
        if let Some(base) = self.base_width {
            (m.base_width, m.units) = (base, base.saturating_mul(2));
        }
        set(&mut m.patch, &self.patch);
        set(&mut m.layers, &self.layers);
    }

    fn apply_attention(&self, m: &mut AttentionUNetConfig) {
        let old_base = m.base_width.max(1);
        let base = self.base_width.unwrap_or(m.base_width);
        m.widths = match &self.multipliers {
            Some(multipliers) => multipliers.iter().map(|k| k.saturating_mul(base)).collect(),
            None => m.widths.iter().map(|w| w * base / old_base).collect(),
        };
        if let Some(base) = self.base_width {
            (m.base_width, m.time_channels, m.time_width) = (base, base, base.saturating_mul(4));
        }
        set(&mut m.blocks, &self.blocks);
        set(&mut m.norm_groups, &self.norm_groups);
        set(&mut m.scale_shift, &self.scale_shift);
        set(&mut m.resample, &self.resample);
        set(&mut m.learned_variance, &self.learned_variance);
        if let Some(heads) = self.heads {
            (m.heads, m.head_channels) = (heads, None);
        }
        if self.head_channels.is_some() {
            m.head_channels = self.head_channels;
        }
        let levels = m.widths.len();
        m.attention_down.resize(levels, false);
        if let Some(sides) = &self.attention {
            let side = m.height.min(m.width);
            m.attention_down = (0..levels).map(|i| sides.contains(&(side >> i))).collect();
        }
        if self.attention.is_some() || self.multipliers.is_some() {
            m.attention_up = m.attention_down.clone();
        }
    }
}
