//! Super-resolution: a network that is given a low-resolution image beside x_t.

use serde::{Deserialize, Serialize};

use super::validate::require;
use super::{ConfigError, ModelConfig, RunConfig};

/// Settings of a run whose network makes images larger.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UpscaleConfig {
    /// How many times as high and wide images become.
    pub factor: i64,
    /// Most noise on the low-resolution images that are trained on, as a share from 0 to 1 of what they then are: noise
    /// augmentation, by which the network learns to take images that are not quite those of the training. 0 for none.
    #[serde(default = "condition_noise")]
    pub noise: f64,
    /// How the low-resolution image is brought to the size of x_t before the network sees it.
    #[serde(default)]
    pub interpolation: Interpolation,
}

/// Interpolation between pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Interpolation {
    /// Cubic, as Pillow's.
    #[default]
    Bicubic,
    /// Linear, as OpenAI's upsamplers have it.
    Bilinear,
}

/// Most noise on low-resolution images, unless told otherwise.
pub const CONDITION_NOISE: f64 = 0.1;

fn condition_noise() -> f64 {
    CONDITION_NOISE
}

/// Factors that are accepted.
const FACTORS: std::ops::RangeInclusive<i64> = 2..=16;

/// Channels of what a network's first layer takes: x_t, and the image beside it.
pub(crate) fn input_channels(channels: i64, condition: Option<i64>) -> i64 {
    channels + condition.unwrap_or(0)
}

impl UpscaleConfig {
    /// Images become `factor` times as high and wide; the rest is as usual.
    pub fn by(factor: i64) -> UpscaleConfig {
        UpscaleConfig {
            factor,
            noise: CONDITION_NOISE,
            interpolation: Interpolation::Bicubic,
        }
    }

    fn validate(&self, model: &ModelConfig) -> Result<(), ConfigError> {
        let [channels, height, width] = model.chw();
        let factor = self.factor;
        require(
            FACTORS.contains(&factor),
            "upscale.factor",
            factor,
            "want 2 to 16",
        )?;
        let fits = height % factor == 0 && width % factor == 0;
        require(
            fits,
            "upscale.factor",
            factor,
            format!(
                "must divide the image's sides, {height} and {width}: it is made from one {factor} times smaller"
            ),
        )?;
        require(
            (0.0..1.0).contains(&self.noise),
            "upscale.noise",
            self.noise,
            "want 0 or more, and less than 1",
        )?;
        require(
            model.condition_channels() == Some(channels),
            "model.condition_channels",
            model.condition_channels().unwrap_or(0),
            format!("want {channels}, the channels of the low-resolution image of `upscale`"),
        )
    }
}

impl ModelConfig {
    /// Channels of the image that the network is given beside x_t, if it is.
    pub fn condition_channels(&self) -> Option<i64> {
        match self {
            ModelConfig::Unet(m) => m.condition_channels,
            ModelConfig::UnetAttention(m) => m.condition_channels,
            ModelConfig::Lucidrains(m) => m.condition_channels,
            ModelConfig::UnetConcat(m) => m.condition_channels,
            ModelConfig::Gau(m) => m.condition_channels,
        }
    }

    /// Channels of what the network takes: those of x_t, and of the image beside it.
    pub fn input_channels(&self) -> i64 {
        input_channels(self.chw()[0], self.condition_channels())
    }

    pub(super) fn set_condition_channels(&mut self, channels: Option<i64>) {
        *match self {
            ModelConfig::Unet(m) => &mut m.condition_channels,
            ModelConfig::UnetAttention(m) => &mut m.condition_channels,
            ModelConfig::Lucidrains(m) => &mut m.condition_channels,
            ModelConfig::UnetConcat(m) => &mut m.condition_channels,
            ModelConfig::Gau(m) => &mut m.condition_channels,
        } = channels;
    }
}

impl RunConfig {
    /// Makes it a run of super-resolution, or of images from noise alone; the network then has the inputs for it.
    pub fn set_upscale(&mut self, upscale: Option<UpscaleConfig>) {
        let channels = upscale.as_ref().map(|_| self.model.chw()[0]);
        self.model.set_condition_channels(channels);
        self.upscale = upscale;
    }

    pub(super) fn validate_upscale(&self) -> Result<(), ConfigError> {
        match &self.upscale {
            Some(upscale) => upscale.validate(&self.model),
            None => require(
                self.model.condition_channels().is_none(),
                "model.condition_channels",
                self.model.condition_channels().unwrap_or(0),
                "is for super-resolution; set `upscale`, or leave both out",
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum;

    use super::*;
    use crate::config::{ModelKind, Preset};

    #[test]
    fn settings_come_back_from_text_and_none_leave_no_trace() {
        for kind in ModelKind::value_variants() {
            let mut config = Preset::Demo.config();
            config.model = kind.config([3, 128, 128]);
            let plain = config.clone();
            let text = config.to_toml().unwrap();
            assert!(
                !text.contains("upscale") && !text.contains("condition"),
                "{text}"
            );
            config.set_upscale(Some(UpscaleConfig::by(4)));
            config.validate().unwrap();
            assert_eq!(
                (config.model.chw(), config.model.input_channels()),
                ([3, 128, 128], 6)
            );
            let text = config.to_toml().unwrap();
            assert_eq!(RunConfig::of_a_run(&text), Some(config.clone()));
            let json = serde_json::to_string(&config).unwrap();
            assert_eq!(serde_json::from_str::<RunConfig>(&json).unwrap(), config);
            config.set_upscale(None);
            assert_eq!(config, plain);
        }
    }

    #[test]
    fn what_cannot_be_is_refused_by_name() {
        let refused = |edit: &dyn Fn(&mut RunConfig)| {
            let mut config = Preset::Demo.config();
            config.model.set_chw([3, 48, 48]);
            config.set_upscale(Some(UpscaleConfig::by(4)));
            edit(&mut config);
            config.validate().map_err(|error| error.setting)
        };
        assert_eq!(refused(&|_| ()), Ok(vec![]));
        let factor = |factor| move |c: &mut RunConfig| c.upscale.as_mut().unwrap().factor = factor;
        for wrong in [1, 0, -4, 17, 5] {
            assert_eq!(refused(&factor(wrong)), Err("upscale.factor"), "{wrong}");
        }
        let noise = |noise| move |c: &mut RunConfig| c.upscale.as_mut().unwrap().noise = noise;
        for wrong in [-0.1, 1.0, f64::NAN] {
            assert_eq!(refused(&noise(wrong)), Err("upscale.noise"), "{wrong}");
        }
        let channels = Err("model.condition_channels");
        assert_eq!(refused(&|c| c.upscale = None), channels);
        assert_eq!(refused(&|c| c.model.set_condition_channels(None)), channels);
        assert_eq!(
            refused(&|c| c.model.set_condition_channels(Some(1))),
            channels
        );
    }
}
