//! Attention over the pixels of a feature map, mostly with a few trained keys and values besides.

use tch::nn::Path;
use tch::{Tensor, no_grad};

use super::layers::{Conv, RmsNorm};
use crate::config::{LucidrainsConfig, LucidrainsStructure};
use crate::model::layers::preferred_layout;

/// Trained keys and values per head; not a setting of the package.
const MEMORIES: i64 = 4;

/// Number and width of heads, and the kind of attention. In the structure of the package's main file each head has
/// trained keys and values.
#[derive(Debug, Clone, Copy)]
pub(super) struct Heads {
    pub(super) count: i64,
    pub(super) channels: i64,
    pub(super) full: bool,
    pub(super) memories: bool,
}

impl Heads {
    pub(super) fn of_level(config: &LucidrainsConfig, level: usize) -> Heads {
        Heads {
            count: config.heads[level],
            channels: config.head_channels[level],
            full: config.full_attention[level],
            memories: config.structure == LucidrainsStructure::Main,
        }
    }

    /// The middle block's: as at the lowest level, but always softmax attention.
    pub(super) fn middle(config: &LucidrainsConfig) -> Heads {
        Heads {
            full: true,
            ..Heads::of_level(config, config.multipliers.len() - 1)
        }
    }
}

/// Trained keys and values of all heads, `[2, heads, …]`, drawn from N(0, 1).
fn memories_of(path: &Path, heads: Heads) -> Tensor {
    let memory = match heads.full {
        true => [MEMORIES, heads.channels],
        false => [heads.channels, MEMORIES],
    };
    let mem_kv = path.zeros("mem_kv", &[2, heads.count, memory[0], memory[1]]);
    no_grad(|| {
        let _ = mem_kv.shallow_clone().normal_(0.0, 1.0);
    });
    mem_kv
}

/// `x + to_out(attention(q, k, v))` with q, k, v from the normalised `x`: softmax attention, or linear
/// attention,
///
/// ```text
/// q = softmax(q) over a head's channels, / sqrt(D);  k = softmax(k) over the pixels
/// out = (k vᵀ)ᵀ q
/// ```
///
/// whose cost grows linearly with the number of pixels.
///
/// Source: Shen et al. 2018 <https://arxiv.org/abs/1812.01243>; Vaswani et al. 2017, eq. 1
/// <https://arxiv.org/abs/1706.03762>
#[derive(Debug)]
pub(super) struct Attention {
    mem_kv: Option<Tensor>,
    norm: RmsNorm,
    to_qkv: Conv,
    to_out: Conv,
    /// Only in linear attention.
    norm_out: Option<RmsNorm>,
    heads: Heads,
}

impl Attention {
    pub(super) fn new(path: &Path, width: i64, heads: Heads) -> Attention {
        let Heads {
            count,
            channels,
            full,
            memories,
        } = heads;
        let hidden = count * channels;
        let mem_kv = memories.then(|| memories_of(path, heads));
        // The package's other file has a norm and the rest in wrappers of their own.
        let (outer, path) = match memories {
            true => (path, path),
            false => (&(path / "fn"), &(path / "fn" / "fn")),
        };
        let norm = RmsNorm::new(&(outer / "norm"), width);
        let to_qkv = Conv::without_bias(&(path / "to_qkv"), width, 3 * hidden, 1);
        let path = &(path / "to_out");
        let (to_out, norm_out) = if full {
            (Conv::new(path, hidden, width, 1), None)
        } else {
            let to_out = Conv::new(&(path / 0), hidden, width, 1);
            (to_out, Some(RmsNorm::new(&(path / 1), width)))
        };
        Attention {
            mem_kv,
            norm,
            to_qkv,
            to_out,
            norm_out,
            heads,
        }
    }

    pub(super) fn heads(&self) -> Heads {
        self.heads
    }

    /// True if each norm is one operation.
    pub(super) fn fuses(&self) -> bool {
        self.norm.fuses()
    }

    /// The two convolutions.
    pub(super) fn convs(&self) -> [&Conv; 2] {
        [&self.to_qkv, &self.to_out]
    }

    /// `[N, C, H, W]` to the same.
    pub(super) fn forward(&self, x: &Tensor) -> Tensor {
        let size = x.size();
        let [n, height, width] = [size[0], size[2], size[3]];
        let Heads {
            count,
            channels,
            full,
            ..
        } = self.heads;
        // [N, 3, heads, D, pixels]: a view.
        let qkv = self.to_qkv.forward(&self.norm.forward(x)).reshape([
            n,
            3,
            count,
            channels,
            height * width,
        ]);
        let [q, k, v] = [0, 1, 2].map(|i| qkv.select(1, i));
        let mixed = if full {
            self.softmax(&q, &k, &v)
        } else {
            self.linear(&q, &k, &v)
        };
        let mut mixed = mixed.reshape([n, count * channels, height, width]);
        if self.mem_kv.is_none() {
            // Runs of the other structure continue with the bits of maps as they come.
            mixed = preferred_layout(&mixed);
        }
        let mut out = self.to_out.forward(&mixed);
        if let Some(norm) = &self.norm_out {
            out = norm.forward(&out);
        }
        // In place: the backward passes of the convolution and the norm do not use their outputs.
        out += x;
        out
    }

    /// Prepends the trained keys (0) or values (1), if there are any, to those of N images, along `dim`.
    fn with_memory(&self, which: i64, own: &Tensor, dim: i64) -> Tensor {
        let Some(mem_kv) = &self.mem_kv else {
            return own.shallow_clone();
        };
        let memory = mem_kv.select(0, which).unsqueeze(0);
        let memory = memory.expand([own.size()[0], -1, -1, -1], false);
        Tensor::cat(&[memory.to_kind(own.kind()), own.shallow_clone()], dim)
    }

    /// q, k, v: `[N, heads, D, pixels]`; returns the same.
    fn softmax(&self, q: &Tensor, k: &Tensor, v: &Tensor) -> Tensor {
        let [q, k, v] = [q, k, v].map(|x| x.transpose(-1, -2));
        let (k, v) = (self.with_memory(0, &k, -2), self.with_memory(1, &v, -2));
        // CUDA's fused kernels take only a q whose channels lie side by side, and the plain form keeps a value for
        // each pair of pixels. On a CPU old runs continue with the bits of the plain form.
        let (q, k, v) = match q.device().is_cuda() {
            true => (q.contiguous(), k.contiguous(), v.contiguous()),
            false => (q, k, v),
        };
        let (none, scale) = (None::<&Tensor>, None::<f64>);
        Tensor::scaled_dot_product_attention(&q, &k, &v, none, 0.0, false, scale, false)
            .transpose(-1, -2)
    }

    /// q, k, v: `[N, heads, D, pixels]`; returns the same.
    fn linear(&self, q: &Tensor, k: &Tensor, v: &Tensor) -> Tensor {
        let (k, v) = (self.with_memory(0, k, -1), self.with_memory(1, v, -1));
        let q = q.softmax(-2, q.kind()) / (self.heads.channels as f64).sqrt();
        let k = k.softmax(-1, k.kind());
        let context = v.matmul(&k.transpose(-1, -2));
        context.matmul(&q)
    }
}
