//! Flags for the settings of a run: each replaces one value of a preset or a TOML file.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Error, Result, ensure};
use clap::{Args, ValueEnum};

use super::batch::BatchSize;
use super::network::NetworkArgs;
use super::values::{located, read_config, read_settings, set};
use crate::config::{
    Background, ConfigError, EvaluationConfig, HoldOut, LabelsFrom, MapLayout, Metric, OnBadStep,
    Preset, Resize, RunConfig, Sigma, Sources, Unnamed, UpscaleConfig,
};

/// The settings that flags change.
#[derive(Debug, Clone, Args)]
pub(in crate::cli) struct BaseArgs {
    /// Settings to start from [default: celebahq128 with --data, else demo]
    ///
    /// A setting without its flag has the preset's value: see the tables at the end.
    #[arg(long, value_enum)]
    preset: Option<Preset>,
    /// Settings that replace the preset's, in the form of a run's config.toml
    #[arg(long, value_name = "FILE.toml")]
    config: Option<PathBuf>,
}

impl BaseArgs {
    /// True if a preset or a file is given.
    pub(in crate::cli) fn given(&self) -> bool {
        self.preset.is_some() || self.config.is_some()
    }

    /// The file that is read, if any.
    pub(in crate::cli) fn file(&self) -> Option<&PathBuf> {
        self.config.as_ref()
    }

    /// The settings before flags; `fallback` is the preset if none is given.
    pub(in crate::cli) fn resolve(&self, fallback: Preset) -> Result<RunConfig> {
        self.resolve_with(fallback, Unnamed::NEW)
    }

    /// As [`BaseArgs::resolve`], with the values of what is not named: those of the run that goes on, which may be
    /// older than today's.
    pub(in crate::cli) fn resolve_with(
        &self,
        fallback: Preset,
        unnamed: Unnamed,
    ) -> Result<RunConfig> {
        let preset = self.preset.unwrap_or(fallback);
        match &self.config {
            None => {
                let mut config = preset.config();
                unnamed.apply(&mut config);
                Ok(config)
            }
            Some(path) => read_config(path, preset, unnamed),
        }
    }
}

impl BaseArgs {
    /// The settings of the run whose own config.toml is given, as that run has them; `None` for a file that names a part of
    /// the settings.
    pub(in crate::cli) fn of_a_run(&self) -> Option<RunConfig> {
        // A pipe has been read.
        let path = self.config.as_ref().filter(|path| path.is_file())?;
        RunConfig::of_a_run(&read_settings(path).ok()?)
    }

    /// An error in a setting, with its place in --config if it is from there.
    pub(in crate::cli) fn located(&self, wrong: ConfigError) -> Error {
        let preset = self.preset.unwrap_or(Preset::Demo);
        located(wrong, self.config.as_deref(), preset)
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
    evaluation: EvaluationArgs,
    #[command(flatten)]
    network: NetworkArgs,
}

/// Settings of the images.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Images")]
pub(in crate::cli) struct DataArgs {
    /// Folder of images, searched at any depth, or a file that holds images; more than once for several [default:
    /// built-in faces]
    ///
    /// PNG, JPEG, WebP, BMP and GIF files are read. Hidden files, folders of runs and, among other images, those that
    /// ddpm made are passed over. Each start says what is left out.
    ///
    /// Files that hold images, known by their content: zip and tar archives, also shards ('x-{000..146}.tar'), .npz with
    /// arr_0, IDX (MNIST) and binary files of CIFAR, or folders with these.
    #[arg(long, value_name = "PATH")]
    data: Vec<PathBuf>,
    /// What says the classes of images: auto, folder, prefix, none, or a file [default: auto]
    ///
    /// auto: each source itself (labels of IDX, CIFAR and .npz, dataset.json, .cls), else its topmost folders, if there
    /// are two or more and most images lie in one. prefix: a file's name before its first _. A file: CSV, TSV, JSON or
    /// JSON lines with file_name and label. labels.tsv in the run's folder lists them.
    #[arg(
        long,
        value_name = "auto|folder|prefix|none|FILE",
        hide_short_help = true
    )]
    labels: Option<LabelsFrom>,
    /// Draw images from all classes alike, however many each has
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", require_equals = true, hide_possible_values = true, hide_short_help = true)]
    balance: Option<bool>,
    /// Images never to train on, for evaluation: a share of them (5%), a number, or another folder [default: none]
    ///
    /// A share or a number is chosen by what the images show, so that a run with other settings holds out the same, and
    /// images with the same pixels stay together. held_out.tsv in the run's folder lists them.
    #[arg(long, value_name = "PERCENT%|N|DIR")]
    hold_out: Option<HoldOut>,
    /// Resizing method
    #[arg(long, value_enum, hide_short_help = true)]
    resize: Option<Resize>,
    /// Colour behind transparent pixels: white, black, #rrggbb, or ignore (drop transparency)
    #[arg(long, value_name = "COLOR", hide_short_help = true)]
    background: Option<Background>,
    /// Random horizontal flip (p = 0.5)
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", require_equals = true, hide_possible_values = true, hide_short_help = true)]
    flip: Option<bool>,
    /// Number of built-in faces
    #[arg(long, value_name = "N", hide_short_help = true)]
    builtin_images: Option<u64>,
}

/// `--layout`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum LayoutChoice {
    /// What a few steps of each show to be faster, for a new run of 200 steps or more; else nchw, and for an existing run
    /// what it has.
    Auto,
    /// Channels before rows.
    Nchw,
    /// Channels last.
    Nhwc,
}

#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Training")]
struct TrainArgs {
    /// Total training steps
    #[arg(long, value_name = "N")]
    steps: Option<u64>,
    /// Images per step, or auto
    ///
    /// auto keeps the preset's number and splits it into as few microbatches as memory allows.
    #[arg(long, value_name = "N")]
    batch: Option<BatchSize>,
    /// Gradient accumulation over N microbatches: same maths, less memory (dropout masks differ)
    #[arg(long, value_name = "N", hide_short_help = true)]
    accumulate: Option<i64>,
    /// CUDA: layout of maps and convolutions in memory, kept in the run [default: auto]
    #[arg(long, value_enum, hide_short_help = true)]
    layout: Option<LayoutChoice>,
    /// Seed of initial weights, data order, noise and built-in images
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Tell the network the class of each image, so that it can be asked for one; the classes are the images' labels
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", require_equals = true, hide_possible_values = true)]
    conditional: Option<bool>,
    /// Share of the images whose class the network is not told, drawn at each step, so that it can be guided; 0 for none
    /// [default: 0.1]
    #[arg(
        long,
        value_name = "SHARE",
        allow_negative_numbers = true,
        hide_short_help = true
    )]
    label_dropout: Option<f64>,
    /// Super-resolution: train a network that makes images this many times as high and wide, 2 to 16
    ///
    /// It learns from the images of --data and from smaller ones that are made of them; --size is that of the large ones.
    /// `ddpm upscale` uses it, and `ddpm sample --then`.
    #[arg(long, value_name = "FACTOR", allow_negative_numbers = true)]
    upscale: Option<i64>,
    /// With --upscale: most noise on the small images, from 0 to below 1, drawn anew for each [default: 0.1]
    #[arg(
        long,
        value_name = "SHARE",
        allow_negative_numbers = true,
        hide_short_help = true
    )]
    upscale_noise: Option<f64>,
    /// Steps between checkpoints
    #[arg(long, value_name = "N")]
    save_every: Option<u64>,
    /// Steps between sample grids; 0 for none
    #[arg(long, value_name = "N")]
    sample_every: Option<u64>,
    /// Images in a sample grid
    #[arg(long, value_name = "N", hide_short_help = true)]
    sample_images: Option<u64>,
    /// Standard deviation of the reverse steps of sample grids
    #[arg(long, value_enum, hide_short_help = true)]
    sigma: Option<Sigma>,
    /// Clip the predicted x_0 to [-1, 1] at each reverse step of sample grids
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", require_equals = true, hide_possible_values = true, hide_short_help = true)]
    clip_x0: Option<bool>,
    /// Number of newest checkpoints to keep
    #[arg(long, value_name = "K", hide_short_help = true)]
    keep: Option<usize>,
    /// Reverse steps for a sample grid; 0 for all T
    #[arg(long, value_name = "N", hide_short_help = true)]
    sample_steps: Option<usize>,
    /// Time limit for one sample grid, for example 90s or 5m; 0s for no limit [default: 10m]
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration, hide_short_help = true)]
    sample_limit: Option<Duration>,
    /// Response to a step whose loss or gradients explode or are not finite [default: stop]
    #[arg(long, value_enum, hide_short_help = true)]
    on_bad_step: Option<OnBadStep>,
    /// Multiple of the running mean from which a loss or gradient norm has exploded; 0 for never [default: 1000]
    #[arg(long, value_name = "X", hide_short_help = true)]
    explosion_factor: Option<f64>,
}

/// Evaluations while training.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Evaluation while training")]
struct EvaluationArgs {
    /// Steps between evaluations of the EMA weights; 0 for none [default: none]
    ///
    /// Their values are in metrics.jsonl. The best step is saved and kept, and checkpoints/best.safetensors names it.
    #[arg(long, value_name = "N", hide_short_help = true)]
    evaluate_every: Option<u64>,
    /// What is measured, the first deciding which step is the best: loss and bpd of images held out (--hold-out), swd and
    /// fid (of random features) of samples [default: loss]
    #[arg(
        long,
        value_enum,
        value_name = "METRIC,…",
        value_delimiter = ',',
        hide_possible_values = true,
        hide_short_help = true
    )]
    evaluate_metrics: Option<Vec<Metric>>,
    /// Images that are sampled, and most of those held out that are used [default: 256]
    #[arg(long, value_name = "N", hide_short_help = true)]
    evaluate_images: Option<u64>,
    /// Evaluations without a better value after which the run ends; 0 for never [default: never]
    #[arg(long, value_name = "N", hide_short_help = true)]
    patience: Option<u64>,
}

impl SettingArgs {
    /// True if a folder of images is given.
    pub(in crate::cli) fn has_data(&self) -> bool {
        !self.data.data.is_empty()
    }

    /// True if the images are named: a folder, or a number of built-in ones.
    pub(in crate::cli) fn names_images(&self) -> bool {
        self.has_data() || self.data.builtin_images.is_some()
    }

    /// True for `--batch auto`: the number of microbatches depends on the free memory.
    ///
    /// # Errors
    /// `--accumulate` is given too.
    pub(in crate::cli) fn auto_accumulate(&self) -> Result<bool> {
        let auto = self.train.batch == Some(BatchSize::Auto);
        ensure!(
            !auto || self.train.accumulate.is_none(),
            "--batch auto chooses the number of microbatches, and --accumulate sets it; leave one of them out"
        );
        Ok(auto)
    }

    /// True if `--layout auto` is given.
    pub(in crate::cli) fn wants_layout_measured(&self) -> bool {
        self.train.layout == Some(LayoutChoice::Auto)
    }

    /// True if `--layout nchw` is given, which a CPU does not have.
    pub(in crate::cli) fn wants_nchw(&self) -> bool {
        self.train.layout == Some(LayoutChoice::Nchw)
    }

    /// Replaces what flags name, and makes the data folder's path absolute, so that a run can be
    /// resumed from anywhere.
    ///
    /// # Errors
    /// No current folder to make it absolute from, or a flag that belongs to another kind of network.
    pub(in crate::cli) fn apply(&self, config: &mut RunConfig) -> Result<()> {
        self.data.apply(config)?;
        self.train.apply(config)?;
        self.evaluation.apply(config)?;
        self.network.apply(config)?;
        // The network, and its channels, are known now.
        self.train.apply_upscale(config)
    }
}

impl LayoutChoice {
    fn named(self) -> Option<MapLayout> {
        match self {
            LayoutChoice::Auto => None,
            LayoutChoice::Nchw => Some(MapLayout::Nchw),
            LayoutChoice::Nhwc => Some(MapLayout::Nhwc),
        }
    }
}

impl DataArgs {
    /// Replaces the settings that flags are given for.
    ///
    /// # Errors
    /// No current folder to make the data folder's path absolute from.
    pub(in crate::cli) fn apply(&self, config: &mut RunConfig) -> Result<()> {
        let d = &mut config.data;
        if let Some(places) = Sources::new(self.data.clone()).or(d.folder.take()) {
            let given = || format!("--data {places}");
            d.folder = Some(places.absolute().with_context(given)?);
        }
        if let Some(labels) = self.labels.as_ref().or(d.labels.as_ref()) {
            let given = || format!("--labels {labels}");
            d.labels = Some(labels.absolute().with_context(given)?);
        }
        set(&mut d.balance, &self.balance);
        if let Some(hold_out) = self.hold_out.as_ref().or(d.hold_out.as_ref()) {
            let given = || format!("--hold-out {hold_out}");
            d.hold_out = Some(hold_out.absolute().with_context(given)?);
        }
        set(&mut d.resize, &self.resize);
        set(&mut d.background, &self.background);
        set(&mut d.flip, &self.flip);
        set(&mut d.builtin_images, &self.builtin_images);
        Ok(())
    }
}

impl TrainArgs {
    /// # Errors
    /// Noise on images, where none are made larger.
    fn apply_upscale(&self, config: &mut RunConfig) -> Result<()> {
        let mut upscale = config.upscale.take();
        if let Some(factor) = self.upscale {
            upscale.get_or_insert(UpscaleConfig::by(factor)).factor = factor;
        }
        if let Some(share) = self.upscale_noise {
            let upscale = upscale.as_mut().context(
                "--upscale-noise is about small images that are made larger; give --upscale too",
            )?;
            upscale.noise = share;
        }
        if upscale.is_some() {
            config.set_upscale(upscale);
        }
        Ok(())
    }

    /// # Errors
    /// A share of images without their class, where none has one.
    fn apply(&self, config: &mut RunConfig) -> Result<()> {
        match self.conditional {
            Some(false) => config.conditional = None,
            Some(true) => {
                config.conditional.get_or_insert_default();
            }
            None => {}
        }
        if config.model.classes().is_some() {
            config.conditional.get_or_insert_default();
        }
        if let Some(share) = self.label_dropout {
            let conditional = config.conditional.as_mut();
            let conditional = conditional.context(
                "--label-dropout is about classes, and the network is not told any; give --conditional too",
            )?;
            conditional.label_dropout = Some(share);
        }
        let t = &mut config.train;
        set(&mut t.steps, &self.steps);
        if let Some(BatchSize::Fixed(images)) = self.batch {
            t.batch = images as i64;
        }
        set(&mut t.accumulate, &self.accumulate);
        if let Some(layout) = self.layout {
            t.layout = layout.named();
        }
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
        Ok(())
    }
}

impl EvaluationArgs {
    /// # Errors
    /// What is evaluated, without evaluations.
    fn apply(&self, config: &mut RunConfig) -> Result<()> {
        match self.evaluate_every {
            Some(0) => config.evaluation = None,
            Some(every) => {
                let new = || EvaluationConfig::new(every);
                config.evaluation.get_or_insert_with(new).every_steps = every;
            }
            None => {}
        }
        let named = [
            ("--evaluate-metrics", self.evaluate_metrics.is_some()),
            ("--evaluate-images", self.evaluate_images.is_some()),
            ("--patience", self.patience.is_some()),
        ];
        let Some(wanted) = &mut config.evaluation else {
            let named = named.iter().find(|(_, given)| *given);
            ensure!(
                named.is_none(),
                "{} is about evaluations, and this run has none; give --evaluate-every N too",
                named.map_or("", |(flag, _)| *flag)
            );
            return Ok(());
        };
        if let Some(metrics) = &self.evaluate_metrics {
            wanted.metrics.clone_from(metrics);
            // It is the first that decides, not one that a file named among others.
            wanted.best = None;
        }
        set(&mut wanted.images, &self.evaluate_images);
        if let Some(patience) = self.patience {
            wanted.patience = Some(patience).filter(|patience| *patience > 0);
        }
        Ok(())
    }
}
