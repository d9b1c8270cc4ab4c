//! The variational bound in bits per dimension.
//!
//! The negative log-likelihood of an 8-bit image is at most the sum of
//! - the prior term: KL divergence of q(x_{T-1} | x_0) from the standard normal distribution,
//! - for each t = T - 1 … 1 the KL divergence of q(x_{t-1} | x_t, x_0) from the reverse step,
//! - for t = 0 the negative log-probability of the image's own bins under the last reverse step.
//!
//! The first two are the rate, the last one the distortion. Each is divided by the number of values of an image and
//! by ln 2. x_t is drawn anew for each t. From one evaluation of the network come the terms of an x_0_hat that is clipped
//! to [-1, 1] and of one that is not. All but the network is f64.
//!
//! Source: Ho et al. 2020, section 3 <https://arxiv.org/abs/2006.11239>; terms and variances as in the code of Nichol &
//! Dhariwal 2021 <https://arxiv.org/abs/2102.09672>

mod report;

use std::f64::consts::LN_2;

use anyhow::{Result, ensure};
use ndarray::{Array2, ArrayView1, s};
use tch::{Device, Kind, Tensor, no_grad_guard};

pub use report::{BoundReport, BoundSums, Curve, Curves, Decade, Parts};

use super::NotFiniteFor;
use super::strata::Strata;
use crate::config::{Prediction, Sigma};
use crate::device::ConvolutionSearch;
use crate::diffusion::{
    Forward, Posterior, Schedule, learned_log_variance, log_likelihood_of_8_bits, normal_kl,
};
use crate::native;
use crate::rng::noise_at;
use crate::sample::Denoiser;

/// What is measured of a network.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BoundSettings {
    /// The quantity that it predicts.
    pub prediction: Prediction,
    /// The variances of its reverse steps. That of t = 0 is the posterior's of t = 1 for the two fixed ones, as it would
    /// be 0 for one of them.
    pub sigma: Sigma,
    /// 1 for all time steps; k for one out of each k successive ones, drawn anew for each image. Where t is small, it is
    /// one out of fewer: of t / 4.
    pub every: usize,
    /// Seed of the noise, and of the time steps that are drawn.
    pub seed: u64,
}

/// The bound of a noise schedule, with tables on a device.
#[derive(Debug)]
pub struct Bound {
    settings: BoundSettings,
    strata: Strata,
    timesteps: usize,
    forward: Forward,
    posterior: Posterior,
    device: Device,
}

/// The terms of some images, in bits per dimension.
#[derive(Debug, Clone, PartialEq)]
pub struct Terms {
    /// The number of each image.
    pub images: Vec<u64>,
    /// `[N, 1 + 2 E]`: the prior term, then that of each of E evaluations, t = 0 first, with x_0_hat clipped, then the
    /// same not clipped.
    pub values: Array2<f64>,
}

impl Bound {
    /// The bound of a network with this schedule.
    ///
    /// # Errors
    /// Fewer than 2 time steps; `every` outside 1..=T.
    pub fn new(schedule: &Schedule, settings: BoundSettings, device: Device) -> Result<Bound> {
        let timesteps = schedule.len();
        ensure!(
            timesteps >= 2,
            "T = {timesteps}: the variational bound needs 2 time steps or more"
        );
        Ok(Bound {
            settings,
            strata: Strata::new(1, timesteps, settings.every, settings.seed)?,
            timesteps,
            forward: Forward::of_kind(schedule, Kind::Double, device),
            posterior: Posterior::new(schedule, Kind::Double, device),
            device,
        })
    }

    /// Evaluations of the network for a batch of images.
    pub fn evaluations(&self) -> usize {
        1 + self.strata.len()
    }

    /// Numbers that [`Terms`] hold for each image.
    pub fn columns(&self) -> usize {
        1 + 2 * self.evaluations()
    }

    /// The time step of an image in an evaluation.
    fn t(&self, image: u64, evaluation: usize) -> usize {
        match evaluation {
            0 => 0,
            _ => self.strata.t(image, evaluation - 1),
        }
    }

    /// The terms of a batch of images, each a function of (seed, number of the image) and of the network alone, but for
    /// rounding in the network.
    ///
    /// # Shapes
    /// - `x_0`: `[N, C, H, W]` f32 on the device of the tables, 8-bit values divided by 127.5, minus 1
    /// - `images`: the number of each
    ///
    /// # Errors
    /// No images; an output of the network of another shape; [`NotFiniteFor`].
    pub fn terms(
        &self,
        denoiser: &Denoiser,
        x_0: &Tensor,
        images: &[u64],
        on_evaluation: &mut dyn FnMut(),
    ) -> Result<Terms> {
        ensure!(!images.is_empty(), "0 images: expected 1 or more");
        let _guard = no_grad_guard();
        let _search = ConvolutionSearch::if_worth_it(self.evaluations());
        let exact_x_0 = x_0.to_kind(Kind::Double);
        let mut columns = vec![self.prior(&exact_x_0)];
        let (mut clipped, mut unclipped, mut finite) = (vec![], vec![], vec![]);
        for evaluation in 0..self.evaluations() {
            let times: Vec<i64> = (images.iter())
                .map(|image| self.t(*image, evaluation) as i64)
                .collect();
            let noised = self.noised(x_0, images, &times)?;
            let out = denoiser(&noised.x_t, &noised.t);
            self.check_shape(&out, x_0)?;
            finite.push(out.isfinite().flatten(1, -1).all_dim(1, false));
            for (clip, column) in [(true, &mut clipped), (false, &mut unclipped)] {
                column.push(self.term(&exact_x_0, &noised, &out, clip, evaluation == 0));
            }
            on_evaluation();
        }
        let t = |image, evaluation| self.t(image, evaluation);
        NotFiniteFor::refuse(
            "the network's output",
            images,
            &Tensor::stack(&finite, 0),
            t,
        )?;
        columns.append(&mut clipped);
        columns.append(&mut unclipped);
        // Read once at the end, so that the device does not wait for the host.
        let values = Tensor::stack(&columns, 1).to_device(Device::Cpu);
        let finite = values.isfinite().transpose(0, 1);
        let evaluations = self.evaluations() as i64;
        for first in [1, 1 + evaluations] {
            let terms = finite.narrow(0, first, evaluations);
            NotFiniteFor::refuse("the bound's term", images, &terms, t)?;
        }
        let values: ndarray::ArrayD<f64> = (&values).try_into()?;
        Ok(Terms {
            images: images.to_vec(),
            values: values.into_dimensionality()?,
        })
    }

    fn noised(&self, x_0: &Tensor, images: &[u64], times: &[i64]) -> Result<Noised> {
        let size = x_0.size();
        let draws = times
            .iter()
            .zip(images)
            .map(|(t, image)| (*t as u64, *image));
        let chw = [size[1], size[2], size[3]];
        let eps = noise_at(self.settings.seed, draws, chw, self.device);
        let t = native::send(&Tensor::from_slice(times), self.device)?;
        Ok(Noised {
            x_t: (self.forward.q_sample(x_0, &t, &eps)).to_kind(Kind::Float),
            t,
        })
    }

    /// `[N]`, as all terms.
    fn prior(&self, x_0: &Tensor) -> Tensor {
        let last = (self.timesteps - 1) as i64;
        let t = Tensor::full([x_0.size()[0]], last, (Kind::Int64, self.device));
        let zero = Tensor::zeros([1], (Kind::Double, self.device));
        let mean = self.forward.q_sample(x_0, &t, &zero);
        let std = (self.forward).q_sample(&zero.view([1, 1, 1, 1]), &t, &zero.ones_like());
        let kl = normal_kl((&mean, &(std.log() * 2.0)), (&zero, &zero));
        bits(&kl)
    }

    fn term(&self, x_0: &Tensor, noised: &Noised, out: &Tensor, clip: bool, last: bool) -> Tensor {
        let Noised { x_t, t } = noised;
        let channels = x_0.size()[1];
        let predicted = out.narrow(1, 0, channels).to_kind(Kind::Double);
        let x_t = &x_t.to_kind(Kind::Double);
        let x_0_hat = (self.forward).x_0_hat(self.settings.prediction, x_t, t, &predicted);
        let x_0_hat = match clip {
            true => x_0_hat.clamp(-1.0, 1.0),
            false => x_0_hat,
        };
        let mean = self.posterior.mean(&x_0_hat, x_t, t);
        let (least, most) = self.posterior.log_variance_range(t);
        let log_variance = match self.settings.sigma {
            Sigma::Beta if !last => most,
            Sigma::Beta | Sigma::Posterior => least.shallow_clone(),
            Sigma::Learned => {
                let v = out.narrow(1, channels, channels).to_kind(Kind::Double);
                learned_log_variance(&v, &least, &most)
            }
        };
        bits(&match last {
            true => -log_likelihood_of_8_bits(x_0, &mean, &(log_variance / 2.0)),
            false => {
                let true_mean = self.posterior.mean(x_0, x_t, t);
                normal_kl((&true_mean, &least), (&mean, &log_variance))
            }
        })
    }

    fn check_shape(&self, out: &Tensor, x_0: &Tensor) -> Result<()> {
        let (mut want, size) = (x_0.size(), out.size());
        let plain = want.clone();
        want[1] *= 2;
        let learned = self.settings.sigma == Sigma::Learned;
        ensure!(
            !learned || size != plain,
            "`evaluate.sigma` = learned: this network learns no variances; expected beta or posterior"
        );
        ensure!(
            size == want || (!learned && size == plain),
            "the network makes {size:?} of images {plain:?}; want {} values of each",
            if learned { "twice as many" } else { "as many" }
        );
        Ok(())
    }
}

/// Images at one noise level each.
struct Noised {
    x_t: Tensor,
    t: Tensor,
}

/// `[N]`: per value, in bits, of values in nats.
fn bits(nats: &Tensor) -> Tensor {
    nats.flatten(1, -1).mean_dim(1, false, Kind::Double) / LN_2
}

impl Terms {
    /// The terms whose values follow one another in `values`.
    ///
    /// # Errors
    /// Other than the same number of values for each image.
    pub fn of_values(images: &[u64], values: Vec<f64>) -> Result<Terms> {
        let columns = values.len() / images.len().max(1);
        Ok(Terms {
            images: images.to_vec(),
            values: Array2::from_shape_vec((images.len(), columns), values)?,
        })
    }

    /// The prior term of the image at `place`.
    fn prior(&self, place: usize) -> f64 {
        self.values[[place, 0]]
    }

    /// The terms of the evaluations of the image at `place`.
    fn of(&self, place: usize, clipped: bool) -> ArrayView1<'_, f64> {
        let evaluations = (self.values.ncols() - 1) / 2;
        let first = if clipped { 1 } else { 1 + evaluations };
        self.values.slice(s![place, first..first + evaluations])
    }
}

#[cfg(test)]
mod tests;
