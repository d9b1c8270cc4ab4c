//! Flags for samplers, shared by all commands that run a reverse process.

use anyhow::{Error, Result, anyhow};
use clap::Args;
use ndarray::Array1;

use super::foreign::SamplerHints;
use crate::config::{RunConfig, Sigma};
use crate::interop::Uses;
use crate::sample::{ChosenSampler, SamplerKind, SamplerOptions, Spacing, UnusedOption};

/// The sampler and its settings.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Sampler")]
pub(in crate::cli) struct SamplerArgs {
    /// Sampler [default: ddpm; dpmpp-2m where images are made larger]
    #[arg(long, value_enum)]
    sampler: Option<SamplerKind>,
    /// Reverse steps [default: T for ddpm, 50 for ddim and analytic, else 20]
    #[arg(long, value_name = "N")]
    steps: Option<usize>,
    /// Visit every K-th time step, counted from t = 0, instead of --steps; as Keras-DDPM does
    #[arg(
        long,
        value_name = "K",
        conflicts_with = "steps",
        hide_short_help = true
    )]
    stride: Option<usize>,
    /// Visit exactly these time steps, noisiest first, for example 999,749,499,249
    #[arg(long, value_name = "T,…", value_delimiter = ',', conflicts_with_all = ["steps", "stride"], hide_short_help = true)]
    times: Option<Vec<usize>>,
    /// Spacing of --steps [default: log-snr; trailing for ddpm, ddcm and analytic]
    #[arg(long, value_enum, conflicts_with_all = ["stride", "times"], hide_short_help = true)]
    spacing: Option<Spacing>,
    /// Noise of ddim and analytic, 0 (none) to 1 (as in ddpm) [default: 0 for ddim, 1 for analytic]
    #[arg(
        long,
        value_name = "ETA",
        allow_negative_numbers = true,
        hide_short_help = true
    )]
    eta: Option<f64>,
    /// Order of unipc, 1 to 3; 3 is for many steps [default: 2]
    #[arg(long, value_name = "ORDER", hide_short_help = true)]
    order: Option<usize>,
    /// Standard deviation of ddpm's reverse steps [default: the model's setting]
    #[arg(long, value_enum, hide_short_help = true)]
    sigma: Option<Sigma>,
    /// Clip the predicted x_0 to [-1, 1] at each step [default: the model's setting]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", require_equals = true, hide_possible_values = true, hide_short_help = true)]
    clip_x0: Option<bool>,
}

impl SamplerArgs {
    /// The flags that are also hints about foreign files.
    pub(in crate::cli) fn hints(&self) -> SamplerHints {
        SamplerHints::new(self.sigma, self.clip_x0)
    }

    /// What the sampler makes of a network's settings, for `default` if --sampler is not given.
    pub(in crate::cli) fn uses(&self, default: SamplerKind) -> Uses {
        let kind = self.sampler.unwrap_or(default);
        Uses {
            sigma: kind.takes_sigma(),
            ..Uses::PROCESS
        }
    }

    /// The sampler for a network of `config`, `default` if --sampler is not given; `measured` returns `E[eps_hat²]` at
    /// each time step, for analytic.
    ///
    /// # Errors
    /// Flags that contradict each other or the network.
    pub(in crate::cli) fn choose(
        &self,
        config: &RunConfig,
        default: SamplerKind,
        measured: impl FnOnce() -> Result<Array1<f64>>,
    ) -> Result<ChosenSampler> {
        let options = self.options(default);
        options.choose(config, measured).map_err(with_flags)
    }

    /// The choices as they were made, of `default` if --sampler is not given.
    pub(in crate::cli) fn options(&self, default: SamplerKind) -> SamplerOptions {
        SamplerOptions {
            kind: self.sampler.unwrap_or(default),
            steps: self.steps,
            spacing: self.spacing,
            stride: self.stride,
            times: self.times.clone(),
            eta: self.eta,
            order: self.order,
            sigma: self.sigma,
            clip_x0: self.clip_x0,
        }
    }
}

/// Names flags where the library names settings.
fn with_flags(error: Error) -> Error {
    match error.downcast_ref::<UnusedOption>() {
        Some(unused) => {
            let takers: Vec<String> = unused.takers.iter().map(|kind| kind.name()).collect();
            anyhow!(
                "--{} does nothing with --sampler {}; want --sampler {}",
                unused.setting,
                unused.kind.name(),
                takers.join(" or ")
            )
        }
        None => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Preset;
    use crate::sample::{Ddim, DpmSolver, Sampler, UniPc};
    use clap::{Parser, ValueEnum};

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        sampler: SamplerArgs,
    }

    fn choose(flags: &str, timesteps: i64) -> Result<ChosenSampler> {
        let words = ["ddpm"].into_iter().chain(flags.split_whitespace());
        let mut config = Preset::Celebahq128.config();
        config.diffusion.timesteps = timesteps;
        let measured = || Ok(Array1::from_elem(timesteps as usize, 0.9));
        Line::try_parse_from(words)?
            .sampler
            .choose(&config, SamplerKind::Ddpm, measured)
    }

    #[test]
    fn default_steps_of_a_sampler_are_at_most_t() {
        for kind in SamplerKind::value_variants() {
            let steps = |timesteps| {
                let flags = format!("--sampler {}", kind.name());
                choose(&flags, timesteps).unwrap().steps.len()
            };
            let wanted = kind.default_steps().unwrap_or(1000);
            assert_eq!((steps(1000), steps(12)), (wanted, 12), "{kind:?}");
        }
    }

    #[test]
    fn names_and_flags_choose_the_sampler() {
        let sampler = |flags: &str| choose(flags, 100).unwrap().sampler;
        let dpm_solver = |sde| Sampler::DpmSolver(DpmSolver { sde });
        assert_eq!(sampler("--sampler dpmpp-2m"), dpm_solver(false));
        assert_eq!(sampler("--sampler dpmpp-2m-sde"), dpm_solver(true));
        assert_eq!(sampler("--sampler heun"), Sampler::Heun);
        for (flags, order) in [("", 2), (" --order 1", 1), (" --order 3", 3)] {
            let wanted = Sampler::UniPc(UniPc::new(order).unwrap());
            assert_eq!(sampler(&format!("--sampler unipc{flags}")), wanted);
        }
        assert_eq!(
            sampler("--sampler ddim --eta 0.5"),
            Sampler::Ddim(Ddim::new(0.5).unwrap())
        );
    }

    #[test]
    fn a_flag_that_does_nothing_is_refused() {
        for (flags, said) in [
            (
                "--sampler heun --eta 0.5",
                "--eta does nothing with --sampler heun; want --sampler ddim or analytic",
            ),
            ("--eta 0", "--eta does nothing with --sampler ddpm"),
            (
                "--sampler dpmpp-2m-sde --eta 1",
                "--eta does nothing with --sampler dpmpp-2m-sde",
            ),
            (
                "--sampler unipc --sigma beta",
                "--sigma does nothing with --sampler unipc; want --sampler ddpm or ddcm",
            ),
            (
                "--sampler dpmpp-2m --order 2",
                "--order does nothing with --sampler dpmpp-2m; want --sampler unipc",
            ),
            ("--sampler unipc --order 4", "1, 2 or 3"),
            ("--spacing karras", "ddpm visits all time steps"),
            ("--sampler ddim --eta 1.5", "eta = 1.5"),
            ("--sampler heun --steps 101", "want 1 to 100"),
            ("--sigma learned", "learns no variances"),
        ] {
            let error = choose(flags, 100).unwrap_err().to_string();
            assert!(error.contains(said), "{flags}: {error}");
        }
    }
}
