//! Self-attention over the pixels of a feature map.

use tch::Tensor;
use tch::nn::Path;

use super::super::layers::{ALMOST_ZERO, Linear, Norm};
use crate::config::AttentionUNetConfig;

/// `x + to_out(softmax(q kᵀ / sqrt(d)) v)` with q, k, v from the normalised `x`.
///
/// Source: Vaswani et al. 2017, eq. 1 <https://arxiv.org/abs/1706.03762>; in a U-Net: Ho et al. 2020,
/// appendix B
#[derive(Debug)]
pub(super) struct Attention {
    group_norm: Option<Norm>,
    to_q: Linear,
    to_k: Linear,
    to_v: Linear,
    to_out: Linear,
    heads: i64,
    scale: f64,
}

impl Attention {
    pub(super) fn new(
        path: &Path,
        width: i64,
        heads: i64,
        normed: bool,
        config: &AttentionUNetConfig,
    ) -> Attention {
        let linear = |path: Path, scale| Linear::new(&path, width, width, scale);
        Attention {
            group_norm: normed.then(|| {
                Norm::grouped(
                    &(path / "group_norm"),
                    width,
                    config.norm_groups,
                    config.norm_eps,
                )
            }),
            to_q: linear(path / "to_q", 1.0),
            to_k: linear(path / "to_k", 1.0),
            to_v: linear(path / "to_v", 1.0),
            to_out: linear(path / "to_out" / 0, ALMOST_ZERO),
            heads,
            scale: 1.0,
        }
    }

    /// Sets the divisor of the sum.
    pub(super) fn scaled(self, scale: f64) -> Attention {
        Attention { scale, ..self }
    }

    /// Weights of the four linear maps.
    pub(super) fn weights(&self) -> [&Tensor; 4] {
        [&self.to_q, &self.to_k, &self.to_v, &self.to_out].map(|l| &l.weight)
    }

    /// True if it has its own norm.
    pub(super) fn normed(&self) -> bool {
        self.group_norm.is_some()
    }

    /// `[N, C, H, W]` to the same.
    pub(super) fn forward(&self, x: &Tensor) -> Tensor {
        let [n, c, height, width]: [i64; 4] = x
            .size()
            .try_into()
            .expect("a feature map has four dimensions");
        let normed = match &self.group_norm {
            Some(norm) => norm.forward(x),
            None => x.shallow_clone(),
        };
        // [N, pixels, C]: a view where channels are last in memory.
        let pixels = normed.flatten(2, 3).transpose(1, 2);
        let split = |map: &Linear| {
            map.forward(&pixels)
                .view([n, height * width, self.heads, c / self.heads])
                .transpose(1, 2)
        };
        let (q, k, v) = (split(&self.to_q), split(&self.to_k), split(&self.to_v));
        let mixed = Tensor::scaled_dot_product_attention(
            &q,
            &k,
            &v,
            None::<&Tensor>,
            0.0,
            false,
            None::<f64>,
            false,
        );
        let mixed = mixed.transpose(1, 2).reshape([n, height * width, c]);
        let out = self.to_out.forward(&mixed).transpose(1, 2);
        let sum = out.reshape([n, c, height, width]) + x;
        if self.scale == 1.0 {
            sum
        } else {
            sum / self.scale
        }
    }
}
