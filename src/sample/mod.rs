//! Samplers: each a loop over x_t that sees the network as a function of (x_t, t).
//!
//! [`Respaced`] says which time steps are visited, [`Process`] asks the network there, [`Sampler`] is the choice of the
//! loop, [`sample_images`] runs it for images by number.

mod analytic;
mod codebook;
mod ddcm;
mod ddim;
mod ddpm;
mod dpm_solver;
mod heun;
mod images;
mod kind;
mod levels;
pub mod mixing;
mod noise;
mod options;
mod process;
mod repaint;
mod sampler;
mod unipc;

pub use analytic::{analytic, measure};
pub use codebook::Codebook;
pub use ddcm::{CodebookParts, ddcm_encode};
pub use ddim::{Ddim, ddim, ddim_invert};
pub use ddpm::{Ddpm, ddpm};
pub use dpm_solver::{DpmSolver, dpm_solver};
pub use heun::heun;
pub use images::{Images, StartFrom, sample_batch, sample_images};
pub use kind::SamplerKind;
pub use levels::{Respaced, Spacing, Steps};
pub use noise::{Choice, NoiseSource};
pub use options::{ChosenSampler, SamplerOptions, UnusedOption};
pub use process::{Estimate, Noise, OnStep, Process, Step};
pub use repaint::{Known, Resampling, repaint};
pub use sampler::Sampler;
pub use unipc::{UniPc, unipc};

use tch::Tensor;

/// A network: `(x_t [N, C, H, W], t [N] i64) -> out`, which is the prediction `[N, C, H, W]`, or that and the
/// place of its variance, `[N, 2C, H, W]`.
pub type Denoiser<'a> = dyn Fn(&Tensor, &Tensor) -> Tensor + 'a;
