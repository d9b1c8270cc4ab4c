//! Refuses settings of networks that cannot work.

use super::validate::require;
use super::{
    AttentionUNetConfig, ConfigError, LucidrainsConfig, LucidrainsNorm, LucidrainsStructure,
    ModelConfig, Norm,
};
use super::{TimeEmbedding, UNetConfig};
use crate::text::plural;

/// Longest side of an image, in pixels.
pub(crate) const MAX_SIDE: i64 = 16_384;
/// Most levels, blocks per level and channels that make sense; more is a damaged or hostile file.
const MOST_LEVELS: usize = 16;
pub(super) const MOST_BLOCKS: i64 = 64;
pub(super) const MOST_WIDTH: i64 = 65_536;

impl ModelConfig {
    /// Checks the network's settings alone; returns warnings.
    ///
    /// # Errors
    /// The first setting that cannot work.
    pub fn validate(&self) -> Result<Vec<String>, ConfigError> {
        let [channels, height, width] = self.chw();
        require(
            channels == 1 || channels == 3,
            "model.channels",
            channels,
            "want 3 (colour) or 1 (grey)",
        )?;
        let warnings = match self {
            ModelConfig::Unet(m) => m.validate()?,
            ModelConfig::UnetAttention(m) => m.validate()?,
            ModelConfig::Lucidrains(m) => m.validate()?,
            ModelConfig::UnetConcat(m) => m.validate()?,
            ModelConfig::Gau(m) => m.validate()?,
        };
        self.validate_classes()?;
        let factor = self.size_factor();
        let want = match self {
            ModelConfig::Gau(_) if factor > 1 => format!(
                "want a multiple of {factor} up to {MAX_SIDE}, because this network cuts the image into patches of {factor}x{factor}"
            ),
            _ => sides_wanted(factor),
        };
        for (setting, side) in [("model.height", height), ("model.width", width)] {
            require(
                (1..=MAX_SIDE).contains(&side) && side % factor == 0,
                setting,
                side,
                format!("{want}{}", self.sizes_that_fit(side, factor)),
            )?;
        }
        Ok(warnings)
    }
}

impl ModelConfig {
    /// What else fits near a side that does not: other sides, and where the network can halve the image less often, that.
    fn sizes_that_fit(&self, side: i64, factor: i64) -> String {
        if !(factor..=MAX_SIDE).contains(&side) {
            return String::new();
        }
        let below = side / factor * factor;
        let mut more = format!("; {below} and {} are the nearest", below + factor);
        let [_, height, width] = self.chw();
        // Both sides are halved together, until the shorter one is this small.
        let halvings = (height | width).trailing_zeros();
        if matches!(self, ModelConfig::Unet(_)) && halvings > 0 {
            more += &format!(
                ", or halve this one less often with `model.min_pixel` = {}",
                height.min(width) >> halvings
            );
        }
        more
    }
}

/// The sides of an image that are wanted, for a message, where a network halves the image until it is `factor` times
/// smaller.
pub(crate) fn sides_wanted(factor: i64) -> String {
    match factor.ilog2() {
        0 => format!("want 1 to {MAX_SIDE}"),
        1 => format!("want a multiple of 2 up to {MAX_SIDE}: the network halves the image once"),
        times => format!(
            "want a multiple of {factor} up to {MAX_SIDE}: the network halves the image {times} times"
        ),
    }
}

pub(super) fn widths(setting: &'static str, widths: &[i64]) -> Result<(), ConfigError> {
    require(
        (1..=MOST_LEVELS).contains(&widths.len())
            && widths.iter().all(|w| (1..=MOST_WIDTH).contains(w)),
        setting,
        format!("{widths:?}"),
        "want 1 to 16 whole numbers from 1 to 65536, one per level",
    )
}

fn one_a_level<T>(setting: &'static str, list: &[T], levels: usize) -> Result<(), ConfigError> {
    require(
        list.len() == levels,
        setting,
        format!("{} entries", list.len()),
        format!("want one for each of the {levels} levels"),
    )
}

pub(super) fn dropout_and_eps(dropout: f64, norm_eps: f64) -> Result<(), ConfigError> {
    require(
        (0.0..1.0).contains(&dropout),
        "model.dropout",
        dropout,
        "want 0 <= dropout < 1",
    )?;
    require(
        norm_eps > 0.0 && norm_eps.is_finite(),
        "model.norm_eps",
        norm_eps,
        "want a positive number",
    )
}

/// A warning if a norm group has too few channels.
pub(super) fn small_groups(width: i64, groups: i64) -> Option<String> {
    let each = width / groups;
    (each < 4).then(|| {
        format!(
            "norm groups of {} at width {width}: below 4 the norm erases most of each channel's mean, and images come out in wrong flat colours; use fewer norm groups",
            plural(each as u64, "channel")
        )
    })
}

impl UNetConfig {
    fn validate(&self) -> Result<Vec<String>, ConfigError> {
        require(
            (1..=65_536).contains(&self.base_width),
            "model.base_width",
            self.base_width,
            "want 1 to 65536, usually 32 to 256",
        )?;
        require(
            (1..=16).contains(&self.multipliers.len())
                && self.multipliers.iter().all(|m| (1..=64).contains(m)),
            "model.multipliers",
            format!("{:?}", self.multipliers),
            "want 1 to 16 whole numbers from 1 to 64, for example 1,2,2",
        )?;
        require(
            (1..=64).contains(&self.blocks),
            "model.blocks",
            self.blocks,
            "want 1 to 64",
        )?;
        require(
            self.min_pixel >= 1,
            "model.min_pixel",
            self.min_pixel,
            "want at least 1",
        )?;
        require(
            (0.0..1.0).contains(&self.dropout),
            "model.dropout",
            self.dropout,
            "want 0 <= dropout < 1",
        )?;
        require(
            self.norm_eps > 0.0,
            "model.norm_eps",
            self.norm_eps,
            "want a positive number",
        )?;
        require(
            self.base_width % 2 == 0 || self.time_embedding == TimeEmbedding::Trainable,
            "model.base_width",
            self.base_width,
            "a sinusoidal time embedding needs an even width",
        )?;
        self.validate_norm()
    }

    fn validate_norm(&self) -> Result<Vec<String>, ConfigError> {
        require(
            self.norm != Norm::Batch,
            "model.norm",
            "batch",
            "batch norm is refused: its statistics mix images at different noise levels t, and those it keeps for sampling fit no level; use group, layer or instance",
        )?;
        let mut warnings = Vec::new();
        for level in self.levels() {
            let groups = self.groups_of(level.width);
            require(
                groups >= 1 && level.width % groups == 0,
                "model.norm_groups",
                groups,
                format!("must divide every level's width, such as {}", level.width),
            )?;
            if self.norm == Norm::Group {
                warnings.extend(small_groups(level.width, groups));
            }
        }
        warnings.dedup();
        Ok(warnings)
    }
}

impl AttentionUNetConfig {
    fn validate(&self) -> Result<Vec<String>, ConfigError> {
        widths("model.widths", &self.widths)?;
        widths("model.base_width", &[self.base_width])?;
        require(
            (1..=MOST_BLOCKS).contains(&self.blocks),
            "model.blocks",
            self.blocks,
            "want 1 to 64",
        )?;
        one_a_level(
            "model.attention_down",
            &self.attention_down,
            self.widths.len(),
        )?;
        one_a_level("model.attention_up", &self.attention_up, self.widths.len())?;
        dropout_and_eps(self.dropout, self.norm_eps)?;
        self.validate_time()?;
        require(
            self.mid_scale > 0.0 && self.mid_scale.is_finite(),
            "model.mid_scale",
            self.mid_scale,
            "want a positive number",
        )?;
        for width in self.widths.iter().chain([&self.base_width]) {
            require(
                self.norm_groups >= 1 && width % self.norm_groups == 0,
                "model.norm_groups",
                self.norm_groups,
                format!("must divide every level's width, such as {width}"),
            )?;
        }
        self.validate_heads()?;
        Ok(vec![])
    }

    fn validate_time(&self) -> Result<(), ConfigError> {
        widths("model.time_width", &[self.time_width])?;
        require(
            (2..=MOST_WIDTH).contains(&self.time_channels) && self.time_channels % 2 == 0,
            "model.time_channels",
            self.time_channels,
            "want an even number from 2 to 65536",
        )?;
        require(
            (0..self.time_channels / 2).contains(&self.freq_shift),
            "model.freq_shift",
            self.freq_shift,
            "want 0 or 1, below half of time_channels",
        )?;
        require(
            self.time_scale > 0.0 && self.time_scale.is_finite(),
            "model.time_scale",
            self.time_scale,
            "want a positive number",
        )
    }

    fn validate_heads(&self) -> Result<(), ConfigError> {
        require(
            self.head_channels.is_none_or(|c| c >= 1),
            "model.head_channels",
            self.head_channels.unwrap_or(0),
            "want at least 1",
        )?;
        let lowest = self.widths.len() - 1;
        for (i, &width) in self.widths.iter().enumerate() {
            let down = self.attention_down[i] || (self.mid_attention && i == lowest);
            for (used, up) in [(down, false), (self.attention_up[i], true)] {
                let heads = self.heads_of(width, up);
                let whole = self.head_channels.is_none_or(|c| width % c == 0);
                require(
                    !used || (heads >= 1 && width % heads == 0 && whole),
                    "model.heads",
                    format!("{heads} over {width} channels"),
                    "must divide the channels of every level with attention; set heads or head_channels",
                )?;
            }
        }
        Ok(())
    }
}

impl LucidrainsConfig {
    fn validate(&self) -> Result<Vec<String>, ConfigError> {
        widths("model.multipliers", &self.multipliers)?;
        widths("model.base_width", &[self.base_width])?;
        widths("model.init_width", &[self.init_width])?;
        let levels = self.multipliers.len();
        one_a_level("model.heads", &self.heads, levels)?;
        one_a_level("model.head_channels", &self.head_channels, levels)?;
        one_a_level("model.full_attention", &self.full_attention, levels)?;
        widths("model.heads", &self.heads)?;
        widths("model.head_channels", &self.head_channels)?;
        dropout_and_eps(self.dropout, 1e-5)?;
        require(
            self.base_width % 2 == 0 && self.base_width >= 4,
            "model.base_width",
            self.base_width,
            "a sinusoidal time embedding needs an even width of at least 4",
        )?;
        let widest = self.multipliers.iter().max().unwrap_or(&1) * self.base_width;
        widths("model.multipliers", &[widest])?;
        let whole = self.norm == LucidrainsNorm::Rms
            || (self.base_width % 8 == 0 && self.init_width % 8 == 0);
        require(
            whole,
            "model.base_width",
            self.base_width,
            "group norms of 8 groups need multiples of 8",
        )?;
        self.validate_structure()?;
        Ok(vec![])
    }

    fn validate_structure(&self) -> Result<(), ConfigError> {
        if self.structure == LucidrainsStructure::Main {
            return Ok(());
        }
        require(
            self.norm == LucidrainsNorm::Rms && !self.full_attention.contains(&true),
            "model.structure",
            "classifier-free-guidance",
            "want norm = \"rms\" and no full_attention with it: that network has no others",
        )?;
        require(
            self.classes.is_some(),
            "model.structure",
            "classifier-free-guidance",
            "that network is class-conditional: set model.classes, or leave model.structure out",
        )
    }
}
