//! The training objective.

use tch::{Device, Kind, Reduction, Tensor, no_grad};

use super::forward::NoisedBatch;
use super::variance::VariationalBound;
use super::{Forward, Schedule};
use crate::config::{DiffusionConfig, LossKind, Prediction};

/// The training loss: the squared error of the prediction and, with learned variances, their term of the
/// variational bound.
#[derive(Debug)]
pub struct Objective {
    kind: LossKind,
    prediction: Prediction,
    forward: Forward,
    bound: Option<VariationalBound>,
    timesteps: i64,
}

impl Objective {
    /// The objective of these settings, with its tables on `device`.
    pub fn new(
        config: &DiffusionConfig,
        schedule: &Schedule,
        learned_variance: bool,
        device: Device,
    ) -> Objective {
        Objective {
            kind: config.loss,
            prediction: config.prediction,
            forward: Forward::new(schedule, device),
            bound: learned_variance
                .then(|| VariationalBound::new(schedule, config.prediction, device)),
            timesteps: config.timesteps,
        }
    }

    /// Noises a batch: x_t and the tensors it was made from, without classes.
    ///
    /// # Shapes
    /// As in [`NoisedBatch`].
    pub fn noise(&self, x_0: &Tensor, t: Tensor, eps: Tensor) -> NoisedBatch {
        NoisedBatch {
            x_t: self.forward.q_sample(x_0, &t, &eps),
            x_0: x_0.shallow_clone(),
            t,
            eps,
            classes: None,
            condition: None,
        }
    }

    /// What the network should say of the noised images: eps, x_0 or v, `[N, C, H, W]`.
    fn target(&self, noised: &NoisedBatch) -> Tensor {
        match self.prediction {
            Prediction::Eps => noised.eps.shallow_clone(),
            Prediction::X0 => noised.x_0.shallow_clone(),
            Prediction::V => self.forward.velocity(&noised.x_0, &noised.t, &noised.eps),
        }
    }

    /// The squared error of the prediction, summed over the channels and pixels of each image. The loss of
    /// [`LossKind::Sum`] is its mean over the images, without the term of learned variances.
    ///
    /// # Shapes
    /// - `out`: as in [`loss`](Objective::loss); returns `[N]` f64
    pub fn squared_errors(&self, out: &Tensor, noised: &NoisedBatch) -> Tensor {
        let target = self.target(noised);
        let predicted = out.narrow(1, 0, target.size()[1]);
        let error = predicted.to_kind(Kind::Double) - target;
        error
            .square()
            .flatten(1, -1)
            .sum_dim_intlist(1, false, Kind::Double)
    }

    /// The squared error of each image as the loss counts it, added up over the images in each of `parts` equal parts of the
    /// time steps, from t = 0; without the term of learned variances. Nothing waits for it, and no gradient flows back.
    ///
    /// # Shapes
    /// - `out`: as in [`loss`](Objective::loss); returns `[parts]` f32
    pub fn sums_by_t(&self, out: &Tensor, noised: &NoisedBatch, parts: i64) -> Tensor {
        no_grad(|| {
            let target = self.target(noised);
            let mut error = out.narrow(1, 0, target.size()[1]).to_kind(Kind::Float) - &target;
            let of_images = error.square_().flatten(1, -1);
            let of_images =
                of_images.sum_dim_intlist(1, false, Kind::Float) / divisor(self.kind, &target, 1);
            let part = (&noised.t * parts).divide_scalar_mode(self.timesteps, "floor");
            // Not an indexed addition, whose order of terms CUDA leaves open.
            let all = Tensor::arange(parts, (Kind::Int64, part.device()));
            let is_there = all.unsqueeze(1).eq_tensor(&part.unsqueeze(0));
            // A loss that is not finite must not reach other parts, as 0 times it would.
            let terms = of_images.unsqueeze(0).where_scalarother(&is_there, 0.0);
            terms.sum_dim_intlist(1, false, Kind::Float)
        })
    }

    /// The share of one microbatch in the loss of a batch of `batch` images, see [`microbatch_loss`].
    ///
    /// # Shapes
    /// - `out`: the network's output, `[N, C, H, W]`, N ≤ batch, or `[N, 2C, H, W]` with a learned variance;
    ///   returns a scalar
    ///
    /// Source: with a learned variance Nichol & Dhariwal 2021, eq. 16 <https://arxiv.org/abs/2102.09672>,
    /// as in their code: the bound is in bits per dimension and has weight T / 1000.
    pub fn loss(&self, out: &Tensor, noised: &NoisedBatch, batch: i64) -> Tensor {
        let target = self.target(noised);
        let Some(bound) = &self.bound else {
            return microbatch_loss(self.kind, out, &target, batch);
        };
        let channels = target.size()[1];
        let predicted = out.narrow(1, 0, channels);
        let v = out.narrow(1, channels, channels);
        // The bound trains only the variances.
        let bits = bound.sum(&self.forward, noised, &predicted.detach(), &v);
        microbatch_loss(self.kind, &predicted, &target, batch)
            + bits / divisor(self.kind, &target, batch)
    }
}

/// The share of one microbatch in the loss of a batch of `batch` images.
///
/// - `LossKind::Sum`: per image the sum over channels and pixels of the squared error, mean over the
///   batch. The scale matters to Adam's epsilon and to half precision, not to LAMB's direction.
/// - `LossKind::Mse`: the same, divided by the number of values of an image.
///
/// Shares of equal microbatches add up to the loss of the whole batch, and so do their gradients.
///
/// # Shapes
/// - `predicted`, `target`: `[N, C, H, W]`, N ≤ batch; returns a scalar
///
/// Source: Ho et al. 2020, eq. 14 <https://arxiv.org/abs/2006.11239>
pub fn microbatch_loss(kind: LossKind, predicted: &Tensor, target: &Tensor, batch: i64) -> Tensor {
    predicted.mse_loss(target, Reduction::Sum) / divisor(kind, target, batch)
}

fn divisor(kind: LossKind, target: &Tensor, batch: i64) -> f64 {
    let per_image = match kind {
        LossKind::Sum => 1.0,
        LossKind::Mse => (target.numel() as i64 / target.size()[0]) as f64,
    };
    batch as f64 * per_image
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Preset;
    use crate::rng::{Stream, normal};

    fn objective(edit: impl FnOnce(&mut DiffusionConfig), learned: bool) -> Objective {
        let mut config = Preset::Demo.config().diffusion;
        edit(&mut config);
        Objective::new(&config, &Schedule::new(&config), learned, Device::Cpu)
    }

    fn noised(objective: &Objective, t: &[i64]) -> NoisedBatch {
        let shape = [t.len() as i64, 3, 4, 4];
        let x_0 = normal(0, Stream::Data, 0, &shape, Device::Cpu).clamp(-1.0, 1.0);
        let eps = normal(0, Stream::Noise, 0, &shape, Device::Cpu);
        objective.noise(&x_0, Tensor::from_slice(t), eps)
    }

    #[test]
    fn sum_over_pixels_mean_over_batch() {
        for (kind, want) in [(LossKind::Sum, 0.25 * 48.0), (LossKind::Mse, 0.25)] {
            let objective = objective(|c| c.loss = kind, false);
            let noised = noised(&objective, &[3, 200]);
            let loss = objective.loss(&(&noised.eps + 0.5), &noised, 2);
            assert!((f64::try_from(loss).unwrap() - want).abs() < 1e-5 * want);
        }
    }

    #[test]
    fn a_perfect_prediction_of_each_kind_costs_nothing() {
        for prediction in [Prediction::Eps, Prediction::X0, Prediction::V] {
            let objective = objective(|c| c.prediction = prediction, false);
            let noised = noised(&objective, &[0, 249]);
            let out = match prediction {
                Prediction::Eps => noised.eps.copy(),
                Prediction::X0 => noised.x_0.copy(),
                Prediction::V => objective
                    .forward
                    .velocity(&noised.x_0, &noised.t, &noised.eps),
            };
            let loss = f64::try_from(objective.loss(&out, &noised, 2)).unwrap();
            assert!(loss.abs() < 1e-9, "{prediction:?} {loss}");
            // The target must convert back to x_0. In f32: 1 / sqrt(alpha_bar) is 1e2 at the end.
            let x_0_hat = objective
                .forward
                .x_0_hat(prediction, &noised.x_t, &noised.t, &out);
            let error = f64::try_from((x_0_hat - &noised.x_0).abs().max()).unwrap();
            assert!(error < 1e-4, "{prediction:?} {error}");
        }
    }

    #[test]
    fn the_bound_moves_the_variances_only() {
        let objective = objective(|c| c.loss = LossKind::Sum, true);
        let noised = noised(&objective, &[0, 100]);
        let v = Tensor::zeros_like(&noised.eps);
        let out = Tensor::cat(&[&noised.eps, &v], 1).set_requires_grad(true);
        objective.loss(&out, &noised, 2).backward();
        let grad = out.grad();
        let largest = |from: i64| f64::try_from(grad.narrow(1, from, 3).abs().max()).unwrap();
        assert_eq!(largest(0), 0.0);
        assert!(largest(3) > 0.0);
        assert_eq!(grad.kind(), Kind::Float);
    }
}
