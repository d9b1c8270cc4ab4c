//! The samplers by name: what each is for, and its defaults.

use clap::ValueEnum;

use super::Spacing;

/// The samplers by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum SamplerKind {
    /// Ancestral sampling, what the models were made for; all T steps unless told otherwise
    Ddpm,
    /// No noise (--eta 0) up to as much as ddpm (--eta 1); 50 steps. The one to invert and to interpolate with
    Ddim,
    /// Optimal variances, measured once by `ddpm calibrate`: ddpm's kind of images in 50 steps
    Analytic,
    /// DPM-Solver++(2M): DDIM's images in 20 steps, its aim with ten times as many
    #[value(name = "dpmpp-2m")]
    DpmPp2m,
    /// DPM-Solver++(2M) with noise: for variety, and to forgive a network's errors; likes more than 20 steps
    #[value(name = "dpmpp-2m-sde")]
    DpmPp2mSde,
    /// Two evaluations a step: steady, and the exactest with many steps
    Heun,
    /// Predictor and corrector: as dpmpp-2m, the exacter the fewer steps
    #[value(name = "unipc")]
    UniPc,
    /// ddpm with noise from codebooks, as `ddpm decode` runs it
    Ddcm,
}

impl SamplerKind {
    /// The name on the command line.
    pub fn name(self) -> String {
        self.to_possible_value()
            .map_or_else(String::new, |v| v.get_name().to_owned())
    }

    /// How many steps, if not all.
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

    /// How they are spread: what measured best (docs/sampling.md), and trailing where that was not measured.
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
