//! What an image was made with, as it stands in PNG files: read and written as one line of JSON (docs/output.md).
//!
//! The names are those of the command line's flags. A field that says nothing is left out, and so a new one changes no older
//! file; one that is not known is passed over.

use serde::{Deserialize, Serialize};

/// The settings of one image, or of a grid of images.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ImageSettings {
    /// Version of this program.
    pub ddpm: String,
    /// The command that makes it again, for a shell.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub command: Option<String>,
    /// The network.
    pub network: NetworkSettings,
    /// Number of the image, from 0; none for a grid.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<u64>,
    /// How many images a grid holds, from number 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub images: Option<u64>,
    /// Seed of the noise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
    /// The file that noise was taken from, instead of a seed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub noise: Option<String>,
    /// The sampler.
    pub sampler: SamplerSettings,
    /// The class of an image.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub class: Option<OfClass>,
    /// The classes of a grid: `all` in turn, as often as in the `data`, `none`, or names in turn.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub classes: Option<String>,
    /// Guidance, if there is any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guidance: Option<GuidanceSettings>,
    /// The image that it started from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start: Option<StartSettings>,
    /// The networks that made it larger, in their order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub then: Vec<StageSettings>,
    /// The images that it was interpolated between.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interpolation: Option<InterpolationSettings>,
    /// Images in a batch, which decides the last bits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub batch: Option<u64>,
    /// `cpu` or `cuda`.
    pub device: String,
    /// Arithmetic of convolutions and matrix products.
    pub precision: String,
    /// All else that the last bits depend on: processor, threads, libtorch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub environment: Option<String>,
}

/// A network.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct NetworkSettings {
    /// Name of its file, without the folders.
    pub file: String,
    /// Training steps that it has had, if they are known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub step: Option<u64>,
    /// `ema` or `raw`.
    pub weights: String,
    /// Hash of its settings and weights, in hexadecimal digits.
    pub fingerprint: String,
}

/// A sampler and its choices; those that it does not have are left out.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SamplerSettings {
    /// Its name.
    pub name: String,
    /// Reverse steps that were taken.
    pub steps: u64,
    /// How they are spread over the time steps.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub spacing: Option<String>,
    /// Every k-th time step instead.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stride: Option<u64>,
    /// The time steps themselves instead, the noisiest first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub times: Option<Vec<u64>>,
    /// Noise of ddim and analytic.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eta: Option<f64>,
    /// Order of unipc.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub order: Option<u64>,
    /// Noise of ddpm and ddcm.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sigma: Option<String>,
    /// Whether the predicted x_0 was clipped.
    pub clip_x0: bool,
}

/// A class.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct OfClass {
    /// Its number.
    pub number: i64,
    /// Its name, or its number again where the network does not say names.
    pub name: String,
}

/// Guidance.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct GuidanceSettings {
    /// 1 is the network as it is.
    pub scale: f64,
    /// First and last time step that are guided, if not all are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interval: Option<(i64, i64)>,
    /// How far the contrast is brought back.
    pub rescale: f64,
    /// The network that it is guided with; the same one without a class otherwise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub with: Option<NetworkSettings>,
}

/// An image to start from, as it was named.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct StartSettings {
    /// The image.
    pub image: String,
    /// Noise that was added to it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub strength: Option<f64>,
    /// The mask of what was painted anew.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mask: Option<String>,
    /// Steps in a jump back.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jump: Option<u64>,
    /// Passes over each stretch of such steps.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resample: Option<u64>,
}

/// A network that makes images larger.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct StageSettings {
    /// The network.
    pub network: NetworkSettings,
    /// Its sampler.
    pub sampler: SamplerSettings,
    /// Noise on the small image.
    pub condition_noise: f64,
    /// Largest side of a tile, if it is not the network's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tile: Option<i64>,
}

/// What images were interpolated between.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct InterpolationSettings {
    /// Rows of images.
    pub rows: u64,
    /// Images in a row.
    pub count: u64,
    /// Whether latents were interpolated.
    pub latent: bool,
    /// The seed of the noise at the other end, where it is that of one seed and of another.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to_seed: Option<u64>,
    /// The time step that mixed images were noised to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub t0: Option<i64>,
    /// The images, two a row, as they were named.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub images: Vec<String>,
}

impl ImageSettings {
    /// One line of JSON, for [`encode_png`](super::encode_png).
    ///
    /// # Errors
    /// None in practice.
    pub fn to_json(&self) -> serde_json::Result<String> {
        serde_json::to_string(self)
    }

    /// Reads what [`to_json`](ImageSettings::to_json) wrote, in this version or another.
    ///
    /// # Errors
    /// Text that is no such JSON.
    pub fn from_json(text: &str) -> serde_json::Result<ImageSettings> {
        serde_json::from_str(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_one_line_that_older_and_newer_versions_read() {
        let settings = ImageSettings {
            ddpm: "0.1.0".to_owned(),
            seed: Some(u64::MAX),
            image: Some(7),
            guidance: Some(GuidanceSettings {
                scale: 0.1 + 0.2,
                ..GuidanceSettings::default()
            }),
            ..ImageSettings::default()
        };
        let json = settings.to_json().unwrap();
        assert!(
            !json.contains('\n') && json.starts_with(r#"{"ddpm":"0.1.0","network":"#),
            "{json}"
        );
        assert_eq!(ImageSettings::from_json(&json).unwrap(), settings);
        let newer = ImageSettings::from_json(r#"{"seed":3,"novelty":{"a":[1]}}"#).unwrap();
        assert_eq!(newer.seed, Some(3));
        assert!(ImageSettings::from_json("[1]").is_err());
    }
}
