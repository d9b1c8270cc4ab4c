//! Training: the loop, read top to bottom.

mod grids;
mod guard;
mod incident;
mod pictures;
mod plan;
mod readback;
mod record;
mod replay;
mod saver;
mod state;
mod stop;
mod trainer;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tch::Tensor;

pub use guard::Guard;
pub use record::{Number, ParameterGradient, PictureOfBatch, StepRecord};
pub use replay::{Replay, replay};
pub use stop::{Reason, Stop};
pub use trainer::{Draw, Gradients, StepOutput, Trainer};

use crate::checkpoint::{Checkpoint, RunFolder, RunLock};
use crate::config::{OnBadStep, RunConfig};
use crate::data::{self, Loaded};
use crate::device::Chosen;
use crate::model::load_state_dict;
use crate::report::{DecodeProgress, TrainProgress, duration};
use incident::{BadStep, Incidents};
use readback::Readback;
use saver::Saver;

/// A stall that a user may want to know of.
const WORTH_TELLING: Duration = Duration::from_millis(1);

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
    /// File for the decoded pictures.
    pub cache: Option<PathBuf>,
    /// Where to compute.
    pub chosen: Chosen,
    /// Save and stop after this long.
    pub time_limit: Option<Duration>,
    /// End the run when a checkpoint or a grid fails, instead of going on to the next.
    pub strict: bool,
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
        let gradients = run.trainer.gradients(&run.data.store)?;
        // The writer may still read what the update changes.
        run.saver.wait_for_copy();
        let output = run.trainer.update(gradients)?;
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
        if save {
            run.save(last)?;
        }
        if sample {
            run.sample()?;
        }
        if let Some(reason) = stopping {
            run.finish();
            eprintln!(
                "saved at step {step}; go on with: ddpm train --run {}",
                run.folder.dir().display()
            );
            return Ok(End::Stopped(reason));
        }
    }
    run.finish();
    Ok(End::Finished)
}

/// A run that is being trained.
#[derive(Debug)]
struct Run {
    folder: RunFolder,
    config: RunConfig,
    chosen: Chosen,
    strict: bool,
    data: Loaded,
    trainer: Trainer,
    readback: Readback,
    saver: Saver,
    incidents: Incidents,
    stop: Stop,
    /// The last to go: nobody else may write as long as the writer does.
    _lock: RunLock,
}

impl Run {
    /// All that comes before the first step.
    fn begin(start: Start, stop: Stop) -> Result<Run> {
        let Start {
            folder,
            config,
            chosen,
            ..
        } = start;
        ensure!(
            config.model.classes().is_none(),
            "this network is told a class, and pictures of a folder have none; only sampling works with it"
        );
        let data = load_data(&config, start.cache.as_deref(), &chosen)?;
        let mut trainer = Trainer::new(&config, data.store.len(), chosen.device)?;
        if let Some(weights) = start.init {
            load_state_dict(&trainer.arena.as_params(&trainer.arena.params), &weights)
                .context("the weights of --init-from do not fit this run's network")?;
        }
        if let Some(checkpoint) = &start.resume {
            pictures::refuse_others(&folder, &config, &data, checkpoint.meta.pictures)?;
            state::restore(&mut trainer, checkpoint)?;
            warn_of_another_place(checkpoint.meta.environment.as_deref(), &chosen.environment);
        }
        let lock = match start.lock {
            Some(lock) => lock,
            None => folder.create()?,
        };
        folder.prepare(&config)?;
        data.manifest.write(&folder.pictures_path())?;
        let secs_per_step = plan::secs_per_step(&config, &trainer, &data.store)?;
        eprintln!(
            "{}",
            plan::line(&config, &trainer, &data.store, &chosen, secs_per_step)
        );
        let progress = TrainProgress::new(trainer.step, config.train.steps);
        let mut run = Run {
            readback: Readback::open(&folder, &config, trainer.step, progress)?,
            saver: Saver::start(&folder, chosen.environment.clone())?,
            incidents: Incidents::default(),
            _lock: lock,
            strict: start.strict,
            folder,
            config,
            chosen,
            data,
            trainer,
            stop,
        };
        run.catch_up()?;
        Ok(run)
    }

    /// What the last start did not get to, and what a rollback needs.
    fn catch_up(&mut self) -> Result<()> {
        let step = self.trainer.step;
        if grids::are_due(&self.config, step) && !self.folder.sample_path(step, "ema").exists() {
            // It ended between this step's checkpoint and its grids.
            self.sample()?;
        }
        if step == 0 && self.config.train.on_bad_step == OnBadStep::Rollback {
            self.save(false)?;
        }
        Ok(())
    }

    /// Saves beside training; what fails is told, and the next save tries again. A last save is waited for, and must
    /// not fail.
    fn save(&mut self, last: bool) -> Result<()> {
        let saver = &mut self.saver;
        let before = self.readback.outside_the_clock(|| match last {
            true => saver.finish(),
            false => saver.wait(),
        });
        self.tolerate(before)?;
        let metrics = self.readback.metrics_file()?;
        let begun = self.saver.save(&self.trainer, &self.config, metrics);
        if !last {
            return self.tolerate(begun);
        }
        begun?;
        let saver = &mut self.saver;
        self.readback.outside_the_clock(|| saver.finish())
    }

    fn hear_from_the_writer(&mut self) -> Result<()> {
        let heard = self.saver.poll();
        self.tolerate(heard)
    }

    fn sample(&mut self) -> Result<()> {
        // Sampling swaps the weights for their average.
        self.saver.wait_for_copy();
        let drawn = self.readback.outside_the_clock(|| {
            grids::write(&self.folder, &self.config, &self.trainer, &self.stop)
        });
        self.tolerate(drawn)
    }

    /// What runs beside training does not end it, unless asked.
    fn tolerate(&self, result: Result<()>) -> Result<()> {
        match result {
            Err(error) if !self.strict => {
                self.readback
                    .tell(&format!("warning: {error:#}; training goes on"));
                Ok(())
            }
            result => result,
        }
    }

    fn finish(&self) {
        self.readback.finish();
        let stall = self.saver.longest_stall;
        if stall >= WORTH_TELLING {
            eprintln!(
                "a checkpoint held training up for {} ms at most",
                stall.as_millis()
            );
        }
    }

    fn deal_with(&mut self, bad: BadStep) -> Result<()> {
        let saved = self.saver.finish();
        self.tolerate(saved)?;
        let Run {
            folder,
            config,
            trainer,
            data,
            readback,
            incidents,
            ..
        } = self;
        let way =
            readback.outside_the_clock(|| incidents.handle(bad, folder, config, trainer, data));
        way?;
        if trainer.step < bad.step {
            readback.go_back_to(folder, trainer.step)?;
        }
        Ok(())
    }
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
            eprintln!("  … and {} more", loaded.skipped.len() - 10);
        }
    }
    Ok(loaded)
}

/// The same steps elsewhere round differently.
fn warn_of_another_place(before: Option<&str>, now: &str) {
    if let Some(before) = before.filter(|before| *before != now) {
        eprintln!(
            "note: the run was on {before}, and goes on on {now}: as good, but not the same in the last bits"
        );
    }
}

/// The end of a finished run, for people.
pub fn farewell(folder: &RunFolder, config: &RunConfig, took: Duration) -> String {
    let dir = folder.dir().display();
    let grid = folder.sample_path(config.train.steps, "ema");
    let grid = if grid.exists() {
        format!("\nits pictures: {}", grid.display())
    } else {
        String::new()
    };
    format!(
        "{} steps done, {} this time{grid}\nmore pictures: ddpm sample {dir} -n 16 --out grid.png",
        config.train.steps,
        duration(took)
    )
}
