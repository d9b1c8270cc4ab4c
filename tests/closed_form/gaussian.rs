//! Gaussian data of four values, `[N, 1, 2, 2]`, and their optimal network.

use ddpm::config::Prediction;
use ddpm::diffusion::Schedule;
use ddpm::rng::{Stream, normal};
use ddpm::sample::{Noise, OnStep, Process, Respaced, Sampler};
use ndarray::Array1;
use tch::{Device, Kind, Tensor};

/// N(mean, basis diag(spreads) basis^T). With all spreads 0, the data are a single point.
pub(crate) struct Gaussian {
    /// `[4]`.
    pub(crate) mean: Tensor,
    /// `[4, 4]`, eigenvectors of the covariance in columns.
    pub(crate) basis: Tensor,
    /// Eigenvalues.
    pub(crate) spreads: [f64; 4],
}

impl Gaussian {
    /// Correlated values; eigenvalues from 0.1 to 0.8.
    pub(crate) fn correlated() -> Gaussian {
        let covariance = Tensor::from_slice2(&[
            [0.50, 0.20, -0.10, 0.05],
            [0.20, 0.40, 0.15, -0.05],
            [-0.10, 0.15, 0.60, 0.10],
            [0.05, -0.05, 0.10, 0.30],
        ]);
        let (eigenvalues, basis) = covariance.linalg_eigh("L");
        let eigenvalues = Vec::<f64>::try_from(eigenvalues).unwrap();
        assert!(eigenvalues[0] > 0.05, "{eigenvalues:?}");
        Gaussian {
            mean: Tensor::from_slice(&[0.3, -0.2, 0.1, 0.4]),
            basis,
            spreads: eigenvalues.try_into().unwrap(),
        }
    }

    /// A single point, the mean.
    pub(crate) fn point() -> Gaussian {
        Gaussian {
            spreads: [0.0; 4],
            ..Gaussian::correlated()
        }
    }

    /// E[eps_hat²] per value at each time step: along an eigenvector, `sqrt(1 - alpha_bar)` eps_hat is the fraction
    /// `(1 - alpha_bar) / variance` of x_t minus its mean.
    pub(crate) fn mean_sq_eps(&self, schedule: &Schedule) -> Array1<f64> {
        let at = |alpha_bar: &f64| {
            let share = |s: f64| (1.0 - alpha_bar) / (alpha_bar * s + 1.0 - alpha_bar);
            self.spreads.into_iter().map(share).sum::<f64>() / 4.0
        };
        schedule.alphas_cumprod.iter().map(at).collect()
    }

    /// Output of the optimal network at `alpha_bar` for x_t, `[N, 1, 2, 2]`.
    pub(crate) fn predict(&self, x_t: &Tensor, alpha_bar: f64, prediction: Prediction) -> Tensor {
        let (signal, noise) = (alpha_bar.sqrt(), (1.0 - alpha_bar).sqrt());
        let gain = |s: f64| signal * s / (alpha_bar * s + 1.0 - alpha_bar);
        let gains = Tensor::from_slice(&self.spreads.map(gain)).diag(0);
        let gains = self.basis.matmul(&gains).matmul(&self.basis.tr());
        let flat = x_t.view([-1, 4]);
        let x_0_hat = (&flat - &self.mean * signal).matmul(&gains) + &self.mean;
        let out = match prediction {
            Prediction::Eps => (flat - x_0_hat * signal) / noise,
            Prediction::X0 => x_0_hat,
            Prediction::V => (flat * signal - x_0_hat) / noise,
        };
        out.view_as(x_t)
    }

    /// x_t minus its mean, along the eigenvectors: `[N, 4]`.
    pub(crate) fn along_basis(&self, x_t: &Tensor, signal: f64) -> Tensor {
        (x_t.view([-1, 4]) - &self.mean * signal).matmul(&self.basis)
    }
}

impl Network for Gaussian {
    fn data(&self) -> &Gaussian {
        self
    }

    fn output(&self, x_t: &Tensor, _: i64, alpha_bar: f64, prediction: Prediction) -> Tensor {
        self.predict(x_t, alpha_bar, prediction)
    }
}

/// A network that is optimal for some data, or guided away from what it is.
pub(crate) trait Network {
    /// The data that its chains are measured by.
    fn data(&self) -> &Gaussian;

    /// Its output for x_t, `[N, 1, 2, 2]`, at time step `t`.
    fn output(&self, x_t: &Tensor, t: i64, alpha_bar: f64, prediction: Prediction) -> Tensor;

    /// Runs `sampler` over visited steps of `schedule`.
    fn sample(
        &self,
        (schedule, steps): (&Schedule, &Respaced),
        prediction: Prediction,
        sampler: &Sampler,
        noise: &mut Noise,
        on_step: &mut OnStep,
    ) -> Tensor {
        let denoiser = |x_t: &Tensor, t: &Tensor| {
            let t = t.int64_value(&[0]);
            self.output(x_t, t, schedule.alphas_cumprod[t as usize], prediction)
        };
        let process = Process {
            denoiser: &denoiser,
            steps,
            prediction,
            clip_x0: false,
            watch: ddpm::sample::Watch::default(),
        };
        let x_start = noise(0);
        sampler.run(&process, x_start, noise, on_step)
    }
}

/// Standard normal f64 noise of 4 values for `images`, in draws.
pub(crate) fn draws(seed: u64, images: i64) -> impl Fn(u64) -> Tensor {
    move |k| normal(seed, Stream::Sample, k, &[images, 1, 2, 2], Device::Cpu).to_kind(Kind::Double)
}

/// A sampler's response to each noise: it is linear on Gaussian data, so one unit of one noise at a time determines it.
pub(crate) struct Responses {
    /// After each step, along the eigenvectors: x_t minus its mean if all noises are 0, including x_T.
    pub(crate) silent: Vec<[f64; 4]>,
    /// After each step, for each noise from x_T on: the factor along each eigenvector.
    pub(crate) factors: Vec<Vec<[f64; 4]>>,
}

impl Responses {
    pub(crate) fn of(
        network: &impl Network,
        chain: (&Schedule, &Respaced),
        prediction: Prediction,
        sampler: &Sampler,
    ) -> Responses {
        let data = network.data();
        let sources = chain.1.len() as i64 + 1;
        // Image 0 gets no noise, image 1 + 4 j + k one unit of noise j along eigenvector k.
        let unit = |j: u64| {
            let all = Tensor::zeros([1 + 4 * sources, 4], (Kind::Double, Device::Cpu));
            all.narrow(0, 1 + 4 * j as i64, 4).copy_(&data.basis.tr());
            all.view([-1, 1, 2, 2])
        };
        let mut responses = Responses {
            silent: vec![],
            factors: vec![],
        };
        let mut on_step = |step: ddpm::sample::Step| {
            let (signal, _) = chain.1.signal_and_noise_prev(chain.1.len() - step.done);
            let along = data.along_basis(step.x, signal);
            responses.add(&along);
        };
        let _ = network.sample(chain, prediction, sampler, &mut { unit }, &mut on_step);
        responses
    }

    fn add(&mut self, along: &Tensor) {
        let rows: Vec<f64> = Vec::try_from(along.contiguous().view([-1])).unwrap();
        let silent: [f64; 4] = rows[..4].try_into().unwrap();
        let factors = rows[4..].chunks(16).map(|unit| {
            // Row k is the response to eigenvector k; it must vanish along the other eigenvectors.
            let at = |k: usize, l: usize| unit[4 * k + l] - silent[l];
            let cross = (0..16).filter(|n| n / 4 != n % 4);
            let worst = cross.map(|n| at(n / 4, n % 4).abs()).fold(0.0, f64::max);
            assert!(worst < 1e-9, "an eigenvector leads into another: {worst}");
            std::array::from_fn(|k| at(k, k))
        });
        self.factors.push(factors.collect());
        self.silent.push(silent);
    }

    /// Variance along each eigenvector after all steps but `before_end`, if x_T has the variances `start`.
    pub(crate) fn variances(&self, before_end: usize, start: [f64; 4]) -> [f64; 4] {
        let factors = &self.factors[self.factors.len() - 1 - before_end];
        let fresh = |k: usize| factors[1..].iter().map(|f| f[k].powi(2)).sum::<f64>();
        std::array::from_fn(|k| factors[0][k].powi(2) * start[k] + fresh(k))
    }
}
