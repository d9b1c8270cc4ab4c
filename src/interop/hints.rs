//! Settings that a file leaves open and the user may know.

use anyhow::{Result, ensure};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use super::settings::spelled;
use crate::checkpoint::{AttentionOrder, Family};
use crate::config::{Prediction, RunConfig, ScheduleKind, Sigma};

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
    /// True if the last row of the embedding of classes means that there is none.
    pub null_class: Option<bool>,
    /// How many times as high and wide a network of super-resolution makes images.
    pub upscale: Option<i64>,
}

impl Hints {
    /// Those that are given, by name, with their values as a flag takes them.
    pub fn given(&self) -> Vec<(&'static str, String)> {
        fn of<T: Serialize>(value: &Option<T>) -> Option<String> {
            value.as_ref().map(spelled)
        }
        let size = self.image_size.map(|(h, w)| format!("{h}x{w}"));
        let all = [
            ("known", of(&self.known)),
            ("num_heads", of(&self.num_heads)),
            ("num_heads_upsample", of(&self.num_heads_upsample)),
            ("head_channels", of(&self.head_channels)),
            ("attention_order", of(&self.attention_order)),
            ("schedule", of(&self.schedule)),
            ("timesteps", of(&self.timesteps)),
            ("rescale_timesteps", of(&self.rescale_timesteps)),
            ("prediction", of(&self.prediction)),
            ("sigma", of(&self.sigma)),
            ("clip_x0", of(&self.clip_x0)),
            ("image_size", size),
            ("blocks", of(&self.blocks)),
            ("dropout", of(&self.dropout)),
            ("null_class", of(&self.null_class)),
            ("upscale", of(&self.upscale)),
        ];
        let given = all.into_iter();
        given
            .filter_map(|(name, value)| Some((name, value?)))
            .collect()
    }

    /// Refuses hints for a checkpoint of this program, which holds all settings. Those of the sampler are choices.
    ///
    /// # Errors
    /// All such hints, with what the checkpoint says.
    pub(crate) fn refuse_for_ours(&self, config: &RunConfig) -> Result<()> {
        let mut given = self.given();
        given.retain(|(name, _)| !is_sampler_s(name));
        let hints: Vec<String> = (given.iter())
            .map(|(name, value)| format!("`hints.{name}` = {value}"))
            .collect();
        let says: Vec<String> = (given.iter())
            .filter_map(|(name, _)| Some(format!("{name} = {}", in_config(config, name)?)))
            .collect();
        let says = match says.is_empty() {
            true => String::new(),
            false => format!(" ({})", says.join(", ")),
        };
        ensure!(
            hints.is_empty(),
            "{}: this is a file of this program, which holds all its settings{says}; leave {} out",
            hints.join(", "),
            if hints.len() == 1 { "it" } else { "them" }
        );
        Ok(())
    }

    /// Refuses hints that no file of `family` leaves open and that would be passed over.
    ///
    /// # Errors
    /// The first of them.
    pub(super) fn refuse_idle(&self, family: Family) -> Result<()> {
        let idle: &[&str] = match family {
            Family::Lucidrains => &[
                "known",
                "num_heads_upsample",
                "attention_order",
                "rescale_timesteps",
                "blocks",
                "null_class",
                "upscale",
            ],
            Family::KerasDdpm => &[
                "known",
                "num_heads",
                "num_heads_upsample",
                "head_channels",
                "attention_order",
                "rescale_timesteps",
                "null_class",
                "upscale",
            ],
            // These families look at each hint themselves.
            _ => &[],
        };
        for (name, value) in self.given() {
            ensure!(
                family != Family::Ddpm || is_sampler_s(name),
                "`hints.{name}` = {value}: `request.config` holds all settings; leave `hints.{name}` out"
            );
            ensure!(
                !idle.contains(&name),
                "`hints.{name}` = {value}: no file of {family} leaves that open; leave `hints.{name}` out"
            );
        }
        Ok(())
    }
}

/// True for the hints that choose how to sample, whatever the file says.
fn is_sampler_s(name: &str) -> bool {
    matches!(name, "sigma" | "clip_x0")
}

/// What the settings of a checkpoint of this program say about a hint.
fn in_config(config: &RunConfig, hint: &str) -> Option<String> {
    let [_, height, width] = config.model.chw();
    let model = serde_json::to_value(&config.model).ok()?;
    let of_model = |name: &str| {
        model
            .get(name)
            .filter(|value| !value.is_null())
            .map(spelled)
    };
    match hint {
        "null_class" => Some(config.model.null_class().is_some().to_string()),
        "upscale" => config.upscale.as_ref().map(|u| u.factor.to_string()),
        "schedule" => Some(spelled(&config.diffusion.schedule)),
        "timesteps" => Some(config.diffusion.timesteps.to_string()),
        "prediction" => Some(spelled(&config.diffusion.prediction)),
        "image_size" => Some(format!("{height}x{width}")),
        "num_heads" => of_model("heads"),
        "num_heads_upsample" => of_model("heads_up"),
        name => of_model(name),
    }
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
