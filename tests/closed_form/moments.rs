//! Compares every step of every sampler with its formula, and samples with the resulting moments.

use ddpm::config::{Prediction, Sigma};
use ddpm::diffusion::Schedule;
use ddpm::sample::{Respaced, Sampler, Visit};
use tch::{Kind, Tensor};

use crate::gaussian::{Gaussian, Network, Responses, draws};
use crate::linear;
use crate::theory::{METHODS, Method};

const PREDICTIONS: [Prediction; 3] = [Prediction::Eps, Prediction::X0, Prediction::V];

fn schedule() -> Schedule {
    Schedule::new(&linear(200, Prediction::Eps))
}

fn visited(visit: &Visit) -> Respaced {
    Respaced::new(&schedule(), visit).unwrap()
}

/// Few steps, unevenly spaced, so that no formula is right by symmetry.
fn few() -> Respaced {
    visited(&Visit::List(vec![199, 160, 141, 90, 62, 30, 19, 3]))
}

fn sampler(method: Method, data: &Gaussian, steps: &Respaced) -> Sampler {
    method.sampler(steps, &data.mean_sq_eps(&schedule()))
}

/// All samplers are linear on Gaussian data: the factor of each noise in each x_t determines a step completely.
#[test]
fn every_step_of_every_sampler_is_its_formula() {
    let steps = few();
    for data in [Gaussian::correlated(), Gaussian::point()] {
        for method in METHODS {
            for prediction in PREDICTIONS {
                let sampler = sampler(method, &data, &steps);
                let chain = (&schedule(), &steps);
                let found = Responses::of(&data, chain, prediction, &sampler);
                for along in 0..4 {
                    let wanted = method.factors(&steps, &data.spreads, along);
                    compare(&found, &wanted, &data, &steps, along, method);
                }
            }
        }
    }
}

fn compare(
    found: &Responses,
    wanted: &[Vec<f64>],
    data: &Gaussian,
    steps: &Respaced,
    along: usize,
    method: Method,
) {
    // x_T = 0 differs from the mean of x_T by this.
    let (signal, _) = steps.signal_and_noise(steps.len() - 1);
    let of_zero = data.along_basis(&Tensor::zeros_like(&data.mean), signal);
    let of_zero = of_zero.double_value(&[0, along as i64]);
    assert_eq!(wanted.len(), found.factors.len());
    for (done, wanted) in wanted.iter().enumerate() {
        let silent = found.silent[done][along];
        let silent_wanted = wanted[0] * of_zero;
        // f64, and eps_hat is divided by a noise of at least 0.05.
        assert!(
            (silent - silent_wanted).abs() < 1e-11,
            "{method:?} step {}: {silent} and {silent_wanted} without noise",
            done + 1
        );
        for (source, factor) in wanted.iter().enumerate() {
            let found = found.factors[done][source][along];
            assert!(
                (found - factor).abs() < 1e-11,
                "{method:?} step {}, noise {source}: {found} and {factor}",
                done + 1
            );
        }
    }
}

/// Single-point data: no trace of x_T is left, and no noise except the last, if a sampler adds one.
#[test]
fn a_point_is_where_every_sampler_ends() {
    let (data, steps) = (Gaussian::point(), few());
    for method in METHODS {
        let sampler = sampler(method, &data, &steps);
        let chain = (&schedule(), &steps);
        let found = Responses::of(&data, chain, Prediction::Eps, &sampler);
        let last_sigma = match method {
            Method::Ddpm {
                sigma,
                last_noise: true,
            } => steps.schedule.sigma(sigma, 0),
            // Its variance is that of x_0 given x_t, zero here.
            _ => 0.0,
        };
        let left = found.variances(0, [1.0; 4]).map(f64::sqrt);
        assert!(
            left.iter().all(|std| (std - last_sigma).abs() < 1e-11),
            "{method:?}: {left:?}, want {last_sigma}"
        );
        assert!(found.silent.last().unwrap().iter().all(|x| x.abs() < 1e-11));
    }
}

/// 20,000 samples have the mean and covariance of the formulas for these steps.
#[test]
fn samples_have_the_moments_of_their_sampler() {
    let (data, steps, images) = (Gaussian::correlated(), few(), 20_000);
    for (seed, method) in METHODS.into_iter().enumerate() {
        let sampler = sampler(method, &data, &steps);
        let chain = (&schedule(), &steps);
        let mut noise = draws(seed as u64, images);
        let x_0 = data.sample(chain, Prediction::Eps, &sampler, &mut noise, &mut |_| ());
        let wanted = Wanted::of(method, &data, &steps);
        check_moments(&data.along_basis(&x_0, 1.0), &wanted, images as f64, method);
    }
}

/// The formulas' x_0 along the eigenvectors.
pub(crate) struct Wanted {
    means: [f64; 4],
    variances: [f64; 4],
}

impl Wanted {
    pub(crate) fn of(method: Method, data: &Gaussian, steps: &Respaced) -> Wanted {
        let last = |along| method.factors(steps, &data.spreads, along).pop().unwrap();
        let last: [Vec<f64>; 4] = std::array::from_fn(last);
        let of_zero = data.along_basis(
            &Tensor::zeros_like(&data.mean),
            steps.signal_and_noise(steps.len() - 1).0,
        );
        Wanted {
            means: std::array::from_fn(|k| last[k][0] * of_zero.double_value(&[0, k as i64])),
            variances: std::array::from_fn(|k| last[k].iter().map(|f| f * f).sum()),
        }
    }
}

/// Checks that `along`, `[N, 4]`, has the means and variances `wanted` and no covariances, up to the sampling error of
/// `images` independent images.
pub(crate) fn check_moments(along: &Tensor, wanted: &Wanted, images: f64, method: Method) {
    let (mean, variance) = (|k: usize| wanted.means[k], |k: usize| wanted.variances[k]);
    let means = along.mean_dim([0i64].as_slice(), true, Kind::Double);
    let centred = along - &means;
    let covariance = centred.tr().matmul(&centred) / (along.size()[0] as f64 - 1.0);
    for k in 0..4 {
        let found = means.double_value(&[0, k as i64]);
        let error = (variance(k) / images).sqrt();
        // Of the 224 numbers compared, one exceeds 5 standard errors by chance in 8,000 runs; the seeds are fixed.
        assert!(
            (found - mean(k)).abs() < 5.0 * error,
            "{method:?}: mean {found}, want {}",
            mean(k)
        );
        for l in 0..=k {
            let found = covariance.double_value(&[k as i64, l as i64]);
            let want = if k == l { variance(k) } else { 0.0 };
            // Isserlis: Var[c_kl] = (c_kk c_ll + c_kl²) / N.
            let error = ((variance(k) * variance(l) + want * want) / images).sqrt();
            assert!(
                (found - want).abs() < 5.0 * error,
                "{method:?}: covariance {k} {l} {found}, want {want}"
            );
        }
    }
}

/// Relative bias of the variances with all 200 steps. The last step omits the variance of x_0 given x_t at t = 0, up to
/// 0.4 %; the rest is O(1 / steps) for first-order samplers, each with its constant.
fn bias_of_200_steps(method: Method) -> f64 {
    match method {
        Method::Ddpm {
            sigma: Sigma::Beta, ..
        } => 0.04,
        // The posterior sigma is too small unless the data are a point: the largest bias, which Analytic-DPM corrects.
        Method::Ddpm { .. } => 0.1,
        Method::Ddim { eta } => 0.045 + 0.055 * eta,
        Method::Analytic { .. } => 0.02,
        Method::DpmSolver { sde: true } => 0.025,
        Method::UniPc { order: 1 } => 0.015,
        Method::DpmSolver { sde: false } | Method::Heun | Method::UniPc { .. } => 0.004,
    }
}

#[test]
fn many_steps_give_the_data_s_moments() {
    let (data, steps) = (Gaussian::correlated(), visited(&Visit::All));
    let largest = |values: [f64; 4]| values.into_iter().map(f64::abs).fold(0.0, f64::max);
    for method in METHODS {
        let sampler = sampler(method, &data, &steps);
        let chain = (&schedule(), &steps);
        let found = Responses::of(&data, chain, Prediction::Eps, &sampler);
        let variances = found.variances(0, [1.0; 4]);
        let bias = largest(std::array::from_fn(|k| {
            variances[k] / data.spreads[k] - 1.0
        }));
        assert!(
            bias < bias_of_200_steps(method),
            "{method:?}: variance off by {bias}"
        );
        // Samplers start with mean 0, not that of x_T, which is e^-5 times the data's, at most 0.5 per eigenvector.
        let mean = largest(found.silent[steps.len() - 1]);
        assert!(
            mean < 0.5 * (-5.0f64).exp(),
            "{method:?}: mean off by {mean}"
        );
    }
}
