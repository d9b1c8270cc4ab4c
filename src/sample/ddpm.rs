//! Ancestral sampling (DDPM).

use tch::{Kind, Tensor};

use super::Denoiser;
use crate::config::{DiffusionConfig, Prediction, SampleConfig, Sigma};
use crate::diffusion::{Schedule, learned_log_variance};

/// Choices of the ancestral sampler.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ddpm {
    /// What the network predicts.
    pub prediction: Prediction,
    /// Standard deviation of the reverse steps.
    pub sigma: Sigma,
    /// Clip the predicted x_0 to [-1, 1] at each step. The original never clips; a barely trained network
    /// then drifts to saturated colours.
    pub clip_x0: bool,
    /// Add noise at the last step too, as Keras-DDPM does.
    pub last_noise: bool,
}

impl Ddpm {
    /// What a model's settings say.
    pub fn new(diffusion: &DiffusionConfig, sample: &SampleConfig) -> Ddpm {
        Ddpm {
            prediction: diffusion.prediction,
            sigma: sample.sigma,
            clip_x0: sample.clip_x0,
            last_noise: sample.last_noise,
        }
    }
}

/// One reverse step, from `x_t` to x_{t-1}: the mean of q(x_{t-1} | x_t, x_0_hat) plus `sigma_t * z`.
///
/// # Shapes
/// - `x_t`, `z`: `[N, C, H, W]` f32, `z` standard normal; returns the same shape
/// - `t`: 0-based, below `schedule.len()`
///
/// # Panics
/// With `Sigma::Learned` and a network that places no variance.
///
/// Source: Ho et al. 2020, algorithm 2 <https://arxiv.org/abs/2006.11239>
pub fn ddpm_step(
    denoiser: &Denoiser,
    schedule: &Schedule,
    options: Ddpm,
    x_t: &Tensor,
    t: usize,
    z: &Tensor,
) -> Tensor {
    let size = x_t.size();
    let t_batch = Tensor::full([size[0]], t as i64, (Kind::Int64, x_t.device()));
    let out = denoiser(x_t, &t_batch);
    let mean = mean(schedule, options, x_t, t, &out.narrow(1, 0, size[1]));
    if t == 0 && !options.last_noise {
        return mean;
    }
    match options.sigma {
        Sigma::Learned => {
            let (least, most) = schedule.log_variance_range(t);
            let v = out.narrow(1, size[1], size[1]);
            let scalar = |x: f64| Tensor::from(x as f32).to_device(x_t.device());
            let log_variance = learned_log_variance(&v, &scalar(least), &scalar(most));
            mean + (log_variance / 2.0).exp() * z
        }
        kind => mean + z * schedule.sigma(kind, t),
    }
}

/// Mean of the reverse step.
///
/// From eps_hat alone it is `(x_t - betas_t / sqrt(1 - alpha_bar) * eps_hat) / sqrt(alphas_t)`, which says
/// the same as the posterior mean of x_0_hat with less rounding where alpha_bar is small.
///
/// Source: Ho et al. 2020, eq. 7 and 11
fn mean(schedule: &Schedule, options: Ddpm, x_t: &Tensor, t: usize, predicted: &Tensor) -> Tensor {
    let alpha_bar = schedule.alphas_cumprod[t];
    let (signal, noise) = (alpha_bar.sqrt(), (1.0 - alpha_bar).sqrt());
    let mut x_0_hat = match options.prediction {
        Prediction::Eps if !options.clip_x0 => {
            return (x_t - predicted * (schedule.betas[t] / noise)) / schedule.alphas[t].sqrt();
        }
        Prediction::Eps => (x_t - predicted * noise) / signal,
        Prediction::X0 => predicted.shallow_clone(),
        Prediction::V => x_t * signal - predicted * noise,
    };
    if options.clip_x0 {
        x_0_hat = x_0_hat.clamp(-1.0, 1.0);
    }
    let (of_x_0, of_x_t) = schedule.posterior_mean_coefs(t);
    x_0_hat * of_x_0 + x_t * of_x_t
}

/// The whole chain from `x_T` down to x_0, not clipped.
///
/// `noise(k)` gives z of the k-th reverse step, k = 1..=T; it is asked for at the last step too.
/// `on_step(t, x)` is called after each step with the t that was left.
pub fn ddpm(
    denoiser: &Denoiser,
    schedule: &Schedule,
    options: Ddpm,
    x_start: Tensor,
    noise: &mut dyn FnMut(u64) -> Tensor,
    on_step: &mut dyn FnMut(usize, &Tensor),
) -> Tensor {
    let _guard = tch::no_grad_guard();
    let mut x = x_start;
    for t in (0..schedule.len()).rev() {
        let z = noise((schedule.len() - t) as u64);
        x = ddpm_step(denoiser, schedule, options, &x, t, &z);
        on_step(t, &x);
    }
    x
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Preset;
    use crate::rng::{Stream, normal};
    use tch::Device;

    const SHAPE: [i64; 4] = [2, 3, 64, 64];

    fn run(denoiser: &Denoiser, schedule: &Schedule, options: Ddpm) -> Tensor {
        let start = normal(1, Stream::Sample, 0, &SHAPE, Device::Cpu);
        let mut noise = |k| normal(1, Stream::Sample, k, &SHAPE, Device::Cpu);
        ddpm(
            denoiser,
            schedule,
            options,
            start,
            &mut noise,
            &mut |_, _| (),
        )
    }

    /// Data that are one picture: eps_hat is known, and the posterior sigma must end on it.
    #[test]
    fn a_single_point_is_reproduced_with_the_posterior_sigma() {
        let schedule = Schedule::new(&Preset::Celebahq128.config().diffusion);
        let x_0 = normal(2, Stream::Data, 0, &[3, 64, 64], Device::Cpu).clamp(-1.0, 1.0);
        let denoiser = |x_t: &Tensor, t: &Tensor| {
            let alpha_bar = schedule.alphas_cumprod[t.int64_value(&[0]) as usize];
            (x_t - &x_0 * alpha_bar.sqrt()) / (1.0 - alpha_bar).sqrt()
        };
        for clip_x0 in [false, true] {
            let options = Ddpm {
                prediction: Prediction::Eps,
                sigma: Sigma::Posterior,
                clip_x0,
                last_noise: true,
            };
            let out = run(&denoiser, &schedule, options);
            let worst = f64::try_from((out - &x_0).abs().max()).unwrap();
            // At t = 0 the step is x_0 exactly; f32 leaves the division by sqrt(1 - alpha_bar).
            assert!(worst < 1e-4, "{worst}");
        }
    }

    /// The same picture told in the three ways of predicting, with and without learned variance: the chains
    /// are the same.
    #[test]
    fn predictions_and_learned_variances_agree_with_what_they_stand_for() {
        let schedule = Schedule::new(&Preset::Demo.config().diffusion);
        let data = normal(2, Stream::Data, 0, &[3, 64, 64], Device::Cpu);
        let chain = |prediction, sigma, v: Option<f64>| {
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
            let options = Ddpm {
                prediction,
                sigma,
                clip_x0: false,
                last_noise: false,
            };
            run(&denoiser, &schedule, options)
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
        // sigma_0 does not count, and at every other step the two are the same.
        assert!(apart(&least, &posterior) < 1e-3);
        assert!(apart(&least, &plain) > 0.01);
    }

    /// Unit-normal data: x_t is unit normal at every t, and sigma = sqrt(beta) keeps it so.
    #[test]
    fn unit_normal_data_keep_their_moments_with_the_beta_sigma() {
        let schedule = Schedule::new(&Preset::Celebahq128.config().diffusion);
        let denoiser = |x_t: &Tensor, t: &Tensor| {
            x_t * (1.0 - schedule.alphas_cumprod[t.int64_value(&[0]) as usize]).sqrt()
        };
        let std = |sigma| {
            let out = run(
                &denoiser,
                &schedule,
                Ddpm {
                    prediction: Prediction::Eps,
                    sigma,
                    clip_x0: false,
                    last_noise: true,
                },
            );
            let mean = f64::try_from(out.mean(Kind::Double)).unwrap();
            // 24,576 values: standard errors 0.0064 (mean) and 0.0045 (std).
            assert!(mean.abs() < 4.0 * 0.0064, "{mean}");
            f64::try_from(out.std(false)).unwrap()
        };
        assert!((std(Sigma::Beta) - 1.0).abs() < 4.0 * 0.0045);
        // The other sigma is right for a single point and too small here: a step multiplies the
        // variance by alpha and adds sigma².
        let shrunk = (0..schedule.len()).rev().fold(1.0f64, |variance, t| {
            variance * schedule.alphas[t] + schedule.sigma(Sigma::Posterior, t).powi(2)
        });
        assert!((std(Sigma::Posterior) - shrunk.sqrt()).abs() < 4.0 * 0.0045);
        assert!(shrunk < 0.999);
    }
}
