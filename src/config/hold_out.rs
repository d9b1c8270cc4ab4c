//! Which images a run keeps apart from training.

use std::fmt;
use std::io;
use std::path::{self, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Images that are never trained on, so that there are some that the network has not seen. As text: `5%`, `100` or a
/// folder.
///
/// A share and a number are chosen by what images show: their names, the seed and the other settings do not matter, but
/// the size of the network's images does. Images with the same pixels are on the same side.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Named", into = "String")]
pub enum HoldOut {
    /// About this percentage of the images, more than 0 and less than 100, and one image at least. An image stays on
    /// its side when others are added.
    Share(f64),
    /// So many images, at least 1; more if others have the same pixels as the last of them. Images that are added may
    /// take the place of others.
    Number(u64),
    /// All images of this folder. Those of the training images that have the same pixels are not trained on either.
    Folder(PathBuf),
}

impl HoldOut {
    /// The same with a path that begins at the root, from the current folder.
    ///
    /// # Errors
    /// No current folder.
    pub fn absolute(&self) -> io::Result<HoldOut> {
        Ok(match self {
            HoldOut::Folder(dir) => HoldOut::Folder(path::absolute(dir)?),
            other => other.clone(),
        })
    }

    /// True for images of a folder of their own.
    pub fn is_folder(&self) -> bool {
        matches!(self, HoldOut::Folder(_))
    }

    /// True for values that work.
    pub(super) fn is_valid(&self) -> bool {
        match self {
            HoldOut::Share(percent) => *percent > 0.0 && *percent < 100.0,
            HoldOut::Number(images) => *images > 0,
            HoldOut::Folder(dir) => dir.to_str().is_some_and(|dir| !dir.is_empty()),
        }
    }
}

impl fmt::Display for HoldOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HoldOut::Share(percent) => write!(f, "{percent}%"),
            HoldOut::Number(images) => write!(f, "{images}"),
            HoldOut::Folder(dir) => write!(f, "{}", dir.display()),
        }
    }
}

/// The values of [`HoldOut`], for messages.
pub(super) const WANTED: &str = "want a share of the images such as 5% (more than 0% and less than 100%), a number of them, or a folder whose path is UTF-8 text";

/// A text that is none of those [`HoldOut`] reads.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} names no images to hold out; {WANTED}")]
pub struct ParseHoldOutError(String);

impl FromStr for HoldOut {
    type Err = ParseHoldOutError;

    fn from_str(text: &str) -> Result<Self, ParseHoldOutError> {
        let wrong = || ParseHoldOutError(text.to_owned());
        let found = if let Some(percent) = text.strip_suffix('%') {
            HoldOut::Share(percent.trim().parse().map_err(|_| wrong())?)
        } else if text.parse::<f64>().is_ok() {
            // A share without its %, or a negative number, would be taken for a folder.
            HoldOut::Number(text.parse().map_err(|_| wrong())?)
        } else {
            HoldOut::Folder(text.into())
        };
        match found.is_valid() {
            true => Ok(found),
            false => Err(wrong()),
        }
    }
}

/// As settings name it: a number may stand without quotes.
#[derive(Deserialize)]
#[serde(untagged)]
enum Named {
    Number(u64),
    Text(String),
}

impl TryFrom<Named> for HoldOut {
    type Error = ParseHoldOutError;

    fn try_from(named: Named) -> Result<Self, ParseHoldOutError> {
        match named {
            Named::Number(number) => number.to_string().parse(),
            Named::Text(text) => text.parse(),
        }
    }
}

impl From<HoldOut> for String {
    fn from(hold_out: HoldOut) -> String {
        hold_out.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Preset, RunConfig};

    #[test]
    fn texts_are_read_as_they_are_written() {
        for (text, want) in [
            ("5%", HoldOut::Share(5.0)),
            ("0.5%", HoldOut::Share(0.5)),
            ("100", HoldOut::Number(100)),
            ("held/out", HoldOut::Folder("held/out".into())),
            ("./100", HoldOut::Folder("./100".into())),
        ] {
            let found: HoldOut = text.parse().unwrap();
            assert_eq!((found.to_string().as_str(), found), (text, want));
        }
        for wrong in [
            "0", "-1", "0.05", "0%", "100%", "-5%", "five%", "NaN%", "", "nan",
        ] {
            let error = wrong.parse::<HoldOut>().unwrap_err().to_string();
            assert!(error.contains("such as 5%"), "{wrong}: {error}");
        }
    }

    #[test]
    fn settings_of_before_name_none_and_stay_the_same_text() {
        let mut config = Preset::Demo.config();
        assert_eq!(config.data.hold_out, None);
        let before = config.to_toml().unwrap();
        assert!(!before.contains("hold_out"), "{before}");
        config.data.hold_out = Some(HoldOut::Share(2.5));
        let named = config.to_toml().unwrap();
        assert!(named.contains("\nhold_out = \"2.5%\"\n"), "{named}");
        assert_eq!(RunConfig::of_a_run(&named), Some(config.clone()));
        let read = |text: &str| RunConfig::from_toml(text, Preset::Demo);
        let number = read("[data]\nhold_out = 3\n").unwrap();
        assert_eq!(number.data.hold_out, Some(HoldOut::Number(3)));
        assert!(read("[data]\nhold_out = \"3.5\"\n").is_err());
        config.data.hold_out = Some(HoldOut::Share(100.0));
        assert_eq!(config.validate().unwrap_err().setting, "data.hold_out");
    }
}
