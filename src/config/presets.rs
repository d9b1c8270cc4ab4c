//! Named sets of settings.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use super::{
    AttentionUNetConfig, ConcatUNetConfig, ConditionalConfig, DataConfig, DiffusionConfig, Draws,
    GauConfig, ImageRules, LossKind, LucidrainsConfig, LucidrainsNorm, LucidrainsStructure,
    ModelConfig, ModelKind, Norm, Norms, OnBadStep, OptimConfig, OptimizerKind, Prediction,
    Resample, RunConfig, SampleConfig, ScheduleKind, Sigma, TimeEmbedding, TrainConfig, UNetConfig,
};
use super::{Background, LabelsFrom, Resize};

/// A named set of defaults.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Preset {
    /// Small model for 32-px faces, trained in minutes on two CPU cores.
    Demo,
    /// Class-conditional model of Fashion-MNIST: 28 px, grey, ten classes, trained on two CPU cores in 20 minutes.
    FashionMnist,
    /// Su Jianlin's model from the blog: 128 px, one block per level, 25 M parameters, batch 64.
    Celebahq128,
    /// Keras-DDPM as published: 128 px, two blocks per level, 50 M parameters.
    KerasDdpm,
    /// Keras-DDPM's second network as published: concatenated skips, 128 px, 92 M parameters, batch 32.
    KerasDdpm2,
    /// Keras-DDPM's third network as published: Gated Attention Units over patches, 128 px, 88 M parameters.
    KerasGau,
    /// Ho et al.'s CIFAR-10 model: 32 px, attention at 16 px, 36 M parameters, batch 128.
    DdpmCifar10,
    /// Ho et al.'s LSUN and CelebA-HQ model: 256 px, attention at 16 px, 114 M parameters.
    Ddpm256,
    /// Improved DDPM's CIFAR-10 model: learned variance, cosine schedule, T = 4000, 53 M parameters.
    ImprovedCifar10,
    /// denoising-diffusion-pytorch with its README's settings: 128 px, sigmoid schedule, v prediction, 36 M parameters.
    Lucidrains,
}

impl Preset {
    /// The whole config of this preset.
    pub fn config(self) -> RunConfig {
        match self {
            Preset::Demo => demo(),
            Preset::FashionMnist => fashion_mnist(),
            Preset::Celebahq128 => celebahq128(Preset::Celebahq128, 1),
            Preset::KerasDdpm => celebahq128(Preset::KerasDdpm, 2),
            Preset::KerasDdpm2 => keras_ddpm2(),
            Preset::KerasGau => keras_gau(),
            Preset::DdpmCifar10 => ddpm_cifar10(),
            Preset::Ddpm256 => ddpm_256(),
            Preset::ImprovedCifar10 => improved_cifar10(),
            Preset::Lucidrains => lucidrains(),
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
        model: ModelConfig::Unet(UNetConfig {
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
            classes: None,
            null_class: false,
            condition_channels: None,
            dropout: 0.0,
        }),
        diffusion: DiffusionConfig {
            timesteps: 1000,
            schedule: ScheduleKind::KerasDdpm,
            betas: vec![],
            prediction: Prediction::Eps,
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
            norms: Norms::LATEST,
        },
        data: DataConfig {
            folder: None,
            builtin_images: 16_384,
            hold_out: None,
            resize: Resize::Fast,
            background: Background::default(),
            flip: false,
            rules: ImageRules::LATEST,
            labels: Some(LabelsFrom::Auto),
            balance: false,
        },
        sample: SampleConfig {
            sigma: Sigma::Beta,
            clip_x0: false,
            last_noise: true,
            images: 16,
            every_steps: 2_000,
        },
        train: TrainConfig {
            steps: 100_000,
            batch: 64,
            accumulate: 1,
            seed: 0,
            draws: Draws::LATEST,
            layout: None,
            save_every_steps: 2_000,
            keep: 3,
            on_bad_step: OnBadStep::Stop,
            explosion_factor: 1000.0,
            checkpoint_blocks: false,
            plain_blocks: Some(false),
            sample_steps: 0,
            sample_limit_secs: 600,
        },
        evaluation: None,
        conditional: None,
        upscale: None,
    }
}

/// Source: Su Jianlin's Keras-DDPM, `ddpm2.py`
fn keras_ddpm2() -> RunConfig {
    let base = celebahq128(Preset::KerasDdpm2, 2);
    RunConfig {
        model: ModelConfig::UnetConcat(ConcatUNetConfig {
            height: 128,
            width: 128,
            channels: 3,
            base_width: 128,
            multipliers: vec![1, 1, 2, 2, 4, 4],
            blocks: 2,
            norm_groups: 32,
            norm_eps: 1e-6,
            classes: None,
            null_class: false,
            condition_channels: None,
            dropout: 0.0,
        }),
        train: TrainConfig {
            batch: 32,
            ..base.train
        },
        ..base
    }
}

/// Source: Su Jianlin's Keras-DDPM, `ddpm-gau.py`
fn keras_gau() -> RunConfig {
    RunConfig {
        model: ModelConfig::Gau(GauConfig {
            height: 128,
            width: 128,
            channels: 3,
            patch: 8,
            base_width: 768,
            layers: 24,
            units: 1536,
            key_width: 128,
            norm_eps: 1e-7,
            classes: None,
            null_class: false,
            condition_channels: None,
            dropout: 0.0,
        }),
        ..celebahq128(Preset::KerasGau, 1)
    }
}

/// Small enough for two CPU cores. So small a network learns in minutes thanks to four channels per norm
/// group, a learning rate of 1e-2 that falls to zero over the second half, and x_0 clipped at each
/// step, which keeps sampling from drifting to flat colours. 250 time steps make sampling quick; the linear
/// schedule scales with their number, unlike the original's.
fn demo() -> RunConfig {
    let mut base = celebahq128(Preset::Demo, 1);
    let model = base.model.unet_mut();
    (model.height, model.width, model.base_width) = (32, 32, 32);
    (model.multipliers, model.norm_groups) = (vec![1, 2, 2], 8);
    RunConfig {
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

/// The demo's network on 28 pixels, which it halves twice: 7 is odd. A thousand time steps, told the class.
fn fashion_mnist() -> RunConfig {
    let mut base = demo();
    let model = base.model.unet_mut();
    (model.height, model.width, model.channels, model.min_pixel) = (28, 28, 1, 7);
    RunConfig {
        preset: Preset::FashionMnist,
        diffusion: DiffusionConfig {
            timesteps: 1000,
            ..base.diffusion
        },
        optim: OptimConfig {
            lr_schedule: vec![(0, 0.0), (100, 1.0), (4_000, 1.0), (8_000, 0.0)],
            ema: 0.995,
            ..base.optim
        },
        sample: SampleConfig {
            images: 80,
            every_steps: 2_000,
            ..base.sample
        },
        train: TrainConfig {
            steps: 8_000,
            batch: 64,
            save_every_steps: 1_000,
            // All thousand would take a good part of the time.
            sample_steps: 100,
            ..base.train
        },
        conditional: Some(ConditionalConfig::default()),
        ..base
    }
}

/// Source: Ho et al. 2020, section 4 and appendix B <https://arxiv.org/abs/2006.11239>
fn ddpm_cifar10() -> RunConfig {
    let base = celebahq128(Preset::DdpmCifar10, 1);
    RunConfig {
        model: ModelConfig::UnetAttention(AttentionUNetConfig {
            height: 32,
            width: 32,
            channels: 3,
            learned_variance: false,
            base_width: 128,
            widths: vec![128, 256, 256, 256],
            blocks: 2,
            attention_down: vec![false, true, false, false],
            attention_up: vec![false, true, false, false],
            mid_attention: true,
            mid_attention_norm: true,
            heads: 1,
            heads_up: None,
            head_channels: None,
            norm_groups: 32,
            norm_eps: 1e-6,
            scale_shift: false,
            resample: Resample::ConvAsymmetric,
            mid_scale: 1.0,
            time_channels: 128,
            time_width: 512,
            freq_shift: 1,
            cos_first: false,
            time_scale: 1.0,
            classes: None,
            null_class: false,
            condition_channels: None,
            center_input: false,
            dropout: 0.1,
        }),
        diffusion: DiffusionConfig {
            schedule: ScheduleKind::Linear,
            loss: LossKind::Mse,
            ..base.diffusion
        },
        optim: OptimConfig {
            optimizer: OptimizerKind::Adam,
            lr: 2e-4,
            eps: 1e-8,
            lr_schedule: vec![(0, 0.0), (5_000, 1.0)],
            clip_norm: Some(1.0),
            ..base.optim
        },
        data: DataConfig {
            flip: true,
            ..base.data
        },
        sample: SampleConfig {
            clip_x0: true,
            last_noise: false,
            every_steps: 10_000,
            ..base.sample
        },
        train: TrainConfig {
            steps: 800_000,
            batch: 128,
            ..base.train
        },
        ..base
    }
}

/// Source: as [`ddpm_cifar10`].
fn ddpm_256() -> RunConfig {
    let mut config = ddpm_cifar10();
    config.preset = Preset::Ddpm256;
    if let ModelConfig::UnetAttention(m) = &mut config.model {
        (m.height, m.width, m.dropout) = (256, 256, 0.0);
        m.widths = vec![128, 128, 256, 256, 512, 512];
        m.attention_down = vec![false, false, false, false, true, false];
        m.attention_up = m.attention_down.clone();
    }
    config.optim.lr = 2e-5;
    config.sample.sigma = Sigma::Posterior;
    (config.train.batch, config.train.steps) = (64, 2_400_000);
    config
}

/// Source: Nichol & Dhariwal 2021, appendix A <https://arxiv.org/abs/2102.09672>
fn improved_cifar10() -> RunConfig {
    let mut config = ddpm_cifar10();
    config.preset = Preset::ImprovedCifar10;
    if let ModelConfig::UnetAttention(m) = &mut config.model {
        (m.blocks, m.heads, m.norm_eps, m.dropout) = (3, 4, 1e-5, 0.3);
        m.attention_down = vec![false, true, true, false];
        m.attention_up = m.attention_down.clone();
        (m.learned_variance, m.scale_shift) = (true, true);
        (m.resample, m.freq_shift, m.cos_first) = (Resample::Conv, 0, true);
        m.time_scale = 1000.0 / 4000.0;
    }
    (config.diffusion.schedule, config.diffusion.timesteps) = (ScheduleKind::Cosine, 4000);
    config.optim = OptimConfig {
        optimizer: OptimizerKind::Adamw,
        lr: 1e-4,
        lr_schedule: vec![(0, 1.0)],
        clip_norm: None,
        ..config.optim
    };
    config.sample.sigma = Sigma::Learned;
    config.data.flip = false;
    config.train.steps = 500_000;
    config
}

/// Source: the README of denoising-diffusion-pytorch. Its average is taken every tenth step with 0.995.
fn lucidrains() -> RunConfig {
    let base = ddpm_cifar10();
    RunConfig {
        preset: Preset::Lucidrains,
        model: ModelConfig::Lucidrains(LucidrainsConfig {
            height: 128,
            width: 128,
            channels: 3,
            learned_variance: false,
            base_width: 64,
            init_width: 64,
            multipliers: vec![1, 2, 4, 8],
            heads: vec![4; 4],
            head_channels: vec![32; 4],
            full_attention: vec![false, false, false, true],
            norm: LucidrainsNorm::Rms,
            structure: LucidrainsStructure::Main,
            classes: None,
            null_class: false,
            condition_channels: None,
            dropout: 0.0,
        }),
        diffusion: DiffusionConfig {
            schedule: ScheduleKind::Sigmoid,
            prediction: Prediction::V,
            ..base.diffusion
        },
        optim: OptimConfig {
            lr: 8e-5,
            beta2: 0.99,
            lr_schedule: vec![(0, 1.0)],
            ema: 0.9995,
            ..base.optim
        },
        sample: SampleConfig {
            sigma: Sigma::Posterior,
            ..base.sample
        },
        train: TrainConfig {
            steps: 700_000,
            batch: 32,
            ..base.train
        },
        ..base
    }
}

impl ModelKind {
    /// Default settings of this kind of network, for images of shape `chw`.
    pub fn config(self, chw: [i64; 3]) -> ModelConfig {
        let mut model = self.preset().config().model;
        model.set_chw(chw);
        model
    }

    /// The name on the command line.
    pub fn name(self) -> String {
        self.to_possible_value()
            .map_or_else(String::new, |v| v.get_name().to_owned())
    }

    /// The default preset of this kind of network.
    pub fn preset(self) -> Preset {
        match self {
            ModelKind::Unet => Preset::Celebahq128,
            ModelKind::UnetAttention => Preset::DdpmCifar10,
            ModelKind::Lucidrains => Preset::Lucidrains,
            ModelKind::UnetConcat => Preset::KerasDdpm2,
            ModelKind::Gau => Preset::KerasGau,
        }
    }
}
