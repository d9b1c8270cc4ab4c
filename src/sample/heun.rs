//! Heun's method on the probability-flow ODE: second order with two evaluations per step.

use tch::Tensor;

use super::{OnStep, Process};

/// Runs the whole chain from `x_start` at the noisiest visited step to x_0, not clipped, without adding noise.
///
/// For x / signal as a function of noise / signal, the slope of the ODE is eps_hat. A step follows the slope at its
/// start, evaluates the network again at the end, and then uses the mean of both slopes. The last step is an Euler
/// step: at noise 0 eps_hat is undefined.
///
/// # Shapes
/// - `x_start`: `[N, C, H, W]`; returns the same shape
///
/// Source: Karras et al. 2022, algorithm 1 with sigma(t) = t, s(t) = 1 <https://arxiv.org/abs/2206.00364>
pub fn heun(process: &Process, x_start: Tensor, on_step: &mut OnStep) -> Tensor {
    let steps = process.steps;
    process.run(x_start, on_step, |estimate, i, _| {
        let (signal, noise) = steps.signal_and_noise_prev(i);
        let euler = estimate.at(signal, noise);
        if i == 0 {
            return euler;
        }
        let there = process.estimate(&euler, i - 1);
        let (signal_here, noise_here) = steps.signal_and_noise(i);
        // The step in noise / signal, times the signal of x_prev.
        let way = noise - signal * noise_here / signal_here;
        euler + (there.eps_hat() - estimate.eps_hat()) * (way / 2.0)
    })
}
