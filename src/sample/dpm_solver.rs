//! DPM-Solver++(2M): second order with one evaluation per step, with or without noise.

use tch::Tensor;

use super::{Estimate, Noise, OnStep, Process, Respaced};

/// DPM-Solver++(2M), in its "midpoint" form.
///
/// At first order it is DDIM: x_0_hat is constant over the step. At second order x_0_hat is extrapolated linearly
/// in lambda from the previous step. With noise, first order is DDIM with eta = 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DpmSolver {
    /// Solves the reverse SDE, which adds noise at each step, instead of the probability-flow ODE.
    pub sde: bool,
}

impl DpmSolver {
    /// One reverse step, from x_t at visited step `i` to the one before. `x_0_hat` is that of step `i`, `before` that
    /// of step `i + 1`, without which the step has first order. So has the last step, to noise 0, where lambda is
    /// infinite: it ends on x_0_hat.
    ///
    /// # Shapes
    /// - `x_0_hat`, `before`: `[N, C, H, W]`
    /// - `z`: returns standard normal `[N, C, H, W]`, called only if noise is added; returns the same shape
    ///
    /// Source: Lu et al. 2022, algorithm 2 and, with noise, SDE-DPM-Solver++(2M)
    /// <https://arxiv.org/abs/2211.01095>
    pub fn step(
        self,
        steps: &Respaced,
        estimate: &Estimate,
        x_0_hat: &Tensor,
        before: Option<&Tensor>,
        i: usize,
        z: impl FnOnce() -> Tensor,
    ) -> Tensor {
        if i == 0 {
            return x_0_hat.shallow_clone();
        }
        let (signal, noise) = steps.signal_and_noise_prev(i);
        let h = steps.lambda(i - 1) - steps.lambda(i);
        // The part of x_prev's noise that comes from eps_hat, the variance of z beside it, and the weight of the
        // change of x_0_hat.
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
                let h_before = steps.lambda(i) - steps.lambda(i + 1);
                first_order + (x_0_hat - before) * (signal * weight * h / (2.0 * h_before))
            }
        };
        if self.sde { x + z() * fresh } else { x }
    }
}

/// Runs the whole chain from `x_start` at the noisiest visited step to x_0, not clipped.
pub fn dpm_solver(
    process: &Process,
    options: DpmSolver,
    x_start: Tensor,
    noise: &mut Noise,
    on_step: &mut OnStep,
) -> Tensor {
    let mut before = None;
    process.run(x_start, on_step, |estimate, i, k| {
        let x_0_hat = estimate.x_0_hat();
        let z = || noise(k);
        let x = options.step(process.steps, estimate, &x_0_hat, before.as_ref(), i, z);
        before = Some(x_0_hat);
        x
    })
}
