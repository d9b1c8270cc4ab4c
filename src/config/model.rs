//! Settings of the networks, one struct per kind.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use super::model_keras::{ConcatUNetConfig, GauConfig};

/// A network's settings; `kind` in a file names the variant.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum ModelConfig {
    /// Keras-DDPM's simplified U-Net.
    Unet(UNetConfig),
    /// The U-Net of Ho et al. and of most public checkpoints.
    UnetAttention(AttentionUNetConfig),
    /// The U-Net of `denoising-diffusion-pytorch`.
    Lucidrains(LucidrainsConfig),
    /// Keras-DDPM's U-Net with concatenated skips.
    UnetConcat(ConcatUNetConfig),
    /// Keras-DDPM's Gated Attention Units over patches.
    Gau(GauConfig),
}

/// Kinds of networks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum ModelKind {
    /// Keras-DDPM's simplified U-Net: skips are added, no attention.
    Unet,
    /// Ho et al.'s U-Net, as in most public checkpoints: skips are concatenated, attention at low resolutions.
    UnetAttention,
    /// The U-Net of lucidrains' denoising-diffusion-pytorch: linear attention at every level.
    Lucidrains,
    /// Keras-DDPM's other U-Net: norms first, skips are concatenated, no attention.
    UnetConcat,
    /// Keras-DDPM's Gated Attention Units over patches: no convolutions.
    Gau,
}

/// How activations are normalised.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Norm {
    /// Group norm.
    Group,
    /// Layer norm over all channels and pixels of an image.
    Layer,
    /// Instance norm: one group per channel.
    Instance,
    /// Batch norm; always refused, with the reason.
    #[value(hide = true)]
    Batch,
}

/// Embeddings of the time step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum TimeEmbedding {
    /// Trainable table with a row for every t.
    Trainable,
    /// Fixed sines and cosines.
    Sinusoidal,
}

/// The simplified U-Net.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UNetConfig {
    /// Height of an image, in pixels.
    pub height: i64,
    /// Width of an image, in pixels.
    pub width: i64,
    /// 3 (RGB) or 1 (grey).
    pub channels: i64,
    /// Channels of the first level, and length of the time embedding.
    pub base_width: i64,
    /// Channels of each level, as multiples of `base_width`.
    pub multipliers: Vec<i64>,
    /// Residual blocks per level, on the way down and on the way up.
    pub blocks: i64,
    /// A level with a shorter side this small is not pooled.
    pub min_pixel: i64,
    /// Normalisation at the end of each block.
    pub norm: Norm,
    /// Groups of `Norm::Group`.
    pub norm_groups: i64,
    /// Added to the variance.
    pub norm_eps: f64,
    /// Time embedding.
    pub time_embedding: TimeEmbedding,
    /// Number of classes of a class-conditional network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub classes: Option<i64>,
    /// One more class, whose number is `classes`, means that there is none.
    #[serde(default, skip_serializing_if = "super::classes::is_false")]
    pub null_class: bool,
    /// Channels of the image that the network is given beside x_t, for super-resolution; none for others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub condition_channels: Option<i64>,
    /// Dropout inside the residual blocks.
    pub dropout: f64,
}

/// One resolution of the simplified U-Net.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Level {
    /// Channels of its blocks.
    pub width: i64,
    /// True if a 2×2 pooling follows on the way down.
    pub pools: bool,
}

impl UNetConfig {
    /// The levels from the full resolution downwards.
    pub fn levels(&self) -> Vec<Level> {
        let mut side = self.height.min(self.width);
        self.multipliers
            .iter()
            .map(|m| {
                let pools = side > self.min_pixel;
                if pools {
                    side /= 2;
                }
                Level {
                    width: m * self.base_width,
                    pools,
                }
            })
            .collect()
    }

    /// Groups of a normalisation over `channels` channels.
    pub fn groups_of(&self, channels: i64) -> i64 {
        match self.norm {
            Norm::Group => self.norm_groups,
            Norm::Layer => 1,
            Norm::Instance | Norm::Batch => channels,
        }
    }
}

/// How the U-Net with attention halves and doubles its feature maps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Resample {
    /// Down: 3×3 convolution of stride 2, padded by 1 all around. Up: nearest, then 3×3 convolution.
    Conv,
    /// As `conv`, but padded by 1 on the right and at the bottom only, as Ho et al.'s TensorFlow does.
    ConvAsymmetric,
    /// Residual blocks with 2×2 average pooling, or nearest upsampling, inside.
    Resnet,
}

/// The U-Net with attention: what Ho et al., OpenAI and diffusers' `UNet2DModel` have in common.
///
/// Levels are counted from the full resolution (0) downwards, on both ways.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AttentionUNetConfig {
    /// Height of an image, in pixels.
    pub height: i64,
    /// Width of an image, in pixels.
    pub width: i64,
    /// 3 (RGB) or 1 (grey).
    pub channels: i64,
    /// The output has twice the channels; the second half is the learned variance (interpolation coefficient).
    pub learned_variance: bool,
    /// Channels after the first convolution.
    pub base_width: i64,
    /// Channels of each level.
    pub widths: Vec<i64>,
    /// Residual blocks per level on the way down; there is one more on the way up.
    pub blocks: i64,
    /// Levels whose blocks on the way down are followed by attention.
    pub attention_down: Vec<bool>,
    /// Levels whose blocks on the way up are followed by attention.
    pub attention_up: Vec<bool>,
    /// Attention between the two middle blocks.
    pub mid_attention: bool,
    /// The middle attention normalises its input.
    pub mid_attention_norm: bool,
    /// Attention heads, where `head_channels` is not set.
    pub heads: i64,
    /// Attention heads on the way up, where they differ.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub heads_up: Option<i64>,
    /// Channels of one attention head; more channels then make more heads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub head_channels: Option<i64>,
    /// Groups of the group norms.
    pub norm_groups: i64,
    /// Added to the variance in the norms.
    pub norm_eps: f64,
    /// The time embedding scales and shifts the second norm's output instead of being added before it.
    pub scale_shift: bool,
    /// How feature maps are halved and doubled.
    pub resample: Resample,
    /// Divisor of the middle blocks' sums.
    pub mid_scale: f64,
    /// Length of the sinusoidal embedding.
    pub time_channels: i64,
    /// Length of the time embedding that enters the blocks.
    pub time_width: i64,
    /// Subtracted from half of `time_channels` where the frequencies are spaced: 0 or 1.
    pub freq_shift: i64,
    /// Cosines before sines.
    pub cos_first: bool,
    /// t is multiplied by this before it is embedded.
    pub time_scale: f64,
    /// Number of classes of a class-conditional network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub classes: Option<i64>,
    /// One more class, whose number is `classes`, means that there is none.
    #[serde(default, skip_serializing_if = "super::classes::is_false")]
    pub null_class: bool,
    /// Channels of the image that the network is given beside x_t, for super-resolution; none for others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub condition_channels: Option<i64>,
    /// x becomes 2 x - 1 first.
    pub center_input: bool,
    /// Dropout inside the residual blocks.
    pub dropout: f64,
}

impl AttentionUNetConfig {
    /// Attention heads over `channels` channels, on the way up or elsewhere.
    pub fn heads_of(&self, channels: i64, up: bool) -> i64 {
        match (self.head_channels, self.heads_up) {
            (Some(each), _) => channels / each.max(1),
            (None, Some(heads)) if up => heads,
            (None, _) => self.heads,
        }
    }
}

/// Normalisation in lucidrains' blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LucidrainsNorm {
    /// Group norm over 8 groups: versions 1.x.
    Group,
    /// L2 norm over the channels: version 2.0 and later.
    Rms,
}

/// The two U-Nets of lucidrains' package.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LucidrainsStructure {
    /// That of its main file: attention has trained keys and values, and pixels become channels where an image is
    /// halved.
    #[default]
    Main,
    /// That of `classifier_free_guidance.py`: no trained keys and values, linear attention at every level, softmax
    /// attention in the middle, and images halved by convolutions of 4×4 pixels.
    ClassifierFreeGuidance,
}

impl LucidrainsStructure {
    fn is_main(&self) -> bool {
        *self == LucidrainsStructure::Main
    }
}

/// lucidrains' U-Net. Lists are per level, from the full resolution downwards.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LucidrainsConfig {
    /// Height of an image, in pixels.
    pub height: i64,
    /// Width of an image, in pixels.
    pub width: i64,
    /// 3 (RGB) or 1 (grey).
    pub channels: i64,
    /// The output has twice the channels; the second half is the learned variance (interpolation coefficient).
    pub learned_variance: bool,
    /// `dim`: unit of the levels' widths, and length of the sinusoidal embedding.
    pub base_width: i64,
    /// `init_dim`: channels after the first convolution.
    pub init_width: i64,
    /// `dim_mults`.
    pub multipliers: Vec<i64>,
    /// Attention heads; the middle attention has as many as the last level.
    pub heads: Vec<i64>,
    /// Channels of one attention head.
    pub head_channels: Vec<i64>,
    /// Levels with softmax attention; the others have linear attention.
    pub full_attention: Vec<bool>,
    /// Normalisation in the residual blocks.
    pub norm: LucidrainsNorm,
    /// The package's file that its structure is of.
    #[serde(default, skip_serializing_if = "LucidrainsStructure::is_main")]
    pub structure: LucidrainsStructure,
    /// Number of classes of a class-conditional network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub classes: Option<i64>,
    /// One more class, whose number is `classes`, means that there is none.
    #[serde(default, skip_serializing_if = "super::classes::is_false")]
    pub null_class: bool,
    /// Channels of the image that the network is given beside x_t, for super-resolution; none for others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub condition_channels: Option<i64>,
    /// Dropout inside the residual blocks.
    pub dropout: f64,
}

impl ModelConfig {
    /// Kind of the network.
    pub fn kind(&self) -> ModelKind {
        match self {
            ModelConfig::Unet(_) => ModelKind::Unet,
            ModelConfig::UnetAttention(_) => ModelKind::UnetAttention,
            ModelConfig::Lucidrains(_) => ModelKind::Lucidrains,
            ModelConfig::UnetConcat(_) => ModelKind::UnetConcat,
            ModelConfig::Gau(_) => ModelKind::Gau,
        }
    }

    /// Shape of one image, `[C, H, W]`.
    pub fn chw(&self) -> [i64; 3] {
        match self {
            ModelConfig::Unet(m) => [m.channels, m.height, m.width],
            ModelConfig::UnetAttention(m) => [m.channels, m.height, m.width],
            ModelConfig::Lucidrains(m) => [m.channels, m.height, m.width],
            ModelConfig::UnetConcat(m) => [m.channels, m.height, m.width],
            ModelConfig::Gau(m) => [m.channels, m.height, m.width],
        }
    }

    /// Sets the shape of an image.
    pub fn set_chw(&mut self, [c, h, w]: [i64; 3]) {
        let (channels, height, width) = match self {
            ModelConfig::Unet(m) => (&mut m.channels, &mut m.height, &mut m.width),
            ModelConfig::UnetAttention(m) => (&mut m.channels, &mut m.height, &mut m.width),
            ModelConfig::Lucidrains(m) => (&mut m.channels, &mut m.height, &mut m.width),
            ModelConfig::UnetConcat(m) => (&mut m.channels, &mut m.height, &mut m.width),
            ModelConfig::Gau(m) => (&mut m.channels, &mut m.height, &mut m.width),
        };
        (*channels, *height, *width) = (c, h, w);
    }

    /// The number that divides both sides of an image: a factor of 2 for every halving, or a patch's side.
    pub fn size_factor(&self) -> i64 {
        let halvings = match self {
            ModelConfig::Unet(m) => m.levels().iter().filter(|l| l.pools).count(),
            ModelConfig::UnetAttention(m) => m.widths.len().saturating_sub(1),
            ModelConfig::Lucidrains(m) => m.multipliers.len().saturating_sub(1),
            ModelConfig::UnetConcat(m) => m.multipliers.len().saturating_sub(1),
            ModelConfig::Gau(m) => return m.patch.max(1),
        };
        1 << halvings.min(62)
    }

    /// True if the network predicts the variance of the reverse steps.
    pub fn learned_variance(&self) -> bool {
        match self {
            ModelConfig::Unet(_) | ModelConfig::UnetConcat(_) | ModelConfig::Gau(_) => false,
            ModelConfig::UnetAttention(m) => m.learned_variance,
            ModelConfig::Lucidrains(m) => m.learned_variance,
        }
    }

    /// True if the network computes its sines and cosines of any t; others have a row of a table for each time step.
    pub fn takes_any_t(&self) -> bool {
        matches!(
            self,
            ModelConfig::UnetAttention(_) | ModelConfig::Lucidrains(_)
        )
    }

    /// Lower bound on the number of parameters: the second convolutions of the widest level, or the first linear
    /// maps of all layers.
    pub fn least_parameters(&self) -> i128 {
        let (widest, blocks) = match self {
            ModelConfig::Unet(m) => {
                let widths = m.levels().into_iter().map(|l| l.width);
                (widths.max(), m.blocks)
            }
            ModelConfig::UnetAttention(m) => (m.widths.iter().copied().max(), m.blocks),
            ModelConfig::Lucidrains(m) => {
                let widths = m.multipliers.iter().map(|k| k.saturating_mul(m.base_width));
                (widths.max(), 1)
            }
            ModelConfig::UnetConcat(m) => {
                let widths = m.multipliers.iter().map(|k| k.saturating_mul(m.base_width));
                (widths.max(), m.blocks)
            }
            ModelConfig::Gau(m) => {
                let rows = 2 * i128::from(m.units) + i128::from(m.key_width);
                return i128::from(m.layers) * i128::from(m.base_width) * rows;
            }
        };
        let widest = i128::from(widest.unwrap_or(0));
        widest * widest * 9 * i128::from(blocks)
    }

    /// Sets the dropout inside the residual blocks or layers.
    pub fn set_dropout(&mut self, dropout: f64) {
        match self {
            ModelConfig::Unet(m) => m.dropout = dropout,
            ModelConfig::UnetAttention(m) => m.dropout = dropout,
            ModelConfig::Lucidrains(m) => m.dropout = dropout,
            ModelConfig::UnetConcat(m) => m.dropout = dropout,
            ModelConfig::Gau(m) => m.dropout = dropout,
        }
    }

    /// The settings of a simplified U-Net.
    ///
    /// # Panics
    /// For another network.
    pub fn unet_mut(&mut self) -> &mut UNetConfig {
        match self {
            ModelConfig::Unet(m) => m,
            other => panic!("{:?} is no simplified U-Net", other.kind()),
        }
    }
}
