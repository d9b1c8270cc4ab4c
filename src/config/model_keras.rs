//! Settings of Keras-DDPM's other two networks: `ddpm2.py` and `ddpm-gau.py`.

use serde::{Deserialize, Serialize};

/// Keras-DDPM's U-Net with concatenated skips, of its `ddpm2.py`.
///
/// Every level but the last halves the image. The time embedding is sinusoidal.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConcatUNetConfig {
    /// Height of an image, in pixels.
    pub height: i64,
    /// Width of an image, in pixels.
    pub width: i64,
    /// 3 (RGB) or 1 (grey).
    pub channels: i64,
    /// Channels of the first convolution, and length of the sinusoidal embedding.
    pub base_width: i64,
    /// Channels of each level, as multiples of `base_width`.
    pub multipliers: Vec<i64>,
    /// Residual blocks per level on the way down; there is one more on the way up.
    pub blocks: i64,
    /// Groups of the group norms.
    pub norm_groups: i64,
    /// Added to the variance in the norms.
    pub norm_eps: f64,
    /// Number of classes of a class-conditional network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub classes: Option<i64>,
    /// One more class, whose number is `classes`, means that there is none.
    #[serde(default, skip_serializing_if = "super::classes::is_false")]
    pub null_class: bool,
    /// Channels of the image that the network is given beside x_t, for super-resolution; none for others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub condition_channels: Option<i64>,
    /// Dropout inside the residual blocks.
    pub dropout: f64,
}

/// Channels of one residual block of a [`ConcatUNetConfig`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockWidths {
    /// Of its input, with the concatenated skip.
    pub from: i64,
    /// Of its output.
    pub to: i64,
}

/// The residual blocks of a [`ConcatUNetConfig`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConcatPlan {
    /// Per level, from the full resolution downwards.
    pub down: Vec<Vec<BlockWidths>>,
    /// The middle block.
    pub mid: BlockWidths,
    /// Per level, from the lowest resolution upwards.
    pub up: Vec<Vec<BlockWidths>>,
    /// Channels after the last block.
    pub out: i64,
}

impl ConcatUNetConfig {
    /// Length of the time embedding that enters the blocks.
    pub fn time_width(&self) -> i64 {
        4 * self.base_width
    }

    /// The widths of all blocks. The first convolution, every block on the way down and every pooling
    /// push their output on a stack; every block on the way up pops its skip off it.
    pub fn plan(&self) -> ConcatPlan {
        let widths: Vec<i64> = (self.multipliers.iter())
            .map(|m| m * self.base_width)
            .collect();
        let mut width = self.base_width;
        let mut stack = vec![width];
        let mut block = |skip, to| {
            let from = std::mem::replace(&mut width, to) + skip;
            BlockWidths { from, to }
        };
        let mut down = Vec::new();
        for (i, &to) in widths.iter().enumerate() {
            let level = (0..self.blocks).map(|_| block(0, to));
            down.push(level.collect());
            let pools = i + 1 < widths.len();
            stack.extend(vec![to; self.blocks as usize + usize::from(pools)]);
        }
        let mid = block(0, widths[widths.len() - 1]);
        let mut up = Vec::new();
        for &to in widths.iter().rev() {
            let skips = stack.split_off(stack.len() - (self.blocks as usize + 1));
            let level = skips.into_iter().rev().map(|skip| block(skip, to));
            up.push(level.collect());
        }
        ConcatPlan {
            down,
            mid,
            up,
            out: width,
        }
    }
}

/// Keras-DDPM's network of Gated Attention Units over patches, of its `ddpm-gau.py`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GauConfig {
    /// Height of an image, in pixels.
    pub height: i64,
    /// Width of an image, in pixels.
    pub width: i64,
    /// 3 (RGB) or 1 (grey).
    pub channels: i64,
    /// Side of a patch, in pixels.
    pub patch: i64,
    /// Channels of a patch between the layers, and length of the time embedding.
    pub base_width: i64,
    /// Gated Attention Units.
    pub layers: i64,
    /// Channels of the gate and of the values in a layer.
    pub units: i64,
    /// Channels of queries and keys.
    pub key_width: i64,
    /// Added to the mean square in the norms.
    pub norm_eps: f64,
    /// Number of classes of a class-conditional network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub classes: Option<i64>,
    /// One more class, whose number is `classes`, means that there is none.
    #[serde(default, skip_serializing_if = "super::classes::is_false")]
    pub null_class: bool,
    /// Channels of the image that the network is given beside x_t, for super-resolution; none for others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub condition_channels: Option<i64>,
    /// Dropout at the end of each layer.
    pub dropout: f64,
}

impl GauConfig {
    /// Pixels of a patch times its colours.
    pub fn patch_values(&self) -> i64 {
        self.channels * self.patch * self.patch
    }
}
