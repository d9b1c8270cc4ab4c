//! Settings that a `.ddcm` file is decoded with, as the short text in its header.

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::class::ClassArg;
use crate::config::Sigma;
use crate::sample::Ddpm;

/// Sampler settings that the file was written with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::cli) struct DecodeSettings {
    pub(in crate::cli) sigma: Sigma,
    pub(in crate::cli) clip_x0: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(in crate::cli) class: Option<i64>,
}

impl DecodeSettings {
    pub(in crate::cli) fn new(options: Ddpm, clip_x0: bool, class: ClassArg) -> DecodeSettings {
        DecodeSettings {
            sigma: options.sigma,
            clip_x0,
            class: class.class,
        }
    }

    /// JSON, on one line.
    ///
    /// # Errors
    /// None are known.
    pub(in crate::cli) fn to_text(self) -> Result<String> {
        Ok(serde_json::to_string(&self)?)
    }

    /// # Errors
    /// Settings of a newer version or of another program.
    pub(in crate::cli) fn parse(text: &str) -> Result<DecodeSettings> {
        serde_json::from_str(text)
            .with_context(|| format!("its settings are {text:?}, which this version does not know"))
    }
}
