//! Flags that say which network to use, and where: shared by all commands that use one.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;

use super::compute::ComputeArgs;
use super::foreign::{ForeignArgs, SamplerHints};
use crate::checkpoint::{Calibration, Which};
use crate::cli::findings;
use crate::cli::findings::ours;
use crate::device::Chosen;
use crate::pretrained::Pretrained;

/// A network and the place to compute.
#[derive(Debug, Args)]
pub(in crate::cli) struct LoadArgs {
    /// Checkpoint, weights file, run folder (its newest checkpoint), or anything that `import` takes
    pub(in crate::cli) checkpoint: PathBuf,
    /// Raw weights instead of their average
    #[arg(long)]
    pub(in crate::cli) raw: bool,
    #[command(flatten)]
    pub(in crate::cli) foreign: ForeignArgs,
    #[command(flatten)]
    pub(in crate::cli) compute: ComputeArgs,
}

impl LoadArgs {
    /// Which weights are asked for.
    pub(in crate::cli) fn which(&self) -> Which {
        if self.raw { Which::Raw } else { Which::Ema }
    }

    /// The file with what `ddpm calibrate` measured of this checkpoint.
    ///
    /// # Errors
    /// No checkpoint where it should be.
    pub(in crate::cli) fn calibration_path(&self) -> Result<PathBuf> {
        let checkpoint = ours(&self.checkpoint)?.unwrap_or_else(|| self.checkpoint.clone());
        Ok(Calibration::path_beside(&checkpoint, self.which()))
    }

    /// Chooses a device, loads the network onto it and says so.
    ///
    /// # Errors
    /// An unusable device or file, or answers that a foreign file needs.
    pub(in crate::cli) fn load(&self, hints: SamplerHints) -> Result<(Pretrained, Chosen)> {
        self.load_onto(self.compute.choose()?, hints)
    }

    /// As [`load`](LoadArgs::load), with full f32 where the precision is left open.
    ///
    /// # Errors
    /// As `load`.
    pub(in crate::cli) fn load_exact(&self, hints: SamplerHints) -> Result<(Pretrained, Chosen)> {
        self.load_onto(self.compute.choose_exact()?, hints)
    }

    fn load_onto(&self, chosen: Chosen, hints: SamplerHints) -> Result<(Pretrained, Chosen)> {
        let request = self.foreign.request(self.raw, hints)?;
        let mut network = findings::load(&self.checkpoint, &request, chosen.device)?;
        network.set_precision(chosen.precision);
        eprintln!(
            "{} weights of step {} on {}",
            self.which(),
            network.meta.step,
            chosen.description
        );
        Ok((network, chosen))
    }
}
