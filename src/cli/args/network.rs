//! Flags for the settings of a network, its optimizer and its diffusion process.

use anyhow::Result;
use clap::Args;

use super::model::ModelArgs;
use super::values::{LrPoint, set};
use crate::config::{Draws, LossKind, OptimizerKind, Prediction, RunConfig, ScheduleKind};

/// Settings of the network, its optimizer, the diffusion process and what else a step takes.
#[derive(Debug, Clone, Args)]
pub(in crate::cli) struct NetworkArgs {
    /// Gradient checkpointing: recompute residual blocks in the backward pass, for less memory and more time
    /// (unet only)
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", require_equals = true, help_heading = "Training", hide_possible_values = true, hide_short_help = true)]
    checkpoint_blocks: Option<bool>,
    /// Residual blocks on CUDA as separate operations, which keep more for the backward pass, as in older runs (unet
    /// only)
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", require_equals = true, help_heading = "Training", hide_possible_values = true, hide_short_help = true)]
    plain_blocks: Option<bool>,
    /// Draws of noise and dropout: one for each image and microbatch, or for the whole batch as in older runs
    /// [default: image]
    #[arg(long, value_enum, help_heading = "Training", hide_short_help = true)]
    draws: Option<Draws>,
    #[command(flatten)]
    optim: OptimArgs,
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    diffusion: DiffusionArgs,
}

impl NetworkArgs {
    /// Replaces the settings that flags are given for.
    ///
    /// # Errors
    /// A flag that belongs to another kind of network.
    pub(in crate::cli) fn apply(&self, config: &mut RunConfig) -> Result<()> {
        set(&mut config.train.checkpoint_blocks, &self.checkpoint_blocks);
        config.train.plain_blocks = self.plain_blocks.or(config.train.plain_blocks);
        set(&mut config.train.draws, &self.draws);
        self.optim.apply(config);
        self.model.apply(config)?;
        let d = &mut config.diffusion;
        if let Some(schedule) = self.diffusion.schedule {
            d.schedule = schedule;
            d.betas = vec![];
        }
        set(&mut d.prediction, &self.diffusion.prediction);
        set(&mut d.timesteps, &self.diffusion.timesteps);
        set(&mut d.loss, &self.diffusion.loss);
        Ok(())
    }
}

#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Optimizer")]
struct OptimArgs {
    /// Optimizer
    #[arg(long, value_enum, hide_short_help = true)]
    optimizer: Option<OptimizerKind>,
    /// Learning rate
    #[arg(long, value_name = "X", hide_short_help = true)]
    lr: Option<f64>,
    /// Learning rate multipliers, linear between points, for example 0:0,4000:1,20000:0.5
    #[arg(
        long,
        value_name = "STEP:X,…",
        value_delimiter = ',',
        hide_short_help = true
    )]
    lr_schedule: Option<Vec<LrPoint>>,
    /// Decay rate of the first moment
    #[arg(long, value_name = "X", hide_short_help = true)]
    beta1: Option<f64>,
    /// Decay rate of the second moment
    #[arg(long, value_name = "X", hide_short_help = true)]
    beta2: Option<f64>,
    /// Adam's epsilon
    #[arg(long, value_name = "X", hide_short_help = true)]
    eps: Option<f64>,
    /// Weight decay
    #[arg(long, value_name = "X", hide_short_help = true)]
    weight_decay: Option<f64>,
    /// Clip the global gradient norm to this [default: not clipped]
    #[arg(long, value_name = "NORM", hide_short_help = true)]
    clip_norm: Option<f64>,
    /// LAMB: apply trust ratios to norm parameters too, as the original does by accident
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", require_equals = true, hide_possible_values = true, hide_short_help = true)]
    adapt_norms: Option<bool>,
    /// Decay rate of the EMA of the weights
    #[arg(long, value_name = "MOMENTUM", hide_short_help = true)]
    ema: Option<f64>,
}

#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Diffusion")]
struct DiffusionArgs {
    /// Noise schedule
    #[arg(long, value_enum, hide_short_help = true)]
    schedule: Option<ScheduleKind>,
    /// Number of time steps T
    #[arg(long, value_name = "T", hide_short_help = true)]
    timesteps: Option<i64>,
    /// Prediction target of the network
    #[arg(long, value_enum, hide_short_help = true)]
    prediction: Option<Prediction>,
    /// Training loss
    #[arg(long, value_enum, hide_short_help = true)]
    loss: Option<LossKind>,
}

impl OptimArgs {
    fn apply(&self, config: &mut RunConfig) {
        let o = &mut config.optim;
        set(&mut o.optimizer, &self.optimizer);
        set(&mut o.lr, &self.lr);
        if let Some(points) = &self.lr_schedule {
            o.lr_schedule = points.iter().map(|p| (p.0, p.1)).collect();
        }
        set(&mut o.beta1, &self.beta1);
        set(&mut o.beta2, &self.beta2);
        set(&mut o.eps, &self.eps);
        set(&mut o.weight_decay, &self.weight_decay);
        if self.clip_norm.is_some() {
            o.clip_norm = self.clip_norm;
        }
        set(&mut o.adapt_norms, &self.adapt_norms);
        set(&mut o.ema, &self.ema);
    }
}
