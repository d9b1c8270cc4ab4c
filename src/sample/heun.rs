//! Heun's method on the probability-flow ODE: second order from two evaluations a step.

use tch::Tensor;

use super::{OnStep, Process, Step};

/// The whole chain from `x_start` at the last visited step down to x_0, not clipped and without noise.
///
/// In x / signal, as a function of noise / signal, the slope of the ODE is eps_hat. A step goes along the slope where it starts,
/// asks the network again where that ends, and takes the mean of both slopes. The last step is the first half
/// alone: at noise 0 the network has nothing to say.
///
/// # Shapes
/// - `x_start`: `[N, C, H, W]`; returns the same shape
///
/// Source: Karras et al. 2022, algorithm 1 with sigma(t) = t, s(t) = 1 <https://arxiv.org/abs/2206.00364>
pub fn heun(process: &Process, x_start: Tensor, on_step: &mut OnStep) -> Tensor {
    let _guard = tch::no_grad_guard();
    let levels = process.levels;
    let (mut x, steps) = (x_start, levels.len());
    for (done, i) in (1..).zip((0..steps).rev()) {
        let estimate = process.estimate(&x, i);
        let (signal, noise) = levels.signal_and_noise_prev(i);
        let euler = estimate.at(signal, noise);
        x = if i == 0 {
            euler
        } else {
            let there = process.estimate(&euler, i - 1);
            let (signal_here, noise_here) = levels.signal_and_noise(i);
            // The way in noise / signal, times the signal that x_prev has.
            let way = noise - signal * noise_here / signal_here;
            euler + (there.eps_hat() - estimate.eps_hat()) * (way / 2.0)
        };
        on_step(Step {
            done,
            t: levels.times[i],
            x: &x,
            estimate: &estimate,
        });
    }
    x
}
