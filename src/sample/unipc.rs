//! UniPC: a multistep predictor, and a corrector that needs no evaluation of its own.

use std::collections::VecDeque;

use anyhow::{Result, ensure};
use tch::Tensor;

use super::{OnStep, Process, Respaced};

/// UniPC on predictions of x_0, with B(h) = e^h - 1 ("bh2").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UniPc {
    order: usize,
}

impl UniPc {
    /// `order` is the predictor's, 1 to 3. A chain starts at order 1 and rises with each estimate; the last steps have
    /// a lower order again.
    ///
    /// # Errors
    /// An order other than 1, 2 and 3.
    pub fn new(order: usize) -> Result<UniPc> {
        ensure!(
            (1..=3).contains(&order),
            "UniPC of order {order}: want 1, 2 or 3"
        );
        Ok(UniPc { order })
    }
}

/// Runs the whole chain from `x_start` at the noisiest visited step to x_0, not clipped, without adding noise.
///
/// At each visited step the network is evaluated on the predicted x_t. Its estimate first corrects that x_t, at no
/// cost, and then helps to predict the next one. The last step, to noise 0, ends on x_0_hat. `on_step` receives the
/// predicted x_t.
///
/// # Shapes
/// - `x_start`: `[N, C, H, W]`; returns the same shape
///
/// Source: Zhao et al. 2023, section 3 <https://arxiv.org/abs/2302.04867>
pub fn unipc(process: &Process, options: UniPc, x_start: Tensor, on_step: &mut OnStep) -> Tensor {
    let steps = process.steps;
    let mut corrected = x_start.shallow_clone();
    // Entry k belongs to visited step i + k.
    let mut x_0_hats: VecDeque<Tensor> = VecDeque::new();
    let mut order = 0;
    process.run(x_start, on_step, |estimate, i, _| {
        x_0_hats.push_front(estimate.x_0_hat());
        x_0_hats.truncate(options.order + 1);
        if i == 0 {
            return x_0_hats[0].shallow_clone();
        }
        let seen = |k: usize| (i + k, &x_0_hats[k]);
        if order > 0 {
            let others: Vec<_> = [0].into_iter().chain(2..=order).map(seen).collect();
            corrected = leap(steps, i, &corrected, &x_0_hats[1], &others);
        }
        order = options.order.min(x_0_hats.len()).min(i + 1);
        let others: Vec<_> = (1..order).map(seen).collect();
        leap(steps, i - 1, &corrected, &x_0_hats[0], &others)
    })
}

/// Steps `x` from visited step `to + 1` to `to`, exactly if x_0_hat is the polynomial of lambda through `start`, its
/// value at `to + 1`, and `others`, its values at other visited steps.
///
/// The predictor has values of noisier steps, the corrector also the one at `to`.
fn leap(
    steps: &Respaced,
    to: usize,
    x: &Tensor,
    start: &Tensor,
    others: &[(usize, &Tensor)],
) -> Tensor {
    let (signal, noise) = steps.signal_and_noise(to);
    let (signal_from, noise_from) = steps.signal_and_noise(to + 1);
    let lambda = steps.lambda(to + 1);
    let h = steps.lambda(to) - lambda;
    let places: Vec<f64> = (others.iter())
        .map(|(i, _)| (steps.lambda(*i) - lambda) / h)
        .collect();
    let weights = weights(h, &places);
    let kept = noise / noise_from;
    let of_start = signal - signal_from * kept - signal * weights.iter().sum::<f64>();
    (others.iter().zip(&weights)).fold(x * kept + start * of_start, |sum, ((_, other), weight)| {
        sum + *other * (signal * weight)
    })
}

/// Weight of each `x_0_hat - start` in a step of `h` with x_0_hat known at `places`: 0 is the step's start, 1 its end.
///
/// With two places or more the weights are determined, and B(h) cancels. With one, the weight is the paper's
/// B(h) / 2, which has the same order as the integral.
fn weights(h: f64, places: &[f64]) -> Vec<f64> {
    let integrals = integrals(h);
    if let [place] = places {
        return vec![integrals[0] / (2.0 * place)];
    }
    let weight = |(k, place): (usize, &f64)| {
        // Coefficients of the polynomial that is 1 at `place`, and 0 at the other places and at the start.
        let mut polynomial = vec![0.0, 1.0 / place];
        for (_, other) in places.iter().enumerate().filter(|(j, _)| *j != k) {
            let (constant, linear) = (-other / (place - other), 1.0 / (place - other));
            let lower = polynomial.iter().chain([&0.0]).map(|c| c * constant);
            let upper = [&0.0].into_iter().chain(&polynomial).map(|c| c * linear);
            polynomial = lower.zip(upper).map(|(a, b)| a + b).collect();
        }
        polynomial.iter().zip(&integrals).map(|(c, i)| c * i).sum()
    };
    places.iter().enumerate().map(weight).collect()
}

/// The integrals of `h e^(-h (1 - u)) u^n` over u = 0..1, for n = 0..=3: the weight of x_0_hat = u^n in a step.
fn integrals(h: f64) -> [f64; 4] {
    if h < 1.0 {
        // The series in h: below, 1 - n / h * … would cancel.
        return std::array::from_fn(|n| {
            let mut term = h / (n + 1) as f64;
            let mut sum = term;
            for j in 0..20 {
                term *= -h / (n + 2 + j) as f64;
                sum += term;
            }
            sum
        });
    }
    // Integration by parts.
    let mut integrals = [-(-h).exp_m1(); 4];
    for n in 1..4 {
        integrals[n] = 1.0 - n as f64 / h * integrals[n - 1];
    }
    integrals
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The midpoint rule, with enough points for an error below 1e-9.
    fn integral(h: f64, f: impl Fn(f64) -> f64) -> f64 {
        let points = 20_000;
        let at = |j: usize| (j as f64 + 0.5) / points as f64;
        let value = |u: f64| h * (-h * (1.0 - u)).exp() * f(u);
        (0..points).map(|j| value(at(j))).sum::<f64>() / points as f64
    }

    #[test]
    fn integrals_are_those_of_the_formula_on_both_sides_of_the_switch() {
        for h in [1e-6, 0.01, 0.999, 1.001, 2.0] {
            for (n, found) in integrals(h).into_iter().enumerate() {
                let want = integral(h, |u| u.powi(n as i32));
                // The midpoint rule's h^3 / (24 * points²).
                assert!((found - want).abs() < 1e-8 * h, "{h} {n}: {found} {want}");
            }
        }
    }

    #[test]
    fn weights_integrate_the_polynomial_through_all_places() {
        for places in [vec![1.0, -0.7], vec![-0.7, -2.0], vec![1.0, -0.7, -2.0]] {
            for h in [0.05, 0.8, 1.7] {
                let weights = weights(h, &places);
                for power in 1..=places.len() as i32 {
                    let sum: f64 = (weights.iter().zip(&places))
                        .map(|(w, r)| w * r.powi(power))
                        .sum();
                    let want = integral(h, |u| u.powi(power));
                    assert!((sum - want).abs() < 1e-8, "{places:?} {h} {power}");
                }
            }
        }
    }

    #[test]
    fn orders_other_than_1_to_3_are_refused() {
        assert!((1..=3).all(|order| UniPc::new(order).is_ok()));
        for order in [0, 4] {
            assert!(
                UniPc::new(order)
                    .unwrap_err()
                    .to_string()
                    .contains("1, 2 or 3")
            );
        }
    }
}
