//! Weights and the small layers they belong to.
//!
//! In the U-Nets of Keras-DDPM only the norms have biases. Initial weights are drawn from libtorch's CPU
//! generator in creation order, exactly as the PyTorch reference draws them; tch's own initialisers differ.

use tch::nn::Path;
use tch::{Device, Kind, Tensor, no_grad};

use super::params::channels_last;
use crate::config::UNetConfig;
use crate::native::{self, GroupNorm};

/// Variance scaling of the last layer of a branch: each branch starts near zero, so the network starts
/// near the identity.
///
/// Source: Ho et al. 2020, the authors' `nn.py`
pub(super) const ALMOST_ZERO: f64 = 1e-10;

/// A trainable tensor with values uniform in ±`limit`.
fn uniform(path: &Path, name: &str, shape: &[i64], limit: f64) -> Tensor {
    let weight = path.zeros(name, shape);
    no_grad(|| {
        let _ = weight.shallow_clone().uniform_(-limit, limit);
    });
    weight
}

/// Limit of the uniform distribution: variance scaling by the mean of fan-in and fan-out.
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

/// 3×3 convolution, stride 1, zero padding 1.
pub(super) fn conv3x3(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Tensor {
    native::conv3x3(x, weight, bias).expect("the weight is one of 3×3 taps for these channels")
}

/// A convolution with the same stride and zero padding on all sides.
pub(super) fn conv2d(
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    stride: i64,
    padding: i64,
) -> Tensor {
    let (weight, bias) = (native::cast_weight(weight), bias.map(native::cast_weight));
    x.conv2d(&weight, bias, [stride; 2], [padding; 2], [1, 1], 1)
}

/// A linear map, `[…, Cin]` to `[…, Cout]`.
pub(super) fn linear(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Tensor {
    x.linear(&native::cast_weight(weight), bias.map(native::cast_weight))
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
    /// `kernel` × `kernel`, stride 1, padded to keep the image size; `scale` as in variance scaling.
    pub(super) fn new(path: &Path, c_in: i64, c_out: i64, kernel: i64, scale: f64) -> Conv {
        Conv {
            weight: conv_weight(path, c_in, c_out, kernel, scale),
            bias: path.zeros("bias", &[c_out]),
            stride: 1,
            padding: kernel / 2,
        }
    }

    /// The same convolution with stride 2 and this padding.
    pub(super) fn halving(self, padding: i64) -> Conv {
        Conv {
            stride: 2,
            padding,
            ..self
        }
    }

    /// `[N, Cin, H, W]` to `[N, Cout, H', W']`.
    pub(super) fn forward(&self, x: &Tensor) -> Tensor {
        if (self.weight.size()[2], self.stride, self.padding) == (3, 1, 1) {
            return conv3x3(x, &self.weight, Some(&self.bias));
        }
        let (stride, padding) = (self.stride, self.padding);
        conv2d(x, &self.weight, Some(&self.bias), stride, padding)
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
        linear(x, &self.weight, Some(&self.bias))
    }
}

/// Converts to channels-last memory on CPU, where libtorch's convolutions and norms are faster with it and
/// preserve it (docs/performance.md); leaves CUDA tensors alone, which come in the layout of the run.
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

/// Group, layer or instance norm, by the config: all three are group norms.
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

    /// `[N, C, H, W]` of any kind to the same in f32.
    pub(super) fn forward(&self, x: &Tensor) -> Tensor {
        let x = x.to_kind(Kind::Float);
        group_norm(&x, self.groups, &self.weight, &self.bias, self.norm_eps)
    }

    /// The parameters, for a fused operation.
    pub(super) fn parts(&self) -> GroupNorm<'_> {
        GroupNorm {
            weight: &self.weight,
            bias: &self.bias,
            groups: self.groups,
            eps: self.norm_eps,
        }
    }

    /// True if [`silu`](Norm::silu) is one operation, which keeps only its input: so far on CPU only.
    pub(super) fn fuses(&self) -> bool {
        self.weight.device() == Device::Cpu
    }

    /// The norm modulated by `t`, then swish, computed in f32. For a bf16 input the fused one returns bf16, to
    /// which the next convolution would round it anyway.
    pub(super) fn silu(&self, x: &Tensor, t: Modulation<'_>) -> Tensor {
        if self.fuses() {
            self.fused_silu(x, t)
        } else {
            self.plain_silu(x, t)
        }
    }

    fn plain_silu(&self, x: &Tensor, t: Modulation<'_>) -> Tensor {
        let a_pixel = |t: &Tensor| t.unsqueeze(-1).unsqueeze(-1);
        let normed = match t {
            Modulation::Nothing => self.forward(x),
            Modulation::Add(t) => self.forward(&(x + a_pixel(t))),
            Modulation::ScaleShift(s, b) => self.forward(x) * (a_pixel(s) + 1.0) + a_pixel(b),
        };
        normed.silu()
    }

    fn fused_silu(&self, x: &Tensor, t: Modulation<'_>) -> Tensor {
        let mut added = None;
        let (mut weight, mut bias) = (self.weight.shallow_clone(), self.bias.shallow_clone());
        match t {
            Modulation::Nothing => {}
            Modulation::Add(t) => added = Some(t.to_kind(Kind::Float)),
            Modulation::ScaleShift(s, b) => (weight, bias) = scale_shift(&weight, &bias, s, b),
        }
        let norm = GroupNorm {
            weight: &weight,
            bias: &bias,
            ..self.parts()
        };
        native::group_norm_silu(x, added.as_ref(), norm).expect("shapes are those of the norm")
    }
}

/// Effect of the time embedding at a norm. All tensors are `[N, C]`.
#[derive(Debug, Clone, Copy)]
pub(super) enum Modulation<'a> {
    Nothing,
    /// t is added to the norm's input.
    Add(&'a Tensor),
    /// (s, b): the norm's result is multiplied by 1 + s, and b added.
    ScaleShift(&'a Tensor, &'a Tensor),
}

/// Weight and bias, `[N, C]` f32, that fold `norm(x) (1 + s) + b` into the norm.
pub(super) fn scale_shift(
    weight: &Tensor,
    bias: &Tensor,
    s: &Tensor,
    b: &Tensor,
) -> (Tensor, Tensor) {
    let s = s.to_kind(Kind::Float) + 1.0;
    (weight * &s, bias * s + b.to_kind(Kind::Float))
}

/// RMS norm: divides by the root mean square over the last axis, then scales; no mean is subtracted.
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

/// The time embedding as a table with one row per time step.
#[derive(Debug)]
pub(super) struct TimeTable {
    table: Tensor,
    trained: bool,
}

impl TimeTable {
    /// Trainable rows, initially uniform in ±0.05 (Keras's default).
    pub(super) fn trainable(path: &Path, timesteps: i64, width: i64) -> TimeTable {
        TimeTable {
            table: uniform(path, "weight", &[timesteps, width], 0.05),
            trained: true,
        }
    }

    /// Fixed rows, not a parameter and not in the `state_dict`. Column 2k is the sine and 2k+1 the cosine
    /// of t / 10000^(2k / width), with the angle rounded to f32 as in the original.
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

    /// Moves a fixed table; a trainable one moves with the parameters.
    pub(super) fn move_to(&mut self, device: Device) {
        if !self.trained {
            self.table = self.table.to_device(device).to_kind(Kind::Float);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::formats::safetensors;
    use crate::rng::seeded;

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

    /// A norm of C channels with random weights; x, t, s, b and the gradient of the output.
    fn drawn([n, c, height, width]: [i64; 4], groups: i64) -> (Norm, [Tensor; 5]) {
        seeded(5, || {
            let random = |shape: &[i64]| Tensor::randn(shape, (Kind::Float, Device::Cpu));
            let norm = Norm {
                weight: (random(&[c]) + 1.0).set_requires_grad(true),
                bias: random(&[c]).set_requires_grad(true),
                groups,
                norm_eps: 1e-5,
            };
            // Groups far from zero, where a careless variance loses digits.
            let x = random(&[n, c, height, width]) * 2.0 + 5.0;
            let d = random(&[n, c, height, width]);
            let rows = [(); 3].map(|()| random(&[n, c]));
            let [t, s, b] = rows.map(|r| r.set_requires_grad(true));
            (norm, [x.set_requires_grad(true), t, s, b, d])
        })
    }

    #[test]
    fn a_fused_norm_and_swish_gives_the_values_and_gradients_of_the_parts() {
        // n, c, height, width, groups
        for [n, c, height, width, groups] in [
            [2, 32, 16, 16, 8],
            [3, 24, 5, 7, 4],
            [2, 8, 40, 60, 1],
            [5, 6, 3, 1, 2],
            [1, 40, 1, 1, 4],
        ] {
            let (norm, [x, t, s, b, d]) = drawn([n, c, height, width], groups);
            let (w, bias) = (&norm.weight, &norm.bias);
            let cases = [
                (Modulation::Nothing, vec![&x, w, bias]),
                (Modulation::Add(&t), vec![&x, w, bias, &t]),
                (Modulation::ScaleShift(&s, &b), vec![&x, w, bias, &s, &b]),
            ];
            for (t, inputs) in cases {
                let outcome = |y: Tensor| {
                    let loss = (&y * &d).sum(Kind::Float);
                    let mut outcome = Tensor::run_backward(&[loss], &inputs, false, false);
                    outcome.push(y.detach());
                    outcome
                };
                let fused = outcome(norm.fused_silu(&x, t));
                let plain = outcome(norm.plain_silu(&x, t));
                for (i, (a, b)) in fused.iter().zip(&plain).enumerate() {
                    assert_eq!(a.size(), b.size());
                    let error = f64::try_from((a - b).norm() / b.norm()).unwrap();
                    // f32 sums in another order.
                    assert!(error < 5e-6, "{c} {groups} {t:?}, tensor {i}: {error}");
                }
            }
        }
    }

    #[test]
    fn a_fused_norm_of_bf16_is_that_of_f32_rounded() {
        let (norm, [x, t, .., d]) = drawn([3, 24, 25, 31], 4);
        let outcome = |kind| {
            // Both sides start from values that bf16 can represent.
            let of_kind = |map: &Tensor| map.detach().to_kind(Kind::BFloat16).to_kind(kind);
            let (x, d) = (of_kind(&x).set_requires_grad(true), of_kind(&d));
            let y = norm.fused_silu(&x, Modulation::Add(&t));
            assert_eq!(y.kind(), kind);
            let inputs = [&norm.weight, &norm.bias, &t, &x];
            let mut all = Tensor::run_backward(&[(&y * d).sum(kind)], &inputs, false, false);
            all.push(y.detach());
            all
        };
        let in_f32 = outcome(Kind::Float);
        for (i, rounded) in outcome(Kind::BFloat16).iter().enumerate() {
            assert_eq!(rounded, &in_f32[i].to_kind(rounded.kind()), "tensor {i}");
        }
    }

    #[test]
    fn a_number_that_is_none_stays_none_in_its_group() {
        let (norm, [x, ..]) = drawn([1, 8, 4, 4], 2);
        for kind in [Kind::Float, Kind::BFloat16] {
            let x = x.detach().to_kind(kind).copy();
            let _ = x.get(0).get(3).get(1).get(2).fill_(f64::NAN);
            let y = norm.fused_silu(&x, Modulation::Nothing).isnan();
            let all = |from| bool::try_from(y.narrow(1, from, 4).all()).unwrap();
            assert!(all(0) && !all(4));
        }
    }
}
