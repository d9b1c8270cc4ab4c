//! The choice of a sampler.

use tch::Tensor;

use super::{
    Ddim, Ddpm, DpmSolver, Noise, OnStep, Process, UniPc, ddim, ddpm, dpm_solver, heun, unipc,
};

/// A sampler with its choices.
#[derive(Debug, Clone, PartialEq)]
pub enum Sampler {
    /// Ancestral sampling.
    Ddpm(Ddpm),
    /// DDIM, and Analytic-DPM, which is DDIM with other variances.
    Ddim(Ddim),
    /// DPM-Solver++(2M), with noise or without.
    DpmSolver(DpmSolver),
    /// Heun's method, two evaluations a step.
    Heun,
    /// UniPC.
    UniPc(UniPc),
}

impl Sampler {
    /// From `x_start` at the last visited step down to x_0, not clipped.
    ///
    /// # Shapes
    /// - `x_start`, and what `noise` gives: `[N, C, H, W]`; returns the same shape
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
