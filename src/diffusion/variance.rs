//! The variational bound's terms, and learned variances: the network interpolates between the smallest and the largest
//! sensible one.

use std::f64::consts::LN_2;

use ndarray::Array1;
use tch::{Device, Kind, Tensor};

use super::forward::{NoisedBatch, gather, on_device};
use super::{Forward, Schedule};
use crate::config::Prediction;

/// Log-variance of a reverse step: `frac * most + (1 - frac) * least` with `frac = (v + 1) / 2`. `least`
/// and `most` are the ends of the range, which broadcast with `v`.
///
/// Source: Nichol & Dhariwal 2021, eq. 15 <https://arxiv.org/abs/2102.09672>
pub fn learned_log_variance(v: &Tensor, least: &Tensor, most: &Tensor) -> Tensor {
    let frac = (v + 1.0) / 2.0;
    &frac * most + (1.0 - &frac) * least
}

/// Log-variance for interpolation coefficients `v` in -1..1, with the range's ends as numbers, so that no device
/// has to wait. Returns `v`'s shape.
pub fn log_variance_at(v: &Tensor, (least, most): (f64, f64)) -> Tensor {
    (v + 1.0) * ((most - least) / 2.0) + least
}

/// q(x_{t-1} | x_t, x_0), which a reverse step is held against, with its tables on a device.
#[derive(Debug)]
pub struct Posterior {
    least: Tensor,
    most: Tensor,
    mean_of_x_0: Tensor,
    mean_of_x_t: Tensor,
}

impl Posterior {
    /// Puts the tables of `schedule` on `device`.
    pub fn new(schedule: &Schedule, kind: Kind, device: Device) -> Posterior {
        let table = |f: &dyn Fn(usize) -> f64| {
            on_device(Array1::from_shape_fn(schedule.len(), f), kind, device)
        };
        Posterior {
            least: table(&|t| schedule.log_variance_range(t).0),
            most: table(&|t| schedule.log_variance_range(t).1),
            mean_of_x_0: table(&|t| schedule.posterior_mean_coefs(t).0),
            mean_of_x_t: table(&|t| schedule.posterior_mean_coefs(t).1),
        }
    }

    /// Its log-variance, and that of beta_t, between which a learned one lies
    /// ([`Schedule::log_variance_range`]).
    ///
    /// # Shapes
    /// - `t`: `[N]` i64 in `0..T`; returns `[N, 1, 1, 1]` each
    pub fn log_variance_range(&self, t: &Tensor) -> (Tensor, Tensor) {
        (gather(&self.least, t), gather(&self.most, t))
    }

    /// Its mean; that of a reverse step is the same of x_0_hat.
    ///
    /// # Shapes
    /// - `x_0`, `x_t`: `[N, C, H, W]`; `t`: `[N]` i64 in `0..T`; returns `[N, C, H, W]`
    ///
    /// Source: Ho et al. 2020, eq. 7 <https://arxiv.org/abs/2006.11239>
    pub fn mean(&self, x_0: &Tensor, x_t: &Tensor, t: &Tensor) -> Tensor {
        gather(&self.mean_of_x_0, t) * x_0 + gather(&self.mean_of_x_t, t) * x_t
    }
}

/// The variational bound's term for each step, as a function of the variances.
#[derive(Debug)]
pub(super) struct VariationalBound {
    prediction: Prediction,
    posterior: Posterior,
    weight: f64,
}

impl VariationalBound {
    pub(super) fn new(
        schedule: &Schedule,
        prediction: Prediction,
        device: Device,
    ) -> VariationalBound {
        VariationalBound {
            prediction,
            posterior: Posterior::new(schedule, Kind::Float, device),
            weight: schedule.len() as f64 / 1000.0,
        }
    }

    /// Sum over images, channels and pixels of `T / 1000` times the term in bits: the KL divergence of the
    /// true posterior from the network's, and at t = 0 the negative log-likelihood of the 8-bit image.
    ///
    /// # Shapes
    /// - `predicted`, `v`: `[N, C, H, W]`; returns a scalar
    pub(super) fn sum(
        &self,
        forward: &Forward,
        noised: &NoisedBatch,
        predicted: &Tensor,
        v: &Tensor,
    ) -> Tensor {
        let (t, x_t) = (&noised.t, &noised.x_t);
        let (least, most) = self.posterior.log_variance_range(t);
        let log_variance = learned_log_variance(v, &least, &most);
        let x_0_hat = forward.x_0_hat(self.prediction, x_t, t, predicted);
        let mean = self.posterior.mean(&x_0_hat, x_t, t);
        let true_mean = self.posterior.mean(&noised.x_0, x_t, t);
        let kl = normal_kl((&true_mean, &least), (&mean, &log_variance));
        let nll = -log_likelihood_of_8_bits(&noised.x_0, &mean, &(log_variance / 2.0));
        let first = t.eq(0).view([-1, 1, 1, 1]);
        nll.where_self(&first, &kl).sum(Kind::Float) * (self.weight / LN_2)
    }
}

/// KL divergence of the normal distribution `q` from `p`, each (mean, log-variance), per value, in nats. All broadcast.
pub fn normal_kl(q: (&Tensor, &Tensor), p: (&Tensor, &Tensor)) -> Tensor {
    let gap = q.1 - p.1;
    (gap.exp() - 1.0 - &gap + (q.0 - p.0).square() * (-p.1).exp()) / 2.0
}

/// Log-probability that a normal value falls into the bin of 8-bit value `x`, in nats; the outermost bins are open.
///
/// Source: Ho et al. 2020, eq. 13, with the tanh approximation of the normal CDF in the authors' code
pub fn log_likelihood_of_8_bits(x: &Tensor, mean: &Tensor, log_std: &Tensor) -> Tensor {
    let inverse_std = (-log_std).exp();
    let cdf = |edge: f64| {
        let z = (x - mean + edge) * &inverse_std;
        let inner = (&z + z.pow_tensor_scalar(3) * 0.044_715) * (2.0 / std::f64::consts::PI).sqrt();
        (inner.tanh() + 1.0) / 2.0
    };
    let (above, below) = (cdf(1.0 / 255.0), cdf(-1.0 / 255.0));
    let log = |p: Tensor| p.clamp_min(1e-12).log();
    let inside = log(&above - &below);
    let lowest = log(above);
    let highest = log(1.0 - below);
    let upper = highest.where_self(&x.gt(0.999), &inside);
    lowest.where_self(&x.lt(-0.999), &upper)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_range_ends_at_its_ends() {
        let v = Tensor::from_slice(&[-1.0f32, 0.0, 1.0]);
        let (least, most) = (Tensor::from(-8.0f32), Tensor::from(-4.0f32));
        let log_variance = Vec::<f32>::try_from(learned_log_variance(&v, &least, &most)).unwrap();
        assert_eq!(log_variance, [-8.0, -6.0, -4.0]);
    }

    #[test]
    fn the_bins_of_8_bits_hold_all_probability() {
        let values: Vec<f32> = (0..256).map(|i| i as f32 / 127.5 - 1.0).collect();
        let x = Tensor::from_slice(&values);
        let mean = Tensor::full([256], 0.2, (Kind::Float, Device::Cpu));
        for std in [0.01f64, 0.3, 2.0] {
            let log_std = Tensor::full([256], std.ln(), (Kind::Float, Device::Cpu));
            let total = log_likelihood_of_8_bits(&x, &mean, &log_std)
                .exp()
                .sum(Kind::Double);
            assert!((f64::try_from(total).unwrap() - 1.0).abs() < 1e-3);
        }
    }
}
