//! DDIM: the implicit sampler, and all that lies between it and DDPM.

use anyhow::{Result, ensure};
use ndarray::Array1;
use tch::Tensor;

use super::{Estimate, Noise, OnStep, Process, Respaced, Step};

/// How much noise each step adds.
#[derive(Debug, Clone, PartialEq)]
pub struct Ddim {
    /// 0 for none (DDIM), 1 for DDPM's posterior sigma; up to 1.
    pub eta: f64,
    /// Variance that each visited step adds beside eta's, times the square of what the step multiplies eps_hat by;
    /// empty for none. Analytic-DPM sets it.
    pub eps_variances: Array1<f64>,
    /// Add the noise of `eps_variances` at the last step too.
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

    /// Factor of eps_hat, and standard deviation of the fresh noise, of the step that leaves visited step `i`.
    fn noises(&self, levels: &Respaced, i: usize) -> (f64, f64) {
        let schedule = &levels.schedule;
        let sigma_squared = self.eta.powi(2) * schedule.posterior_variance(i);
        let kept = (1.0 - schedule.alpha_bar_prev(i) - sigma_squared).max(0.0);
        let added = match self.eps_variances.get(i) {
            Some(variance) if i > 0 || self.last_noise => {
                // x_prev is x_t / sqrt(alpha) less this many eps_hat.
                let (_, noise) = levels.signal_and_noise(i);
                let factor = noise / schedule.alphas[i].sqrt() - kept.sqrt();
                factor.powi(2) * variance
            }
            _ => 0.0,
        };
        (kept.sqrt(), (sigma_squared + added).sqrt())
    }

    /// Standard deviation of the fresh noise of the step that leaves visited step `i`.
    pub fn sigma(&self, levels: &Respaced, i: usize) -> f64 {
        self.noises(levels, i).1
    }

    /// One reverse step, from x_t at visited step `i` to the one before.
    ///
    /// # Shapes
    /// - `z`: gives standard normal `[N, C, H, W]`, asked only if noise is added; returns the same shape
    ///
    /// Source: Song et al. 2020, eq. 12 and 16 <https://arxiv.org/abs/2010.02502>
    pub fn step(
        &self,
        levels: &Respaced,
        estimate: &Estimate,
        i: usize,
        z: impl FnOnce() -> Tensor,
    ) -> Tensor {
        let (signal, _) = levels.signal_and_noise_prev(i);
        let (kept, sigma) = self.noises(levels, i);
        let mean = estimate.at(signal, kept);
        if sigma == 0.0 {
            mean
        } else {
            mean + z() * sigma
        }
    }
}

/// The whole chain from `x_start` at the last visited step down to x_0, not clipped.
pub fn ddim(
    process: &Process,
    options: &Ddim,
    x_start: Tensor,
    noise: &mut Noise,
    on_step: &mut OnStep,
) -> Tensor {
    let _guard = tch::no_grad_guard();
    let (mut x, steps) = (x_start, process.levels.len());
    for (done, i) in (1..).zip((0..steps).rev()) {
        let estimate = process.estimate(&x, i);
        x = options.step(process.levels, &estimate, i, || noise(done as u64));
        on_step(Step {
            done,
            t: process.levels.times[i],
            x: &x,
            estimate: &estimate,
        });
    }
    x
}

/// The way back: the x_T from which `ddim` with eta = 0 would come to `x_0`, nearly. Each step up assumes that eps_hat
/// at the next level is what it is at this one, which is the better the more steps there are.
///
/// # Shapes
/// - `x_0`: `[N, C, H, W]` in [-1, 1]; returns the same shape
///
/// Source: Song et al. 2020, section 4.3; Dhariwal & Nichol 2021, appendix F <https://arxiv.org/abs/2105.05233>
pub fn ddim_invert(process: &Process, x_0: Tensor, on_step: &mut OnStep) -> Tensor {
    let _guard = tch::no_grad_guard();
    let levels = process.levels;
    let mut x = x_0;
    for i in 0..levels.len() {
        // The first step leaves the image itself, whose level the network never saw: it is asked about the next.
        let here = i.saturating_sub(1);
        let estimate = process.estimate(&x, here);
        let (signal, noise) = levels.signal_and_noise(i);
        x = if i == 0 {
            &x * signal + estimate.eps_hat() * noise
        } else {
            estimate.at(signal, noise)
        };
        on_step(Step {
            done: i + 1,
            t: levels.times[here],
            x: &x,
            estimate: &estimate,
        });
    }
    x
}
