//! Training: the loop, read top to bottom.

mod clock;
mod grids;
mod guard;
mod images;
mod incident;
mod memory;
mod plan;
mod readback;
mod record;
mod replay;
mod run;
mod saver;
mod state;
mod stop;
mod trainer;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Result;
use tch::Tensor;

pub use clock::{Clock, Phase};
pub use guard::Guard;
pub use record::{ImageOfBatch, Number, ParameterGradient, StepRecord};
pub use replay::{Replay, replay};
pub use stop::{Reason, Stop};
pub use trainer::{Draw, Gradients, StepOutput, Trainer};

use crate::checkpoint::{Checkpoint, RunFolder, RunLock};
use crate::config::RunConfig;
use crate::data::{self, Loaded};
use crate::device::Chosen;
use crate::report::{DecodeProgress, duration};
use run::Run;

/// Everything about a start of a run that its config does not fix.
#[derive(Debug)]
pub struct Start {
    /// Where the run is kept.
    pub folder: RunFolder,
    /// Its lock, if it exists already.
    pub lock: Option<RunLock>,
    /// Resolved and validated settings.
    pub config: RunConfig,
    /// The checkpoint to go on from.
    pub resume: Option<Checkpoint>,
    /// Weights to begin with instead of drawn ones.
    pub init: Option<Vec<(String, Tensor)>>,
    /// File for the decoded images.
    pub cache: Option<PathBuf>,
    /// Where to compute.
    pub chosen: Chosen,
    /// Save and stop after this long.
    pub time_limit: Option<Duration>,
    /// End the run when a checkpoint or a grid fails, instead of going on to the next.
    pub strict: bool,
    /// Whether the batch is split into as few parts as memory allows, whatever the settings say.
    pub auto_accumulate: bool,
}

/// How a start ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// All steps are done.
    Finished,
    /// Saved and stopped before that.
    Stopped(Reason),
}

/// Trains until all steps are done, or something asks to stop.
///
/// # Errors
/// Unreadable data, out of memory, a bad step (as the settings say), or a last checkpoint that cannot be written; earlier
/// checkpoints stay as they were.
pub fn train(start: Start) -> Result<End> {
    let stop = Stop::install(start.time_limit)?;
    let mut run = Run::begin(start, stop)?;
    while run.trainer.step < run.config.train.steps {
        let output = run.step()?;
        run.readback.push(output);

        let stopping = run.stop.reason();
        let asked = run.stop.save_asked();
        let step = run.trainer.step;
        let last = step == run.config.train.steps || stopping.is_some();
        let save = last || asked || step.is_multiple_of(run.config.train.save_every_steps);
        let sample = stopping.is_none() && (asked || grids::are_due(&run.config, step));

        if (save || sample || run.readback.is_due(run.chosen.device))
            && let Some(bad) = run.readback.read()
        {
            run.deal_with(bad)?;
            continue;
        }
        run.hear_from_the_writer()?;
        if asked {
            run.stop.save_heard();
        }
        if save {
            run.save(last)?;
        }
        if sample {
            run.sample()?;
        }
        if let Some(reason) = stopping {
            run.finish()?;
            eprintln!(
                "saved at step {step}; go on with: ddpm train --run {}",
                run.folder.dir().display()
            );
            return Ok(End::Stopped(reason));
        }
    }
    run.finish()?;
    Ok(End::Finished)
}

fn load_data(
    config: &RunConfig,
    cache: Option<&std::path::Path>,
    chosen: &Chosen,
) -> Result<Loaded> {
    let started = Instant::now();
    let bar = DecodeProgress::new();
    let progress = |done, total| bar.set(done, total);
    let seed = config.train.seed;
    let loaded = data::load(
        &config.data,
        &config.model,
        seed,
        cache,
        chosen.device,
        &progress,
    );
    bar.finish();
    let loaded = loaded?;
    eprintln!(
        "{}, ready in {:.1} s",
        loaded.origin,
        started.elapsed().as_secs_f64()
    );
    if !loaded.skipped.is_empty() {
        eprintln!(
            "{} files could not be read and are left out:",
            loaded.skipped.len()
        );
        for (path, reason) in loaded.skipped.iter().take(10) {
            eprintln!("  {}: {reason}", path.display());
        }
        if loaded.skipped.len() > 10 {
            eprintln!(
                "  … and {} more (skipped.tsv of the run lists all)",
                loaded.skipped.len() - 10
            );
        }
    }
    Ok(loaded)
}

/// The end of a finished run, for people.
pub fn farewell(folder: &RunFolder, config: &RunConfig, took: Duration) -> String {
    let dir = folder.dir().display();
    let grid = folder.sample_path(config.train.steps, "ema");
    let grid = if grid.exists() {
        format!("\nits images: {}", grid.display())
    } else {
        String::new()
    };
    format!(
        "{} steps done, {} this time{grid}\nmore images: ddpm sample {dir} -n 16 --out grid.png",
        config.train.steps,
        duration(took)
    )
}
