//! The basis of every sampler: the network, the visited time steps, and the network's estimate at each.

use tch::{Kind, Tensor};

use super::watch::{NotFiniteAt, Watch};
use super::{Denoiser, Respaced};
use crate::config::{DiffusionConfig, Prediction};
use crate::device::ConvolutionSearch;

/// A reverse process: the network and the time steps that a sampler visits.
///
/// Samplers count the steps visited, `i` in `0..steps.len()`, 0 next to the image.
pub struct Process<'a> {
    /// The network.
    pub denoiser: &'a Denoiser<'a>,
    /// The visited time steps and their schedule.
    pub steps: &'a Respaced,
    /// The quantity that the network predicts.
    pub prediction: Prediction,
    /// Clips x_0_hat to [-1, 1] at each step. The original never clips; a barely trained network then drifts
    /// to saturated colours.
    pub clip_x0: bool,
    /// What [`Process::check_finite`] reads; new for each process.
    pub watch: Watch,
}

/// Returns the standard normal noise of a draw, `[N, C, H, W]`: 0 is x_T, then 1, 2, … in order of use.
pub type Noise<'a> = dyn FnMut(u64) -> Tensor + 'a;

/// A completed step, as reported by a sampler.
#[derive(Debug)]
pub struct Step<'a> {
    /// Steps done, 1 after the first.
    pub done: usize,
    /// The time step that the step started from.
    pub t: i64,
    /// Result of the step, `[N, C, H, W]`, not clipped.
    pub x: &'a Tensor,
    /// The network's estimate at `t`.
    pub estimate: &'a Estimate,
}

/// Called after each step.
pub type OnStep<'a> = dyn FnMut(Step) + 'a;

impl<'a> Process<'a> {
    /// The process of a network trained under `diffusion`.
    pub fn new(
        denoiser: &'a Denoiser<'a>,
        steps: &'a Respaced,
        diffusion: &DiffusionConfig,
        clip_x0: bool,
    ) -> Process<'a> {
        Process {
            denoiser,
            steps,
            prediction: diffusion.prediction,
            clip_x0,
            watch: Watch::default(),
        }
    }

    /// Reads, once for all evaluations since the last call, whether every output of the network and every result of a
    /// chain was finite. To be called before their images are used.
    ///
    /// # Errors
    /// The first time step with a value that is NaN or infinite.
    pub fn check_finite(&self) -> Result<(), NotFiniteAt> {
        self.watch.check()
    }

    /// Notes the result of a chain whose last step was at time step `t`.
    pub(super) fn watch_result(&self, t: i64, x: &Tensor) {
        self.watch.image(t, x);
    }

    /// Evaluates the network on `x_t`, `[N, C, H, W]`, at visited step `i`.
    pub fn estimate(&self, x_t: &Tensor, i: usize) -> Estimate {
        let size = x_t.size();
        let t = Tensor::full([size[0]], self.steps.times[i], (Kind::Int64, x_t.device()));
        let out = (self.denoiser)(x_t, &t);
        self.watch.output(self.steps.times[i], &out);
        let (signal, noise) = self.steps.signal_and_noise(i);
        let predicted = out.narrow(1, 0, size[1]);
        let v = (out.size()[1] > size[1]).then(|| out.narrow(1, size[1], size[1]));
        let estimate = Estimate {
            x_t: x_t.shallow_clone(),
            out: predicted,
            says: self.prediction,
            signal,
            noise,
            variance_place: v,
        };
        if self.clip_x0 {
            estimate.clipped()
        } else {
            estimate
        }
    }

    /// Runs a chain from `x_start` at the last visited step down to x_0, and returns that. `step` gets the estimate at
    /// visited step `i`, that `i` and the number of the step (1 for the first), and returns x at the visited step before.
    pub(super) fn run(
        &self,
        x_start: Tensor,
        on_step: &mut OnStep,
        mut step: impl FnMut(&Estimate, usize, u64) -> Tensor,
    ) -> Tensor {
        let _guard = tch::no_grad_guard();
        let _search = ConvolutionSearch::if_worth_it(self.steps.len());
        let mut x = x_start;
        for (done, i) in (1..).zip((0..self.steps.len()).rev()) {
            let estimate = self.estimate(&x, i);
            x = step(&estimate, i, done as u64);
            on_step(Step {
                done,
                t: self.steps.times[i],
                x: &x,
                estimate: &estimate,
            });
        }
        if let Some(&t) = self.steps.times.first() {
            self.watch_result(t, &x);
        }
        x
    }
}

impl std::fmt::Debug for Process<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Process")
            .field("steps", &self.steps)
            .field("prediction", &self.prediction)
            .field("clip_x0", &self.clip_x0)
            .finish_non_exhaustive()
    }
}

/// The network's estimate of x_0 and eps from `x_t = signal * x_0 + noise * eps`.
#[derive(Debug)]
pub struct Estimate {
    x_t: Tensor,
    out: Tensor,
    says: Prediction,
    signal: f64,
    noise: f64,
    variance_place: Option<Tensor>,
}

impl Estimate {
    /// `signal * x_0_hat + noise * eps_hat`: the same image at another noise level.
    ///
    /// All three predictions are linear in x_t, so this is `a * x_t + b * out`, without rounding an
    /// intermediate x_0_hat.
    ///
    /// # Shapes
    /// `[N, C, H, W]`, as x_t.
    pub fn at(&self, signal: f64, noise: f64) -> Tensor {
        let (s, n) = (self.signal, self.noise);
        let (of_x_t, of_out) = match self.says {
            Prediction::Eps => (signal / s, noise - signal * n / s),
            Prediction::X0 => (noise / n, signal - noise * s / n),
            Prediction::V => (signal * s + noise * n, noise * s - signal * n),
        };
        match (of_x_t == 0.0, of_out == 1.0) {
            (true, true) => self.out.shallow_clone(),
            (true, false) => &self.out * of_out,
            _ => &self.x_t * of_x_t + &self.out * of_out,
        }
    }

    /// The predicted image, `[N, C, H, W]`.
    pub fn x_0_hat(&self) -> Tensor {
        self.at(1.0, 0.0)
    }

    /// The predicted noise, `[N, C, H, W]`; if x_0_hat is clipped, the noise that then explains x_t.
    pub fn eps_hat(&self) -> Tensor {
        self.at(0.0, 1.0)
    }

    /// The learned variance (interpolation coefficient), `[N, C, H, W]`: -1 for the smallest to 1 for the largest;
    /// `None` if the variance is not learned.
    pub fn variance_place(&self) -> Option<&Tensor> {
        self.variance_place.as_ref()
    }

    fn clipped(self) -> Estimate {
        Estimate {
            out: self.x_0_hat().clamp(-1.0, 1.0),
            says: Prediction::X0,
            ..self
        }
    }
}
