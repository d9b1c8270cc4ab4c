//! Weights and the small layers they belong to.
//!
//! In the U-Nets of Keras-DDPM no layer but the norms has a bias. Initial weights are drawn from libtorch's CPU generator in
//! creation order, exactly as the PyTorch reference draws them: tch's own initialisers differ.

use tch::nn::Path;
use tch::{Device, Kind, Tensor, no_grad};

use super::params::channels_last;
use crate::config::UNetConfig;
use crate::native::GroupNorm;

/// Variance scaling of the layers that end a branch: each starts as almost nothing, so that the whole
/// starts as almost the identity.
///
/// Source: Ho et al. 2020, the authors' `nn.py`
pub(super) const ALMOST_ZERO: f64 = 1e-10;

/// A trained tensor with values uniform in ±`limit`.
fn uniform(path: &Path, name: &str, shape: &[i64], limit: f64) -> Tensor {
    let weight = path.zeros(name, shape);
    no_grad(|| {
        let _ = weight.shallow_clone().uniform_(-limit, limit);
    });
    weight
}

/// Variance scaling over the mean of fan-in and fan-out.
///
/// Source: Glorot & Bengio 2010, eq. 16, with Keras's `scale` factor.
fn fan_avg_limit(fan_in: i64, fan_out: i64, scale: f64) -> f64 {
    (3.0 * scale / ((fan_in + fan_out) as f64 / 2.0)).sqrt()
}

/// Weight of a convolution, `[Cout, Cin, kernel, kernel]`; `scale` as in variance scaling.
pub(super) fn conv_weight(path: &Path, c_in: i64, c_out: i64, kernel: i64, scale: f64) -> Tensor {
    let area = kernel * kernel;
    uniform(
        path,
        "weight",
        &[c_out, c_in, kernel, kernel],
        fan_avg_limit(c_in * area, c_out * area, scale),
    )
}

/// Weight of a linear map, `[Cout, Cin]`.
pub(super) fn linear_weight(path: &Path, c_in: i64, c_out: i64) -> Tensor {
    uniform(
        path,
        "weight",
        &[c_out, c_in],
        fan_avg_limit(c_in, c_out, 1.0),
    )
}

/// 3×3 convolution, stride 1, zero padding 1, no bias.
pub(super) fn conv3x3(x: &Tensor, weight: &Tensor) -> Tensor {
    x.conv2d(weight, None::<&Tensor>, [1, 1], [1, 1], [1, 1], 1)
}

/// A convolution with bias, zero padding on all sides.
#[derive(Debug)]
pub(super) struct Conv {
    pub(super) weight: Tensor,
    bias: Tensor,
    stride: i64,
    padding: i64,
}

impl Conv {
    /// `kernel` × `kernel`, stride 1, the size of the picture kept; `scale` as in variance scaling.
    pub(super) fn new(path: &Path, c_in: i64, c_out: i64, kernel: i64, scale: f64) -> Conv {
        Conv {
            weight: conv_weight(path, c_in, c_out, kernel, scale),
            bias: path.zeros("bias", &[c_out]),
            stride: 1,
            padding: kernel / 2,
        }
    }

    /// The same with stride 2 and this padding.
    pub(super) fn halving(self, padding: i64) -> Conv {
        Conv {
            stride: 2,
            padding,
            ..self
        }
    }

    /// `[N, Cin, H, W]` to `[N, Cout, H', W']`.
    pub(super) fn forward(&self, x: &Tensor) -> Tensor {
        x.conv2d(
            &self.weight,
            Some(&self.bias),
            [self.stride, self.stride],
            [self.padding, self.padding],
            [1, 1],
            1,
        )
    }
}

/// A linear map with bias.
#[derive(Debug)]
pub(super) struct Linear {
    pub(super) weight: Tensor,
    bias: Tensor,
}

impl Linear {
    pub(super) fn new(path: &Path, c_in: i64, c_out: i64, scale: f64) -> Linear {
        let limit = fan_avg_limit(c_in, c_out, scale);
        Linear {
            weight: uniform(path, "weight", &[c_out, c_in], limit),
            bias: path.zeros("bias", &[c_out]),
        }
    }

    /// `[…, Cin]` to `[…, Cout]`.
    pub(super) fn forward(&self, x: &Tensor) -> Tensor {
        x.linear(&self.weight, Some(&self.bias))
    }
}

/// Channels last in memory on CPU, where libtorch's convolutions and norms are faster so and hand
/// the layout on (docs/performance.md); as it comes on CUDA.
pub(super) fn preferred_layout(x: &Tensor) -> Tensor {
    match x.device() {
        Device::Cpu => channels_last(x),
        _ => x.shallow_clone(),
    }
}

/// Normalisation over contiguous groups of channels with biased variance, then scale and shift.
///
/// # Shapes
/// - `x`: `[N, C, H, W]`, C divisible by `groups`; `weight`, `bias`: `[C]`; returns `x`'s shape
///
/// Source: Wu & He 2018, eq. 1-2 and 6 <https://arxiv.org/abs/1803.08494>
pub fn group_norm(
    x: &Tensor,
    groups: i64,
    weight: &Tensor,
    bias: &Tensor,
    norm_eps: f64,
) -> Tensor {
    x.group_norm(groups, Some(weight), Some(bias), norm_eps, true)
}

/// Group, layer or instance norm, as the config says: all three are group norms.
#[derive(Debug)]
pub(super) struct Norm {
    weight: Tensor,
    bias: Tensor,
    groups: i64,
    norm_eps: f64,
}

impl Norm {
    pub(super) fn new(path: &Path, channels: i64, config: &UNetConfig) -> Norm {
        Norm::grouped(path, channels, config.groups_of(channels), config.norm_eps)
    }

    pub(super) fn grouped(path: &Path, channels: i64, groups: i64, norm_eps: f64) -> Norm {
        Norm {
            weight: path.ones("weight", &[channels]),
            bias: path.zeros("bias", &[channels]),
            groups,
            norm_eps,
        }
    }

    /// In f32, whatever comes in.
    pub(super) fn forward(&self, x: &Tensor) -> Tensor {
        let x = x.to_kind(Kind::Float);
        group_norm(&x, self.groups, &self.weight, &self.bias, self.norm_eps)
    }

    /// Its numbers, for an operation that does more at once.
    pub(super) fn parts(&self) -> GroupNorm<'_> {
        GroupNorm {
            weight: &self.weight,
            bias: &self.bias,
            groups: self.groups,
            eps: self.norm_eps,
        }
    }
}

/// Divides by the root of the mean square over the last axis, then scales; nothing is subtracted.
///
/// Source: Zhang & Sennrich 2019, eq. 4 <https://arxiv.org/abs/1910.07467>
#[derive(Debug)]
pub(super) struct RmsNorm {
    weight: Tensor,
    norm_eps: f64,
}

impl RmsNorm {
    pub(super) fn new(path: &Path, width: i64, norm_eps: f64) -> RmsNorm {
        RmsNorm {
            weight: path.ones("weight", &[width]),
            norm_eps,
        }
    }

    /// `[…, width]` to the same in f32; `norm_eps` is added to the mean square.
    pub(super) fn forward(&self, x: &Tensor) -> Tensor {
        let x = x.to_kind(Kind::Float);
        x.rms_norm(self.weight.size(), Some(&self.weight), self.norm_eps)
    }
}

/// The embedding of t: a table with one row for every time step.
#[derive(Debug)]
pub(super) struct TimeTable {
    table: Tensor,
    trained: bool,
}

impl TimeTable {
    /// Rows drawn uniformly in ±0.05 (Keras's default), trained.
    pub(super) fn trainable(path: &Path, timesteps: i64, width: i64) -> TimeTable {
        TimeTable {
            table: uniform(path, "weight", &[timesteps, width], 0.05),
            trained: true,
        }
    }

    /// Fixed rows; not a parameter, so not in the `state_dict`. Column 2k is the sine and 2k+1 the
    /// cosine of t / 10000^(2k / width), with the angle rounded to f32 as the original does.
    ///
    /// Source: Vaswani et al. 2017, section 3.5 <https://arxiv.org/abs/1706.03762>
    pub(super) fn sinusoidal(timesteps: i64, width: i64) -> TimeTable {
        let frequency = |k: i64| 10_000f64.powf(-2.0 * k as f64 / width as f64) as f32;
        let rows: Vec<f32> = (0..timesteps)
            .flat_map(|t| (0..width / 2).map(move |k| f64::from(t as f32 * frequency(k))))
            .flat_map(|angle| [angle.sin() as f32, angle.cos() as f32])
            .collect();
        let table = Tensor::from_slice(&rows).view([timesteps, width]);
        TimeTable {
            table,
            trained: false,
        }
    }

    /// `[N]` i64 to `[N, width]`.
    pub(super) fn forward(&self, t: &Tensor) -> Tensor {
        Tensor::embedding(&self.table, t, -1, false, false)
    }

    /// Moves a fixed table; a trained one moves with the parameters.
    pub(super) fn move_to(&mut self, device: Device) {
        if !self.trained {
            self.table = self.table.to_device(device).to_kind(Kind::Float);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::safetensors;

    #[test]
    fn sinusoidal_rows_are_the_originals() {
        let golden = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/weights/golden/keras_norm.safetensors"
        );
        let tensors = safetensors::open(golden.as_ref()).unwrap().tensors;
        let (_, want) = tensors
            .iter()
            .find(|(name, _)| name == "sinusoidal_1000x128")
            .unwrap();
        let error = (TimeTable::sinusoidal(1000, 128).table - want).abs().max();
        assert!(f64::try_from(error).unwrap() < 1e-6);
    }
}
