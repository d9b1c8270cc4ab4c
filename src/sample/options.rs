//! From the choices of a user to a sampler and the steps it visits, for one network.

use anyhow::{Result, ensure};
use ndarray::Array1;

use super::{
    Ddim, Ddpm, Denoiser, DpmSolver, Process, Respaced, Sampler, SamplerKind, Spacing, UniPc,
    Visit, analytic,
};
use crate::config::{DiffusionConfig, RunConfig, Sigma};
use crate::diffusion::Schedule;

/// Choices of a sampler; what is `None` is the kind's default, or what the network's settings say.
#[derive(Debug, Clone, PartialEq)]
pub struct SamplerOptions {
    /// The sampler.
    pub kind: SamplerKind,
    /// Reverse steps, 1 to T.
    pub steps: Option<usize>,
    /// How `steps` are spread over the time steps.
    pub spacing: Option<Spacing>,
    /// Every k-th time step, from 0, instead of `steps`.
    pub stride: Option<usize>,
    /// The time steps themselves, the noisiest first, instead of `steps`.
    pub times: Option<Vec<usize>>,
    /// Noise of ddim and analytic, 0 (none) to 1 (as ddpm).
    pub eta: Option<f64>,
    /// Order of unipc, 1 to 3.
    pub order: Option<usize>,
    /// Noise of the reverse steps of ddpm and ddcm.
    pub sigma: Option<Sigma>,
    /// Clip the predicted x_0 to [-1, 1] at each step.
    pub clip_x0: Option<bool>,
}

/// A choice that the sampler has no use for.
#[derive(Debug, thiserror::Error)]
#[error("{setting}: {} has none; expected the sampler {}", kind.name(), names(takers).join(" or "))]
pub struct UnusedOption {
    /// The choice.
    pub setting: &'static str,
    /// The sampler.
    pub kind: SamplerKind,
    /// Samplers that have it.
    pub takers: Vec<SamplerKind>,
}

fn names(kinds: &[SamplerKind]) -> Vec<String> {
    kinds.iter().map(|kind| kind.name()).collect()
}

/// A sampler and the steps it visits, chosen for one network.
#[derive(Debug)]
pub struct ChosenSampler {
    /// Its name.
    pub kind: SamplerKind,
    /// The sampler with its choices.
    pub sampler: Sampler,
    /// The time steps visited.
    pub steps: Respaced,
    /// Whether the predicted x_0 is clipped to [-1, 1] at each step.
    pub clip_x0: bool,
}

impl ChosenSampler {
    /// The reverse process of a network that was trained under `diffusion`.
    pub fn process<'a>(
        &'a self,
        denoiser: &'a Denoiser<'a>,
        diffusion: &DiffusionConfig,
    ) -> Process<'a> {
        Process::new(denoiser, &self.steps, diffusion, self.clip_x0)
    }
}

impl SamplerOptions {
    /// A sampler with all its defaults.
    pub fn new(kind: SamplerKind) -> SamplerOptions {
        SamplerOptions {
            kind,
            steps: None,
            spacing: None,
            stride: None,
            times: None,
            eta: None,
            order: None,
            sigma: None,
            clip_x0: None,
        }
    }

    /// The choice for a network of `config`; `measured` gives `E[eps_hat²]` at each time step, for analytic.
    ///
    /// # Errors
    /// Choices that contradict each other or the network, [`UnusedOption`] among them.
    pub fn choose(
        &self,
        config: &RunConfig,
        measured: impl FnOnce() -> Result<Array1<f64>>,
    ) -> Result<ChosenSampler> {
        self.refuse_unused()?;
        let schedule = Schedule::new(&config.diffusion);
        let steps = Respaced::new(&schedule, &self.visited(schedule.len()))?;
        Ok(ChosenSampler {
            kind: self.kind,
            sampler: self.sampler(config, &steps, measured)?,
            steps,
            clip_x0: self.clip_x0.unwrap_or(config.sample.clip_x0),
        })
    }

    fn sampler(
        &self,
        config: &RunConfig,
        steps: &Respaced,
        measured: impl FnOnce() -> Result<Array1<f64>>,
    ) -> Result<Sampler> {
        let last_noise = config.sample.last_noise;
        Ok(match self.kind {
            SamplerKind::Ddpm | SamplerKind::Ddcm => {
                let sigma = self.sigma.unwrap_or(config.sample.sigma);
                ensure!(
                    sigma != Sigma::Learned || config.model.learned_variance(),
                    "`sampler.sigma` = learned: this network learns no variances; expected beta or posterior"
                );
                Sampler::Ddpm(Ddpm { sigma, last_noise })
            }
            SamplerKind::Ddim => Sampler::Ddim(Ddim::new(self.eta.unwrap_or(0.0))?),
            SamplerKind::Analytic => {
                let eta = self.eta.unwrap_or(1.0);
                Sampler::Ddim(analytic(steps, &measured()?, eta, last_noise)?)
            }
            SamplerKind::DpmPp2m => Sampler::DpmSolver(DpmSolver { sde: false }),
            SamplerKind::DpmPp2mSde => Sampler::DpmSolver(DpmSolver { sde: true }),
            SamplerKind::Heun => Sampler::Heun,
            SamplerKind::UniPc => Sampler::UniPc(UniPc::new(self.order.unwrap_or(2))?),
        })
    }

    /// Which of `timesteps` time steps to visit.
    fn visited(&self, timesteps: usize) -> Visit {
        let spacing = self.spacing.unwrap_or(self.kind.default_spacing());
        match (self.steps, self.stride, &self.times) {
            (Some(steps), ..) => Visit::Count(steps, spacing),
            (_, Some(stride), _) => Visit::Stride(stride),
            (_, _, Some(times)) => Visit::List(times.clone()),
            _ => match self.kind.default_steps() {
                Some(steps) => Visit::Count(steps.min(timesteps), spacing),
                None => Visit::All,
            },
        }
    }

    /// Choices that the sampler would pass over in silence.
    fn refuse_unused(&self) -> Result<()> {
        use SamplerKind::{Analytic, Ddcm, Ddim, Ddpm, UniPc};
        let choices: [(&str, bool, &[SamplerKind]); 3] = [
            ("eta", self.eta.is_some(), &[Ddim, Analytic]),
            ("sigma", self.sigma.is_some(), &[Ddpm, Ddcm]),
            ("order", self.order.is_some(), &[UniPc]),
        ];
        for (setting, given, takers) in choices {
            if given && !takers.contains(&self.kind) {
                let (kind, takers) = (self.kind, takers.to_vec());
                return Err(UnusedOption {
                    setting,
                    kind,
                    takers,
                }
                .into());
            }
        }
        let lists = [
            self.steps.is_some(),
            self.stride.is_some(),
            self.times.is_some(),
        ];
        ensure!(
            lists.iter().filter(|given| **given).count() <= 1,
            "steps, stride and times each say which time steps to visit; give one of them"
        );
        ensure!(
            self.spacing.is_none() || (self.stride.is_none() && self.times.is_none()),
            "`sampler.spacing` spreads a number of steps, and stride or times name them; leave one out"
        );
        ensure!(
            self.spacing.is_none() || self.steps.or(self.kind.default_steps()).is_some(),
            "`sampler.spacing`: {} visits all time steps unless a number of steps is given",
            self.kind.name()
        );
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Preset;

    #[test]
    fn time_steps_are_said_in_one_way() {
        let refused = |change: fn(&mut SamplerOptions)| {
            let mut options = SamplerOptions::new(SamplerKind::Ddim);
            options.stride = Some(10);
            change(&mut options);
            let chosen = options.choose(&Preset::Demo.config(), || Ok(Array1::zeros(0)));
            chosen.map(|c| c.steps.len()).map_err(|e| e.to_string())
        };
        assert_eq!(refused(|_| ()), Ok(25));
        let both = refused(|o| o.steps = Some(5)).unwrap_err();
        assert!(both.contains("give one of them"), "{both}");
        let spacing = refused(|o| o.spacing = Some(Spacing::Karras)).unwrap_err();
        assert!(spacing.contains("leave one out"), "{spacing}");
    }
}
