//! The Gated Attention Unit: attention and gated linear unit in one.

use tch::Tensor;
use tch::nn::Path;

use super::super::layers::{Linear, RmsNorm};
use super::positions::Positions;
use crate::config::GauConfig;

/// A scale and a shift per channel, which turn the shared projection z into queries or keys.
#[derive(Debug)]
struct Affine {
    weight: Tensor,
    bias: Tensor,
}

impl Affine {
    fn new(path: &Path, width: i64) -> Affine {
        Affine {
            weight: path.ones("weight", &[width]),
            bias: path.zeros("bias", &[width]),
        }
    }

    fn forward(&self, x: &Tensor) -> Tensor {
        x * &self.weight + &self.bias
    }
}

/// Pre-norm Gated Attention Unit over the patches of an image, with `s` = `key_width`:
///
/// ```text
/// u, v, z = swish(in_proj(norm(x)))                         units, units, s
/// q, k = rotate(q_affine(z)), rotate(k_affine(z))
/// out = x + dropout(out_proj(u * (softmax(q kᵀ / sqrt(s)) v)))
/// ```
///
/// Source: Hua et al. 2022, section 3.1 <https://arxiv.org/abs/2202.10447>; softmax and its place in the
/// network: Keras-DDPM, `ddpm-gau.py`
#[derive(Debug)]
pub(super) struct GatedAttentionUnit {
    norm: RmsNorm,
    in_proj: Linear,
    q_affine: Affine,
    k_affine: Affine,
    out_proj: Linear,
    units: i64,
    key_width: i64,
    dropout: f64,
}

impl GatedAttentionUnit {
    pub(super) fn new(path: &Path, config: &GauConfig) -> GatedAttentionUnit {
        let (width, units, key) = (config.base_width, config.units, config.key_width);
        GatedAttentionUnit {
            norm: RmsNorm::new(&(path / "norm"), width, config.norm_eps),
            in_proj: Linear::new(&(path / "in_proj"), width, 2 * units + key, 1.0),
            q_affine: Affine::new(&(path / "q_affine"), key),
            k_affine: Affine::new(&(path / "k_affine"), key),
            out_proj: Linear::new(&(path / "out_proj"), units, width, 1.0),
            units,
            key_width: key,
            dropout: config.dropout,
        }
    }

    /// Weights of the two linear maps.
    pub(super) fn weights(&self) -> [&Tensor; 2] {
        [&self.in_proj.weight, &self.out_proj.weight]
    }

    /// Widths: of gate and values, and of queries and keys.
    pub(super) fn widths(&self) -> (i64, i64) {
        (self.units, self.key_width)
    }

    /// True if training applies dropout here.
    pub(super) fn drops(&self) -> bool {
        self.dropout > 0.0
    }

    /// `[N, patches, base_width]` to the same.
    pub(super) fn forward(&self, x: &Tensor, positions: &Positions, train: bool) -> Tensor {
        let h = self.in_proj.forward(&self.norm.forward(x)).silu();
        let parts = h.split_with_sizes([self.units, self.units, self.key_width], -1);
        let [u, v, z] = [&parts[0], &parts[1], &parts[2]];
        let q = positions.rotate(&self.q_affine.forward(z));
        let k = positions.rotate(&self.k_affine.forward(z));
        // No fused kernel: libtorch's on CPU requires values as wide as the queries, and the scores are small
        // beside u and v while there are fewer patches than units.
        let scores = (q / (self.key_width as f64).sqrt()).matmul(&k.transpose(1, 2));
        let mixed = scores.softmax(-1, scores.kind()).matmul(v);
        let mut out = self.out_proj.forward(&(u * mixed));
        if self.dropout > 0.0 {
            out = out.dropout(self.dropout, train);
        }
        out + x
    }
}
