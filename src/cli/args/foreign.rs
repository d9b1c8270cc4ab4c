//! Flags about files of other programs: what such a file does not say of itself.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;

use super::values::{Size, read_config};
use crate::checkpoint::AttentionOrder;
use crate::config::{Prediction, Preset, ScheduleKind, Sigma};
use crate::interop::Known;
use crate::interop::{Hints, Request};

/// What a file of another program does not say. A missing answer is asked for by name.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Files of other programs")]
pub(in crate::cli) struct ForeignArgs {
    /// A public file whose settings are known; other flags win over it
    #[arg(long, value_enum)]
    known: Option<Known>,
    /// Where in the file the weights are, if it holds several networks
    #[arg(long, value_name = "PATH")]
    key: Option<String>,
    /// Settings of weights under this program's own names, as config.toml of a run has them
    #[arg(long = "config", value_name = "FILE.toml")]
    settings: Option<PathBuf>,
    /// Height and width of its images
    #[arg(long, value_name = "PIXELS")]
    image_size: Option<Size>,
    /// Attention heads
    #[arg(long, value_name = "N")]
    num_heads: Option<i64>,
    /// Attention heads on the way up, where they differ
    #[arg(long, value_name = "N")]
    num_heads_upsample: Option<i64>,
    /// Channels of an attention head, instead of their number
    #[arg(long, value_name = "N", conflicts_with = "num_heads")]
    head_channels: Option<i64>,
    /// How OpenAI's files fuse queries, keys and values
    #[arg(long, value_enum)]
    attention_order: Option<AttentionOrder>,
    /// Residual blocks a level
    #[arg(long, value_name = "N")]
    blocks: Option<i64>,
    /// Dropout of the network, for training on
    #[arg(long, value_name = "P")]
    dropout: Option<f64>,
    /// Noise schedule
    #[arg(long, value_enum)]
    schedule: Option<ScheduleKind>,
    /// Time steps T
    #[arg(long, value_name = "T")]
    timesteps: Option<i64>,
    /// Whether the network saw t * 1000 / T
    #[arg(long, value_name = "BOOL")]
    rescale_timesteps: Option<bool>,
    /// What the network predicts
    #[arg(long, value_enum)]
    prediction: Option<Prediction>,
}

/// Hints that `sample` has as choices of its own.
#[derive(Debug, Clone, Copy, Default, Args)]
pub(in crate::cli) struct SamplerHints {
    /// Noise of its reverse steps
    #[arg(long, value_enum, help_heading = "Files of other programs")]
    sigma: Option<Sigma>,
    /// Clip its predicted x_0 to [-1, 1] at each step
    #[arg(long, value_name = "BOOL", help_heading = "Files of other programs")]
    clip_x0: Option<bool>,
}

impl ForeignArgs {
    /// What to ask of a foreign file.
    ///
    /// # Errors
    /// An unreadable settings file.
    pub(in crate::cli) fn request(&self, raw: bool, sampler: SamplerHints) -> Result<Request> {
        let given = Hints {
            known: self.known,
            num_heads: self.num_heads,
            num_heads_upsample: self.num_heads_upsample,
            head_channels: self.head_channels,
            attention_order: self.attention_order,
            schedule: self.schedule,
            timesteps: self.timesteps,
            rescale_timesteps: self.rescale_timesteps,
            prediction: self.prediction,
            sigma: sampler.sigma,
            clip_x0: sampler.clip_x0,
            image_size: self.image_size.map(|s| (s.height, s.width)),
            blocks: self.blocks,
            dropout: self.dropout,
        };
        let hints = match self.known {
            Some(known) => known.over(&given),
            None => given,
        };
        let read = |path: &PathBuf| read_config(path, Preset::Celebahq128);
        Ok(Request {
            hints,
            raw,
            key: self.key.clone(),
            config: self.settings.as_ref().map(read).transpose()?,
        })
    }
}

impl SamplerHints {
    /// The hints that these choices are.
    pub(in crate::cli) fn new(sigma: Option<Sigma>, clip_x0: Option<bool>) -> SamplerHints {
        SamplerHints { sigma, clip_x0 }
    }
}
