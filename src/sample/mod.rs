//! Samplers: loops over x_t that see the network as a function of (x_t, t).
//!
//! [`Respaced`] holds the visited time steps, [`Process`] evaluates the network there, [`Sampler`] is the chosen loop,
//! and [`sample_images`] runs it for numbered images.

mod analytic;
mod classes;
mod codebook;
mod ddcm;
mod ddim;
mod ddpm;
mod dpm_solver;
mod giving_up;
mod guidance;
mod heun;
mod images;
mod kind;
pub mod mixing;
mod noise;
mod options;
mod process;
mod repaint;
mod sampler;
mod steps;
mod tiles;
mod unipc;
mod watch;

pub use analytic::{analytic, measure};
pub use classes::{Classes, batch_labels};
pub use codebook::Codebook;
pub use ddcm::{CodebookParts, ddcm_encode};
pub use ddim::{Ddim, ddim, ddim_invert};
pub use ddpm::{Ddpm, ddpm};
pub use dpm_solver::{DpmSolver, dpm_solver};
pub use giving_up::{give_up, unless_given_up};
pub use guidance::{Guidance, time_step};
pub use heun::heun;
pub use images::{Images, StartFrom, sample_batch, sample_images};
pub use kind::SamplerKind;
pub use noise::{Choice, NoiseSource};
pub use options::{ChosenSampler, SamplerOptions, UnusedOption};
pub use process::{Estimate, Noise, OnStep, Process, Step};
pub use repaint::{Inpaint, Resampling, repaint};
pub use sampler::Sampler;
pub use steps::{Respaced, Spacing, Visit};
pub use tiles::Tiles;
pub use unipc::{UniPc, unipc};
pub use watch::{NotFiniteAt, Watch};

use tch::Tensor;

/// A network: `(x_t [N, C, H, W], t [N] i64) -> out`, which is the prediction, `[N, C, H, W]` f32, or the prediction
/// and the learned variance (interpolation coefficient), `[N, 2C, H, W]`.
pub type Denoiser<'a> = dyn Fn(&Tensor, &Tensor) -> Tensor + 'a;
