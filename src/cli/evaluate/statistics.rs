//! `ddpm evaluate statistics`.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::Args;

use super::features::FeatureArgs;
use super::ranks::Ranks;
use super::source::{Source, SourceArgs};
use crate::cli::args::run::run_or_latest;
use crate::cli::out;
use crate::cli::outputs::{ForceArg, Outputs};
use crate::device::Chosen;
use crate::evaluate::frechet;
use crate::evaluate::moments::Statistics;
use crate::evaluate::seen::{Keep, see};

/// Write the statistics of a set of images that FID needs, to compare many sets with it.
///
/// The .npz file holds `mu` and `sigma`, which pytorch-fid reads too, the number of images, the network, and the root of
/// sigma, which takes most of the time of a distance.
#[derive(Debug, Args)]
#[command(after_help = "Example:
  ddpm evaluate statistics photos --weights pt_inception-2015-12-05-6726825d.pth -o photos.npz")]
pub(in crate::cli) struct StatisticsCommand {
    /// Folder of images, run folder, checkpoint, or .npz of images
    #[arg(value_name = "IMAGES", value_parser = run_or_latest())]
    set: PathBuf,
    /// File to write
    #[arg(short, long, value_name = "FILE.npz")]
    out: PathBuf,
    #[command(flatten)]
    force: ForceArg,
    #[command(flatten)]
    features: FeatureArgs,
    #[command(flatten)]
    source: SourceArgs,
}

impl StatisticsCommand {
    pub(in crate::cli) fn run(&self) -> Result<()> {
        let check = || self.check_outputs();
        Ranks::run(
            &self.source.compute,
            self.source.group,
            check,
            |chosen, ranks| self.measure(chosen, ranks),
        )
    }

    fn check_outputs(&self) -> Result<()> {
        let mut outputs = Outputs::new(self.force);
        outputs.reads([&self.set].into_iter().chain(self.features.file()));
        outputs.writes("--out", &self.out, &["npz"], None);
        outputs.check()
    }

    fn measure(&self, chosen: &Chosen, ranks: &Ranks) -> Result<()> {
        let network = self.features.open(chosen.device)?;
        ranks.same("feature network", || self.features.fingerprint())?;
        let mut sources = self.source.open(&[&self.set], chosen)?;
        let source = sources.pop().context("a set of images")?;
        if let Source::Statistics(path, _) = &source {
            bail!("{} holds statistics already", path.display());
        }
        source.with_images(&self.source, ranks, |set| {
            let seen = see(set, &*network, Keep::default())?;
            if !ranks.leads() {
                return Ok(());
            }
            let root = frechet::sqrt(&seen.moments.cov)?;
            let statistics = Statistics {
                moments: seen.moments,
                features: Some(network.name()),
                sqrt_cov: Some(root),
            };
            statistics.write(&self.out)?;
            out::result(&format!(
                "statistics of {} by {} in {}",
                set.origin(),
                network.name(),
                self.out.display()
            ));
            Ok(())
        })
    }
}
