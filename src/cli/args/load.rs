//! Flags for the network and the device, shared by all commands that run a network.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::Result;
use clap::Args;
use clap::builder::Resettable;

use super::compute::ComputeArgs;
use super::foreign::{ForeignArgs, SamplerHints};
use super::run::run_or_latest;
use crate::checkpoint::{Calibration, Weights};
use crate::cli::findings;
use crate::cli::findings::ours;
use crate::cli::out::{detail, say};
use crate::device::Chosen;
use crate::interop::Uses;
use crate::pretrained::Pretrained;
use crate::text;

/// A network and a device.
#[derive(Debug, Args)]
pub(in crate::cli) struct LoadArgs {
    /// Run folder, checkpoint, weights file, or any file that `import` accepts
    ///
    /// Of a run folder, the newest checkpoint is used; `latest` is the newest run in runs/.
    #[arg(index = 1, help_heading = Resettable::Reset, value_parser = run_or_latest())]
    pub(in crate::cli) checkpoint: PathBuf,
    /// Use the raw weights instead of their EMA
    #[arg(long, help_heading = Resettable::Reset)]
    pub(in crate::cli) raw: bool,
    #[command(flatten)]
    pub(in crate::cli) compute: ComputeArgs,
    // Last in the help, being rarely needed.
    #[command(flatten)]
    pub(in crate::cli) foreign: ForeignArgs,
}

impl LoadArgs {
    /// The weights that are asked for.
    pub(in crate::cli) fn which(&self) -> Weights {
        if self.raw { Weights::Raw } else { Weights::Ema }
    }

    /// The files that are read.
    pub(in crate::cli) fn files(&self) -> impl Iterator<Item = &PathBuf> {
        [&self.checkpoint].into_iter().chain(self.foreign.file())
    }

    /// The file of measurements that `ddpm calibrate` wrote for this checkpoint.
    ///
    /// # Errors
    /// There is no checkpoint.
    pub(in crate::cli) fn calibration_path(&self) -> Result<PathBuf> {
        let checkpoint = ours(&self.checkpoint)?.unwrap_or_else(|| self.checkpoint.clone());
        Ok(Calibration::path_beside(&checkpoint, self.which()))
    }

    /// Chooses a device, loads the network onto it and prints both; `uses` plays a part in what the command does.
    ///
    /// # Errors
    /// An unusable device or file, or missing hints about a foreign file.
    pub(in crate::cli) fn load(
        &self,
        hints: SamplerHints,
        uses: Uses,
    ) -> Result<(Pretrained, Chosen)> {
        self.load_onto(self.compute.choose()?, hints, uses)
    }

    /// As [`load`](LoadArgs::load), in full f32 unless --precision is given.
    ///
    /// # Errors
    /// As `load`.
    pub(in crate::cli) fn load_exact(
        &self,
        hints: SamplerHints,
        uses: Uses,
    ) -> Result<(Pretrained, Chosen)> {
        self.load_onto(self.compute.choose_exact()?, hints, uses)
    }

    fn load_onto(
        &self,
        chosen: Chosen,
        hints: SamplerHints,
        uses: Uses,
    ) -> Result<(Pretrained, Chosen)> {
        let network = self.load_as(&chosen, hints, uses, true)?;
        Ok((network, chosen))
    }

    /// As [`load`](LoadArgs::load), onto a device that is chosen already. Of the ranks of a group, one `tells` what it
    /// finds.
    ///
    /// # Errors
    /// As `load`.
    pub(in crate::cli) fn load_as(
        &self,
        chosen: &Chosen,
        hints: SamplerHints,
        uses: Uses,
        tells: bool,
    ) -> Result<Pretrained> {
        let started = Instant::now();
        let request = self.foreign.request(self.raw, hints, uses)?;
        let mut network = match tells {
            true => findings::load(&self.checkpoint, &request, chosen.device)?,
            false => Pretrained::load_with(&self.checkpoint, &request, chosen.device)?,
        };
        network.set_precision(chosen.precision);
        if tells {
            let (path, took) = (text::path(&network.path), started.elapsed().as_secs_f64());
            detail(&format!("read {path} in {took:.2} s"));
            detail(&format!("computing on {}", chosen.environment));
            let weights = weights_line(&network, self.which(), &self.checkpoint);
            say(&format!("{weights} on {}", chosen.description));
        }
        Ok(network)
    }
}

/// "EMA weights of step 1000" for our own files; other programs' files do not tell the step: "weights from FILE".
pub(in crate::cli) fn weights_line(network: &Pretrained, which: Weights, file: &Path) -> String {
    match (&network.report, network.meta.step) {
        (Some(_), _) | (None, 0) => format!("weights from {}", file.display()),
        (None, step) => format!("{which} weights of step {step}"),
    }
}
