//! DPM-Solver++(2M): second order from one evaluation a step, with noise or without.

use tch::Tensor;

use super::{Estimate, Noise, OnStep, Process, Respaced, Step};

/// DPM-Solver++(2M), in its "midpoint" form.
///
/// The first order is DDIM: x_0_hat is held over the step. The second lets it go on as it did over the step before,
/// evenly in lambda. With noise, the first order is DDIM with eta = 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DpmSolver {
    /// Solve the reverse SDE, which adds noise at each step, instead of the probability-flow ODE.
    pub sde: bool,
}

impl DpmSolver {
    /// One reverse step, from x_t at visited step `i` to the one before. `x_0_hat` is the estimate's; `before` is the one
    /// of visited step `i + 1`, without which the step is of first order. So is the last, down to noise 0, where
    /// lambda is infinite: it ends on x_0_hat.
    ///
    /// # Shapes
    /// - `x_0_hat`, `before`: `[N, C, H, W]`
    /// - `z`: gives standard normal `[N, C, H, W]`, asked only if noise is added; returns the same shape
    ///
    /// Source: Lu et al. 2022, algorithm 2 and, with noise, what it calls SDE-DPM-Solver++(2M)
    /// <https://arxiv.org/abs/2211.01095>
    pub fn step(
        self,
        levels: &Respaced,
        estimate: &Estimate,
        x_0_hat: &Tensor,
        before: Option<&Tensor>,
        i: usize,
        z: impl FnOnce() -> Tensor,
    ) -> Tensor {
        if i == 0 {
            return x_0_hat.shallow_clone();
        }
        let (signal, noise) = levels.signal_and_noise_prev(i);
        let h = levels.lambda(i - 1) - levels.lambda(i);
        // Of the noise that is in x_prev, what eps_hat gives and, beside it, the variance of z; and how far x_prev
        // follows x_0_hat.
        let (kept, fresh, weight) = if self.sde {
            let weight = -(-2.0 * h).exp_m1();
            (noise * (-h).exp(), noise * weight.sqrt(), weight)
        } else {
            (noise, 0.0, -(-h).exp_m1())
        };
        let first_order = estimate.at(signal, kept);
        let x = match before {
            None => first_order,
            Some(before) => {
                let h_before = levels.lambda(i) - levels.lambda(i + 1);
                first_order + (x_0_hat - before) * (signal * weight * h / (2.0 * h_before))
            }
        };
        if self.sde { x + z() * fresh } else { x }
    }
}

/// The whole chain from `x_start` at the last visited step down to x_0, not clipped.
pub fn dpm_solver(
    process: &Process,
    options: DpmSolver,
    x_start: Tensor,
    noise: &mut Noise,
    on_step: &mut OnStep,
) -> Tensor {
    let _guard = tch::no_grad_guard();
    let (mut x, steps) = (x_start, process.levels.len());
    let mut before = None;
    for (done, i) in (1..).zip((0..steps).rev()) {
        let estimate = process.estimate(&x, i);
        let x_0_hat = estimate.x_0_hat();
        let z = || noise(done as u64);
        x = options.step(process.levels, &estimate, &x_0_hat, before.as_ref(), i, z);
        before = Some(x_0_hat);
        on_step(Step {
            done,
            t: process.levels.times[i],
            x: &x,
            estimate: &estimate,
        });
    }
    x
}
