//! The residual block, which can also halve or double its image.

use tch::nn::Path;
use tch::{Kind, Tensor};

use super::super::layers::{ALMOST_ZERO, Conv, Linear, Modulation, Norm};
use crate::config::AttentionUNetConfig;

/// Resampling inside a block, between its first swish and its first convolution.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Within {
    Nothing,
    Halve,
    Double,
}

impl Within {
    fn apply(self, x: &Tensor) -> Tensor {
        match self {
            Within::Nothing => x.shallow_clone(),
            Within::Halve => x.avg_pool2d([2, 2], [2, 2], [0, 0], false, true, None::<i64>),
            Within::Double => double(x),
        }
    }
}

/// Nearest-neighbour doubling: every pixel becomes 2 × 2.
pub(super) fn double(x: &Tensor) -> Tensor {
    let size = x.size();
    x.upsample_nearest2d([2 * size[2], 2 * size[3]], None, None)
}

/// Pre-norm residual block:
///
/// ```text
/// h = conv1(resample(swish(norm1(x))))
/// h = norm2(h + time_emb_proj(t_emb))                       or, with scale and shift,
/// h = norm2(h) * (1 + s) + b   where (s, b) = time_emb_proj(t_emb)
/// h = conv2(dropout(swish(h)))
/// out = (shortcut(resample(x)) + h) / scale                 1×1 conv, only where the width changes
/// ```
///
/// Source: Ho et al. 2020, appendix B; scale and shift: Dhariwal & Nichol 2021, section 4.3
#[derive(Debug)]
pub(super) struct ResnetBlock {
    norm1: Norm,
    conv1: Conv,
    time_emb_proj: Linear,
    norm2: Norm,
    conv2: Conv,
    shortcut: Option<Conv>,
    scale_shift: bool,
    within: Within,
    dropout: f64,
    scale: f64,
}

impl ResnetBlock {
    pub(super) fn new(
        path: &Path,
        (c_in, c_out, within): (i64, i64, Within),
        config: &AttentionUNetConfig,
    ) -> ResnetBlock {
        let norm = |name: &str, width| {
            Norm::grouped(&(path / name), width, config.norm_groups, config.norm_eps)
        };
        let time_out = c_out * if config.scale_shift { 2 } else { 1 };
        ResnetBlock {
            norm1: norm("norm1", c_in),
            conv1: Conv::new(&(path / "conv1"), c_in, c_out, 3, 1.0),
            time_emb_proj: Linear::new(&(path / "time_emb_proj"), config.time_width, time_out, 1.0),
            norm2: norm("norm2", c_out),
            conv2: Conv::new(&(path / "conv2"), c_out, c_out, 3, ALMOST_ZERO),
            shortcut: (c_in != c_out)
                .then(|| Conv::new(&(path / "conv_shortcut"), c_in, c_out, 1, 1.0)),
            scale_shift: config.scale_shift,
            within,
            dropout: config.dropout,
            scale: 1.0,
        }
    }

    /// Sets the divisor of the sum.
    pub(super) fn scaled(self, scale: f64) -> ResnetBlock {
        ResnetBlock { scale, ..self }
    }

    /// Weights of the convolutions, and of the linear map.
    pub(super) fn weights(&self) -> (impl Iterator<Item = &Tensor>, &Tensor) {
        let convs = [&self.conv1, &self.conv2].into_iter().chain(&self.shortcut);
        (convs.map(|c| &c.weight), &self.time_emb_proj.weight)
    }

    /// Maps kept by the first and by the second norm: its input and, where it is not fused with the swish, the swish's
    /// input and, if scaled, the norm's own output.
    pub(super) fn maps_of_norms(&self) -> [i64; 2] {
        if self.norm1.fuses() {
            [1, 1]
        } else {
            [2, 2 + i64::from(self.scale_shift)]
        }
    }

    /// True if training applies dropout here.
    pub(super) fn drops(&self) -> bool {
        self.dropout > 0.0
    }

    /// The resampling inside the block.
    pub(super) fn resampling(&self) -> Within {
        self.within
    }

    /// # Shapes
    /// - `x`: `[N, Cin, H, W]`; `t_emb`: `[N, time_width]`, swish already applied
    /// - returns `[N, Cout, H', W']`
    pub(super) fn forward(&self, x: &Tensor, t_emb: &Tensor, train: bool) -> Tensor {
        let h = self.norm1.silu(x, Modulation::Nothing);
        let h = self.conv1.forward(&self.within.apply(&h));
        let t = self.time_emb_proj.forward(t_emb);
        let mut h = if self.scale_shift {
            let parts = t.chunk(2, 1);
            let t = Modulation::ScaleShift(&parts[0], &parts[1]);
            self.norm2.silu(&h, t)
        } else {
            self.norm2.silu(&h, Modulation::Add(&t))
        };
        if self.dropout > 0.0 && train {
            // bf16 would round the factor 1 / (1 - p) of dropout.
            h = h.to_kind(Kind::Float).dropout(self.dropout, true);
        }
        h = self.conv2.forward(&h);
        let x = self.within.apply(x);
        h += match &self.shortcut {
            Some(shortcut) => shortcut.forward(&x),
            None => x,
        };
        if self.scale == 1.0 { h } else { h / self.scale }
    }
}
