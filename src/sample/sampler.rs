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
    /// Evaluations of the network that this many reverse steps take.
    pub fn evaluations(&self, steps: usize) -> usize {
        match self {
            // The last step has one.
            Sampler::Heun => (2 * steps).saturating_sub(1),
            _ => steps,
        }
    }

    /// True if it adds no noise, so that its images are a function of x_T: with ever more steps, those of the
    /// probability-flow ODE.
    pub fn is_deterministic(&self) -> bool {
        match self {
            Sampler::Ddpm(_) => false,
            Sampler::Ddim(ddim) => ddim.eta == 0.0 && ddim.eps_variances.is_empty(),
            Sampler::DpmSolver(solver) => !solver.sde,
            Sampler::Heun | Sampler::UniPc(_) => true,
        }
    }

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

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use clap::ValueEnum;
    use ndarray::Array1;
    use tch::{Device, Kind};

    use super::*;
    use crate::config::Preset;
    use crate::sample::{SamplerKind, SamplerOptions};

    #[test]
    fn evaluations_and_noise_are_those_of_the_loops() {
        let config = Preset::Demo.config();
        for kind in SamplerKind::value_variants() {
            for steps in [1, 5] {
                let options = SamplerOptions {
                    steps: Some(steps),
                    ..SamplerOptions::new(*kind)
                };
                let measured = || Ok(Array1::from_elem(config.diffusion.timesteps as usize, 0.9));
                let chosen = options.choose(&config, measured).unwrap();
                let (evaluations, drawn) = (Cell::new(0), Cell::new(false));
                let denoiser = |x: &Tensor, _: &Tensor| {
                    evaluations.set(evaluations.get() + 1);
                    x * 0.5
                };
                let process = chosen.process(&denoiser, &config.diffusion);
                let x = Tensor::ones([1, 3, 2, 2], (Kind::Float, Device::Cpu));
                let mut noise = |_| {
                    drawn.set(true);
                    x.zeros_like()
                };
                let sampler = &chosen.sampler;
                drop(sampler.run(&process, x.copy(), &mut noise, &mut |_| ()));
                assert_eq!(sampler.evaluations(steps), evaluations.get(), "{kind:?}");
                // The only step of some samplers adds none.
                if steps > 1 {
                    assert_eq!(sampler.is_deterministic(), !drawn.get(), "{kind:?}");
                }
            }
        }
    }
}
