//! The residual block of the simplified U-Net.

use tch::Tensor;
use tch::nn::Path;

use super::layers::{Norm, conv_weight, conv3x3, linear_weight};
use crate::config::UNetConfig;

/// Post-norm residual block with an additive time embedding:
///
/// ```text
/// r = shortcut(x)                      1×1 conv, only where the width changes
/// h = x + time_proj(t_emb)             projected to the input width
/// h = swish(conv2(swish(conv1(h))))
/// out = norm(h + r)
/// ```
///
/// Source: Keras-DDPM, `residual_block` of `ddpm.py`.
#[derive(Debug)]
pub(super) struct ResidualBlock {
    shortcut: Option<Tensor>,
    time_proj: Tensor,
    conv1: Tensor,
    conv2: Tensor,
    norm: Norm,
    dropout: f64,
}

impl ResidualBlock {
    pub(super) fn new(path: &Path, c_in: i64, c_out: i64, config: &UNetConfig) -> ResidualBlock {
        let scale = 1.0 / (2.0 * config.multipliers.len() as f64 + 1.0).sqrt();
        ResidualBlock {
            shortcut: (c_in != c_out)
                .then(|| conv_weight(&(path / "shortcut"), c_in, c_out, 1, 1.0)),
            time_proj: linear_weight(&(path / "time_proj"), config.base_width, c_in),
            conv1: conv_weight(&(path / "conv1"), c_in, c_out, 3, scale),
            conv2: conv_weight(&(path / "conv2"), c_out, c_out, 3, scale),
            norm: Norm::new(&(path / "norm"), c_out, config),
            dropout: config.dropout,
        }
    }

    /// Input and output channels.
    pub(super) fn widths(&self) -> (i64, i64) {
        let size = self.conv1.size();
        (size[1], size[0])
    }

    /// The weights of its convolutions.
    pub(super) fn convs(&self) -> impl Iterator<Item = &Tensor> {
        self.shortcut.iter().chain([&self.conv1, &self.conv2])
    }

    /// Whether training drops some of its values.
    pub(super) fn drops(&self) -> bool {
        self.dropout > 0.0
    }

    /// # Shapes
    /// - `x`: `[N, Cin, H, W]`; `t_emb`: `[N, base_width]`; returns `[N, Cout, H, W]`
    pub(super) fn forward(&self, x: &Tensor, t_emb: &Tensor, train: bool) -> Tensor {
        let t = t_emb
            .linear(&self.time_proj, None::<&Tensor>)
            .unsqueeze(-1)
            .unsqueeze(-1);
        let mut h = conv3x3(&(x + t), &self.conv1).silu();
        if self.dropout > 0.0 {
            h = h.dropout(self.dropout, train);
        }
        h = conv3x3(&h, &self.conv2).silu();
        // In place: the backward passes of swish and the norms use their inputs, not their outputs.
        match &self.shortcut {
            Some(weight) => h += x.conv2d(weight, None::<&Tensor>, [1, 1], [0, 0], [1, 1], 1),
            None => h += x,
        }
        self.norm.forward(&h)
    }
}
