//! Ancestral sampling (DDPM).

use tch::Tensor;

use super::{Estimate, Noise, OnStep, Process, Respaced};
use crate::config::{SampleConfig, Sigma};
use crate::diffusion::log_variance_at;

/// Options of the ancestral sampler.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ddpm {
    /// Standard deviation of the reverse steps.
    pub sigma: Sigma,
    /// Adds noise at the last step too, as Keras-DDPM does.
    pub last_noise: bool,
}

impl Ddpm {
    /// The options in a model's settings.
    pub fn new(sample: &SampleConfig) -> Ddpm {
        Ddpm {
            sigma: sample.sigma,
            last_noise: sample.last_noise,
        }
    }

    /// One reverse step, from x_t at visited step `i` to the one before: the mean of
    /// q(x_prev | x_t, x_0_hat) plus `sigma * z`.
    ///
    /// # Shapes
    /// - `z`: returns standard normal `[N, C, H, W]`, called only if noise is added; returns the same shape
    ///
    /// # Panics
    /// With `Sigma::Learned` and a network without a learned variance.
    ///
    /// Source: Ho et al. 2020, eq. 7 and algorithm 2 <https://arxiv.org/abs/2006.11239>
    pub fn step(
        self,
        steps: &Respaced,
        estimate: &Estimate,
        i: usize,
        z: impl FnOnce() -> Tensor,
    ) -> Tensor {
        let schedule = &steps.schedule;
        let alpha_bar_prev = schedule.alpha_bar_prev(i);
        // The posterior mean in terms of x_0_hat and eps_hat.
        let noise_left = (1.0 - alpha_bar_prev - schedule.posterior_variance(i)).max(0.0);
        let mean = estimate.at(alpha_bar_prev.sqrt(), noise_left.sqrt());
        if i == 0 && !self.last_noise {
            return mean;
        }
        match (self.sigma, estimate.variance_place()) {
            (Sigma::Learned, Some(v)) => {
                let log_variance = log_variance_at(v, schedule.log_variance_range(i));
                mean + (log_variance / 2.0).exp() * z()
            }
            (Sigma::Learned, None) => panic!("the network has no learned variance"),
            (kind, _) => mean + z() * schedule.sigma(kind, i),
        }
    }
}

/// Runs the whole chain from `x_start` at the noisiest visited step to x_0, not clipped.
pub fn ddpm(
    process: &Process,
    options: Ddpm,
    x_start: Tensor,
    noise: &mut Noise,
    on_step: &mut OnStep,
) -> Tensor {
    process.run(x_start, on_step, |estimate, i, k| {
        options.step(process.steps, estimate, i, || noise(k))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{DiffusionConfig, Prediction, Preset};
    use crate::diffusion::Schedule;
    use crate::rng::{Stream, normal};
    use crate::sample::Denoiser;
    use tch::{Device, Kind};

    const SHAPE: [i64; 4] = [2, 3, 64, 64];

    fn run(
        denoiser: &Denoiser,
        diffusion: &DiffusionConfig,
        sigma: Sigma,
        last_noise: bool,
        clip_x0: bool,
    ) -> Tensor {
        let steps = Respaced::all(&Schedule::new(diffusion));
        let process = Process::new(denoiser, &steps, diffusion, clip_x0);
        let start = normal(1, Stream::Sample, 0, &SHAPE, Device::Cpu);
        let mut noise = |k| normal(1, Stream::Sample, k, &SHAPE, Device::Cpu);
        let options = Ddpm { sigma, last_noise };
        ddpm(&process, options, start, &mut noise, &mut |_| ())
    }

    /// A data set of one image: eps_hat is known, and the posterior sigma must end on that image.
    #[test]
    fn a_single_point_is_reproduced_with_the_posterior_sigma() {
        let diffusion = Preset::Celebahq128.config().diffusion;
        let schedule = Schedule::new(&diffusion);
        let x_0 = normal(2, Stream::Data, 0, &[3, 64, 64], Device::Cpu).clamp(-1.0, 1.0);
        let denoiser = |x_t: &Tensor, t: &Tensor| {
            let alpha_bar = schedule.alphas_cumprod[t.int64_value(&[0]) as usize];
            (x_t - &x_0 * alpha_bar.sqrt()) / (1.0 - alpha_bar).sqrt()
        };
        for clip_x0 in [false, true] {
            let out = run(&denoiser, &diffusion, Sigma::Posterior, true, clip_x0);
            let worst = f64::try_from((out - &x_0).abs().max()).unwrap();
            // At t = 0 the step returns exactly x_0, up to f32 rounding of the division by sqrt(1 - alpha_bar).
            assert!(worst < 1e-4, "{worst}");
        }
    }

    /// The same image in all three kinds of prediction, with and without learned variance, gives the same
    /// chains.
    #[test]
    fn predictions_and_learned_variances_agree_with_what_they_stand_for() {
        let mut diffusion = Preset::Demo.config().diffusion;
        let schedule = Schedule::new(&diffusion);
        let data = normal(2, Stream::Data, 0, &[3, 64, 64], Device::Cpu);
        let mut chain = |prediction, sigma, v: Option<f64>| {
            let denoiser = |x_t: &Tensor, t: &Tensor| {
                let alpha_bar = schedule.alphas_cumprod[t.int64_value(&[0]) as usize];
                let (signal, noise) = (alpha_bar.sqrt(), (1.0 - alpha_bar).sqrt());
                // The posterior mean of unit-normal data around `data` / 10.
                let x_0_hat = x_t * signal + &data * 0.1;
                let out = match prediction {
                    Prediction::Eps => (x_t - x_0_hat * signal) / noise,
                    Prediction::X0 => x_0_hat,
                    Prediction::V => (x_t * signal - x_0_hat) / noise,
                };
                match v {
                    None => out,
                    Some(v) => Tensor::cat(&[&out, &(out.zeros_like() + v)], 1),
                }
            };
            diffusion.prediction = prediction;
            run(&denoiser, &diffusion, sigma, false, false)
        };
        let apart = |a: &Tensor, b: &Tensor| f64::try_from((a - b).abs().max()).unwrap();
        let plain = chain(Prediction::Eps, Sigma::Beta, None);
        for (prediction, sigma, v) in [
            (Prediction::X0, Sigma::Beta, None),
            (Prediction::V, Sigma::Beta, None),
            (Prediction::Eps, Sigma::Learned, Some(1.0)),
            (Prediction::V, Sigma::Learned, Some(1.0)),
        ] {
            let error = apart(&plain, &chain(prediction, sigma, v));
            // 250 steps of f32.
            assert!(error < 1e-3, "{prediction:?} {sigma:?} {error}");
        }
        let least = chain(Prediction::Eps, Sigma::Learned, Some(-1.0));
        let posterior = chain(Prediction::Eps, Sigma::Posterior, None);
        // sigma_0 does not matter, and at every other step the two are equal.
        assert!(apart(&least, &posterior) < 1e-3);
        assert!(apart(&least, &plain) > 0.01);
    }

    /// Unit-normal data: x_t is unit normal at every t, and sigma = sqrt(beta) keeps it so.
    #[test]
    fn unit_normal_data_keep_their_moments_with_the_beta_sigma() {
        let diffusion = Preset::Celebahq128.config().diffusion;
        let schedule = Schedule::new(&diffusion);
        let denoiser = |x_t: &Tensor, t: &Tensor| {
            x_t * (1.0 - schedule.alphas_cumprod[t.int64_value(&[0]) as usize]).sqrt()
        };
        let std = |sigma| {
            let out = run(&denoiser, &diffusion, sigma, true, false);
            let mean = f64::try_from(out.mean(Kind::Double)).unwrap();
            // 24,576 values: standard errors 0.0064 (mean) and 0.0045 (std).
            assert!(mean.abs() < 4.0 * 0.0064, "{mean}");
            f64::try_from(out.std(false)).unwrap()
        };
        assert!((std(Sigma::Beta) - 1.0).abs() < 4.0 * 0.0045);
        // The posterior sigma is exact for a single image and too small here: a step multiplies the
        // variance by alpha and adds sigma².
        let shrunk = (0..schedule.len()).rev().fold(1.0f64, |variance, t| {
            variance * schedule.alphas[t] + schedule.sigma(Sigma::Posterior, t).powi(2)
        });
        assert!((std(Sigma::Posterior) - shrunk.sqrt()).abs() < 4.0 * 0.0045);
        assert!(shrunk < 0.999);
    }
}
