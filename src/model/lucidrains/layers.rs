//! Layers with PyTorch's own initial weights, and the norm over channels.

use tch::nn::Path;
use tch::{Device, Kind, Tensor, no_grad};

use crate::model::layers::{conv2d, conv3x3, linear, scale_shift};
use crate::native;

/// A trainable tensor with values uniform in ±1 / sqrt(`fan_in`).
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

/// A convolution, padded to keep the image size or to halve it.
#[derive(Debug)]
pub(super) struct Conv {
    pub(super) weight: Tensor,
    bias: Option<Tensor>,
    pub(super) stride: i64,
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
            stride: 1,
            padding: kernel / 2,
        }
    }

    /// 4 × 4 with stride 2, which halves the image.
    pub(super) fn halving(path: &Path, c_in: i64, c_out: i64) -> Conv {
        Conv {
            stride: 2,
            padding: 1,
            ..Conv::new(path, c_in, c_out, 4)
        }
    }

    /// `[N, Cin, H, W]` to `[N, Cout, H, W]`, or half of each side.
    pub(super) fn forward(&self, x: &Tensor) -> Tensor {
        if (self.stride, self.padding) == (1, 1) {
            return conv3x3(x, &self.weight, self.bias.as_ref());
        }
        let (stride, padding) = (self.stride, self.padding);
        conv2d(x, &self.weight, self.bias.as_ref(), stride, padding)
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
        linear(x, &self.weight, Some(&self.bias))
    }
}

/// Lower bound of the length by which a pixel's channels are divided.
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

    /// True if it is one operation, which keeps only its input: so far on CPU only.
    pub(super) fn fuses(&self) -> bool {
        self.g.device() == Device::Cpu
    }

    /// `[N, C, H, W]` to the same in f32.
    pub(super) fn forward(&self, x: &Tensor) -> Tensor {
        if self.fuses() {
            self.fused(x, None, false)
        } else {
            self.plain(x)
        }
    }

    /// `swish(norm(x) (1 + s) + b)` in f32 for x of any kind; `t` = (s, b), each `[N, C]`, or without it.
    pub(super) fn silu(&self, x: &Tensor, t: Option<(&Tensor, &Tensor)>) -> Tensor {
        if self.fuses() {
            self.fused(x, t, true)
        } else {
            self.plain_silu(x, t)
        }
    }

    fn plain_silu(&self, x: &Tensor, t: Option<(&Tensor, &Tensor)>) -> Tensor {
        let a_pixel = |t: &Tensor| t.unsqueeze(-1).unsqueeze(-1);
        let normed = self.plain(x);
        match t {
            Some((s, b)) => (normed * (a_pixel(s) + 1.0) + a_pixel(b)).silu(),
            None => normed.silu(),
        }
    }

    fn plain(&self, x: &Tensor) -> Tensor {
        let x = x.to_kind(Kind::Float);
        let length = x.norm_scalaropt_dim(2, [1i64].as_slice(), true);
        x / length.clamp_min(SMALLEST_LENGTH) * (&self.g * self.scale)
    }

    fn fused(&self, x: &Tensor, t: Option<(&Tensor, &Tensor)>, silu: bool) -> Tensor {
        let weight = self.g.flatten(0, -1) * self.scale;
        let bias = weight.detach().zeros_like();
        let (weight, bias) = match t {
            Some((s, b)) => scale_shift(&weight, &bias, s, b),
            None => (weight, bias),
        };
        let x = x.to_kind(Kind::Float);
        native::rms_norm(&x, &weight, &bias, SMALLEST_LENGTH, silu)
            .expect("shapes are those of the norm")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::seeded;

    #[test]
    fn a_fused_norm_gives_the_values_and_gradients_of_the_parts() {
        let shapes = [[2, 32, 16, 16], [3, 24, 5, 7], [1, 7, 30, 20], [1, 5, 1, 2]];
        for [n, c, height, width] in shapes {
            let random = |shape: &[i64]| Tensor::randn(shape, (Kind::Float, Device::Cpu));
            seeded(5, || {
                let norm = RmsNorm {
                    g: (random(&[1, c, 1, 1]) + 1.0).set_requires_grad(true),
                    scale: (c as f64).sqrt(),
                };
                // The last shape's pixels are shorter than the lower bound.
                let size = if height == 1 { 1e-14 } else { 1.0 };
                let x = (random(&[n, c, height, width]) * 2.0 + 1.0) * size;
                let x = x.set_requires_grad(true);
                let d = random(&[n, c, height, width]);
                let rows = [(); 2].map(|()| random(&[n, c]));
                let [s, b] = rows.map(|r| r.set_requires_grad(true));
                let outcome = |y: Tensor, inputs: &[&Tensor]| {
                    let loss = (&y * &d).sum(Kind::Float);
                    let mut outcome = Tensor::run_backward(&[loss], inputs, false, false);
                    outcome.push(y.detach());
                    outcome
                };
                let (bare, t) = ([&x, &norm.g], Some((&s, &b)));
                let told = [&x, &norm.g, &s, &b];
                let pairs = [
                    [norm.fused(&x, None, false), norm.plain(&x)].map(|y| outcome(y, &bare)),
                    [norm.fused(&x, None, true), norm.plain_silu(&x, None)]
                        .map(|y| outcome(y, &bare)),
                    [norm.fused(&x, t, true), norm.plain_silu(&x, t)].map(|y| outcome(y, &told)),
                ];
                for [fused, plain] in pairs {
                    for (i, (a, b)) in fused.iter().zip(&plain).enumerate() {
                        assert_eq!(a.size(), b.size());
                        let error = f64::try_from((a - b).norm() / b.norm()).unwrap();
                        // f32 sums in another order.
                        assert!(error < 2e-6, "{c} channels, tensor {i}: {error}");
                    }
                }
            });
        }
    }
}
