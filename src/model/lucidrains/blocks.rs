//! The time embedding and the residual block.

use anyhow::Result;
use tch::nn::Path;
use tch::{Device, Kind, Tensor};

use super::layers::{Conv, Linear, RmsNorm};
use crate::config::{LucidrainsConfig, LucidrainsNorm};
use crate::model::layers::{Modulation, Norm};

/// Groups of the group norms; the package stores no other choice.
const NORM_GROUPS: i64 = 8;
/// PyTorch's default.
const NORM_EPS: f64 = 1e-5;

/// The time embedding: sines and cosines of t, then two linear maps.
#[derive(Debug)]
pub(super) struct TimeMlp {
    frequencies: Tensor,
    linear1: Linear,
    linear2: Linear,
}

impl TimeMlp {
    /// For embeddings of length `dim`, even and at least 4.
    pub(super) fn new(path: &Path, dim: i64) -> TimeMlp {
        let half = dim / 2;
        let step = -10_000f64.ln() / (half - 1) as f64;
        TimeMlp {
            // In f32 and by this formula: angles up to T then agree with the package's bit by bit.
            frequencies: (Tensor::arange(half, (Kind::Float, Device::Cpu)) * step).exp(),
            linear1: Linear::new(&(path / 1), dim, 4 * dim),
            linear2: Linear::new(&(path / 3), 4 * dim, 4 * dim),
        }
    }

    /// `[N]` i64 to `[N, 4 dim]`, including the swish that each block begins with.
    pub(super) fn forward(&self, t: &Tensor) -> Tensor {
        let angles = t.to_kind(Kind::Float).unsqueeze(1) * &self.frequencies;
        let embedding = Tensor::cat(&[angles.sin(), angles.cos()], 1);
        let hidden = self.linear1.forward(&embedding).gelu("none");
        self.linear2.forward(&hidden).silu()
    }

    pub(super) fn linears(&self) -> [&Linear; 2] {
        [&self.linear1, &self.linear2]
    }

    /// Moves the frequencies; the rest moves with the parameters.
    pub(super) fn move_to(&mut self, device: Device) -> Result<()> {
        self.frequencies = self.frequencies.f_to_device(device)?;
        Ok(())
    }
}

/// Norm after a convolution, by version of the package.
#[derive(Debug)]
enum BlockNorm {
    Group(Norm),
    Rms(RmsNorm),
}

/// Convolution, norm and swish.
#[derive(Debug)]
struct Block {
    proj: Conv,
    norm: BlockNorm,
}

impl Block {
    fn new(path: &Path, c_in: i64, c_out: i64, norm: LucidrainsNorm) -> Block {
        let proj = Conv::new(&(path / "proj"), c_in, c_out, 3);
        let path = &(path / "norm");
        Block {
            proj,
            norm: match norm {
                LucidrainsNorm::Group => {
                    BlockNorm::Group(Norm::grouped(path, c_out, NORM_GROUPS, NORM_EPS))
                }
                LucidrainsNorm::Rms => BlockNorm::Rms(RmsNorm::new(path, c_out)),
            },
        }
    }

    /// `t`: (s, b), each `[N, C]`, for `norm(x) (1 + s) + b`.
    fn forward(&self, x: &Tensor, t: Option<(&Tensor, &Tensor)>) -> Tensor {
        let h = self.proj.forward(x);
        match (&self.norm, t) {
            (BlockNorm::Group(norm), t) => {
                let t = t.map_or(Modulation::Nothing, |(s, b)| Modulation::ScaleShift(s, b));
                // The second half's output enters a sum, which is in f32; the first half does the same.
                norm.silu(&h.to_kind(Kind::Float), t)
            }
            (BlockNorm::Rms(norm), t) => norm.silu(&h, t),
        }
    }
}

/// Length of the embedding that enters the blocks: of t, and of the class beside it if there are classes.
fn embedding_width(config: &LucidrainsConfig) -> i64 {
    let parts = if config.classes.is_some() { 2 } else { 1 };
    parts * 4 * config.base_width
}

/// Residual block whose time embedding scales and shifts:
///
/// ```text
/// (scale, shift) = mlp(t_emb)
/// h = dropout(swish(norm(conv(x)) · (scale + 1) + shift))
/// out = swish(norm(conv(h))) + res_conv(x)       1×1 conv, only where the width changes
/// ```
#[derive(Debug)]
pub(super) struct ResidualBlock {
    mlp: Linear,
    block1: Block,
    block2: Block,
    res_conv: Option<Conv>,
    dropout: f64,
}

impl ResidualBlock {
    pub(super) fn new(
        path: &Path,
        c_in: i64,
        c_out: i64,
        config: &LucidrainsConfig,
    ) -> ResidualBlock {
        ResidualBlock {
            mlp: Linear::new(&(path / "mlp" / 1), embedding_width(config), 2 * c_out),
            block1: Block::new(&(path / "block1"), c_in, c_out, config.norm),
            block2: Block::new(&(path / "block2"), c_out, c_out, config.norm),
            res_conv: (c_in != c_out).then(|| Conv::new(&(path / "res_conv"), c_in, c_out, 1)),
            dropout: config.dropout,
        }
    }

    /// The linear map of the time embedding.
    pub(super) fn mlp(&self) -> &Linear {
        &self.mlp
    }

    /// The convolutions in order.
    pub(super) fn convs(&self) -> impl Iterator<Item = &Conv> {
        [&self.block1.proj, &self.block2.proj]
            .into_iter()
            .chain(&self.res_conv)
    }

    /// True if training applies dropout here.
    pub(super) fn drops(&self) -> bool {
        self.dropout > 0.0
    }

    /// Kept by norms and swishes: maps of Cout channels, and values per pixel.
    pub(super) fn maps_of_norms(&self) -> (i64, i64) {
        match &self.block1.norm {
            BlockNorm::Group(norm) if norm.fuses() => (2, 0),
            BlockNorm::Rms(norm) if norm.fuses() => (2, 0),
            // Each half: inputs of norm and swish; in the first half also the norm's output.
            BlockNorm::Group(_) => (5, 0),
            // Also the normalised map, and each pixel's length before and after clamping.
            BlockNorm::Rms(_) => (7, 4),
        }
    }

    /// # Shapes
    /// - `x`: `[N, Cin, H, W]`; `t_emb`: `[N, 4 base_width]`, or with classes twice as long; returns `[N, Cout, H, W]`
    pub(super) fn forward(&self, x: &Tensor, t_emb: &Tensor, train: bool) -> Tensor {
        let t = self.mlp.forward(t_emb).chunk(2, 1);
        let mut h = self.block1.forward(x, Some((&t[0], &t[1])));
        if self.dropout > 0.0 {
            h = h.dropout(self.dropout, train);
        }
        h = self.block2.forward(&h, None);
        // In place: the backward pass of swish, alone or with the norm, uses its input, not its output.
        match &self.res_conv {
            Some(conv) => h += conv.forward(x),
            None => h += x,
        }
        h
    }
}
