//! Which files are the images of a data set, and how they are brought to the size of the network.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Resizing methods.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Resize {
    /// As area, but a JPEG much larger than wanted is decoded at a quarter or half of its size first.
    Fast,
    /// Mean over the area of each pixel, without aliasing.
    #[default]
    Area,
    /// The same bytes as OpenCV's default resize, for parity with models trained with it.
    Cv2,
}

impl fmt::Display for Resize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Fast => "fast",
            Self::Area => "area",
            Self::Cv2 => "cv2",
        })
    }
}

/// Treatment of transparent pixels. As text: `white`, `black`, `#rrggbb` or `ignore`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Background {
    /// Blend over this RGB colour, in the file's own (gamma-encoded) values, as browsers do.
    Color([u8; 3]),
    /// Drop the alpha channel as OpenCV does: whatever colour hides in transparent pixels shows.
    Ignore,
}

impl Default for Background {
    fn default() -> Self {
        Self::Color([255; 3])
    }
}

impl fmt::Display for Background {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ignore => f.write_str("ignore"),
            Self::Color([255, 255, 255]) => f.write_str("white"),
            Self::Color([0, 0, 0]) => f.write_str("black"),
            Self::Color([r, g, b]) => write!(f, "#{r:02x}{g:02x}{b:02x}"),
        }
    }
}

/// A background that is not one of the texts [`Background`] reads.
#[derive(Debug, thiserror::Error)]
#[error("background {0:?} is not white, black, ignore or a colour such as #ffcc00")]
pub struct ParseBackgroundError(String);

impl FromStr for Background {
    type Err = ParseBackgroundError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let hex = |digits: &str| {
            let valid = digits.len() == 6 && digits.bytes().all(|b| b.is_ascii_hexdigit());
            let [_, r, g, b] = u32::from_str_radix(digits, 16).ok()?.to_be_bytes();
            valid.then_some(Self::Color([r, g, b]))
        };
        match text {
            "white" => Ok(Self::Color([255; 3])),
            "black" => Ok(Self::Color([0; 3])),
            "ignore" => Ok(Self::Ignore),
            _ => text
                .strip_prefix('#')
                .and_then(hex)
                .ok_or(ParseBackgroundError(text.to_owned())),
        }
    }
}

impl TryFrom<String> for Background {
    type Error = ParseBackgroundError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Background> for String {
    fn from(background: Background) -> Self {
        background.to_string()
    }
}

/// Which files of a folder are images, and what a file's bytes mean. In settings: a number; without it, the first.
///
/// A run keeps the rules that it began with, so that it goes on with the same images, bit for bit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "i64", into = "i64")]
pub enum ImageRules {
    /// Those of version 0.1.
    V1,
    /// Hidden files and folders of runs are passed over, files without an ending are read by their content, and JPEGs
    /// of every kind come out as libjpeg decodes them, or are left out.
    V2,
}

impl ImageRules {
    /// The rules of a new run.
    pub const LATEST: Self = Self::V2;

    /// The rules of a run whose settings do not name any.
    pub(crate) fn unnamed() -> Self {
        Self::V1
    }

    /// True for [`ImageRules::unnamed`]: settings of before stay the same text.
    pub(crate) fn are_unnamed(&self) -> bool {
        *self == Self::V1
    }
}

/// A number of rules that this version does not know.
#[derive(Debug, thiserror::Error)]
#[error(
    "rules = {0} for images: this version knows 1 and 2, so a newer ddpm wrote it; use that one"
)]
pub struct UnknownRulesError(i64);

impl TryFrom<i64> for ImageRules {
    type Error = UnknownRulesError;

    fn try_from(number: i64) -> Result<Self, Self::Error> {
        match number {
            1 => Ok(Self::V1),
            2 => Ok(Self::V2),
            _ => Err(UnknownRulesError(number)),
        }
    }
}

impl From<ImageRules> for i64 {
    fn from(rules: ImageRules) -> Self {
        match rules {
            ImageRules::V1 => 1,
            ImageRules::V2 => 2,
        }
    }
}
