//! DDIM: the deterministic sampler, and the range from it to DDPM.

use anyhow::{Result, ensure};
use ndarray::Array1;
use tch::Tensor;

use super::{Estimate, Noise, OnStep, Process, Respaced, Step};
use crate::device::ConvolutionSearch;

/// The DDIM sampler: the noise that each step adds.
#[derive(Debug, Clone, PartialEq)]
pub struct Ddim {
    /// Noise from 0 (none: DDIM) to 1 (DDPM's posterior sigma).
    pub eta: f64,
    /// Extra variance of each visited step, in units of the squared factor of eps_hat in the step; empty for none.
    /// Set by Analytic-DPM.
    pub eps_variances: Array1<f64>,
    /// Adds the noise of `eps_variances` at the last step too.
    pub last_noise: bool,
}

impl Ddim {
    /// Song et al.'s sampler.
    ///
    /// # Errors
    /// `eta` outside [0, 1].
    pub fn new(eta: f64) -> Result<Ddim> {
        ensure!(
            (0.0..=1.0).contains(&eta),
            "eta = {eta}: want 0 (no noise, DDIM) to 1 (as much as DDPM)"
        );
        Ok(Ddim {
            eta,
            eps_variances: Array1::zeros(0),
            last_noise: false,
        })
    }

    /// Factor of eps_hat, and standard deviation of the fresh noise, in the step from visited step `i`.
    fn noises(&self, steps: &Respaced, i: usize) -> (f64, f64) {
        let schedule = &steps.schedule;
        let sigma_squared = self.eta.powi(2) * schedule.posterior_variance(i);
        let kept = (1.0 - schedule.alpha_bar_prev(i) - sigma_squared).max(0.0);
        let added = match self.eps_variances.get(i) {
            Some(variance) if i > 0 || self.last_noise => {
                // x_prev is x_t / sqrt(alpha) minus this factor times eps_hat.
                let (_, noise) = steps.signal_and_noise(i);
                let factor = noise / schedule.alphas[i].sqrt() - kept.sqrt();
                factor.powi(2) * variance
            }
            _ => 0.0,
        };
        (kept.sqrt(), (sigma_squared + added).sqrt())
    }

    /// Standard deviation of the fresh noise in the step from visited step `i`.
    pub fn sigma(&self, steps: &Respaced, i: usize) -> f64 {
        self.noises(steps, i).1
    }

    /// One reverse step, from x_t at visited step `i` to the one before.
    ///
    /// # Shapes
    /// - `z`: returns standard normal `[N, C, H, W]`, called only if noise is added; returns the same shape
    ///
    /// Source: Song et al. 2020, eq. 12 and 16 <https://arxiv.org/abs/2010.02502>
    pub fn step(
        &self,
        steps: &Respaced,
        estimate: &Estimate,
        i: usize,
        z: impl FnOnce() -> Tensor,
    ) -> Tensor {
        let (signal, _) = steps.signal_and_noise_prev(i);
        let (kept, sigma) = self.noises(steps, i);
        let mean = estimate.at(signal, kept);
        if sigma == 0.0 {
            mean
        } else {
            mean + z() * sigma
        }
    }
}

/// Runs the whole chain from `x_start` at the noisiest visited step to x_0, not clipped.
pub fn ddim(
    process: &Process,
    options: &Ddim,
    x_start: Tensor,
    noise: &mut Noise,
    on_step: &mut OnStep,
) -> Tensor {
    process.run(x_start, on_step, |estimate, i, k| {
        options.step(process.steps, estimate, i, || noise(k))
    })
}

/// Inverts `ddim` with eta = 0: returns the x_T from which it approximately reaches `x_0`. Each step assumes that
/// eps_hat is the same at the next noisier step, which is better the more steps there are.
///
/// # Shapes
/// - `x_0`: `[N, C, H, W]` in [-1, 1]; returns the same shape
///
/// Source: Song et al. 2020, section 4.3; Dhariwal & Nichol 2021, appendix F <https://arxiv.org/abs/2105.05233>
pub fn ddim_invert(process: &Process, x_0: Tensor, on_step: &mut OnStep) -> Tensor {
    let _guard = tch::no_grad_guard();
    let steps = process.steps;
    let _search = ConvolutionSearch::if_worth_it(steps.len());
    let mut x = x_0;
    for i in 0..steps.len() {
        // The first step starts from the clean image, which the network was not trained on: ask it at the next step.
        let here = i.saturating_sub(1);
        let estimate = process.estimate(&x, here);
        let (signal, noise) = steps.signal_and_noise(i);
        x = if i == 0 {
            &x * signal + estimate.eps_hat() * noise
        } else {
            estimate.at(signal, noise)
        };
        on_step(Step {
            done: i + 1,
            t: steps.times[here],
            x: &x,
            estimate: &estimate,
        });
    }
    if let Some(&t) = steps.times.last() {
        process.watch_result(t, &x);
    }
    x
}
