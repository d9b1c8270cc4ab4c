//! Settings that a `.ddcm` file is decoded with, as the short text in its header.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::config::Sigma;
use crate::sample::{Ddpm, Guidance};
use crate::text::printable;

/// Sampler settings that the file was written with.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::cli) struct DecodeSettings {
    pub(in crate::cli) sigma: Sigma,
    pub(in crate::cli) clip_x0: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(in crate::cli) class: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(in crate::cli) guidance: Option<Guidance>,
    /// The checkpoint that decoding needs, if it was one of a run: `NAME/checkpoints/step-00002000.safetensors (EMA
    /// weights of step 2000)`. To be read by people: the network's hash decides.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(in crate::cli) needs: Option<String>,
}

/// Longest name of a checkpoint in a file, in characters: all settings take at most 1024 bytes.
const MOST_NEEDS_CHARS: usize = 120;

impl DecodeSettings {
    pub(in crate::cli) fn new(
        options: Ddpm,
        clip_x0: bool,
        class: Option<i64>,
        guidance: &Guidance,
    ) -> DecodeSettings {
        DecodeSettings {
            sigma: options.sigma,
            clip_x0,
            class,
            guidance: (!guidance.is_none()).then_some(*guidance),
            needs: None,
        }
    }

    /// Names a checkpoint of a run by its last three names, and its weights.
    pub(in crate::cli) fn needing(self, checkpoint: &Path, weights: &str) -> DecodeSettings {
        let names: Vec<_> = checkpoint.iter().rev().take(3).collect();
        let path: PathBuf = names.into_iter().rev().collect();
        let path = printable(&path.to_string_lossy());
        // The end tells the step.
        let start = path.chars().count().saturating_sub(MOST_NEEDS_CHARS);
        let path: String = path.chars().skip(start).collect();
        DecodeSettings {
            needs: Some(format!("{path} ({weights})")),
            ..self
        }
    }

    /// JSON, on one line.
    ///
    /// # Errors
    /// None are known.
    pub(in crate::cli) fn to_text(&self) -> Result<String> {
        Ok(serde_json::to_string(self)?)
    }

    /// # Errors
    /// Settings of a newer version or of another program.
    pub(in crate::cli) fn parse(text: &str) -> Result<DecodeSettings> {
        serde_json::from_str(text)
            .with_context(|| format!("its settings are {text:?}, which this version does not know"))
    }
}
