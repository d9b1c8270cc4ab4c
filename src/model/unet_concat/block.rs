//! The residual block of the U-Net with concatenated skips.

use tch::nn::Path;
use tch::{Kind, Tensor};

use super::super::layers::{
    ALMOST_ZERO, Modulation, Norm, conv_weight, conv2d, conv3x3, linear, linear_weight,
};
use crate::config::ConcatUNetConfig;

/// Pre-norm residual block with biases only in the norms:
///
/// ```text
/// h = conv1(swish(norm1(x))) + time_proj(t_emb)             projected to the output width
/// h = conv2(dropout(swish(norm2(h))))
/// out = h + shortcut(x)                                     1×1 conv, only where the width changes
/// ```
///
/// Source: Keras-DDPM, `residual_block` of `ddpm2.py`
#[derive(Debug)]
pub(super) struct ResidualBlock {
    shortcut: Option<Tensor>,
    norm1: Norm,
    conv1: Tensor,
    time_proj: Tensor,
    norm2: Norm,
    conv2: Tensor,
    dropout: f64,
}

impl ResidualBlock {
    pub(super) fn new(
        path: &Path,
        c_in: i64,
        c_out: i64,
        config: &ConcatUNetConfig,
    ) -> ResidualBlock {
        let norm = |name: &str, width| {
            Norm::grouped(&(path / name), width, config.norm_groups, config.norm_eps)
        };
        // Fields are initialised in the order written here, which is the original's.
        ResidualBlock {
            shortcut: (c_in != c_out)
                .then(|| conv_weight(&(path / "shortcut"), c_in, c_out, 1, 1.0)),
            norm1: norm("norm1", c_in),
            conv1: conv_weight(&(path / "conv1"), c_in, c_out, 3, 1.0),
            time_proj: linear_weight(&(path / "time_proj"), config.time_width(), c_out),
            norm2: norm("norm2", c_out),
            conv2: conv_weight(&(path / "conv2"), c_out, c_out, 3, ALMOST_ZERO),
            dropout: config.dropout,
        }
    }

    /// Input and output channels.
    pub(super) fn widths(&self) -> (i64, i64) {
        let size = self.conv1.size();
        (size[1], size[0])
    }

    /// Weights of the convolutions.
    pub(super) fn convs(&self) -> impl Iterator<Item = &Tensor> {
        self.shortcut.iter().chain([&self.conv1, &self.conv2])
    }

    /// Weight of the time embedding's projection.
    pub(super) fn time_proj(&self) -> &Tensor {
        &self.time_proj
    }

    /// True if a norm and the swish after it are one operation.
    pub(super) fn fuses(&self) -> bool {
        self.norm1.fuses()
    }

    /// True if training applies dropout here.
    pub(super) fn drops(&self) -> bool {
        self.dropout > 0.0
    }

    /// # Shapes
    /// - `x`: `[N, Cin, H, W]`; `t_emb`: `[N, time_width]`, swish already applied
    /// - returns `[N, Cout, H, W]`
    pub(super) fn forward(&self, x: &Tensor, t_emb: &Tensor, train: bool) -> Tensor {
        let t = linear(t_emb, &self.time_proj, None);
        let h = conv3x3(&self.norm1.silu(x, Modulation::Nothing), &self.conv1, None);
        let mut h = self.norm2.silu(&h, Modulation::Add(&t));
        if self.dropout > 0.0 && train {
            // bf16 would round the factor 1 / (1 - p) of dropout.
            h = h.to_kind(Kind::Float).dropout(self.dropout, true);
        }
        h = conv3x3(&h, &self.conv2, None);
        // In place: the backward pass of a convolution does not use its output.
        match &self.shortcut {
            Some(weight) => h += conv2d(x, weight, None, 1, 0),
            None => h += x,
        }
        h
    }
}
