//! What a file does not say of itself and the user may know.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::checkpoint::{AttentionOrder, Family};
use crate::config::{Prediction, ScheduleKind, Sigma};

/// Answers to what a file leaves open; each has the flag of its name.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Hints {
    /// `--known`: a public file whose settings are known.
    pub known: Option<Known>,
    /// `--num-heads`: attention heads.
    pub num_heads: Option<i64>,
    /// `--num-heads-upsample`: attention heads on the way up, where they differ.
    pub num_heads_upsample: Option<i64>,
    /// `--head-channels`: channels of an attention head (instead of `--num-heads`).
    pub head_channels: Option<i64>,
    /// `--attention-order`.
    pub attention_order: Option<AttentionOrder>,
    /// `--schedule`: noise schedule.
    pub schedule: Option<ScheduleKind>,
    /// `--timesteps`: T.
    pub timesteps: Option<i64>,
    /// `--rescale-timesteps`: the network saw t · 1000 / T.
    pub rescale_timesteps: Option<bool>,
    /// `--prediction`: what the network predicts.
    pub prediction: Option<Prediction>,
    /// `--sigma`: noise of the reverse steps.
    pub sigma: Option<Sigma>,
    /// `--clip-x0`.
    pub clip_x0: Option<bool>,
    /// `--image-size`: height and width of an image.
    pub image_size: Option<(i64, i64)>,
    /// `--blocks`: residual blocks a level.
    pub blocks: Option<i64>,
    /// `--dropout`: for training on.
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
    /// The value of `--known` that means it.
    pub fn name(self) -> String {
        match self.to_possible_value() {
            Some(value) => value.get_name().to_owned(),
            None => format!("{self:?}"),
        }
    }

    /// The code base that made it.
    pub fn family(self) -> Family {
        match self {
            Known::PesserCifar10 | Known::PesserLsun256 => Family::Pesser,
            _ => Family::Openai,
        }
    }
}
