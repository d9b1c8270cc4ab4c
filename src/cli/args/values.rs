//! Types of flag values, and reading of files that flags name.

use std::io::Read;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::str::FromStr;

use anyhow::{Error, Result, ensure};

use crate::config::{ConfigError, Preset, RunConfig, Unnamed, place_of};

/// Longest settings file that is read: 100,000 betas take 3 MiB.
const MAX_CONFIG_BYTES: u64 = 16 << 20;

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

/// Reads a settings file over `preset`, with `unnamed` where it names none.
pub(in crate::cli) fn read_config(
    path: &Path,
    preset: Preset,
    unnamed: Unnamed,
) -> Result<RunConfig> {
    let text = read_settings(path)?;
    RunConfig::from_toml_with(&text, preset, unnamed).map_err(|wrong| wrong.in_file(path))
}

/// The text of a settings file, which may be a pipe: `--config <(…)`.
pub(in crate::cli) fn read_settings(path: &Path) -> Result<String> {
    let kind = fs_err::metadata(path)?.file_type();
    ensure!(
        kind.is_file() || kind.is_fifo(),
        "{} is a folder or a device, and a file with settings is expected there",
        path.display()
    );
    let mut text = String::new();
    let mut file = fs_err::File::open(path)?.take(MAX_CONFIG_BYTES + 1);
    file.read_to_string(&mut text)?;
    ensure!(
        text.len() as u64 <= MAX_CONFIG_BYTES,
        "{} is longer than {MAX_CONFIG_BYTES} bytes: no file of settings",
        path.display()
    );
    Ok(text)
}

/// An error in a setting, with its place in a settings file if the value is from there and no flag replaced it.
pub(in crate::cli) fn located(wrong: ConfigError, file: Option<&Path>, preset: Preset) -> Error {
    let place = || {
        let file = file?;
        let text = read_settings(file).ok()?;
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
