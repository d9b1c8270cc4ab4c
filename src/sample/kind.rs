//! The samplers by name, and their defaults.

use clap::ValueEnum;

use super::Spacing;

/// The samplers by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum SamplerKind {
    /// Ancestral sampling, as the models were trained for; all T steps by default
    Ddpm,
    /// From no noise (--eta 0) to that of ddpm (--eta 1); 50 steps. Required for inversion and interpolation
    Ddim,
    /// DDIM with optimal variances, measured once by `ddpm calibrate`: images like ddpm's in 50 steps
    Analytic,
    /// DPM-Solver++(2M): the result of DDIM with ten times the steps, in 20 steps
    #[value(name = "dpmpp-2m")]
    DpmPp2m,
    /// DPM-Solver++(2M) with noise: more variety, corrects errors of the network; works best above 20 steps
    #[value(name = "dpmpp-2m-sde")]
    DpmPp2mSde,
    /// Heun's method, two evaluations per step: robust, and most accurate with many steps
    Heun,
    /// Predictor and corrector: like dpmpp-2m, but most accurate at few steps
    #[value(name = "unipc")]
    UniPc,
    /// ddpm with noise from codebooks, as in `ddpm decode`
    Ddcm,
}

impl SamplerKind {
    /// The name on the command line.
    pub fn name(self) -> String {
        self.to_possible_value()
            .map_or_else(String::new, |v| v.get_name().to_owned())
    }

    /// True if its noise is sigma of a network's settings; the others set theirs by other rules, or have none.
    pub fn takes_sigma(self) -> bool {
        matches!(self, SamplerKind::Ddpm | SamplerKind::Ddcm)
    }

    /// Default number of steps; `None` for all T.
    pub fn default_steps(self) -> Option<usize> {
        match self {
            SamplerKind::Ddpm | SamplerKind::Ddcm => None,
            SamplerKind::Ddim | SamplerKind::Analytic => Some(50),
            SamplerKind::DpmPp2m
            | SamplerKind::DpmPp2mSde
            | SamplerKind::Heun
            | SamplerKind::UniPc => Some(20),
        }
    }

    /// Default spacing of the steps: the best one measured (docs/sampling.md), or trailing where none was measured.
    pub fn default_spacing(self) -> Spacing {
        match self {
            SamplerKind::Ddpm | SamplerKind::Ddcm | SamplerKind::Analytic => Spacing::Trailing,
            SamplerKind::Ddim
            | SamplerKind::DpmPp2m
            | SamplerKind::DpmPp2mSde
            | SamplerKind::Heun
            | SamplerKind::UniPc => Spacing::LogSnr,
        }
    }
}
