//! The target form of every image of a data set.

use serde::{Deserialize, Serialize};

use super::error::DataError;
use crate::config::{Background, DataConfig, ImageRules, Resize};

/// Maximum side of a resized image, pixels.
pub(crate) const MAX_SIDE: usize = 8192;

/// The target form of every image of a data set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageSpec {
    /// Height in pixels, 1 to 8192.
    pub height: usize,
    /// Width in pixels, 1 to 8192.
    pub width: usize,
    /// 3 for RGB, 1 for grey.
    pub channels: usize,
    /// Method of resizing.
    pub resize: Resize,
    /// Colour behind transparent pixels.
    pub background: Background,
    /// Rules of decoding.
    #[serde(
        default = "ImageRules::unnamed",
        skip_serializing_if = "ImageRules::are_unnamed"
    )]
    pub rules: ImageRules,
}

impl ImageSpec {
    /// RGB, area resize, white behind transparent pixels, the newest rules.
    pub fn rgb(height: usize, width: usize) -> Self {
        Self {
            height,
            width,
            channels: 3,
            resize: Resize::Area,
            background: Background::default(),
            rules: ImageRules::LATEST,
        }
    }

    /// Images of this size for a network, brought to it as the settings of its data set say.
    ///
    /// # Shapes
    /// - `chw`: `[C, H, W]` of an image
    pub fn of(chw: [i64; 3], data: &DataConfig) -> Self {
        let [channels, height, width] = chw.map(|n| n as usize);
        Self {
            height,
            width,
            channels,
            resize: data.resize,
            background: data.background,
            rules: data.rules,
        }
    }

    /// Bytes of one image: height * width * channels.
    pub fn bytes(&self) -> usize {
        self.height * self.width * self.channels
    }

    /// Checks sizes and channel count.
    ///
    /// # Errors
    /// [`DataError::Spec`] naming the first field out of range.
    pub fn check(&self) -> Result<(), DataError> {
        let side = |name, value| match value {
            1..=MAX_SIDE => Ok(()),
            _ => Err(DataError::Spec {
                name,
                value,
                wanted: "1 to 8192 pixels",
            }),
        };
        side("height", self.height)?;
        side("width", self.width)?;
        match self.channels {
            1 | 3 => Ok(()),
            value => Err(DataError::Spec {
                name: "channels",
                value,
                wanted: "1 or 3",
            }),
        }
    }
}
