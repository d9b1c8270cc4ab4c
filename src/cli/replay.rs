//! `ddpm replay`.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;

use super::args::compute::ComputeArgs;
use super::args::run::run_or_latest;
use super::out::{self, say};
use super::outputs::{ForceArg, Outputs};
use super::terminal::Terminal;
use crate::checkpoint::RunFolder;
use crate::train::replay;

/// Recompute one training step of a run, and print its loss, gradients and images.
///
/// Training is repeated from the newest checkpoint before the step, or else from the start, with the settings of the
/// run's last start; the run is not changed. On the same machine, with the same settings and number of threads, the
/// result is the same bit for bit (on CUDA with --deterministic in both).
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  ddpm replay runs/NAME --step 1234          a bad step (see runs/NAME/incidents)
  ddpm replay runs/NAME --step 1234 --json   the whole record, as JSON")]
pub(super) struct ReplayCommand {
    /// Folder of the run
    #[arg(value_parser = run_or_latest())]
    run: PathBuf,
    /// Number of the step, from 1
    #[arg(long, value_name = "N")]
    step: u64,
    /// Cache file of decoded images, as in training
    #[arg(long, value_name = "FILE")]
    cache: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    compute: ComputeArgs,
}

impl ReplayCommand {
    pub(super) fn run(&self) -> Result<()> {
        let mut outputs = Outputs::new(ForceArg::default());
        outputs.runs_in(Some(&self.run));
        if let Some(cache) = &self.cache {
            outputs.updates("--cache", cache);
        }
        outputs.check()?;
        let chosen = self.compute.choose()?;
        let folder = RunFolder::new(self.run.clone());
        let found = replay(
            &folder,
            self.step,
            self.cache.clone(),
            &chosen,
            &Terminal::default(),
        )?;
        match found.from_step {
            Some(step) => say(&format!("replayed from the checkpoint of step {step}")),
            None => say("replayed from the start, with the weights of the seed"),
        }
        if self.json {
            out::json(&serde_json::to_string_pretty(&found.record)?);
        } else {
            out::lines(&found.record.to_string());
        }
        if let Some(then) = &found.then {
            let differing = found.record.differences(then);
            if differing.is_empty() {
                say("the same as in the original run, bit for bit");
            } else {
                say(&format!(
                    "different from the original run: {} ({MAY_DIFFER})",
                    differing.join(", ")
                ));
            }
        } else if let Some(logged) = found
            .logged
            .filter(|logged| found.record.is_another(logged))
        {
            say(&format!(
                "this is not the step of the original run, which had loss {} and gradient norm {} ({MAY_DIFFER})",
                logged.loss, logged.grad_norm
            ));
        }
        Ok(())
    }
}

/// Why a step can come out in another way.
const MAY_DIFFER: &str = "settings changed since then, another machine or number of threads, or CUDA without --deterministic";
