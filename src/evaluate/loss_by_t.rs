//! The held-out loss over t.
//!
//! The squared error of what the network predicts (eps, x_0 or v), as in training, for images that are noised to every
//! time step, or to a sample of them. The term of learned variances is no part of it.

use anyhow::{Result, ensure};
use ndarray::Array2;
use serde::Serialize;
use tch::{Device, Tensor, no_grad_guard};

use super::bound::Curve;
use super::strata::{ByT, Strata};
use super::{Mean, NotFiniteFor};
use crate::config::DiffusionConfig;
use crate::device::ConvolutionSearch;
use crate::diffusion::{Objective, Schedule};
use crate::native;
use crate::rng::noise_at;
use crate::sample::Denoiser;

/// The loss of a noise schedule, with tables on a device.
#[derive(Debug)]
pub struct LossByT {
    objective: Objective,
    strata: Strata,
    timesteps: usize,
    every: usize,
    seed: u64,
    device: Device,
}

/// The squared errors of some images.
#[derive(Debug, Clone, PartialEq)]
pub struct Losses {
    /// The number of each image.
    pub images: Vec<u64>,
    /// `[N, E]`: summed over the values of an image, for each of E evaluations.
    pub values: Array2<f64>,
}

impl LossByT {
    /// The loss at all time steps, or at one out of each `every` successive ones (where t is small, of t / 4), drawn anew
    /// for each image.
    ///
    /// # Errors
    /// `every` outside 1..=T.
    pub fn new(
        diffusion: &DiffusionConfig,
        every: usize,
        seed: u64,
        device: Device,
    ) -> Result<LossByT> {
        let schedule = Schedule::new(diffusion);
        Ok(LossByT {
            objective: Objective::new(diffusion, &schedule, false, device),
            strata: Strata::new(0, schedule.len(), every, seed)?,
            timesteps: schedule.len(),
            every,
            seed,
            device,
        })
    }

    /// Evaluations of the network for a batch of images.
    pub fn evaluations(&self) -> usize {
        self.strata.len()
    }

    /// The squared errors of a batch of images, each a function of (seed, number of the image) and of the network alone,
    /// but for rounding in the network; so those of two networks are of the same noise.
    ///
    /// # Shapes
    /// - `x_0`: `[N, C, H, W]` f32 in [-1, 1] on the device of the tables
    /// - `images`: the number of each
    ///
    /// # Errors
    /// No images; an output of the network of another shape; [`NotFiniteFor`].
    pub fn losses(
        &self,
        denoiser: &Denoiser,
        x_0: &Tensor,
        images: &[u64],
        on_evaluation: &mut dyn FnMut(),
    ) -> Result<Losses> {
        ensure!(!images.is_empty(), "0 images: expected 1 or more");
        let _guard = no_grad_guard();
        let _search = ConvolutionSearch::if_worth_it(self.evaluations());
        let size = x_0.size();
        let mut columns = vec![];
        for stratum in 0..self.strata.len() {
            let times = images.iter().map(|image| self.strata.t(*image, stratum));
            let times: Vec<i64> = times.map(|t| t as i64).collect();
            let draws = times
                .iter()
                .zip(images)
                .map(|(t, image)| (*t as u64, *image));
            let eps = noise_at(self.seed, draws, [size[1], size[2], size[3]], self.device);
            let t = native::send(&Tensor::from_slice(&times), self.device)?;
            let noised = self.objective.noise(x_0, t, eps);
            let out = denoiser(&noised.x_t, &noised.t);
            let shape = out.size();
            ensure!(
                shape.len() == 4
                    && (shape[1] == size[1] || shape[1] == 2 * size[1])
                    && [shape[0], shape[2], shape[3]] == [size[0], size[2], size[3]],
                "the network makes {shape:?} of images {size:?}; want as many values of each, or twice as many"
            );
            columns.push(self.objective.squared_errors(&out, &noised));
            on_evaluation();
        }
        // Read once at the end, so that the device does not wait for the host.
        let values = Tensor::stack(&columns, 1).to_device(Device::Cpu);
        let finite = values.isfinite().transpose(0, 1);
        let t = |image, stratum| self.strata.t(image, stratum);
        NotFiniteFor::refuse("the network's output", images, &finite, t)?;
        let values: ndarray::ArrayD<f64> = (&values).try_into()?;
        Ok(Losses {
            images: images.to_vec(),
            values: values.into_dimensionality()?,
        })
    }
}

impl Losses {
    /// The losses whose values follow one another in `values`.
    ///
    /// # Errors
    /// Other than the same number of values for each image.
    pub fn of_values(images: &[u64], values: Vec<f64>) -> Result<Losses> {
        let columns = values.len() / images.len().max(1);
        Ok(Losses {
            images: images.to_vec(),
            values: Array2::from_shape_vec((images.len(), columns), values)?,
        })
    }
}

/// Adds up the losses of images, in the order in which they are given.
#[derive(Debug)]
pub struct LossSums<'a> {
    loss: &'a LossByT,
    all: Vec<f64>,
    quartiles: [Vec<f64>; 4],
    by_t: ByT,
}

/// The loss of some images.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LossReport {
    /// Number of images.
    pub images: usize,
    /// Values of an image.
    pub values: usize,
    /// Number of time steps T.
    pub timesteps: usize,
    /// 1 if the network was evaluated at all time steps, k if at one out of each k.
    pub every: usize,
    /// Mean over t.
    pub mean: Loss,
    /// Mean over each quarter of the time steps, the least noisy first: t with floor(4 t / T) = 0, 1, 2, 3.
    pub quartiles: [Loss; 4],
    /// Images noised to t, for t = 0 … T - 1.
    pub images_by_t: Vec<u64>,
    /// The loss per value at t = 0 … T - 1.
    pub by_t: Curve,
    /// The mean over t of the loss per value, of each image in the order in which they were given.
    pub by_image: Vec<f64>,
}

/// A loss in both forms that training knows.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Loss {
    /// Mean of the squared error over the values of an image.
    pub mse: Mean,
    /// Its sum over the values of an image.
    pub sum: Mean,
}

impl<'a> LossSums<'a> {
    /// Of no images yet.
    pub fn new(loss: &'a LossByT) -> LossSums<'a> {
        LossSums {
            loss,
            all: vec![],
            quartiles: [const { vec![] }; 4],
            by_t: ByT::new(loss.timesteps),
        }
    }

    /// Adds images.
    ///
    /// # Panics
    /// Losses of another schedule.
    pub fn add(&mut self, losses: &Losses) {
        let timesteps = self.loss.timesteps;
        let strata = &self.loss.strata;
        for (image, values) in losses.images.iter().zip(losses.values.rows()) {
            let mut quartiles = [0.0; 4];
            for (stratum, value) in values.iter().enumerate() {
                let t = strata.t(*image, stratum);
                self.by_t.add(t, *value);
                quartiles[4 * t / timesteps] += value * strata.width(stratum) as f64;
            }
            self.all
                .push(quartiles.iter().sum::<f64>() / timesteps as f64);
            for (q, sum) in quartiles.into_iter().enumerate() {
                let steps = (0..timesteps).filter(|t| 4 * t / timesteps == q).count();
                self.quartiles[q].push(sum / steps.max(1) as f64);
            }
        }
    }

    /// Means and standard errors of what was added, 1 image or more, of `values` values each.
    pub fn report(&self, values: usize) -> LossReport {
        let per_value = 1.0 / values as f64;
        let loss = |sums: &Vec<f64>| Loss {
            mse: Mean::of(sums).times(per_value),
            sum: Mean::of(sums),
        };
        LossReport {
            images: self.all.len(),
            values,
            timesteps: self.loss.timesteps,
            every: self.loss.every,
            mean: loss(&self.all),
            quartiles: self.quartiles.each_ref().map(loss),
            images_by_t: self.by_t.images(),
            by_t: Curve::of(&self.by_t).times(per_value),
            by_image: self.all.iter().map(|sum| sum * per_value).collect(),
        }
    }
}

impl LossReport {
    /// How much more the loss per value is than that of another network on the same images with the same noise.
    ///
    /// # Panics
    /// With another number of images.
    pub fn more_than(&self, other: &LossReport) -> Mean {
        assert_eq!(self.images, other.images, "the same images");
        let both = self.by_image.iter().zip(&other.by_image);
        let gaps: Vec<f64> = both.map(|(a, b)| a - b).collect();
        Mean::of(&gaps)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{LossKind, Prediction, ScheduleKind};
    use crate::rng::{Stream, normal};
    use tch::Kind;

    const TIMESTEPS: usize = 10;
    const MANY: usize = 50;

    fn diffusion(prediction: Prediction, timesteps: usize) -> DiffusionConfig {
        DiffusionConfig {
            timesteps: timesteps as i64,
            schedule: ScheduleKind::Linear,
            betas: vec![],
            prediction,
            loss: LossKind::Sum,
        }
    }

    fn images() -> Tensor {
        normal(0, Stream::Data, 0, &[4, 1, 8, 8], Device::Cpu).clamp(-1.0, 1.0)
    }

    fn report(loss: &LossByT, denoiser: &Denoiser) -> LossReport {
        let numbers = [0, 1, 2, 3];
        let losses = loss.losses(denoiser, &images(), &numbers, &mut || ());
        let mut sums = LossSums::new(loss);
        sums.add(&losses.unwrap());
        sums.report(64)
    }

    /// The prediction, off by t + 1 in every value.
    fn off(x: &Tensor, t: &Tensor) -> Tensor {
        // x_0 is known.
        images().narrow(0, 0, x.size()[0]) + (t + 1).view([-1, 1, 1, 1])
    }

    #[test]
    fn the_loss_is_the_squared_error_at_each_t() {
        let loss = LossByT::new(&diffusion(Prediction::X0, TIMESTEPS), 1, 0, Device::Cpu).unwrap();
        let found = report(&loss, &off);
        assert_eq!(found.images_by_t, [4; TIMESTEPS]);
        for (t, mean) in found.by_t.mean.iter().enumerate() {
            let want = ((t + 1) * (t + 1)) as f64;
            assert!((mean.unwrap() - want).abs() < 1e-5 * want);
        }
        // The quartiles of 10 steps: 0..3, 3..5, 5..8, 8..10.
        let want = [14.0 / 3.0, 20.5, 149.0 / 3.0, 90.5];
        for (loss, want) in found.quartiles.iter().zip(want) {
            assert!((loss.mse.mean - want).abs() < 1e-5 * want, "{loss:?}");
            assert!((loss.sum.mean - 64.0 * want).abs() < 1e-3 * want);
        }
        assert!((found.mean.mse.mean - 38.5).abs() < 1e-3);
        assert!(found.more_than(&found).mean == 0.0);
    }

    #[test]
    fn a_network_that_says_nothing_has_the_loss_of_its_target() {
        let loss = LossByT::new(&diffusion(Prediction::Eps, TIMESTEPS), 1, 0, Device::Cpu).unwrap();
        let found = report(&loss, &|x: &Tensor, _: &Tensor| x.zeros_like());
        // 4 * 64 * 10 squares of normal values, of variance 2.
        assert!((found.mean.mse.mean - 1.0).abs() < 4.0 * (2.0f64 / 2560.0).sqrt());
        // With learned variances, twice the channels.
        let wide = |x: &Tensor, _: &Tensor| Tensor::zeros([4, 2, 8, 8], (Kind::Float, x.device()));
        assert_eq!(report(&loss, &wide), found);
    }

    #[test]
    fn a_sample_of_the_time_steps_has_every_kind_of_them() {
        let loss = LossByT::new(&diffusion(Prediction::X0, MANY), 12, 1, Device::Cpu).unwrap();
        assert!(loss.evaluations() < 20);
        let mut sums = LossSums::new(&loss);
        for first in (0..1200).step_by(4) {
            let numbers: Vec<u64> = (first..first + 4).collect();
            sums.add(&loss.losses(&off, &images(), &numbers, &mut || ()).unwrap());
        }
        let found = sums.report(64);
        let square = |t: usize| ((t + 1) * (t + 1)) as f64;
        let mean = |times: std::ops::Range<usize>| {
            let count = times.len() as f64;
            times.map(square).sum::<f64>() / count
        };
        let near = |found: &Loss, want: f64| {
            let error = found.mse.standard_error.unwrap();
            assert!(
                (found.mse.mean - want).abs() < 4.0 * error + 1e-5 * want,
                "{found:?} {want}"
            );
        };
        near(&found.mean, mean(0..MANY));
        assert!(found.mean.mse.standard_error.unwrap() > 0.1);
        let quartiles = [0..13, 13..25, 25..38, 38..50];
        for (loss, times) in found.quartiles.iter().zip(quartiles) {
            near(loss, mean(times));
        }
    }

    #[test]
    fn what_is_not_finite_has_a_name() {
        let loss = LossByT::new(&diffusion(Prediction::Eps, TIMESTEPS), 1, 0, Device::Cpu).unwrap();
        let broken = |x: &Tensor, t: &Tensor| {
            let out = x.zeros_like();
            if t.int64_value(&[0]) == 6 {
                drop(out.get(1).fill_(f64::NAN));
            }
            out
        };
        let error = (loss.losses(&broken, &images(), &[5, 6, 7, 8], &mut || ())).unwrap_err();
        let named = error.downcast_ref::<NotFiniteFor>().unwrap();
        assert_eq!((named.image, named.t), (6, 6));
        let none = loss.losses(&broken, &images(), &[], &mut || ());
        assert!(none.unwrap_err().to_string().starts_with("0 images"));
        let other = |x: &Tensor, _: &Tensor| x.repeat([1, 3, 1, 1]);
        assert!(
            loss.losses(&other, &images(), &[0, 1, 2, 3], &mut || ())
                .is_err()
        );
    }
}
