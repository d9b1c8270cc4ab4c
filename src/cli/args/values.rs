//! Types of flag values, and reading of files that flags name.

use std::path::Path;
use std::str::FromStr;

use anyhow::{Error, Result};

use crate::config::{ConfigError, ImageRules, Preset, RunConfig, place_of};

/// `128` or `96x128` (height x width), in pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::cli) struct Size {
    pub(in crate::cli) height: i64,
    pub(in crate::cli) width: i64,
}

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong =
            |_| format!("{text:?} is not a valid size; want 128, or 96x128 (height x width)");
        let (height, width) = text.split_once('x').unwrap_or((text, text));
        Ok(Size {
            height: height.parse().map_err(wrong)?,
            width: width.parse().map_err(wrong)?,
        })
    }
}

/// `STEP:MULTIPLIER`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(in crate::cli) struct LrPoint(pub(in crate::cli) u64, pub(in crate::cli) f64);

impl FromStr for LrPoint {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parse = || {
            let (step, multiplier) = text.split_once(':')?;
            Some(LrPoint(step.parse().ok()?, multiplier.parse().ok()?))
        };
        parse().ok_or_else(|| {
            format!("{text:?} is not a valid point; want STEP:MULTIPLIER, for example 4000:1")
        })
    }
}

/// Reads a settings file over `preset` with these rules of images.
pub(in crate::cli) fn read_config(
    path: &Path,
    preset: Preset,
    rules: ImageRules,
) -> Result<RunConfig> {
    let text = fs_err::read_to_string(path)?;
    RunConfig::from_toml_with_rules(&text, preset, rules).map_err(|wrong| wrong.in_file(path))
}

/// An error in a setting, with its place in a settings file if the value is from there and no flag replaced it.
pub(in crate::cli) fn located(wrong: ConfigError, file: Option<&Path>, preset: Preset) -> Error {
    let place = || {
        let file = file?;
        let text = fs_err::read_to_string(file).ok()?;
        let theirs = RunConfig::from_toml(&text, preset).ok()?.validate();
        let place = place_of(&text, wrong.setting)?;
        (theirs.as_ref() == Err(&wrong)).then(|| place.in_file(file))
    };
    match place() {
        Some(place) => Error::from(wrong).context(place),
        None => wrong.into(),
    }
}

/// Replaces `target` by the value of a flag, if it is given.
pub(in crate::cli) fn set<T>(target: &mut T, flag: &Option<T>)
where
    T: Clone,
{
    if let Some(value) = flag {
        *target = value.clone();
    }
}
