//! The betas of diffusers' named schedules, in double precision; diffusers' are single.

use std::f64::consts::PI;

use crate::config::{DiffusionConfig, LossKind, Prediction, ScheduleKind};
use crate::diffusion::Schedule;

/// The betas of `beta_schedule`, if there is such a schedule; `start` and `end` are `beta_start` and
/// `beta_end`, which the cosine and Laplace schedules ignore.
///
/// Source: diffusers 0.42.1, schedulers/scheduling_ddpm.py
pub(super) fn named_in_diffusers(
    name: &str,
    steps: usize,
    start: f64,
    end: f64,
) -> Option<Vec<f64>> {
    Some(match name {
        "linear" => spaced(steps, start, end).collect(),
        // Linear in sqrt(beta): latent diffusion's.
        "scaled_linear" => spaced(steps, start.sqrt(), end.sqrt())
            .map(|root| root * root)
            .collect(),
        "squaredcos_cap_v2" => following(steps, |u| ((u + 0.008) / 1.008 * PI / 2.0).cos().powi(2)),
        // A sigmoid of beta, unlike ours, which is one of alpha_bar.
        "sigmoid" => spaced(steps, -6.0, 6.0)
            .map(|x| start + (end - start) / (1.0 + (-x).exp()))
            .collect(),
        "laplace" => following(steps, laplace),
        _ => return None,
    })
}

/// `steps` numbers from `first` to `last`, equally far apart.
fn spaced(steps: usize, first: f64, last: f64) -> impl Iterator<Item = f64> {
    let gaps = steps.saturating_sub(1).max(1) as f64;
    (0..steps).map(move |t| first + (last - first) * t as f64 / gaps)
}

/// Betas up to 0.999 whose alpha_bar is `alpha_bar(u)`, u = 0..1.
fn following(steps: usize, alpha_bar: impl Fn(f64) -> f64) -> Vec<f64> {
    let at = |i: usize| alpha_bar(i as f64 / steps as f64);
    (0..steps)
        .map(|t| (1.0 - at(t + 1) / at(t)).min(0.999))
        .collect()
}

/// The schedule whose signal-to-noise ratio has a Laplace distribution in its logarithm, as diffusers
/// writes it: the root stands in for alpha_bar there.
fn laplace(u: f64) -> f64 {
    let from_middle = 0.5 - u;
    let log_snr = -0.5 * 1f64.copysign(from_middle) * (1.0 - 2.0 * from_middle.abs() + 1e-6).ln();
    let snr = log_snr.exp();
    (snr / (1.0 + snr)).sqrt()
}

/// Our schedule with these betas, within the single precision of diffusers.
pub(super) fn named_here(betas: &[f64]) -> Option<ScheduleKind> {
    use ScheduleKind::{Cosine, KerasDdpm, Linear, Sigmoid};
    [Linear, Cosine, Sigmoid, KerasDdpm]
        .into_iter()
        .find(|&schedule| {
            let ours = betas_of(&DiffusionConfig {
                timesteps: betas.len() as i64,
                schedule,
                betas: vec![],
                prediction: Prediction::Eps,
                loss: LossKind::Mse,
            });
            ours.len() == betas.len()
                && ours
                    .iter()
                    .zip(betas)
                    .all(|(a, b)| (a - b).abs() <= 1e-6 * a.abs())
        })
}

/// The betas of our settings.
pub(super) fn betas_of(diffusion: &DiffusionConfig) -> Vec<f64> {
    Schedule::new(diffusion).betas.to_vec()
}
