//! `ddpm evaluate`: measures of a network and of its images.

mod bpd;
mod duplicates;
pub(in crate::cli) mod features;
mod fid;
pub(in crate::cli) mod images;
mod looks;
mod loss;
mod neighbours;
mod psnr;
mod ranks;
pub(in crate::cli) mod source;
mod statistics;
mod swd;
pub(super) mod table;
pub(in crate::cli) mod trained_on;

use anyhow::Result;
use clap::{Args, Subcommand};

/// Measure how good a network is, or how near its images are to others.
#[derive(Debug, Args)]
pub(super) struct EvaluateCommand {
    #[command(subcommand)]
    measure: Measure,
}

#[derive(Debug, Subcommand)]
enum Measure {
    Bpd(Box<bpd::BpdCommand>),
    Loss(Box<loss::LossCommand>),
    Psnr(Box<psnr::PsnrCommand>),
    Fid(Box<fid::FidCommand>),
    Statistics(Box<statistics::StatisticsCommand>),
    Swd(Box<swd::SwdCommand>),
    Neighbours(Box<neighbours::NeighboursCommand>),
    Duplicates(duplicates::DuplicatesCommand),
}

impl EvaluateCommand {
    /// True if several ranks can share the work.
    pub(super) fn is_shared(&self) -> bool {
        // To decode the folder is nearly all of its work, and every rank would have to.
        !matches!(self.measure, Measure::Duplicates(_))
    }

    pub(super) fn run(&self) -> Result<()> {
        match &self.measure {
            Measure::Bpd(command) => command.run(),
            Measure::Loss(command) => command.run(),
            Measure::Psnr(command) => command.run(),
            Measure::Fid(command) => command.run(),
            Measure::Statistics(command) => command.run(),
            Measure::Swd(command) => command.run(),
            Measure::Neighbours(command) => command.run(),
            Measure::Duplicates(command) => command.run(),
        }
    }
}
