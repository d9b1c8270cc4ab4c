//! How the images of a data set are brought to the size of the network.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Resizing methods.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Resize {
    /// As area, but a JPEG much larger than wanted is decoded at a quarter of its size first.
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
