//! Orders of convergence: how fast a sampler approaches the exact solution with more steps.
//!
//! Time steps are even in lambda, from -2.5 to 2.5, and each number of steps visits a subset of them. x_t is compared
//! at the least noisy step, not x_0: the last step ends on x_0_hat, the mean of x_0 given x_t, whose distance from the
//! ODE's end depends only on that last noise, not on the number of steps.

use ddpm::config::Prediction;
use ddpm::diffusion::Schedule;
use ddpm::sample::{Process, Respaced, Step, Visit};
use ndarray::Array1;
use tch::Tensor;

use crate::gaussian::{Gaussian, Network, Responses, draws};
use crate::theory::Method;

/// Maximum number of steps.
const FINEST: usize = 320;
const COUNTS: [usize; 6] = [10, 20, 40, 80, 160, FINEST];

fn schedule() -> Schedule {
    let lambda = |t: usize| 2.5 - 5.0 * t as f64 / FINEST as f64;
    let alpha_bar = |t: usize| 1.0 / (1.0 + (-2.0 * lambda(t)).exp());
    let first = 1.0 - alpha_bar(0);
    let betas = (1..=FINEST).map(|t| 1.0 - alpha_bar(t) / alpha_bar(t - 1));
    Schedule::from_betas([first].into_iter().chain(betas).collect())
}

/// `count` even steps, and the one to x_0.
fn visited(schedule: &Schedule, count: usize) -> Respaced {
    let times = (0..=FINEST).rev().step_by(FINEST / count);
    Respaced::new(schedule, &Visit::List(times.collect())).unwrap()
}

/// signal² * spread + noise²: the variance of x_t along each eigenvector, at time step `t`.
fn variances(schedule: &Schedule, t: usize, data: &Gaussian) -> [f64; 4] {
    let alpha_bar = schedule.alphas_cumprod[t];
    data.spreads.map(|s| alpha_bar * s + 1.0 - alpha_bar)
}

/// log2 of the ratios of errors, each at half the step size of the one before.
fn slopes(name: &str, errors: &[f64]) -> Vec<f64> {
    let slopes: Vec<f64> = errors.windows(2).map(|e| (e[0] / e[1]).log2()).collect();
    eprintln!(
        "{name}: orders {slopes:.2?}, last error {:.1e}",
        errors[COUNTS.len() - 1]
    );
    slopes
}

/// Largest error of x_t at the last noise level, from the same x_T, against the probability-flow ODE, along which the
/// deviation of x_t from its mean, in each eigenvector, is proportional to the standard deviation of x_t.
fn ode_error(method: Method, count: usize) -> f64 {
    let (data, schedule) = (Gaussian::correlated(), schedule());
    let steps = visited(&schedule, count);
    let mut noise = draws(0, 8);
    let [start, end] = [FINEST, 0].map(|t| {
        let std = variances(&schedule, t, &data).map(f64::sqrt);
        (schedule.alphas_cumprod[t].sqrt(), Tensor::from_slice(&std))
    });
    let want = data.along_basis(&noise(0), start.0) * (&end.1 / &start.1);
    let mut error = f64::NAN;
    let mut on_step = |step: Step| {
        if step.done == count {
            let found = data.along_basis(step.x, end.0);
            error = (found - &want).abs().max().double_value(&[]);
        }
    };
    let sampler = method.sampler(&steps, &Array1::zeros(0));
    let chain = (&schedule, &steps);
    let _ = data.sample(chain, Prediction::Eps, &sampler, &mut noise, &mut on_step);
    error
}

#[test]
fn ode_solvers_have_their_order() {
    for (method, order) in [
        (Method::Ddim { eta: 0.0 }, 1.0),
        (Method::DpmSolver { sde: false }, 2.0),
        (Method::Heun, 2.0),
        // UniC-p raises the order to p + 1. For p = 3 the first step, of order 1 and corrected to 2, has an error of
        // O(h³), which is then the chain's order.
        (Method::UniPc { order: 1 }, 2.0),
        (Method::UniPc { order: 2 }, 3.0),
        (Method::UniPc { order: 3 }, 3.0),
    ] {
        let errors = COUNTS.map(|count| ode_error(method, count));
        assert_order(&format!("{method:?}"), &errors, order);
    }
}

fn assert_order(name: &str, errors: &[f64], order: f64) {
    let slopes = slopes(name, errors);
    // The first step sizes are too large for the leading term to dominate.
    for slope in &slopes[3..] {
        assert!(
            (slope - order).abs() < 0.1,
            "{name}: {slopes:?}, want {order}"
        );
    }
}

/// Largest errors for the reverse SDE, whose x_t is normal, at the last noise level: of the factor from x_T to
/// E[x_t | x_T], measured with zero noise, and of the variance of x_t if that of x_T is right.
fn sde_errors(method: Method, count: usize) -> (f64, f64) {
    let (data, schedule) = (Gaussian::correlated(), schedule());
    let steps = visited(&schedule, count);
    let sampler = method.sampler(&steps, &Array1::zeros(0));
    let found = Responses::of(&data, (&schedule, &steps), Prediction::Eps, &sampler);

    let [of_start, of_end] = [FINEST, 0].map(|t| variances(&schedule, t, &data));
    let decay = (schedule.alphas_cumprod[FINEST] / schedule.alphas_cumprod[0]).sqrt();
    let from_start = found.factors[count - 1][0];
    let mean = |k: usize| from_start[k] - decay * of_end[k] / of_start[k];
    let variance = |k: usize| found.variances(1, of_start)[k] - of_end[k];
    let largest = |errors: [f64; 4]| errors.into_iter().map(f64::abs).fold(0.0, f64::max);
    (
        largest(std::array::from_fn(mean)),
        largest(std::array::from_fn(variance)),
    )
}

/// Without fresh noise both follow E[x_t | x_T] exactly, at any step size: x_0_hat is constant on that path, since the
/// mean of E[x_0 | x_t] is E[x_0 | x_T].
#[test]
fn sde_solvers_have_the_exact_mean_and_their_order_in_variance() {
    for (method, order) in [
        (Method::Ddim { eta: 1.0 }, 1.0),
        // The change of x_0_hat that 2M extrapolates is noise here, exactly as much as a first-order step lacks.
        (Method::DpmSolver { sde: true }, 2.0),
    ] {
        let errors = COUNTS.map(|count| sde_errors(method, count));
        assert!(errors.iter().all(|(mean, _)| *mean < 1e-13), "{errors:?}");
        assert_order(
            &format!("{method:?}, variance"),
            &errors.map(|e| e.1),
            order,
        );
    }
}

/// Error at the last noise level with zero noise, for a moving x_0_hat: e^(lambda / 2), whatever x_t is. The SDE's
/// drift then has a closed-form integral:
/// `x_t = (noise / noise_s) e^-h x_s + signal * integral of 2 e^(-2 (lambda_t - lambda)) x_0_hat`.
fn drift_error(method: Method, count: usize) -> f64 {
    let schedule = schedule();
    let steps = visited(&schedule, count);
    let lambda = |t: i64| 2.5 - 5.0 * t as f64 / FINEST as f64;
    let denoiser =
        |x_t: &Tensor, t: &Tensor| x_t.zeros_like() + (lambda(t.int64_value(&[0])) / 2.0).exp();
    let process = Process {
        denoiser: &denoiser,
        steps: &steps,
        prediction: Prediction::X0,
        clip_x0: false,
        watch: ddpm::sample::Watch::default(),
    };
    let start = draws(1, 1)(0);
    let h = lambda(0) - lambda(FINEST as i64);
    let ((_, noise_start), (signal, noise)) =
        (steps.signal_and_noise(count), steps.signal_and_noise(0));
    let moved = (lambda(0) / 2.0).exp() - (-2.0 * h + lambda(FINEST as i64) / 2.0).exp();
    let want = &start * (noise / noise_start * (-h).exp()) + signal * 2.0 / 2.5 * moved;
    let mut error = f64::NAN;
    let mut on_step = |step: Step| {
        if step.done == count {
            error = (step.x - &want).abs().max().double_value(&[]);
        }
    };
    let mut silence = |_| start.zeros_like();
    let sampler = method.sampler(&steps, &Array1::zeros(0));
    let _ = sampler.run(&process, start.copy(), &mut silence, &mut on_step);
    error
}

#[test]
fn sde_solvers_have_their_order_where_x_0_hat_moves() {
    for (method, order) in [
        (Method::Ddim { eta: 1.0 }, 1.0),
        (Method::DpmSolver { sde: true }, 2.0),
    ] {
        let errors = COUNTS.map(|count| drift_error(method, count));
        assert_order(&format!("{method:?}, drift"), &errors, order);
    }
}
