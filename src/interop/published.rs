//! Public files whose settings are published.
//!
//! Sources: the READMEs of openai/improved-diffusion and openai/guided-diffusion (flags of each file),
//! and the settings table in pesser/pytorch_diffusion's `diffusion.py`.

use clap::ValueEnum;

use super::hints::{Hints, Known};
use crate::checkpoint::{AttentionOrder, Family};
use crate::config::{AttentionUNetConfig, Prediction, Resample, ScheduleKind, Sigma};

/// The settings that the shapes in a known file show. All known files are of RGB images, without classes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownShape {
    /// Channels after the first convolution.
    pub base_width: i64,
    /// Channels of each level.
    pub widths: Vec<i64>,
    /// Residual blocks per level on the way down.
    pub blocks: i64,
    /// Levels with attention, down and up alike.
    pub attention: Vec<bool>,
    /// The output has twice the channels.
    pub learned_variance: bool,
    /// The time embedding scales and shifts.
    pub scale_shift: bool,
    /// How feature maps are halved and doubled.
    pub resample: Resample,
}

impl Known {
    /// Everything published about it that its shapes do not show.
    pub fn hints(self) -> Hints {
        let cosine = (ScheduleKind::Cosine, 4000);
        let linear = (ScheduleKind::Linear, 1000);
        match self {
            Known::ImprovedImagenet64 => openai(64, cosine, true, 0.0).heads(4),
            Known::ImprovedCifar10 => openai(32, cosine, true, 0.3).heads(4),
            Known::ImprovedLsun256 => openai(256, linear, false, 0.0).heads(1),
            Known::Guided256 => openai(256, linear, false, 0.0).head_channels(64),
            Known::GuidedLsun256 => openai(256, linear, false, 0.1).head_channels(64),
            Known::PesserCifar10 => published(32, linear, Sigma::Beta, 0.1),
            Known::PesserLsun256 => published(256, linear, Sigma::Posterior, 0.0),
        }
    }

    /// The given hints, completed by the published ones.
    pub fn over(self, given: &Hints) -> Hints {
        let own = self.hints();
        // Heads are given in one of two ways: a given one replaces the published one.
        let heads_given = given.num_heads.is_some() || given.head_channels.is_some();
        let heads = if heads_given { given } else { &own };
        Hints {
            known: Some(self),
            num_heads: heads.num_heads,
            num_heads_upsample: given.num_heads_upsample,
            head_channels: heads.head_channels,
            blocks: given.blocks,
            attention_order: given.attention_order.or(own.attention_order),
            schedule: given.schedule.or(own.schedule),
            timesteps: given.timesteps.or(own.timesteps),
            rescale_timesteps: given.rescale_timesteps.or(own.rescale_timesteps),
            prediction: given.prediction.or(own.prediction),
            sigma: given.sigma.or(own.sigma),
            clip_x0: given.clip_x0.or(own.clip_x0),
            image_size: given.image_size.or(own.image_size),
            dropout: given.dropout.or(own.dropout),
            null_class: given.null_class,
            upscale: given.upscale,
        }
    }

    /// The settings that its shapes show.
    pub fn shape(self) -> KnownShape {
        let lsun: (&[i64], &[usize]) = (&[128, 128, 256, 256, 512, 512], &[4]);
        let guided: (&[i64], &[usize]) = (&[256, 256, 512, 512, 1024, 1024], &[3, 4, 5]);
        let (widths, attention): (&[i64], &[usize]) = match self {
            Known::ImprovedImagenet64 => (&[128, 256, 384, 512], &[2, 3]),
            Known::ImprovedCifar10 => (&[128, 256, 256, 256], &[1, 2]),
            Known::PesserCifar10 => (&[128, 256, 256, 256], &[1]),
            Known::ImprovedLsun256 | Known::PesserLsun256 => lsun,
            Known::Guided256 | Known::GuidedLsun256 => guided,
        };
        let openai = self.family() == Family::Openai;
        KnownShape {
            base_width: widths[0],
            widths: widths.to_vec(),
            blocks: match self {
                Known::ImprovedImagenet64 | Known::ImprovedCifar10 => 3,
                _ => 2,
            },
            attention: (0..widths.len()).map(|i| attention.contains(&i)).collect(),
            learned_variance: openai,
            scale_shift: openai && self != Known::ImprovedLsun256,
            resample: match self {
                Known::Guided256 | Known::GuidedLsun256 => Resample::Resnet,
                _ if openai => Resample::Conv,
                _ => Resample::ConvAsymmetric,
            },
        }
    }

    /// The known files of the same shapes as a network.
    pub fn like(model: &AttentionUNetConfig) -> Vec<Known> {
        let all = Known::value_variants().iter().copied();
        all.filter(|known| known.shape().differences(model).is_empty())
            .collect()
    }
}

impl KnownShape {
    /// The differences of a network, each as "NAME SEEN instead of WANTED".
    pub fn differences(&self, model: &AttentionUNetConfig) -> Vec<String> {
        let mut found = Vec::new();
        let mut compare = |what: &str, seen: String, want: String| {
            if seen != want {
                found.push(format!("{what} {seen} instead of {want}"));
            }
        };
        compare("channels", text(&model.channels), text(&3));
        compare(
            "base width",
            text(&model.base_width),
            text(&self.base_width),
        );
        compare("widths", text(&model.widths), text(&self.widths));
        compare("blocks per level", text(&model.blocks), text(&self.blocks));
        for (way, seen) in [("down", &model.attention_down), ("up", &model.attention_up)] {
            let what = format!("attention, way {way},");
            compare(&what, text(seen), text(&self.attention));
        }
        compare(
            "learned variance",
            text(&model.learned_variance),
            text(&self.learned_variance),
        );
        compare(
            "time scales and shifts",
            text(&model.scale_shift),
            text(&self.scale_shift),
        );
        compare("resample", text(&model.resample), text(&self.resample));
        compare("classes", text(&model.classes), text(&None::<i64>));
        found
    }
}

fn text(value: &impl std::fmt::Debug) -> String {
    format!("{value:?}")
}

/// The hints that all of OpenAI's unconditional files share, without the heads.
fn openai(side: i64, process: (ScheduleKind, i64), rescale: bool, dropout: f64) -> Hints {
    Hints {
        attention_order: Some(AttentionOrder::Legacy),
        rescale_timesteps: Some(rescale),
        ..published(side, process, Sigma::Learned, dropout)
    }
}

fn published(
    side: i64,
    (schedule, timesteps): (ScheduleKind, i64),
    sigma: Sigma,
    dropout: f64,
) -> Hints {
    Hints {
        schedule: Some(schedule),
        timesteps: Some(timesteps),
        prediction: Some(Prediction::Eps),
        sigma: Some(sigma),
        clip_x0: Some(true),
        image_size: Some((side, side)),
        dropout: Some(dropout),
        ..Hints::default()
    }
}

impl Hints {
    fn heads(self, heads: i64) -> Hints {
        Hints {
            num_heads: Some(heads),
            ..self
        }
    }

    fn head_channels(self, channels: i64) -> Hints {
        Hints {
            head_channels: Some(channels),
            ..self
        }
    }
}
