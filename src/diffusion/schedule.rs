//! Noise schedules as f64 tables over t.
//!
//! The notation is Ho et al.'s; Keras-DDPM and its blog use the square roots.
//!
//! | ours (plural = table over t) | Ho et al. 2020 | Keras-DDPM |
//! |---|---|---|
//! | `betas` | β_t | `beta`² |
//! | `alphas` = 1 - betas | α_t | `alpha`² |
//! | `alphas_cumprod` | ᾱ_t | `bar_alpha`² |
//! | 1 - `alphas_cumprod` | 1 - ᾱ_t | `bar_beta`² |
//! | sigma (std of a reverse step) | σ_t | `sigma` |
//!
//! `t` is 0-based everywhere: t = 0 is the first noising step (the blog's t = 1).

use std::f64::consts::PI;

use ndarray::{Array1, Axis};

use crate::config::{DiffusionConfig, ScheduleKind, Sigma};

/// The tables of one noise schedule, each of length T.
#[derive(Debug, Clone, PartialEq)]
pub struct Schedule {
    /// Variance added at step t.
    pub betas: Array1<f64>,
    /// 1 - betas.
    pub alphas: Array1<f64>,
    /// Cumulative product of alphas: the share of x_0's variance left after step t.
    pub alphas_cumprod: Array1<f64>,
}

impl Schedule {
    /// The tables of a named schedule.
    pub fn new(config: &DiffusionConfig) -> Schedule {
        let steps = config.timesteps as usize;
        Schedule::from_betas(match config.schedule {
            ScheduleKind::KerasDdpm => keras_ddpm(steps),
            ScheduleKind::Linear => linear(steps),
            ScheduleKind::Cosine => cosine(steps),
            ScheduleKind::Sigmoid => sigmoid(steps),
            ScheduleKind::Explicit => config.betas.clone().into(),
        })
    }

    /// The tables of explicit betas, each in [0, 1).
    pub fn from_betas(betas: Array1<f64>) -> Schedule {
        let alphas = 1.0 - &betas;
        let mut alphas_cumprod = alphas.clone();
        alphas_cumprod.accumulate_axis_inplace(Axis(0), |before, product| *product *= before);
        Schedule {
            betas,
            alphas,
            alphas_cumprod,
        }
    }

    /// Number of time steps T.
    pub fn len(&self) -> usize {
        self.betas.len()
    }

    /// True if there are no time steps.
    pub fn is_empty(&self) -> bool {
        self.betas.is_empty()
    }

    /// alphas_cumprod at t - 1; 1 for t = 0.
    pub fn alpha_bar_prev(&self, t: usize) -> f64 {
        if t == 0 {
            1.0
        } else {
            self.alphas_cumprod[t - 1]
        }
    }

    /// Standard deviation of the reverse step from t.
    ///
    /// `Sigma::Beta` is not zero at t = 0. `Sigma::Learned` depends on the network: this returns the lower
    /// end of its range, see [`log_variance_range`](Schedule::log_variance_range).
    ///
    /// Source: Ho et al. 2020, section 3.2 <https://arxiv.org/abs/2006.11239>
    pub fn sigma(&self, kind: Sigma, t: usize) -> f64 {
        match kind {
            Sigma::Beta => self.betas[t].sqrt(),
            Sigma::Posterior | Sigma::Learned => self.posterior_variance(t).sqrt(),
        }
    }

    /// Variance of q(x_{t-1} | x_t, x_0); 0 at t = 0.
    ///
    /// Source: Ho et al. 2020, eq. 7
    pub fn posterior_variance(&self, t: usize) -> f64 {
        self.betas[t] * (1.0 - self.alpha_bar_prev(t)) / (1.0 - self.alphas_cumprod[t])
    }

    /// Coefficients of x_0 and x_t in the mean of q(x_{t-1} | x_t, x_0).
    ///
    /// Source: Ho et al. 2020, eq. 7
    pub fn posterior_mean_coefs(&self, t: usize) -> (f64, f64) {
        let (prev, noise) = (self.alpha_bar_prev(t), 1.0 - self.alphas_cumprod[t]);
        (
            prev.sqrt() * self.betas[t] / noise,
            self.alphas[t].sqrt() * (1.0 - prev) / noise,
        )
    }

    /// Range of a learned variance: logarithms of the posterior variance and of beta_t. At t = 0, where the
    /// first would be -inf, it is that of t = 1.
    ///
    /// Source: Nichol & Dhariwal 2021, eq. 15 <https://arxiv.org/abs/2102.09672>
    pub fn log_variance_range(&self, t: usize) -> (f64, f64) {
        let least = self.posterior_variance(t.max(1.min(self.len() - 1)));
        (least.ln(), self.betas[t].ln())
    }
}

/// Source: Keras-DDPM, `alpha = sqrt(1 - 0.02 t / T)` with t = 1..T.
fn keras_ddpm(steps: usize) -> Array1<f64> {
    (1..=steps)
        .map(|t| 0.02 * t as f64 / steps as f64)
        .collect()
}

/// Ho et al.'s 1e-4..0.02 at T = 1000; for another T scaled by 1000/T, which keeps the final noise level
/// about the same.
///
/// Source: Ho et al. 2020, section 4; scaling: Nichol & Dhariwal 2021, section 3.1
fn linear(steps: usize) -> Array1<f64> {
    let scale = 1000.0 / steps as f64;
    let (first, last) = (1e-4 * scale, (0.02 * scale).min(0.999));
    let gap = (steps - 1).max(1) as f64;
    (0..steps)
        .map(|t| first + (last - first) * t as f64 / gap)
        .collect()
}

/// Source: Nichol & Dhariwal 2021, eq. 17, betas clipped at 0.999 <https://arxiv.org/abs/2102.09672>
fn cosine(steps: usize) -> Array1<f64> {
    let alpha_bar = |u: f64| ((u + 0.008) / 1.008 * PI / 2.0).cos().powi(2);
    betas_of(steps, alpha_bar)
}

/// Source: Jabri et al. 2022, section 2.2, with start -3, end 3, tau 1 <https://arxiv.org/abs/2212.11972>
fn sigmoid(steps: usize) -> Array1<f64> {
    let (start, end, tau) = (-3.0, 3.0, 1.0);
    let logistic = |x: f64| 1.0 / (1.0 + (-x).exp());
    let (v_start, v_end) = (logistic(start / tau), logistic(end / tau));
    let alpha_bar =
        |u: f64| (v_end - logistic((u * (end - start) + start) / tau)) / (v_end - v_start);
    betas_of(steps, alpha_bar)
}

/// Betas whose alphas_cumprod follow `alpha_bar(u)`, u = 0..1.
fn betas_of(steps: usize, alpha_bar: impl Fn(f64) -> f64) -> Array1<f64> {
    let at = |i: usize| alpha_bar(i as f64 / steps as f64);
    (0..steps)
        .map(|t| (1.0 - at(t + 1) / at(t)).clamp(0.0, 0.999))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{LossKind, Prediction};
    use clap::ValueEnum;

    fn schedule(kind: ScheduleKind, timesteps: i64) -> Schedule {
        Schedule::new(&DiffusionConfig {
            timesteps,
            schedule: kind,
            betas: vec![],
            prediction: Prediction::Eps,
            loss: LossKind::Sum,
        })
    }

    #[test]
    fn every_schedule_goes_from_almost_no_noise_to_almost_no_signal() {
        for kind in ScheduleKind::value_variants() {
            for timesteps in [20, 1000, 4000] {
                let s = schedule(*kind, timesteps);
                assert!(s.betas.iter().all(|b| (0.0..1.0).contains(b)), "{kind:?}");
                let mut pairs = s.alphas_cumprod.windows(2).into_iter();
                assert!(pairs.all(|pair| pair[1] < pair[0]), "{kind:?}");
                assert!(
                    s.alphas_cumprod[0] > 0.9,
                    "{kind:?} {}",
                    s.alphas_cumprod[0]
                );
                if timesteps >= 1000 {
                    assert!(s.alphas_cumprod[s.len() - 1] < 1e-4, "{kind:?}");
                }
            }
        }
    }

    #[test]
    fn ends_of_the_linear_schedules() {
        let ho = schedule(ScheduleKind::Linear, 1000);
        assert_eq!((ho.betas[0], ho.betas[999]), (1e-4, 0.02));
        let keras = schedule(ScheduleKind::KerasDdpm, 1000);
        assert_eq!((keras.betas[0], keras.betas[999]), (2e-5, 0.02));
    }

    #[test]
    fn posterior_sigma_is_zero_at_the_last_step_and_beta_sigma_is_not() {
        let s = schedule(ScheduleKind::KerasDdpm, 1000);
        assert_eq!(s.sigma(Sigma::Posterior, 0), 0.0);
        assert!((s.sigma(Sigma::Beta, 0) - 0.00447).abs() < 1e-5);
        assert!(s.sigma(Sigma::Posterior, 500) < s.sigma(Sigma::Beta, 500));
    }
}
