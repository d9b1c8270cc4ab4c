//! Settings that belong together, under a name.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use super::{
    DataConfig, DiffusionConfig, LossKind, ModelConfig, Norm, OptimConfig, OptimizerKind,
    RunConfig, SampleConfig, ScheduleKind, Sigma, TimeEmbedding, TrainConfig,
};
use crate::data::{Background, Resize};

/// A named set of defaults.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Preset {
    /// 32-px faces in minutes on two CPU cores.
    Demo,
    /// The blog's model: 128 px, one block a level, 25 M parameters, batch 64.
    Celebahq128,
    /// Keras-DDPM as shipped: two blocks a level, 50 M parameters.
    KerasDdpm,
}

impl Preset {
    /// The whole config of this preset.
    pub fn config(self) -> RunConfig {
        match self {
            Preset::Demo => demo(),
            Preset::Celebahq128 => celebahq128(Preset::Celebahq128, 1),
            Preset::KerasDdpm => celebahq128(Preset::KerasDdpm, 2),
        }
    }

    /// The name on the command line.
    pub fn name(self) -> String {
        self.to_possible_value()
            .map_or_else(String::new, |v| v.get_name().to_owned())
    }
}

/// Source: Su Jianlin's Keras-DDPM, `ddpm.py`, and the blog's settings for one RTX 3090.
fn celebahq128(preset: Preset, blocks: i64) -> RunConfig {
    RunConfig {
        preset,
        model: ModelConfig {
            height: 128,
            width: 128,
            channels: 3,
            base_width: 128,
            multipliers: vec![1, 1, 2, 2, 4, 4],
            blocks,
            min_pixel: 4,
            norm: Norm::Group,
            norm_groups: 32,
            norm_eps: 1e-6,
            time_embedding: TimeEmbedding::Trainable,
            dropout: 0.0,
        },
        diffusion: DiffusionConfig {
            timesteps: 1000,
            schedule: ScheduleKind::KerasDdpm,
            loss: LossKind::Sum,
        },
        optim: OptimConfig {
            optimizer: OptimizerKind::Lamb,
            lr: 1e-3,
            beta1: 0.9,
            beta2: 0.999,
            eps: 1e-7,
            weight_decay: 0.0,
            lr_schedule: vec![(0, 0.0), (4_000, 1.0), (20_000, 0.5), (40_000, 0.1)],
            clip_norm: None,
            adapt_norms: false,
            ema: 0.9999,
        },
        data: DataConfig {
            folder: None,
            builtin_images: 16_384,
            resize: Resize::Area,
            background: Background::default(),
            flip: false,
        },
        sample: SampleConfig {
            sigma: Sigma::Beta,
            clip_x0: false,
            images: 16,
            every_steps: 2_000,
        },
        train: TrainConfig {
            steps: 100_000,
            batch: 64,
            accumulate: 1,
            seed: 0,
            save_every_steps: 2_000,
            keep: 3,
        },
    }
}

/// Small enough for two CPU cores. What makes so small a net learn in minutes: four channels a norm
/// group, a learning rate of 1e-2 that falls to zero over the second half, and x_0 clipped on the way,
/// which keeps its chains from drifting to flat colours. 250 time steps make sampling quick; the linear
/// schedule scales with their number, the original's does not.
fn demo() -> RunConfig {
    let base = celebahq128(Preset::Demo, 1);
    RunConfig {
        model: ModelConfig {
            height: 32,
            width: 32,
            base_width: 32,
            multipliers: vec![1, 2, 2],
            norm_groups: 8,
            ..base.model
        },
        diffusion: DiffusionConfig {
            timesteps: 250,
            schedule: ScheduleKind::Linear,
            ..base.diffusion
        },
        optim: OptimConfig {
            lr: 1e-2,
            lr_schedule: vec![(0, 0.0), (60, 1.0), (800, 1.0), (1_600, 0.0)],
            ema: 0.99,
            ..base.optim
        },
        sample: SampleConfig {
            clip_x0: true,
            every_steps: 800,
            ..base.sample
        },
        train: TrainConfig {
            steps: 1_600,
            batch: 16,
            save_every_steps: 400,
            ..base.train
        },
        ..base
    }
}
