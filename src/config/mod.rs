//! All settings of a run: model + diffusion + optim + data + sample + train, evaluations, classes and super-resolution.
//!
//! One [`RunConfig`] is resolved from, in rising priority, a preset, a `--config` TOML file and
//! flags; it is validated once, saved with the run and carried by every checkpoint, so nothing that
//! reads a checkpoint needs a flag.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

mod classes;
mod conditional;
mod evaluation;
mod hold_out;
mod images;
mod layout;
mod model;
mod model_keras;
pub mod presets;
mod read;
mod sources;
mod upscale;
mod validate;
mod validate_keras;
mod validate_model;
mod versioned;

pub(crate) use classes::class_rows;
pub use conditional::{ConditionalConfig, LABEL_DROPOUT};
pub use evaluation::{EvaluationConfig, Metric, QuickSampler};
pub use hold_out::{HoldOut, ParseHoldOutError};
pub use images::{Background, ImageRules, ParseBackgroundError, Resize, UnknownRulesError};
pub use layout::MapLayout;
pub use model::{
    AttentionUNetConfig, Level, LucidrainsConfig, LucidrainsNorm, LucidrainsStructure, ModelConfig,
    ModelKind, Norm, Resample, TimeEmbedding, UNetConfig,
};
pub use model_keras::{BlockWidths, ConcatPlan, ConcatUNetConfig, GauConfig};
pub use presets::Preset;
pub use read::{Place, TomlError, place_of};
pub use sources::{LabelsFrom, Sources};
pub(crate) use upscale::input_channels;
pub use upscale::{CONDITION_NOISE, Interpolation, UpscaleConfig};
pub use validate::ConfigError;
pub(crate) use validate_model::{MAX_SIDE, sides_wanted};
pub use versioned::{Draws, Norms, Unnamed};

/// Noise schedules; formulas in [`crate::diffusion::Schedule`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum ScheduleKind {
    /// betas = 0.02 (t+1)/T, as in Keras-DDPM.
    KerasDdpm,
    /// betas linear from 1e-4 to 0.02, as in Ho et al.
    Linear,
    /// Cosine schedule of Nichol & Dhariwal.
    Cosine,
    /// Sigmoid schedule from -3 to 3.
    Sigmoid,
    /// The list `betas` of the settings.
    #[value(skip)]
    Explicit,
}

/// The quantity the network predicts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Prediction {
    /// Noise in x_t.
    #[default]
    Eps,
    /// Clean image x_0.
    X0,
    /// Velocity: sqrt(alpha_bar) eps - sqrt(1 - alpha_bar) x_0.
    V,
}

/// Training objectives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum LossKind {
    /// Squared error summed over the pixels of an image.
    Sum,
    /// Mean squared error; not recommended: gradients that vanish beside Adam's epsilon.
    Mse,
}

/// The forward process and the objective.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DiffusionConfig {
    /// Number of time steps T.
    pub timesteps: i64,
    /// Growth of the betas with t.
    pub schedule: ScheduleKind,
    /// The betas themselves, where `schedule` is explicit.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub betas: Vec<f64>,
    /// The quantity the network predicts.
    #[serde(default)]
    pub prediction: Prediction,
    /// Training objective.
    pub loss: LossKind,
}

/// Optimizers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum OptimizerKind {
    /// LAMB: Adam with layer-wise trust ratios.
    Lamb,
    /// Adam.
    Adam,
    /// AdamW: Adam with decoupled weight decay.
    Adamw,
}

/// Optimizer, learning rate and EMA.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OptimConfig {
    /// Update rule.
    pub optimizer: OptimizerKind,
    /// Learning rate before the multiplier of `lr_schedule`.
    pub lr: f64,
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to sqrt(v): before the bias correction in LAMB (Keras), after it in Adam (PyTorch).
    pub eps: f64,
    /// L2 term (Adam), decoupled decay (AdamW), part of the update (LAMB).
    pub weight_decay: f64,
    /// Points (step, multiplier), linear between them and constant outside.
    pub lr_schedule: Vec<(u64, f64)>,
    /// Largest global gradient norm, if clipped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clip_norm: Option<f64>,
    /// LAMB: adapt norm parameters too, as the original does by accident.
    pub adapt_norms: bool,
    /// Momentum of the weight average.
    pub ema: f64,
    /// How the norm of the gradients is added up and, on a CPU, LAMB's of weights and updates.
    #[serde(default = "Norms::unnamed", skip_serializing_if = "Norms::are_unnamed")]
    pub norms: Norms,
}

/// Where images come from and how they are prepared.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataConfig {
    /// Folder of images, or another place or places where they are; none means the built-in faces.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub folder: Option<Sources>,
    /// What says the classes of images; none in older runs, which have no classes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub labels: Option<LabelsFrom>,
    /// Images are drawn from all classes alike, however many each has.
    #[serde(default, skip_serializing_if = "is_false")]
    pub balance: bool,
    /// Number of built-in faces.
    pub builtin_images: u64,
    /// Images that are never trained on, kept for evaluation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hold_out: Option<HoldOut>,
    /// How images are scaled.
    pub resize: Resize,
    /// Background of transparent pixels.
    pub background: Background,
    /// Random horizontal flip (p = 0.5).
    pub flip: bool,
    /// Which files are images, and how they are decoded.
    #[serde(
        default = "ImageRules::unnamed",
        skip_serializing_if = "ImageRules::are_unnamed"
    )]
    pub rules: ImageRules,
}

/// Reverse-process standard deviations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Sigma {
    /// sqrt(beta_t): optimal for unit-normal data.
    Beta,
    /// sqrt of the posterior variance: optimal for a single image.
    Posterior,
    /// Predicted by the network, as an interpolation between the two (learned variance).
    Learned,
}

/// Defaults for sampling from this model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SampleConfig {
    /// Noise of the reverse steps.
    pub sigma: Sigma,
    /// Clip the predicted x_0 to [-1, 1] at each step.
    pub clip_x0: bool,
    /// Add noise at the last step too, as only Keras-DDPM does.
    #[serde(default = "yes")]
    pub last_noise: bool,
    /// Images in a grid during training.
    pub images: u64,
    /// Steps between grids; 0 for none.
    pub every_steps: u64,
}

fn is_false(value: &bool) -> bool {
    !value
}

fn yes() -> bool {
    true
}

/// Reaction to a bad step: loss or gradients that are not finite, or exploded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum OnBadStep {
    /// Stop training; the state before the step is kept.
    #[default]
    Stop,
    /// Skip the step, at most 10 times in 1000 steps.
    Skip,
    /// Go back to the newest checkpoint with half the learning rate, at most 5 times.
    Rollback,
}

/// The run itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainConfig {
    /// Total training steps.
    pub steps: u64,
    /// Images per step.
    pub batch: i64,
    /// Microbatches a batch is split into; same maths, less memory.
    pub accumulate: i64,
    /// Residual blocks keep only their input for the backward pass, which computes the rest again: less memory, more
    /// time. Simplified U-Net only.
    #[serde(default)]
    pub checkpoint_blocks: bool,
    /// Residual blocks of the simplified U-Net on CUDA are separate operations also where one operation would keep less
    /// for the backward pass. So they are in older runs, which name nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plain_blocks: Option<bool>,
    /// Seed of all random numbers.
    pub seed: u64,
    /// What draws the noise and the dropout of a step are made of.
    #[serde(default = "Draws::unnamed", skip_serializing_if = "Draws::are_unnamed")]
    pub draws: Draws,
    /// Layout of maps on CUDA: as it was chosen or measured there; nchw if none is named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub layout: Option<MapLayout>,
    /// Steps between checkpoints.
    pub save_every_steps: u64,
    /// Checkpoints kept.
    pub keep: usize,
    /// Reaction to a bad step.
    #[serde(default)]
    pub on_bad_step: OnBadStep,
    /// A loss or gradient norm this many times its running mean has exploded; 0 switches the check off.
    #[serde(default = "thousand")]
    pub explosion_factor: f64,
    /// Reverse steps of a sample grid; 0 for all T.
    #[serde(default)]
    pub sample_steps: usize,
    /// Time limit for sampling a grid, in seconds, beyond which it is left out; 0 for no limit.
    #[serde(default = "ten_minutes")]
    pub sample_limit_secs: u64,
}

fn thousand() -> f64 {
    1000.0
}

fn ten_minutes() -> u64 {
    600
}

/// Everything about a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunConfig {
    /// The preset it started from.
    pub preset: Preset,
    /// The network.
    pub model: ModelConfig,
    /// The forward process and the objective.
    pub diffusion: DiffusionConfig,
    /// Optimizer, learning rate, EMA.
    pub optim: OptimConfig,
    /// Images.
    pub data: DataConfig,
    /// Sampling defaults.
    pub sample: SampleConfig,
    /// The run.
    pub train: TrainConfig,
    /// Evaluations while training.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evaluation: Option<EvaluationConfig>,
    /// Classes; none for a network that is not told any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conditional: Option<ConditionalConfig>,
    /// Super-resolution; none for a network that makes images from noise alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upscale: Option<UpscaleConfig>,
}

impl RunConfig {
    /// The resolved settings as TOML, readable by [`RunConfig::from_toml`].
    pub fn to_toml(&self) -> anyhow::Result<String> {
        Ok(toml::to_string(self)?)
    }

    /// All settings as a table, also those that [`to_toml`](RunConfig::to_toml) does not name because older texts do not:
    /// read as the settings of a new run, they are the same.
    ///
    /// # Errors
    /// None in practice.
    pub fn to_named(&self) -> anyhow::Result<toml::Table> {
        let mut config = self.clone();
        config.train.plain_blocks = Some(config.train.plain_blocks.unwrap_or(true));
        config.data.labels = Some(config.data.labels.unwrap_or(LabelsFrom::None));
        Ok(Unnamed::of(&config).with_names(toml::Table::try_from(&config)?)?)
    }

    /// The settings that differ from `other`.
    pub fn differences(&self, other: &RunConfig) -> anyhow::Result<Vec<Difference>> {
        let mut found = Vec::new();
        let ours = toml::Value::Table(Unnamed::of(self).with_names(toml::Table::try_from(self)?)?);
        let theirs = Unnamed::of(other).with_names(toml::Table::try_from(other)?)?;
        let theirs = toml::Value::Table(theirs);
        collect_differences("", &ours, &theirs, &mut found);
        Ok(found)
    }
}

/// One setting that two configs disagree on.
#[derive(Debug, Clone, PartialEq)]
pub struct Difference {
    /// `section.key`.
    pub key: String,
    /// Value in the first config, as TOML.
    pub ours: String,
    /// Value in the second config, as TOML.
    pub theirs: String,
}

impl std::fmt::Display for Difference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {} instead of {}", self.key, self.ours, self.theirs)
    }
}

fn collect_differences(
    path: &str,
    ours: &toml::Value,
    theirs: &toml::Value,
    out: &mut Vec<Difference>,
) {
    if let (toml::Value::Table(a), toml::Value::Table(b)) = (ours, theirs) {
        let none = toml::Value::String("(not set)".into());
        let keys: std::collections::BTreeSet<_> = a.keys().chain(b.keys()).collect();
        for key in keys {
            let path = if path.is_empty() {
                key.clone()
            } else {
                format!("{path}.{key}")
            };
            collect_differences(
                &path,
                a.get(key).unwrap_or(&none),
                b.get(key).unwrap_or(&none),
                out,
            );
        }
    } else if !same(ours, theirs) {
        out.push(Difference {
            key: path.to_owned(),
            ours: ours.to_string(),
            theirs: theirs.to_string(),
        });
    }
}

/// Equal; NaN, which a damaged file may hold, is the same as NaN.
fn same(ours: &toml::Value, theirs: &toml::Value) -> bool {
    match (ours, theirs) {
        (toml::Value::Float(a), toml::Value::Float(b)) => a == b || (a.is_nan() && b.is_nan()),
        (toml::Value::Array(a), toml::Value::Array(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b))
        }
        _ => ours == theirs,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn toml_round_trips_and_overrides_the_preset() {
        for preset in Preset::value_variants() {
            let config = preset.config();
            let back = RunConfig::from_toml(&config.to_toml().unwrap(), Preset::Demo).unwrap();
            assert_eq!(config, back);
        }
        let text = "preset = \"demo\"\n[model]\nblocks = 3\n[optim]\nlr_schedule = [[0, 1.0]]\n";
        let config = RunConfig::from_toml(text, Preset::Celebahq128).unwrap();
        let mut model = config.model;
        assert_eq!((model.unet_mut().blocks, model.unet_mut().height), (3, 32));
        assert_eq!(config.optim.lr_schedule, [(0, 1.0)]);
        let text = "preset = \"demo\"\n[model]\nkind = \"unet-attention\"\nblocks = 1\n";
        let config = RunConfig::from_toml(text, Preset::Celebahq128).unwrap();
        assert_eq!(config.model.kind(), ModelKind::UnetAttention);
        assert_eq!(config.model.chw(), [3, 32, 32]);
    }

    #[test]
    fn unknown_keys_are_refused_by_name() {
        let error = RunConfig::from_toml("[model]\nblokcs = 3\n", Preset::Demo).unwrap_err();
        assert!(error.to_string().contains("blokcs"), "{error}");
    }

    #[test]
    fn differences_name_the_key_and_both_values() {
        let a = Preset::Demo.config();
        let mut b = a.clone();
        b.train.seed = 7;
        b.optim.clip_norm = Some(1.0);
        let found: Vec<_> = a
            .differences(&b)
            .unwrap()
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(
            found,
            [
                "optim.clip_norm: \"(not set)\" instead of 1.0",
                "train.seed: 0 instead of 7"
            ]
        );
    }

    #[test]
    fn nan_does_not_differ_from_nan() {
        let mut a = Preset::Demo.config();
        a.optim.lr = f64::NAN;
        a.optim.lr_schedule = vec![(0, f64::NAN)];
        assert_eq!(a.differences(&a.clone()).unwrap(), []);
        let mut b = a.clone();
        b.optim.lr = 1.0;
        assert_eq!(a.differences(&b).unwrap().len(), 1);
    }

    #[test]
    fn pooling_stops_at_min_pixel() {
        let levels = Preset::Celebahq128.config().model.unet_mut().levels();
        assert_eq!(
            levels.iter().map(|l| l.width).collect::<Vec<_>>(),
            [128, 128, 256, 256, 512, 512]
        );
        assert_eq!(levels.iter().filter(|l| l.pools).count(), 5);
        assert!(!levels[5].pools);
    }
}
