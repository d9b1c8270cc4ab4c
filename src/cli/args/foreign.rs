//! Hints about files of other programs: settings that such a file does not contain.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;

use super::values::{Size, read_config};
use crate::checkpoint::AttentionOrder;
use crate::config::{Prediction, Preset, ScheduleKind, Sigma, Unnamed};
use crate::interop::{Hints, Known, Request, Uses};

/// Settings that a file of another program does not contain. The error for a missing one names its flag.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Files of other programs")]
pub(in crate::cli) struct ForeignArgs {
    /// Public checkpoint with known settings; other flags override them
    #[arg(long, value_enum, hide_short_help = true)]
    known: Option<Known>,
    /// Path of the weights inside the file, if it holds several networks
    #[arg(long, value_name = "PATH", hide_short_help = true)]
    key: Option<String>,
    /// Settings for a state_dict with this program's names, in the form of a run's config.toml
    #[arg(long = "config", value_name = "FILE.toml", hide_short_help = true)]
    settings: Option<PathBuf>,
    /// Image size: 128, or 96x128 (height x width)
    #[arg(long, value_name = "PIXELS", hide_short_help = true)]
    image_size: Option<Size>,
    /// Number of attention heads
    #[arg(long, value_name = "N", hide_short_help = true)]
    num_heads: Option<i64>,
    /// Number of attention heads in the up path, if it differs
    #[arg(long, value_name = "N", hide_short_help = true)]
    num_heads_upsample: Option<i64>,
    /// Channels per attention head, instead of --num-heads
    #[arg(
        long,
        value_name = "N",
        conflicts_with = "num_heads",
        hide_short_help = true
    )]
    head_channels: Option<i64>,
    /// Order of fused queries, keys and values in OpenAI's files
    #[arg(long, value_enum, hide_short_help = true)]
    attention_order: Option<AttentionOrder>,
    /// Residual blocks per level
    #[arg(long, value_name = "N", hide_short_help = true)]
    blocks: Option<i64>,
    /// Dropout rate, for further training
    #[arg(long, value_name = "P", hide_short_help = true)]
    dropout: Option<f64>,
    /// Noise schedule
    #[arg(long, value_enum, hide_short_help = true)]
    schedule: Option<ScheduleKind>,
    /// Number of time steps T
    #[arg(long, value_name = "T", hide_short_help = true)]
    timesteps: Option<i64>,
    /// The network was trained on t * 1000 / T instead of t
    #[arg(
        long,
        value_name = "BOOL",
        hide_possible_values = true,
        hide_short_help = true
    )]
    rescale_timesteps: Option<bool>,
    /// The last row of the network's embedding of classes means "no class"
    #[arg(
        long,
        value_name = "BOOL",
        hide_possible_values = true,
        hide_short_help = true
    )]
    null_class: Option<bool>,
    /// How many times as high and wide a network of super-resolution makes images [default: 4]
    #[arg(
        long,
        value_name = "FACTOR",
        allow_negative_numbers = true,
        hide_short_help = true
    )]
    upscale: Option<i64>,
    /// Prediction target of the network
    #[arg(long, value_enum, hide_short_help = true)]
    prediction: Option<Prediction>,
}

/// Hints that are sampler flags in `sample`.
#[derive(Debug, Clone, Copy, Default, Args)]
pub(in crate::cli) struct SamplerHints {
    /// Standard deviation of the reverse steps
    #[arg(
        long,
        value_enum,
        help_heading = "Files of other programs",
        hide_short_help = true
    )]
    sigma: Option<Sigma>,
    /// Clip the predicted x_0 to [-1, 1] at each step
    #[arg(
        long,
        value_name = "BOOL",
        help_heading = "Files of other programs",
        hide_possible_values = true,
        hide_short_help = true
    )]
    clip_x0: Option<bool>,
}

impl ForeignArgs {
    /// The file that is read, if any.
    pub(in crate::cli) fn file(&self) -> Option<&PathBuf> {
        self.settings.as_ref()
    }

    /// The request for a file of which `uses` plays a part.
    ///
    /// # Errors
    /// An unreadable settings file.
    pub(in crate::cli) fn request(
        &self,
        raw: bool,
        sampler: SamplerHints,
        uses: Uses,
    ) -> Result<Request> {
        let hints = Hints {
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
            null_class: self.null_class,
            upscale: self.upscale,
        };
        let read = |path: &PathBuf| read_config(path, Preset::Celebahq128, Unnamed::NEW);
        Ok(Request {
            hints,
            raw,
            key: self.key.clone(),
            config: self.settings.as_ref().map(read).transpose()?,
            uses,
        })
    }
}

impl SamplerHints {
    /// These flags as hints.
    pub(in crate::cli) fn new(sigma: Option<Sigma>, clip_x0: Option<bool>) -> SamplerHints {
        SamplerHints { sigma, clip_x0 }
    }
}
