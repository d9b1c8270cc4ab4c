//! Guidance on Gaussians of a class: what every sampler makes of it is again an affine function of its noises.

use ddpm::config::Prediction;
use ddpm::diffusion::Schedule;
use ddpm::sample::{Guidance, Respaced, Visit};
use tch::Tensor;

use crate::gaussian::{Gaussian, Network, Responses, draws};
use crate::linear;
use crate::theory::{METHODS, Method, Weaker};

/// The optimal network of a class, guided with that of all classes.
struct Guided {
    class: Gaussian,
    all: Gaussian,
    guidance: Guidance,
}

impl Guided {
    fn new(guidance: Guidance) -> Guided {
        let class = Gaussian::correlated();
        let all = Gaussian {
            mean: &class.mean + Tensor::from_slice(&[0.4, 0.1, -0.5, 0.2]),
            basis: class.basis.shallow_clone(),
            spreads: [1.1, 0.7, 1.5, 0.9],
        };
        Guided {
            class,
            all,
            guidance,
        }
    }

    fn weaker(&self, steps: &Respaced) -> Weaker {
        let apart = self.class.along_basis(&self.all.mean, 1.0);
        let scale = |t: &i64| match self.guidance.is_for(*t) {
            true => self.guidance.scale,
            false => 1.0,
        };
        Weaker {
            scales: steps.times.iter().rev().map(scale).collect(),
            spreads: self.all.spreads,
            apart: std::array::from_fn(|k| apart.double_value(&[0, k as i64])),
        }
    }

    /// What the formulas say of x_0: mean and variance along each eigenvector.
    fn moments(&self, method: Method, steps: &Respaced) -> [(f64, f64); 4] {
        let (weaker, of_zero) = (self.weaker(steps), self.of_zero(steps));
        std::array::from_fn(|k| {
            let spreads = &self.class.spreads;
            let mut factors = method
                .guided_factors(steps, spreads, k, Some(&weaker))
                .pop()
                .unwrap();
            let constant = factors.pop().unwrap();
            let variance = factors.iter().map(|f| f * f).sum();
            (factors[0] * of_zero[k] + constant, variance)
        })
    }

    /// x_T = 0 minus the mean of x_T.
    fn of_zero(&self, steps: &Respaced) -> [f64; 4] {
        let (signal, _) = steps.signal_and_noise(steps.len() - 1);
        let zero = Tensor::zeros_like(&self.class.mean);
        let along = self.class.along_basis(&zero, signal);
        std::array::from_fn(|k| along.double_value(&[0, k as i64]))
    }
}

impl Network for Guided {
    fn data(&self) -> &Gaussian {
        &self.class
    }

    fn output(&self, x_t: &Tensor, t: i64, alpha_bar: f64, prediction: Prediction) -> Tensor {
        let strong = self.class.predict(x_t, alpha_bar, prediction);
        match self.guidance.is_for(t) {
            true => (self.guidance).push(&strong, &self.all.predict(x_t, alpha_bar, prediction)),
            false => strong,
        }
    }
}

fn schedule() -> Schedule {
    Schedule::new(&linear(200, Prediction::Eps))
}

fn steps(visit: &Visit) -> Respaced {
    Respaced::new(&schedule(), visit).unwrap()
}

fn few() -> Respaced {
    steps(&Visit::List(vec![199, 160, 141, 90, 62, 30, 19, 3]))
}

fn guidances() -> [Guidance; 4] {
    [
        Guidance::of_scale(3.0),
        Guidance::of_scale(0.4),
        Guidance::of_scale(0.0),
        Guidance {
            interval: Some((30, 141)),
            ..Guidance::of_scale(2.0)
        },
    ]
}

#[test]
fn every_step_of_every_sampler_is_its_formula_under_guidance() {
    let steps = few();
    for guidance in guidances() {
        let guided = Guided::new(guidance);
        let (weaker, of_zero) = (guided.weaker(&steps), guided.of_zero(&steps));
        for method in METHODS {
            let sampler = method.sampler(&steps, &guided.class.mean_sq_eps(&schedule()));
            for prediction in [Prediction::Eps, Prediction::X0, Prediction::V] {
                let chain = (&schedule(), &steps);
                let found = Responses::of(&guided, chain, prediction, &sampler);
                for (along, of_zero) in of_zero.iter().enumerate() {
                    let spreads = &guided.class.spreads;
                    let wanted = method.guided_factors(&steps, spreads, along, Some(&weaker));
                    for (done, mut wanted) in wanted.into_iter().enumerate() {
                        let constant = wanted.pop().unwrap();
                        let silent = wanted[0] * of_zero + constant;
                        let mut worst = (found.silent[done][along] - silent).abs();
                        for (source, factor) in wanted.iter().enumerate() {
                            let error = found.factors[done][source][along] - factor;
                            worst = worst.max(error.abs());
                        }
                        // f64; guidance multiplies rounding by its scale at each step.
                        assert!(
                            worst < 1e-10,
                            "{guidance:?} {method:?} {prediction:?} step {}: {worst}",
                            done + 1
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn samples_under_guidance_have_the_moments_of_their_sampler() {
    let (steps, images) = (few(), 20_000);
    let guided = Guided::new(Guidance::of_scale(3.0));
    for (seed, method) in METHODS.into_iter().enumerate() {
        let sampler = method.sampler(&steps, &guided.class.mean_sq_eps(&schedule()));
        let mut noise = draws(100 + seed as u64, images);
        let chain = (&schedule(), &steps);
        let x_0 = guided.sample(chain, Prediction::Eps, &sampler, &mut noise, &mut |_| ());
        let along = guided.class.along_basis(&x_0, 1.0);
        let (variances, means) = along.var_mean_dim([0i64].as_slice(), true, false);
        for (k, (mean, variance)) in guided.moments(method, &steps).into_iter().enumerate() {
            let (found, spread) = (
                means.double_value(&[k as i64]),
                variances.double_value(&[k as i64]),
            );
            let n = images as f64;
            // Five standard errors; the seeds are fixed.
            let (of_mean, of_variance) = ((variance / n).sqrt(), variance * (2.0 / n).sqrt());
            assert!(
                (found - mean).abs() < 5.0 * of_mean + 1e-12,
                "{method:?}: mean {found}, want {mean}"
            );
            assert!(
                (spread - variance).abs() < 5.0 * of_variance + 1e-12,
                "{method:?}: variance {spread}, want {variance}"
            );
        }
    }
}

/// Where class and all have the same covariance, the product of the densities p(x|c)^s / p(x)^(s-1) is a Gaussian of that
/// covariance, and its mean lies s times as far from that of all; with many steps, the ODE ends there.
#[test]
fn many_steps_lead_to_the_product_of_gaussians() {
    let mut guided = Guided::new(Guidance::of_scale(2.5));
    guided.all.spreads = guided.class.spreads;
    let steps = steps(&Visit::All);
    let weaker = guided.weaker(&steps);
    for method in METHODS
        .into_iter()
        .filter(|method| matches!(method, Method::Heun))
    {
        for (k, (mean, variance)) in guided.moments(method, &steps).into_iter().enumerate() {
            // Means are counted from that of the class.
            let want = (1.0 - 2.5) * weaker.apart[k];
            let spread = guided.class.spreads[k];
            assert!(
                (mean - want).abs() < 0.02 * want.abs().max(0.1),
                "{mean}, want {want}"
            );
            assert!(
                (variance / spread - 1.0).abs() < 0.01,
                "{variance}, want {spread}"
            );
        }
    }
}
