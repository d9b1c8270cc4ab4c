//! What a file was found to describe.

use crate::checkpoint::Origin;
use crate::config::{DiffusionConfig, ModelConfig, SampleConfig};

/// What a family's file was found to describe.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// The network.
    pub model: ModelConfig,
    /// Schedule and objective.
    pub diffusion: DiffusionConfig,
    /// The family's own sampler. `images` and `every_steps` are the caller's.
    pub sample: SampleConfig,
    /// Where it came from.
    pub origin: Origin,
}
