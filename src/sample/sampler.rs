//! A sampler chosen at run time.

use tch::Tensor;

use super::{
    Ddim, Ddpm, DpmSolver, Noise, OnStep, Process, UniPc, ddim, ddpm, dpm_solver, heun, unipc,
};

/// A sampler with its options.
#[derive(Debug, Clone, PartialEq)]
pub enum Sampler {
    /// Ancestral sampling.
    Ddpm(Ddpm),
    /// DDIM; also Analytic-DPM, which is DDIM with other variances.
    Ddim(Ddim),
    /// DPM-Solver++(2M), with or without noise.
    DpmSolver(DpmSolver),
    /// Heun's method, two evaluations per step.
    Heun,
    /// UniPC.
    UniPc(UniPc),
}

impl Sampler {
    /// Samples from `x_start` at the noisiest visited step to x_0, not clipped.
    ///
    /// # Shapes
    /// - `x_start` and results of `noise`: `[N, C, H, W]`; returns the same shape
    pub fn run(
        &self,
        process: &Process,
        x_start: Tensor,
        noise: &mut Noise,
        on_step: &mut OnStep,
    ) -> Tensor {
        match self {
            Sampler::Ddpm(options) => ddpm(process, *options, x_start, noise, on_step),
            Sampler::Ddim(options) => ddim(process, options, x_start, noise, on_step),
            Sampler::DpmSolver(options) => dpm_solver(process, *options, x_start, noise, on_step),
            Sampler::Heun => heun(process, x_start, on_step),
            Sampler::UniPc(options) => unipc(process, *options, x_start, on_step),
        }
    }
}
