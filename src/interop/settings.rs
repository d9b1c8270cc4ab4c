//! The settings that a file was found to describe.

use serde::Serialize;

use crate::checkpoint::Origin;
use crate::config::{DiffusionConfig, ModelConfig, SampleConfig};

/// The settings that a family's file was found to describe.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// The network.
    pub model: ModelConfig,
    /// Schedule and objective.
    pub diffusion: DiffusionConfig,
    /// The family's own sampler. `images` and `every_steps` are the caller's.
    pub sample: SampleConfig,
    /// Its origin.
    pub origin: Origin,
}

/// A setting's value as config.toml spells it, for reports and messages: `posterior`, `[128, 256]`.
pub(super) fn spelled(value: &impl Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(text)) => text,
        Ok(other) => other.to_string().replace(',', ", "),
        Err(error) => error.to_string(),
    }
}
