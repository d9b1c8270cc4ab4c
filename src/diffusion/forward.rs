//! The forward process q(x_t | x_0).

use ndarray::Array1;
use tch::{Device, Kind, Tensor};

use super::{Schedule, beside};
use crate::config::Prediction;

/// A noised batch: x_0, t, eps and the x_t made from them.
#[derive(Debug)]
pub struct NoisedBatch {
    /// Clean images, `[N, C, H, W]` f32 in [-1, 1].
    pub x_0: Tensor,
    /// Time steps, `[N]` i64 in `0..T`.
    pub t: Tensor,
    /// Noise, `[N, C, H, W]` f32 standard normal.
    pub eps: Tensor,
    /// Noised images, `[N, C, H, W]` f32.
    pub x_t: Tensor,
    /// Classes, `[N]` i64, where the network is told them.
    pub classes: Option<Tensor>,
    /// What the network is given beside x_t, `[N, K, H, W]` f32.
    pub condition: Option<Tensor>,
}

impl NoisedBatch {
    /// What the network takes: x_t, and the condition beside it, `[N, C + K, H, W]` f32.
    pub fn input(&self) -> Tensor {
        beside(&self.x_t, self.condition.as_ref())
    }

    /// Images `start..start + count` of the batch.
    pub fn part(&self, start: i64, count: i64) -> NoisedBatch {
        let narrow = |x: &Tensor| x.narrow(0, start, count);
        NoisedBatch {
            x_0: narrow(&self.x_0),
            t: narrow(&self.t),
            eps: narrow(&self.eps),
            x_t: narrow(&self.x_t),
            classes: self.classes.as_ref().map(narrow),
            condition: self.condition.as_ref().map(narrow),
        }
    }
}

/// The forward process, with its tables on a device.
#[derive(Debug)]
pub struct Forward {
    sqrt_alphas_cumprod: Tensor,
    sqrt_one_minus_alphas_cumprod: Tensor,
}

impl Forward {
    /// Puts the tables of `schedule` on `device`, in f32.
    pub fn new(schedule: &Schedule, device: Device) -> Forward {
        Forward::of_kind(schedule, Kind::Float, device)
    }

    /// Puts the tables of `schedule` on `device`; with those in f64, so are the results, whatever is given.
    pub fn of_kind(schedule: &Schedule, kind: Kind, device: Device) -> Forward {
        let table = |f: fn(f64) -> f64| on_device(schedule.alphas_cumprod.mapv(f), kind, device);
        Forward {
            sqrt_alphas_cumprod: table(f64::sqrt),
            sqrt_one_minus_alphas_cumprod: table(|a| (1.0 - a).sqrt()),
        }
    }

    /// Draws `x_t` from q(x_t | x_0): `sqrt(alpha_bar) * x_0 + sqrt(1 - alpha_bar) * eps`.
    ///
    /// `eps` is an argument so that tests and resumed runs control the noise.
    ///
    /// # Shapes
    /// - `x_0`, `eps`: `[N, C, H, W]` f32, `x_0` in [-1, 1]; returns the same shape
    /// - `t`: `[N]` i64, 0-based: `t = 0` is the first noising step
    ///
    /// # Panics
    /// With other shapes, or `t` outside `0..T`.
    ///
    /// Source: Ho et al. 2020, eq. 4 <https://arxiv.org/abs/2006.11239>
    pub fn q_sample(&self, x_0: &Tensor, t: &Tensor, eps: &Tensor) -> Tensor {
        gather(&self.sqrt_alphas_cumprod, t) * x_0
            + gather(&self.sqrt_one_minus_alphas_cumprod, t) * eps
    }

    /// The velocity v = `sqrt(alpha_bar) * eps - sqrt(1 - alpha_bar) * x_0`.
    ///
    /// # Shapes
    /// As [`q_sample`](Forward::q_sample).
    ///
    /// Source: Salimans & Ho 2022, appendix D <https://arxiv.org/abs/2202.00512>
    pub fn velocity(&self, x_0: &Tensor, t: &Tensor, eps: &Tensor) -> Tensor {
        gather(&self.sqrt_alphas_cumprod, t) * eps
            - gather(&self.sqrt_one_minus_alphas_cumprod, t) * x_0
    }

    /// Converts a network output to x_0_hat.
    ///
    /// # Shapes
    /// - `x_t`, `predicted`: `[N, C, H, W]` f32; returns the same shape, not clipped
    /// - `t`: `[N]` i64 in `0..T`
    pub fn x_0_hat(
        &self,
        prediction: Prediction,
        x_t: &Tensor,
        t: &Tensor,
        predicted: &Tensor,
    ) -> Tensor {
        let signal = gather(&self.sqrt_alphas_cumprod, t);
        let noise = gather(&self.sqrt_one_minus_alphas_cumprod, t);
        match prediction {
            Prediction::Eps => (x_t - noise * predicted) / signal,
            Prediction::X0 => predicted.shallow_clone(),
            Prediction::V => signal * x_t - noise * predicted,
        }
    }

    /// Converts a network output to eps_hat.
    ///
    /// # Shapes
    /// As [`x_0_hat`](Forward::x_0_hat).
    pub fn eps_hat(
        &self,
        prediction: Prediction,
        x_t: &Tensor,
        t: &Tensor,
        predicted: &Tensor,
    ) -> Tensor {
        let signal = gather(&self.sqrt_alphas_cumprod, t);
        let noise = gather(&self.sqrt_one_minus_alphas_cumprod, t);
        match prediction {
            Prediction::Eps => predicted.shallow_clone(),
            Prediction::X0 => (x_t - signal * predicted) / noise,
            Prediction::V => noise * x_t + signal * predicted,
        }
    }
}

/// A table over t as `[T]` on a device, for [`gather`].
pub(super) fn on_device(table: Array1<f64>, kind: Kind, device: Device) -> Tensor {
    let table = Tensor::try_from(table).expect("a table without gaps");
    table.to_kind(kind).to_device(device)
}

/// The table's value for each image's t, `[N, 1, 1, 1]`.
pub(super) fn gather(table: &Tensor, t: &Tensor) -> Tensor {
    table.index_select(0, t).view([-1, 1, 1, 1])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Preset;
    use crate::rng::{Stream, normal};

    #[test]
    fn mean_and_variance_of_x_t() {
        let schedule = Schedule::new(&Preset::Celebahq128.config().diffusion);
        let forward = Forward::new(&schedule, Device::Cpu);
        let x_0 = Tensor::full([1, 1, 300, 300], 0.5, (Kind::Float, Device::Cpu));
        let eps = normal(0, Stream::Noise, 0, &[1, 1, 300, 300], Device::Cpu);
        for t in [0usize, 300, 999] {
            let x_t = forward.q_sample(&x_0, &Tensor::from_slice(&[t as i64]), &eps);
            let alpha_bar = schedule.alphas_cumprod[t];
            let mean = f64::try_from(x_t.mean(Kind::Double)).unwrap();
            let std = f64::try_from(x_t.std(false)).unwrap();
            // 90,000 draws: standard errors 1/300 (mean) and 1/424 (std).
            assert!((mean - 0.5 * alpha_bar.sqrt()).abs() < 4.0 / 300.0);
            assert!((std - (1.0 - alpha_bar).sqrt()).abs() < 4.0 / 424.0);
        }
    }
}
