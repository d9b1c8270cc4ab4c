//! What a file does not say of itself and the user may know.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::config::{Prediction, ScheduleKind, Sigma};

/// Order of the rows of a fused query-key-value weight in OpenAI's files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum AttentionOrder {
    /// Heads first: improved-diffusion, and guided-diffusion by default.
    Legacy,
    /// guided-diffusion with `use_new_attention_order`.
    New,
}

/// Answers to what a file leaves open; each has the flag of its name.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Hints {
    /// `--known`: a public file whose settings are known.
    pub known: Option<super::known::Known>,
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
    /// `--image-size`: height and width of a picture.
    pub image_size: Option<(i64, i64)>,
    /// `--blocks`: residual blocks a level.
    pub blocks: Option<i64>,
    /// `--dropout`: for training on.
    pub dropout: Option<f64>,
}
