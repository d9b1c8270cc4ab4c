//! Analytic-DPM: its variances against those of the true reverse steps, and the results of `measure`.

use ddpm::config::Prediction;
use ddpm::diffusion::Schedule;
use ddpm::rng::{Stream, normal};
use ddpm::sample::{Process, Respaced, Spacing, Visit, analytic, measure};
use ndarray::Array1;
use tch::{Device, Kind, Tensor};

use crate::gaussian::Gaussian;
use crate::linear;

fn schedule() -> Schedule {
    Schedule::new(&linear(200, Prediction::Eps))
}

/// The noise that the step from visited step `i` adds: the effect of one unit of it.
fn sigma(steps: &Respaced, mean_sq_eps: &Array1<f64>, eta: f64, i: usize) -> f64 {
    let sampler = analytic(steps, mean_sq_eps, eta, true).unwrap();
    let denoiser = |x_t: &Tensor, _: &Tensor| x_t.zeros_like();
    let process = Process {
        denoiser: &denoiser,
        steps,
        prediction: Prediction::Eps,
        clip_x0: false,
        watch: ddpm::sample::Watch::default(),
    };
    let zeros = || Tensor::zeros([1, 1, 1, 1], (Kind::Double, Device::Cpu));
    let estimate = process.estimate(&zeros(), i);
    sampler
        .step(steps, &estimate, i, || zeros() + 1.0)
        .double_value(&[0, 0, 0, 0])
}

/// With eta = 1 the optimal scalar variance is the mean of the diagonal of Cov[x_prev | x_t], which for Gaussian data
/// follows from the joint distribution of x_prev and x_t.
///
/// Source: Bao et al. 2022, theorem 1
#[test]
fn the_variance_of_each_step_is_the_mean_posterior_variance() {
    let (data, schedule) = (Gaussian::correlated(), schedule());
    for visit in [Visit::All, Visit::Count(7, Spacing::Trailing)] {
        let steps = Respaced::new(&schedule, &visit).unwrap();
        for i in 0..steps.len() {
            let (alpha_bar, prev) = (
                steps.schedule.alphas_cumprod[i],
                steps.schedule.alpha_bar_prev(i),
            );
            let posterior = |s: f64| {
                let of_prev = prev * s + 1.0 - prev;
                let of_x_t = alpha_bar * s + 1.0 - alpha_bar;
                of_prev - alpha_bar / prev * of_prev.powi(2) / of_x_t
            };
            let want = data.spreads.into_iter().map(posterior).sum::<f64>() / 4.0;
            let found = sigma(&steps, &data.mean_sq_eps(&schedule), 1.0, i).powi(2);
            assert!(
                (found / want - 1.0).abs() < 1e-9,
                "step {i} of {}: {found}, want {want}",
                steps.len()
            );
        }
    }
}

/// 80,000 images per time step, each noised anew.
#[test]
fn what_is_measured_is_the_mean_square_of_eps_hat() {
    let (data, schedule) = (Gaussian::correlated(), schedule());
    let steps = Respaced::new(&schedule, &Visit::List(vec![199, 120, 60, 25, 8, 0])).unwrap();
    let (batches, batch) = (4, 20_000);
    let draw = |stream, k| normal(7, stream, k, &[batch, 4], Device::Cpu).to_kind(Kind::Double);
    let stds = Tensor::from_slice(&data.spreads.map(f64::sqrt));
    let mut images = |k| {
        let x_0 = (draw(Stream::Data, k) * &stds).matmul(&data.basis.tr()) + &data.mean;
        Ok(x_0.view([-1, 1, 2, 2]))
    };
    let mut noise = |k| draw(Stream::Noise, k).view([-1, 1, 2, 2]);
    let denoiser = |x_t: &Tensor, t: &Tensor| {
        let alpha_bar = schedule.alphas_cumprod[t.int64_value(&[0]) as usize];
        data.predict(x_t, alpha_bar, Prediction::Eps)
    };
    let process = Process {
        denoiser: &denoiser,
        steps: &steps,
        prediction: Prediction::Eps,
        clip_x0: false,
        watch: ddpm::sample::Watch::default(),
    };
    let mut asked = 0;
    let found = measure(&process, batches, &mut images, &mut noise, &mut || {
        asked += 1
    });
    let found = found.unwrap();
    assert_eq!(asked, batches as usize * steps.len());
    let known = data.mean_sq_eps(&schedule);
    for (found, t) in found.iter().zip(&steps.times) {
        let (want, alpha_bar) = (known[*t as usize], schedule.alphas_cumprod[*t as usize]);
        // Along each eigenvector eps_hat² is chi-square distributed: its variance is twice its mean, squared.
        let mean_sq = |s: f64| (1.0 - alpha_bar) / (alpha_bar * s + 1.0 - alpha_bar);
        let variance = data
            .spreads
            .into_iter()
            .map(|s| 2.0 * mean_sq(s).powi(2))
            .sum::<f64>()
            / 16.0;
        let error = (variance / (batches as f64 * batch as f64)).sqrt();
        assert!(
            (found - want).abs() < 4.0 * error,
            "t = {t}: {found}, want {want} ± {error}"
        );
    }
}
