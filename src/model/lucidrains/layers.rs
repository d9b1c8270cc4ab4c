//! Layers with PyTorch's own initial weights, and the norm over channels.

use tch::nn::Path;
use tch::{Kind, Tensor, no_grad};

/// A trained tensor with values uniform in ±1 / sqrt(`fan_in`).
///
/// Source: PyTorch's `nn.Conv2d` and `nn.Linear`: He initialisation with a = sqrt(5)
fn uniform(path: &Path, name: &str, shape: &[i64], fan_in: i64) -> Tensor {
    let limit = 1.0 / (fan_in as f64).sqrt();
    let tensor = path.zeros(name, shape);
    no_grad(|| {
        let _ = tensor.shallow_clone().uniform_(-limit, limit);
    });
    tensor
}

/// A convolution of stride 1, padded so that the picture keeps its size.
#[derive(Debug)]
pub(super) struct Conv {
    pub(super) weight: Tensor,
    bias: Option<Tensor>,
    padding: i64,
}

impl Conv {
    /// `kernel` × `kernel`, odd.
    pub(super) fn new(path: &Path, c_in: i64, c_out: i64, kernel: i64) -> Conv {
        let fan_in = c_in * kernel * kernel;
        let bare = Conv::without_bias(path, c_in, c_out, kernel);
        Conv {
            bias: Some(uniform(path, "bias", &[c_out], fan_in)),
            ..bare
        }
    }

    pub(super) fn without_bias(path: &Path, c_in: i64, c_out: i64, kernel: i64) -> Conv {
        let shape = [c_out, c_in, kernel, kernel];
        Conv {
            weight: uniform(path, "weight", &shape, c_in * kernel * kernel),
            bias: None,
            padding: kernel / 2,
        }
    }

    /// `[N, Cin, H, W]` to `[N, Cout, H, W]`.
    pub(super) fn forward(&self, x: &Tensor) -> Tensor {
        let padding = [self.padding, self.padding];
        x.conv2d(&self.weight, self.bias.as_ref(), [1, 1], padding, [1, 1], 1)
    }
}

/// A linear map with bias.
#[derive(Debug)]
pub(super) struct Linear {
    pub(super) weight: Tensor,
    bias: Tensor,
}

impl Linear {
    pub(super) fn new(path: &Path, c_in: i64, c_out: i64) -> Linear {
        Linear {
            weight: uniform(path, "weight", &[c_out, c_in], c_in),
            bias: uniform(path, "bias", &[c_out], c_in),
        }
    }

    /// `[N, Cin]` to `[N, Cout]`.
    pub(super) fn forward(&self, x: &Tensor) -> Tensor {
        x.linear(&self.weight, Some(&self.bias))
    }
}

/// Smallest length a pixel's channels are divided by.
const SMALLEST_LENGTH: f64 = 1e-12;

/// Scales each pixel's channels to length sqrt(C), then by the trained `g`, `[1, C, 1, 1]`.
///
/// Source: Zhang & Sennrich 2019, eq. 4 <https://arxiv.org/abs/1910.07467>, without its mean over C
#[derive(Debug)]
pub(super) struct RmsNorm {
    g: Tensor,
    scale: f64,
}

impl RmsNorm {
    pub(super) fn new(path: &Path, channels: i64) -> RmsNorm {
        RmsNorm {
            g: path.ones("g", &[1, channels, 1, 1]),
            scale: (channels as f64).sqrt(),
        }
    }

    /// `[N, C, H, W]` to the same in f32.
    pub(super) fn forward(&self, x: &Tensor) -> Tensor {
        let x = x.to_kind(Kind::Float);
        let length = x.norm_scalaropt_dim(2, [1i64].as_slice(), true);
        x / length.clamp_min(SMALLEST_LENGTH) * (&self.g * self.scale)
    }
}
