//! Training: the loop, read top to bottom.

mod board;
mod clock;
mod conditional;
mod dry_run;
mod evaluations;
mod grids;
mod guard;
mod images;
mod incident;
mod layout;
mod log;
mod memory;
mod observer;
mod outlook;
mod plan;
mod ranks;
mod readback;
mod record;
mod replay;
mod reporter;
mod resume;
mod run;
mod saver;
mod share;
mod shown;
mod some_images;
mod state;
mod step;
mod stop;
mod trainer;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result};
use tch::Tensor;

pub use clock::{Clock, Phase};
pub use dry_run::dry_run;
pub use guard::Guard;
pub use observer::Observer;
pub use ranks::{free_memory, share_batches};
pub use record::{ImageOfBatch, Number, ParameterGradient, StepRecord};
pub use replay::{Replay, replay};
pub use resume::{default_folder, renewed, resume_changes, settings_around};
pub use share::StepDraws;
pub use step::{Gradients, StepOutput};
pub use stop::{Reason, Stop, quit};
pub use trainer::Trainer;

use crate::checkpoint::{Checkpoint, Damaged, RunFolder, RunLock};
use crate::config::RunConfig;
use crate::data::{self, DataError, Loaded};
use crate::device::{self, Chosen, DeviceChoice, Precision};
use crate::distributed::{Group, RankLost, Reduce};
use crate::text::{self, plural};
use log::Log;
use run::{Requests, Run};

/// Everything about a start of a run that its config does not fix.
///
/// ```no_run
/// use ddpm::config::Preset;
/// use ddpm::train::{Start, train};
///
/// let mut config = Preset::Demo.config();
/// config.train.steps = 100;
/// train(Start::new(config))?;
/// # Ok::<(), anyhow::Error>(())
/// ```
#[derive(Debug)]
pub struct Start {
    /// Where the run is kept.
    pub folder: RunFolder,
    /// Its lock, if it exists already.
    pub lock: Option<RunLock>,
    /// All settings; validated before anything else is done. Images that they hold out (`data.hold_out`) are not trained on,
    /// and listed in `held_out.tsv` of `folder`.
    pub config: RunConfig,
    /// Checkpoints newer than `resume`, which cannot be read and were passed over.
    pub damaged: Vec<Damaged>,
    /// The checkpoint to go on from.
    pub resume: Option<Checkpoint>,
    /// Weights to begin with instead of drawn ones, by our names.
    pub init: Option<Vec<(String, Tensor)>>,
    /// File for the decoded images.
    pub cache: Option<PathBuf>,
    /// Where to compute; `None` takes CUDA if it is usable, else the CPU. [`device::choose`] is then called at the start,
    /// and must come before other work with tensors.
    pub chosen: Option<Chosen>,
    /// Asks the run to stop or to save: by signals, by a time limit, or by a clone that the caller keeps.
    pub stop: Stop,
    /// End the run when a checkpoint or a grid fails, instead of going on to the next.
    pub strict: bool,
    /// Write events for TensorBoard into the run's folder.
    pub tensorboard: bool,
    /// Split the batch into as few parts as memory allows, whatever the settings say.
    pub auto_accumulate: bool,
    /// Train even if more memory is needed than is free.
    pub force: bool,
    /// The ranks to train with. Rank 0 alone needs `folder`, `lock`, `resume` and `init`, and alone writes; `config` is the
    /// same on all.
    pub group: Option<Arc<Group>>,
    /// How ranks add up their gradients.
    pub reduce: Reduce,
    /// Write `report.html` of `folder` anew after each save.
    pub report: bool,
    /// Hears of the run's progress.
    pub observer: Arc<dyn Observer>,
}

impl Start {
    /// A new run in `runs/PRESET-DATE`, without signal handlers and in silence.
    pub fn new(config: RunConfig) -> Start {
        Start {
            folder: RunFolder::new(default_folder(config.preset)),
            lock: None,
            config,
            resume: None,
            damaged: Vec::new(),
            init: None,
            cache: None,
            chosen: None,
            stop: Stop::default(),
            strict: false,
            tensorboard: true,
            auto_accumulate: false,
            force: false,
            group: None,
            reduce: Reduce::F32,
            report: true,
            observer: Arc::new(()),
        }
    }

    /// Resumes the run in `folder` at its newest readable checkpoint, with its own settings; the rest is as in
    /// [`Start::new`], so the device and the precision are chosen anew.
    ///
    /// # Errors
    /// No run there, one without a checkpoint that can be read, or one that another process trains.
    pub fn resume(folder: RunFolder) -> Result<Start> {
        let dir = folder.dir().to_owned();
        let run = folder
            .resumable()?
            .with_context(|| format!("{} holds no run", dir.display()))?;
        Ok(Start {
            folder,
            lock: Some(run.lock),
            resume: run.checkpoint.map(|(_, checkpoint)| checkpoint),
            damaged: run.damaged,
            ..Start::new(run.config)
        })
    }
}

/// How a start ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// All steps are done.
    Finished,
    /// Saved after `step` and ended, as evaluations had no better value for as long as the settings allow.
    NoLongerBetter {
        /// Steps done.
        step: u64,
    },
    /// Saved after `step` and stopped before the last one; or not even begun, and the run is as it was.
    Stopped {
        /// What asked for it.
        reason: Reason,
        /// Steps done.
        step: u64,
    },
}

/// Trains until all steps are done, or something asks to stop. What the observer is told is kept in the run's
/// `log.txt`.
///
/// # Errors
/// Settings that cannot work, unreadable data, too little memory, a bad step (as the settings say), or a last
/// checkpoint that cannot be written; earlier checkpoints stay as they were.
pub fn train(mut start: Start) -> Result<End> {
    let log = Arc::new(Log::new(&start.folder, start.observer));
    start.observer = Arc::clone(&log) as Arc<dyn Observer>;
    log.note(&log::start_line());
    let end = train_and_log(start, &log);
    log.note(&match &end {
        Ok(End::Finished) => "all steps are done".to_owned(),
        Ok(End::NoLongerBetter { step }) => format!("no longer better at step {step}"),
        Ok(End::Stopped { reason, step }) => format!("stopped by {reason} at step {step}"),
        Err(error) => format!("error: {error:#}"),
    });
    end
}

fn train_and_log(start: Start, log: &Log) -> Result<End> {
    let stop = start.stop.clone();
    let step = start.resume.as_ref().map_or(0, |found| found.meta.step);
    let mut run = match Run::begin(start, log) {
        Err(error) if matches!(error.downcast_ref(), Some(DataError::Stopped)) => {
            let reason = stop.reason().unwrap_or(Reason::Asked);
            return Ok(End::Stopped { reason, step });
        }
        begun => begun?,
    };
    // However short the time limit is, each start does a step.
    let early = run.stop.reason().filter(|r| *r != Reason::TimeLimit);
    if let Some(reason) = run.agree(early)? {
        run.finish()?;
        let step = run.trainer.step;
        return Ok(End::Stopped { reason, step });
    }
    match steps(&mut run) {
        Err(error) if error.is::<RankLost>() => Err(run.rescue(error)),
        end => end,
    }
}

fn steps(run: &mut Run) -> Result<End> {
    while run.trainer.step < run.config.train.steps {
        if run.is_out_of_patience() {
            run.finish_early()?;
            let step = run.trainer.step;
            return Ok(End::NoLongerBetter { step });
        }
        let output = run.step()?;
        run.readback.push(&output)?;

        let Requests { stop, save: asked } = run.requests()?;
        let step = run.trainer.step;
        let last = step == run.config.train.steps || stop.is_some();
        let save = last || asked || step.is_multiple_of(run.config.train.save_every_steps);
        let sample = stop.is_none() && (asked || grids::are_due(&run.config, step));
        let evaluate = stop.is_none() && evaluations::are_due(&run.config, step);

        let due = run
            .readback
            .due(run.chosen.device, save || sample || evaluate);
        if let Some(bad) = run.readback.read(due)? {
            run.handle_bad_step(bad)?;
            // A newest step that is skipped is done all the same, and what is due after it is due.
            if run.trainer.step != step {
                continue;
            }
        }
        run.poll_saver()?;
        if asked {
            run.stop.clear_save_request();
        }
        let (mut stop, mut save, mut last) = (stop, save, last);
        if evaluate {
            // The state that is saved knows of it, and a better one than all before is saved.
            save |= run.evaluate()?;
            stop = run.agree(run.stop.reason().filter(|_| run.lacks_evaluation()))?;
            last |= stop.is_some() || run.is_out_of_patience();
        }
        if save || last {
            run.save(last)?;
        }
        if sample && stop.is_none() {
            run.sample()?;
            // A grid that a request to stop has cut short is drawn by the next start, which must begin here.
            stop = run.agree(run.stop.reason().filter(|_| run.lacks_grids()))?;
        }
        if let Some(reason) = stop {
            run.finish()?;
            return Ok(End::Stopped { reason, step });
        }
    }
    run.finish()?;
    // All may be done but the last grids, which the next start draws.
    let early = run.stop.reason().filter(|_| run.lacks_grids());
    Ok(match run.agree(early)? {
        Some(reason) => End::Stopped {
            reason,
            step: run.trainer.step,
        },
        None => End::Finished,
    })
}

/// The device of a start, chosen now if it was left open.
fn device_of(chosen: Option<Chosen>) -> Result<Chosen> {
    match chosen {
        Some(chosen) => Ok(chosen),
        None => device::choose(DeviceChoice::Auto, Precision::Auto, false),
    }
}

/// # Errors
/// Those of [`data::load_until`]: also if something asks to stop meanwhile.
fn load_data(
    config: &RunConfig,
    cache: Option<&std::path::Path>,
    chosen: &Chosen,
    stop: &Stop,
    observer: &dyn Observer,
) -> Result<Loaded> {
    let started = Instant::now();
    let progress = |done, total| observer.decoding(done, total);
    let seed = config.train.seed;
    let loaded = data::load_until(
        &config.data,
        &config.model,
        seed,
        cache,
        chosen.device,
        &progress,
        &|| stop.reason().is_some(),
    );
    observer.decoded();
    let loaded = loaded?;
    observer.message(&format!(
        "{}, ready in {:.1} s",
        loaded.origin,
        started.elapsed().as_secs_f64()
    ));
    if !loaded.skipped.is_empty() {
        observer.message(&skipped(&loaded));
    }
    for notice in loaded.notices() {
        observer.message(&notice);
    }
    Ok(loaded)
}

/// The first of the files that were left out, a line each.
fn skipped(loaded: &Loaded) -> String {
    let count = loaded.skipped.len();
    let files = plural(count as u64, "file");
    let mut said = format!("{files} could not be read, left out:");
    for (path, reason) in loaded.skipped.iter().take(10) {
        said += &format!("\n  {}: {reason}", text::path(path));
    }
    if count > 10 {
        let more = count - 10;
        said += &format!("\n  … and {more} more (skipped.tsv of the run lists all)");
    }
    said
}
