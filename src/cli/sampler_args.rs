//! Flags about samplers, shared by all commands that lead pictures through a reverse process.

use anyhow::{Result, ensure};
use clap::Args;

use super::foreign_args::SamplerHints;
use super::network::Network;
use super::sampler_kind::SamplerKind;
use crate::config::{RunConfig, Sigma};
use crate::diffusion::Schedule;
use crate::sample::{
    Ddim, Ddpm, Denoiser, DpmSolver, Process, Respaced, Sampler, Spacing, Steps, UniPc, analytic,
};

/// How to sample.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Sampler")]
pub(super) struct SamplerArgs {
    /// Which sampler [default: ddpm, and ddim where latents are concerned]
    #[arg(long, value_enum)]
    sampler: Option<SamplerKind>,
    /// Reverse steps [default: all T for ddpm, 50 for ddim and analytic, 20 for the others]
    #[arg(long, value_name = "N")]
    steps: Option<usize>,
    /// Every K-th time step from t = 0 on, instead of --steps; Keras-DDPM's way
    #[arg(long, value_name = "K", conflicts_with = "steps")]
    stride: Option<usize>,
    /// The time steps themselves, the noisiest first: 999,749,499,249
    #[arg(long, value_name = "T,…", value_delimiter = ',', conflicts_with_all = ["steps", "stride"])]
    times: Option<Vec<usize>>,
    /// How --steps are spread [default: trailing]
    #[arg(long, value_enum, conflicts_with_all = ["stride", "times"])]
    spacing: Option<Spacing>,
    /// Noise of ddim and analytic, 0 (none) to 1 (as ddpm) [default: 0 for ddim, 1 for analytic]
    #[arg(long, value_name = "ETA", allow_negative_numbers = true)]
    eta: Option<f64>,
    /// Order of unipc, 1 to 3; 3 wants steps that are not too few [default: 2]
    #[arg(long, value_name = "ORDER")]
    order: Option<usize>,
    /// Noise of ddpm's steps [default: as the model's settings say]
    #[arg(long, value_enum)]
    sigma: Option<Sigma>,
    /// Clip the predicted x_0 to [-1, 1] at each step [default: as the model's settings say]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    clip_x0: Option<bool>,
}

/// What the flags chose, for one network.
#[derive(Debug)]
pub(super) struct ChosenSampler {
    pub(super) kind: SamplerKind,
    pub(super) sampler: Sampler,
    pub(super) levels: Respaced,
    pub(super) clip_x0: bool,
}

impl ChosenSampler {
    /// The reverse process of a network.
    pub(super) fn process<'a>(
        &'a self,
        denoiser: &'a Denoiser<'a>,
        network: &Network,
    ) -> Process<'a> {
        let diffusion = &network.meta.config.diffusion;
        Process::new(denoiser, &self.levels, diffusion, self.clip_x0)
    }
}

impl SamplerArgs {
    /// The hints for foreign files that these choices are.
    pub(super) fn hints(&self) -> SamplerHints {
        SamplerHints::new(self.sigma, self.clip_x0)
    }

    /// The choice for a network of `config`, `default` where no sampler is named; `measured` gives `E[eps_hat²]` at each
    /// time step, for analytic.
    ///
    /// # Errors
    /// Choices that contradict each other or the network.
    pub(super) fn choose(
        &self,
        config: &RunConfig,
        default: SamplerKind,
        measured: impl FnOnce() -> Result<Vec<f64>>,
    ) -> Result<ChosenSampler> {
        let kind = self.sampler.unwrap_or(default);
        self.refuse_unused(kind)?;
        let schedule = Schedule::new(&config.diffusion);
        let levels = Respaced::new(&schedule, &self.visited(kind, schedule.len()))?;
        Ok(ChosenSampler {
            kind,
            sampler: self.sampler(kind, config, &levels, measured)?,
            levels,
            clip_x0: self.clip_x0.unwrap_or(config.sample.clip_x0),
        })
    }

    fn sampler(
        &self,
        kind: SamplerKind,
        config: &RunConfig,
        levels: &Respaced,
        measured: impl FnOnce() -> Result<Vec<f64>>,
    ) -> Result<Sampler> {
        let last_noise = config.sample.last_noise;
        Ok(match kind {
            SamplerKind::Ddpm | SamplerKind::Ddcm => {
                let sigma = self.sigma.unwrap_or(config.sample.sigma);
                ensure!(
                    sigma != Sigma::Learned || config.model.learned_variance(),
                    "--sigma learned: this network places no variances; want beta or posterior"
                );
                Sampler::Ddpm(Ddpm { sigma, last_noise })
            }
            SamplerKind::Ddim => Sampler::Ddim(Ddim::new(self.eta.unwrap_or(0.0))?),
            SamplerKind::Analytic => {
                let eta = self.eta.unwrap_or(1.0);
                Sampler::Ddim(analytic(levels, &measured()?, eta, last_noise)?)
            }
            SamplerKind::DpmPp2m => Sampler::DpmSolver(DpmSolver { sde: false }),
            SamplerKind::DpmPp2mSde => Sampler::DpmSolver(DpmSolver { sde: true }),
            SamplerKind::Heun => Sampler::Heun,
            SamplerKind::UniPc => Sampler::UniPc(UniPc::new(self.order.unwrap_or(2))?),
        })
    }

    /// Which of `timesteps` time steps to visit.
    fn visited(&self, kind: SamplerKind, timesteps: usize) -> Steps {
        let spacing = self.spacing.unwrap_or(kind.default_spacing());
        match (self.steps, self.stride, &self.times) {
            (Some(steps), ..) => Steps::Count(steps, spacing),
            (_, Some(stride), _) => Steps::Stride(stride),
            (_, _, Some(times)) => Steps::List(times.clone()),
            _ => match kind.default_steps() {
                Some(steps) => Steps::Count(steps.min(timesteps), spacing),
                None => Steps::All,
            },
        }
    }

    /// Flags that the chosen sampler would pass over in silence.
    fn refuse_unused(&self, kind: SamplerKind) -> Result<()> {
        use SamplerKind::{Analytic, Ddcm, Ddim, Ddpm, UniPc};
        kind.refuse_unused("--eta", self.eta.is_some(), &[Ddim, Analytic])?;
        kind.refuse_unused("--sigma", self.sigma.is_some(), &[Ddpm, Ddcm])?;
        kind.refuse_unused("--order", self.order.is_some(), &[UniPc])?;
        ensure!(
            self.spacing.is_none() || self.steps.or(kind.default_steps()).is_some(),
            "--spacing: {} visits all time steps unless --steps says how many",
            kind.name()
        );
        Ok(())
    }
}
