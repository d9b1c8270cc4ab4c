//! `ddpm replay`.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;

use super::args::compute::ComputeArgs;
use super::terminal::Terminal;
use crate::checkpoint::RunFolder;
use crate::train::replay;

/// Compute one step of a run again and look at it: loss, gradients of each layer, images, time steps.
///
/// It goes from the newest checkpoint before the step, without changing the run. On the same machine, with the same
/// number of threads, it comes to the same bits (on CUDA with --deterministic in both).
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  ddpm replay runs/NAME --step 1234          a step that went wrong (see runs/NAME/incidents)
  ddpm replay runs/NAME --step 1234 --json   all of it, for programs")]
pub(super) struct ReplayCommand {
    /// Folder of the run
    run: PathBuf,
    /// Which step, from 1
    #[arg(long, value_name = "N")]
    step: u64,
    /// File with the decoded images, as in training
    #[arg(long, value_name = "FILE")]
    cache: Option<PathBuf>,
    /// For programs
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    compute: ComputeArgs,
}

impl ReplayCommand {
    pub(super) fn run(&self) -> Result<()> {
        let chosen = self.compute.choose()?;
        let folder = RunFolder::new(self.run.clone());
        let found = replay(
            &folder,
            self.step,
            self.cache.clone(),
            &chosen,
            &Terminal::default(),
        )?;
        eprintln!("replayed from the checkpoint of step {}", found.from_step);
        if self.json {
            println!("{}", serde_json::to_string_pretty(&found.record)?);
        } else {
            print!("{}", found.record);
        }
        if let Some(then) = &found.then {
            let differing = found.record.differences(then);
            if differing.is_empty() {
                eprintln!("the same, bit for bit, as when it happened");
            } else {
                eprintln!(
                    "not the same as when it happened: {} (other settings since then, another machine or number of threads, or CUDA without --deterministic)",
                    differing.join(", ")
                );
            }
        }
        Ok(())
    }
}
