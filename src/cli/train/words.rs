//! What is said of a start, and at its end.

use std::time::Duration;

use anyhow::Result;

use crate::checkpoint::RunFolder;
use crate::cli::out::say;
use crate::config::{Preset, RunConfig};
use crate::report::duration;
use crate::text::{self, plural, shell};
use crate::train::{Start, renewed};

/// Says what the run `config` has otherwise than `theirs`, whose settings it begins with and which do not name it.
pub(super) fn tell_renewed(theirs: &RunConfig, config: &RunConfig) -> Result<()> {
    let changes = renewed(theirs, config)?;
    if !changes.is_empty() {
        let changes: Vec<String> = changes.iter().map(ToString::to_string).collect();
        say(&format!(
            "note: unlike the older run that its settings are from, this one has {}; to keep the older, name it (--draws, \
             or in a --config)",
            changes.join(", ")
        ));
    }
    Ok(())
}

/// Prints the kind of this start: the demo or not, the folder of the run, new or resumed.
pub(super) fn announce(start: &Start) {
    if start.config.data.folder.is_none() && start.config.preset == Preset::Demo {
        say("This is the demo, on built-in images. For your own: ddpm train --data DIR");
    }
    let dir = start.folder.dir().display();
    match &start.resume {
        Some(checkpoint) => say(&format!("resuming {dir} at step {}", checkpoint.meta.step)),
        None => say(&format!("run folder {dir}")),
    }
}

/// A summary of a finished run: its steps and time, its sample grid, and how to use it.
pub(super) fn summary(
    folder: &RunFolder,
    config: &RunConfig,
    steps: u64,
    took: Duration,
) -> String {
    let dir = shell(folder.dir());
    let grid = folder.sample_path(steps, "ema");
    let grid = if grid.exists() {
        format!("\nsample grid: {}", text::path(&grid))
    } else {
        String::new()
    };
    let report = folder.report_path();
    let report = match report.exists() {
        true => format!("\nreport: {}", text::path(&report)),
        false => String::new(),
    };
    let next = match config.upscale {
        Some(_) => format!("to make images larger: ddpm upscale {dir} IMAGE"),
        None => format!("to sample more: ddpm sample {dir} -n 16 --out grid.png"),
    };
    format!(
        "{} done, {} in this start{grid}{report}\n{next}",
        plural(steps, "step"),
        duration(took)
    )
}
