//! Settings that a file leaves open and the user may know.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::checkpoint::{AttentionOrder, Family};
use crate::config::{Prediction, ScheduleKind, Sigma};

/// Settings that a file leaves open. On the command line each is a flag: `num_heads` is `--num-heads`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Hints {
    /// A public file whose settings are known.
    pub known: Option<Known>,
    /// Attention heads.
    pub num_heads: Option<i64>,
    /// Attention heads on the way up, if different.
    pub num_heads_upsample: Option<i64>,
    /// Channels per attention head (instead of `num_heads`).
    pub head_channels: Option<i64>,
    /// Order of the rows of a fused query-key-value weight.
    pub attention_order: Option<AttentionOrder>,
    /// Noise schedule.
    pub schedule: Option<ScheduleKind>,
    /// Number of time steps T.
    pub timesteps: Option<i64>,
    /// True if the network saw t · 1000 / T.
    pub rescale_timesteps: Option<bool>,
    /// The quantity the network predicts.
    pub prediction: Option<Prediction>,
    /// Noise of the reverse steps.
    pub sigma: Option<Sigma>,
    /// Clip the predicted x_0 to [-1, 1] at each step.
    pub clip_x0: Option<bool>,
    /// Height and width of an image, in pixels.
    pub image_size: Option<(i64, i64)>,
    /// Residual blocks per level.
    pub blocks: Option<i64>,
    /// Dropout, for further training.
    pub dropout: Option<f64>,
}

/// A public file, or a group of files with the same settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Known {
    /// OpenAI improved-diffusion: imagenet64_uncond_100M_1500K, also its vlb twin.
    ImprovedImagenet64,
    /// OpenAI improved-diffusion: cifar10_uncond_50M_500K, also its vlb twin.
    ImprovedCifar10,
    /// OpenAI improved-diffusion: lsun_uncond_100M.
    ImprovedLsun256,
    /// OpenAI guided-diffusion: 256x256_diffusion_uncond.
    Guided256,
    /// OpenAI guided-diffusion: lsun_bedroom, lsun_cat, lsun_horse.
    GuidedLsun256,
    /// pesser/pytorch_diffusion: Ho et al.'s CIFAR-10 weights.
    PesserCifar10,
    /// pesser/pytorch_diffusion: Ho et al.'s LSUN weights.
    PesserLsun256,
}

impl Known {
    /// Its name as a value of `known`, such as `pesser-cifar10`.
    pub fn name(self) -> String {
        match self.to_possible_value() {
            Some(value) => value.get_name().to_owned(),
            None => format!("{self:?}"),
        }
    }

    /// The code base of its program.
    pub fn family(self) -> Family {
        match self {
            Known::PesserCifar10 | Known::PesserLsun256 => Family::Pesser,
            _ => Family::Openai,
        }
    }
}
