//! What every sampler starts from: the network, the noise levels it visits, and what its output says there.

use tch::{Kind, Tensor};

use super::{Denoiser, Respaced};
use crate::config::{DiffusionConfig, Prediction};

/// A reverse process: the network and the time steps that a sampler leads it through.
///
/// Samplers count the steps visited, `i` in `0..levels.len()`, 0 next to the image.
pub struct Process<'a> {
    /// The network.
    pub denoiser: &'a Denoiser<'a>,
    /// The time steps visited, and the schedule that they make.
    pub levels: &'a Respaced,
    /// What the network predicts.
    pub prediction: Prediction,
    /// Clip the predicted x_0 to [-1, 1] at each step. The original never clips; a barely trained network
    /// then drifts to saturated colours.
    pub clip_x0: bool,
}

/// Gives the standard normal noise of a draw: 0 is x_T, then 1, 2, … in order of use.
pub type Noise<'a> = dyn FnMut(u64) -> Tensor + 'a;

/// What a sampler tells after each step.
#[derive(Debug)]
pub struct Step<'a> {
    /// Steps done, 1 after the first.
    pub done: usize,
    /// The time step that was left.
    pub t: i64,
    /// Where the step led, `[N, C, H, W]`, not clipped.
    pub x: &'a Tensor,
    /// What the network said at `t`.
    pub estimate: &'a Estimate,
}

/// Called after each step.
pub type OnStep<'a> = dyn FnMut(Step) + 'a;

impl<'a> Process<'a> {
    /// The process of a network trained under `diffusion`.
    pub fn new(
        denoiser: &'a Denoiser<'a>,
        levels: &'a Respaced,
        diffusion: &DiffusionConfig,
        clip_x0: bool,
    ) -> Process<'a> {
        Process {
            denoiser,
            levels,
            prediction: diffusion.prediction,
            clip_x0,
        }
    }

    /// Asks the network about `x_t`, `[N, C, H, W]`, at visited step `i`.
    pub fn estimate(&self, x_t: &Tensor, i: usize) -> Estimate {
        let size = x_t.size();
        let t = Tensor::full([size[0]], self.levels.times[i], (Kind::Int64, x_t.device()));
        let out = (self.denoiser)(x_t, &t);
        let (signal, noise) = self.levels.signal_and_noise(i);
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
}

impl std::fmt::Debug for Process<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Process")
            .field("levels", &self.levels)
            .field("prediction", &self.prediction)
            .field("clip_x0", &self.clip_x0)
            .finish_non_exhaustive()
    }
}

/// What the network says of `x_t = signal * x_0 + noise * eps`.
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
    /// All three predictions are linear in x_t, so this is `a * x_t + b * out`, without the rounding of a
    /// detour over x_0_hat.
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

    /// The predicted image.
    pub fn x_0_hat(&self) -> Tensor {
        self.at(1.0, 0.0)
    }

    /// The predicted noise; where x_0 is clipped, the noise that then explains x_t.
    pub fn eps_hat(&self) -> Tensor {
        self.at(0.0, 1.0)
    }

    /// Where the network places its variance, -1 for the least to 1 for the most, if it does.
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
