//! Flags over the settings of a run: each replaces one value of a preset or a TOML file.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Args;

use super::batch::BatchSize;
use super::model::ModelArgs;
use super::values::{LrPoint, read_config, set};
use crate::config::{Background, Resize};
use crate::config::{
    LossKind, OnBadStep, OptimizerKind, Prediction, Preset, RunConfig, ScheduleKind, Sigma,
};

/// Where settings start from.
#[derive(Debug, Clone, Args)]
pub(in crate::cli) struct BaseArgs {
    /// Settings to start from [default: celebahq128 with --data, else demo]
    #[arg(long, value_enum)]
    preset: Option<Preset>,
    /// Settings over the preset, as config.toml of a run has them
    #[arg(long, value_name = "FILE.toml")]
    config: Option<PathBuf>,
}

impl BaseArgs {
    /// Whether either is given.
    pub(in crate::cli) fn given(&self) -> bool {
        self.preset.is_some() || self.config.is_some()
    }

    /// The settings before flags; `fallback` is the preset if none is named.
    pub(in crate::cli) fn resolve(&self, fallback: Preset) -> Result<RunConfig> {
        let preset = self.preset.unwrap_or(fallback);
        match &self.config {
            None => Ok(preset.config()),
            Some(path) => read_config(path, preset),
        }
    }
}

/// All settings that have a flag.
#[derive(Debug, Clone, Args)]
pub(in crate::cli) struct SettingArgs {
    #[command(flatten)]
    data: DataArgs,
    #[command(flatten)]
    train: TrainArgs,
    #[command(flatten)]
    network: NetworkArgs,
}

/// Settings of what is trained and how, without where from and how long.
#[derive(Debug, Clone, Args)]
pub(in crate::cli) struct NetworkArgs {
    /// Keep only the input of each residual block for the backward pass, and compute the block again there: less
    /// memory, more time (unet only)
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", require_equals = true, help_heading = "Training")]
    checkpoint_blocks: Option<bool>,
    #[command(flatten)]
    optim: OptimArgs,
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    diffusion: DiffusionArgs,
}

impl NetworkArgs {
    /// Replaces what flags name.
    ///
    /// # Errors
    /// A flag of another kind of network.
    pub(in crate::cli) fn apply(&self, config: &mut RunConfig) -> Result<()> {
        set(&mut config.train.checkpoint_blocks, &self.checkpoint_blocks);
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

/// Settings of the images.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Images")]
pub(in crate::cli) struct DataArgs {
    /// Folder of PNG, JPEG, WebP, BMP and GIF images, at any depth [default: built-in faces]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// How images are scaled
    #[arg(long, value_enum)]
    resize: Option<Resize>,
    /// Behind transparent pixels: white, black, #rrggbb, or ignore (drop transparency)
    #[arg(long, value_name = "COLOR")]
    background: Option<Background>,
    /// Mirror half of the images, at random
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    flip: Option<bool>,
    /// How many built-in faces to draw
    #[arg(long, value_name = "N")]
    builtin_images: Option<u64>,
}

#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Training")]
struct TrainArgs {
    /// Steps in all
    #[arg(long, value_name = "N")]
    steps: Option<u64>,
    /// Images a step; auto: as the settings say, split into as few microbatches as memory allows
    #[arg(long, value_name = "N")]
    batch: Option<BatchSize>,
    /// Split each batch into N microbatches: same maths, less memory (dropout draws other masks)
    #[arg(long, value_name = "N")]
    accumulate: Option<i64>,
    /// Seed of weights, order, noise and built-in images
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Steps between checkpoints
    #[arg(long, value_name = "N")]
    save_every: Option<u64>,
    /// Steps between sample grids; 0 for none
    #[arg(long, value_name = "N")]
    sample_every: Option<u64>,
    /// Images in a sample grid
    #[arg(long, value_name = "N")]
    sample_images: Option<u64>,
    /// Noise of the reverse steps of sample grids
    #[arg(long, value_enum)]
    sigma: Option<Sigma>,
    /// Clip the predicted x_0 to [-1, 1] at each reverse step of sample grids
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    clip_x0: Option<bool>,
    /// Checkpoints to keep
    #[arg(long, value_name = "K")]
    keep: Option<usize>,
    /// Reverse steps of a sample grid; 0 for all T
    #[arg(long, value_name = "N")]
    sample_steps: Option<usize>,
    /// Longest that a sample grid may take, for example 90s or 5m; 0s for no limit [default: 10m]
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    sample_limit: Option<Duration>,
    /// After a step whose loss or gradients are not finite, or exploded: stop, skip it, or rollback to the
    /// newest checkpoint with half the learning rate [default: stop]
    #[arg(long, value_enum)]
    on_bad_step: Option<OnBadStep>,
    /// A loss or gradient norm this many times the usual has exploded; 0: none has [default: 1000]
    #[arg(long, value_name = "X")]
    explosion_factor: Option<f64>,
}

#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Optimizer")]
struct OptimArgs {
    /// lamb, adam or adamw
    #[arg(long, value_enum)]
    optimizer: Option<OptimizerKind>,
    /// Learning rate
    #[arg(long)]
    lr: Option<f64>,
    /// Multipliers of the learning rate, linear between points, for example 0:0,4000:1,20000:0.5
    #[arg(long, value_name = "STEP:X,…", value_delimiter = ',')]
    lr_schedule: Option<Vec<LrPoint>>,
    /// Decay of the first moment
    #[arg(long)]
    beta1: Option<f64>,
    /// Decay of the second moment
    #[arg(long)]
    beta2: Option<f64>,
    /// Adam's epsilon
    #[arg(long)]
    eps: Option<f64>,
    /// Weight decay
    #[arg(long)]
    weight_decay: Option<f64>,
    /// Largest global gradient norm [default: not clipped]
    #[arg(long, value_name = "NORM")]
    clip_norm: Option<f64>,
    /// LAMB: adapt norm parameters too, as the original does by accident
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    adapt_norms: Option<bool>,
    /// Momentum of the weight average
    #[arg(long, value_name = "MOMENTUM")]
    ema: Option<f64>,
}

#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Diffusion")]
struct DiffusionArgs {
    /// Noise schedule
    #[arg(long, value_enum)]
    schedule: Option<ScheduleKind>,
    /// Time steps T
    #[arg(long, value_name = "T")]
    timesteps: Option<i64>,
    /// What the network predicts
    #[arg(long, value_enum)]
    prediction: Option<Prediction>,
    /// sum (over pixels) or mse, which exists to show the difference
    #[arg(long, value_enum)]
    loss: Option<LossKind>,
}

impl SettingArgs {
    /// Whether a folder of images is named.
    pub(in crate::cli) fn has_data(&self) -> bool {
        self.data.data.is_some()
    }

    /// Whether `--batch auto` leaves the number of microbatches to the memory there is.
    ///
    /// # Errors
    /// It is given too.
    pub(in crate::cli) fn auto_accumulate(&self) -> Result<bool> {
        let auto = self.train.batch == Some(BatchSize::Auto);
        ensure!(
            !auto || self.train.accumulate.is_none(),
            "--batch auto finds the number of microbatches, and --accumulate gives it; leave one of them out"
        );
        Ok(auto)
    }

    /// Replaces what flags name, and makes the data folder's path absolute, so that a run can be
    /// resumed from anywhere.
    ///
    /// # Errors
    /// No current folder to make it absolute from, or a flag of another kind of network.
    pub(in crate::cli) fn apply(&self, config: &mut RunConfig) -> Result<()> {
        self.data.apply(config)?;
        self.train.apply(config);
        self.network.apply(config)
    }
}

impl DataArgs {
    /// Replaces what flags name.
    ///
    /// # Errors
    /// No current folder to make the data folder's path absolute from.
    pub(in crate::cli) fn apply(&self, config: &mut RunConfig) -> Result<()> {
        let d = &mut config.data;
        if let Some(dir) = self.data.as_ref().or(d.folder.as_ref()) {
            d.folder = Some(
                std::path::absolute(dir).with_context(|| format!("--data {}", dir.display()))?,
            );
        }
        set(&mut d.resize, &self.resize);
        set(&mut d.background, &self.background);
        set(&mut d.flip, &self.flip);
        set(&mut d.builtin_images, &self.builtin_images);
        Ok(())
    }
}

impl TrainArgs {
    fn apply(&self, config: &mut RunConfig) {
        let t = &mut config.train;
        set(&mut t.steps, &self.steps);
        if let Some(BatchSize::Fixed(images)) = self.batch {
            t.batch = images as i64;
        }
        set(&mut t.accumulate, &self.accumulate);
        set(&mut t.seed, &self.seed);
        set(&mut t.save_every_steps, &self.save_every);
        set(&mut t.keep, &self.keep);
        set(&mut t.sample_steps, &self.sample_steps);
        let limit_secs = self.sample_limit.map(|l| l.as_secs_f64().ceil() as u64);
        set(&mut t.sample_limit_secs, &limit_secs);
        set(&mut t.on_bad_step, &self.on_bad_step);
        set(&mut t.explosion_factor, &self.explosion_factor);
        let s = &mut config.sample;
        set(&mut s.every_steps, &self.sample_every);
        set(&mut s.images, &self.sample_images);
        set(&mut s.sigma, &self.sigma);
        set(&mut s.clip_x0, &self.clip_x0);
    }
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
