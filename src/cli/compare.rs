//! `ddpm compare`: runs by what was measured while they were trained, and the samplers of one network.

mod combinations;
mod comparable;
mod figure;
mod markdown;
mod measure;
mod rows;
mod runs;
mod samplers;

use anyhow::Result;
use clap::{Args, Subcommand};

/// Compare runs by their evaluations while training, or the samplers of one network.
///
/// `ddpm compare RUN…` reads the evaluations that `ddpm train --evaluate-every N` wrote, also of runs that are still
/// trained, and computes nothing. `ddpm compare samplers` samples from one network.
#[derive(Debug, Args)]
#[command(
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    disable_help_subcommand = true,
    after_help = "Examples:
  ddpm compare runs/a runs/b
  ddpm compare runs/* --metrics fid --plot fid.svg --against time
  ddpm compare samplers runs/a --samplers ddim,dpmpp-2m,heun --steps 5,10,20,50"
)]
pub(super) struct CompareCommand {
    #[command(subcommand)]
    what: Option<What>,
    #[command(flatten)]
    runs: runs::RunsArgs,
}

#[derive(Debug, Subcommand)]
enum What {
    Samplers(Box<samplers::SamplersCommand>),
}

impl CompareCommand {
    pub(super) fn run(&self) -> Result<()> {
        match &self.what {
            Some(What::Samplers(command)) => command.run(),
            None => self.runs.run(),
        }
    }
}
