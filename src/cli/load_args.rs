//! Flags that say which network to use, and where: shared by all commands that use one.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args;

use super::compute::ComputeArgs;
use super::foreign_args::{ForeignArgs, SamplerHints};
use super::network::{Network, ours};
use crate::checkpoint::{Calibration, Which};
use crate::device::Chosen;

/// A network and the place to compute.
#[derive(Debug, Args)]
pub(super) struct LoadArgs {
    /// Checkpoint, weights file, run folder (its newest checkpoint), or anything that `import` takes
    pub(super) checkpoint: PathBuf,
    /// Raw weights instead of their average
    #[arg(long)]
    pub(super) raw: bool,
    #[command(flatten)]
    pub(super) foreign: ForeignArgs,
    #[command(flatten)]
    pub(super) compute: ComputeArgs,
}

impl LoadArgs {
    /// Which weights are asked for.
    pub(super) fn which(&self) -> Which {
        if self.raw { Which::Raw } else { Which::Ema }
    }

    /// The file with what `ddpm calibrate` measured of this checkpoint.
    ///
    /// # Errors
    /// No checkpoint where it should be.
    pub(super) fn calibration_path(&self) -> Result<PathBuf> {
        let checkpoint = ours(&self.checkpoint)?.unwrap_or_else(|| self.checkpoint.clone());
        Ok(Calibration::path_beside(&checkpoint, self.which()))
    }

    /// `E[eps_hat²]` at each time step, from the file beside the checkpoint.
    ///
    /// # Errors
    /// No such file, or one of another network.
    pub(super) fn measured(&self, network: &Network) -> Result<Vec<f64>> {
        let path = self.calibration_path()?;
        let timesteps = network.meta.config.diffusion.timesteps as usize;
        let found = Calibration::read(&path, &network.fingerprint()?, timesteps);
        let found = found.with_context(|| {
            let checkpoint = self.checkpoint.display();
            format!(
                "--sampler analytic wants measurements; make them with: ddpm calibrate {checkpoint} --data DIR"
            )
        })?;
        Ok(found.mean_sq_eps)
    }

    /// Chooses a device, loads the network onto it and says so.
    ///
    /// # Errors
    /// An unusable device or file, or answers that a foreign file needs.
    pub(super) fn load(&self, hints: SamplerHints) -> Result<(Network, Chosen)> {
        self.load_onto(self.compute.choose()?, hints)
    }

    /// As [`load`](LoadArgs::load), with full f32 where the precision is left open.
    ///
    /// # Errors
    /// As `load`.
    pub(super) fn load_exact(&self, hints: SamplerHints) -> Result<(Network, Chosen)> {
        self.load_onto(self.compute.choose_exact()?, hints)
    }

    fn load_onto(&self, chosen: Chosen, hints: SamplerHints) -> Result<(Network, Chosen)> {
        let request = self.foreign.request(self.raw, hints)?;
        let mut network = Network::load(&self.checkpoint, &request, chosen.device)?;
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
