//! Refuses settings of Keras-DDPM's other two networks that cannot work.

use super::validate::require;
use super::validate_model::{MOST_BLOCKS, MOST_WIDTH, dropout_and_eps, small_groups, widths};
use super::{ConcatUNetConfig, ConfigError, GauConfig};

/// Most layers, pixels of a patch's side, and patches of an image: attention costs the square of their
/// number.
const MOST_LAYERS: i64 = 1024;
const MOST_PATCH: i64 = 128;
const MOST_PATCHES: i64 = 65_536;

impl ConcatUNetConfig {
    pub(super) fn validate(&self) -> Result<Vec<String>, ConfigError> {
        widths("model.multipliers", &self.multipliers)?;
        // The time embedding is four times as wide.
        require(
            (1..=MOST_WIDTH / 4).contains(&self.base_width) && self.base_width % 2 == 0,
            "model.base_width",
            self.base_width,
            "want an even number up to 16384, usually 32 to 256: the time embedding is sinusoidal",
        )?;
        let level = |m: &i64| m * self.base_width;
        let widest = self.multipliers.iter().map(level).max().unwrap_or(0);
        widths("model.multipliers", &[widest])?;
        require(
            (1..=MOST_BLOCKS).contains(&self.blocks),
            "model.blocks",
            self.blocks,
            "want 1 to 64",
        )?;
        dropout_and_eps(self.dropout, self.norm_eps)?;
        // A width after a concatenation is a sum of such widths.
        require(
            self.norm_groups >= 1 && self.base_width % self.norm_groups == 0,
            "model.norm_groups",
            self.norm_groups,
            format!(
                "must divide the base width {}: every level's width is a multiple of it",
                self.base_width
            ),
        )?;
        Ok(small_groups(self.base_width, self.norm_groups)
            .into_iter()
            .collect())
    }
}

impl GauConfig {
    pub(super) fn validate(&self) -> Result<Vec<String>, ConfigError> {
        require(
            (1..=MOST_PATCH).contains(&self.patch),
            "model.patch",
            self.patch,
            "want 1 to 128 pixels, usually 8",
        )?;
        require(
            (1..=MOST_LAYERS).contains(&self.layers),
            "model.layers",
            self.layers,
            "want 1 to 1024",
        )?;
        for (setting, width) in [
            ("model.base_width", self.base_width),
            ("model.units", self.units),
            ("model.key_width", self.key_width),
        ] {
            require(
                (1..=MOST_WIDTH).contains(&width),
                setting,
                width,
                "want 1 to 65536 channels",
            )?;
        }
        require(
            self.key_width % 4 == 0,
            "model.key_width",
            self.key_width,
            "want a multiple of 4: half of the channels encode rows, half columns, each in pairs",
        )?;
        let patches = (self.height / self.patch).saturating_mul(self.width / self.patch);
        require(
            patches <= MOST_PATCHES,
            "model.patch",
            self.patch,
            format!(
                "cuts {}x{} pixels into {patches} patches, want at most {MOST_PATCHES}: each attends to all others; use larger patches",
                self.height, self.width
            ),
        )?;
        dropout_and_eps(self.dropout, self.norm_eps)?;
        Ok(vec![])
    }
}
