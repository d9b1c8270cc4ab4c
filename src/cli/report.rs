//! `ddpm report`.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;

use super::args::run::run_or_latest;
use super::out::say;
use super::outputs::{ForceArg, Outputs};
use crate::checkpoint::RunFolder;
use crate::fs::write_bytes;
use crate::report::bytes;
use crate::runs::report;
use crate::text;

/// The file of several runs without --out.
const DEFAULT: &str = "report.html";

/// Write a report of runs as one HTML file, to be opened in a browser
///
/// It shows curves, sample grids over time, the loss over t, settings, images, incidents, checkpoints and evaluations;
/// several runs are laid over each other. Nothing in it is loaded from elsewhere. While a run is trained, its report is
/// written anew after each save.
#[derive(Debug, Args)]
pub(super) struct ReportCommand {
    /// Run folders; `latest` is the newest run in runs/
    #[arg(required = true, value_name = "RUN", value_parser = run_or_latest())]
    runs: Vec<PathBuf>,
    /// Where to write it [default: RUN/report.html; of several runs report.html]
    #[arg(short, long, value_name = "FILE.html")]
    out: Option<PathBuf>,
    #[command(flatten)]
    force: ForceArg,
}

impl ReportCommand {
    pub(super) fn run(&self) -> Result<()> {
        let path = match (&self.out, &self.runs[..]) {
            (Some(out), _) => out.clone(),
            // The run's own, which training writes too.
            (None, [run]) => RunFolder::new(run.clone()).report_path(),
            (None, _) => PathBuf::from(DEFAULT),
        };
        if self.out.is_some() || self.runs.len() > 1 {
            let mut outputs = Outputs::new(self.force);
            outputs.writes("--out", &path, &["html", "htm"], Some(DEFAULT));
            outputs.check()?;
        }
        let html = report(&self.runs)?;
        write_bytes(&path, html.as_bytes())?;
        say(&format!(
            "{}, {}",
            text::path(&path),
            bytes(html.len() as u64)
        ));
        Ok(())
    }
}
