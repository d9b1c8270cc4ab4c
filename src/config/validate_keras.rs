//! Refuses networks of Keras-DDPM's other two kinds that cannot work.

use super::validate::require;
use super::validate_model::{MOST_BLOCKS, MOST_WIDTH, dropout_and_eps, small_groups, widths};
use super::{ConcatUNetConfig, ConfigError};

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
                "must divide the base width of {}, of which every level's is a multiple",
                self.base_width
            ),
        )?;
        Ok(small_groups(self.base_width, self.norm_groups)
            .into_iter()
            .collect())
    }
}
