//! Recomputes one step of a run for inspection.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Error, Result, bail, ensure};

use super::conditional::From;
use super::incident::BadStep;
use super::record::StepRecord;
use super::{Observer, Stop, Trainer, conditional, images, load_data, state};
use crate::checkpoint::RunFolder;
use crate::config::OnBadStep;
use crate::device::Chosen;
use crate::report::{StepMetrics, of_step};

/// A recomputed step.
#[derive(Debug)]
pub struct Replay {
    /// Its record.
    pub record: StepRecord,
    /// The record of the original run, if there is one.
    pub then: Option<StepRecord>,
    /// The step's line in metrics.jsonl, if there is one.
    pub logged: Option<StepMetrics>,
    /// Step of the checkpoint that training was repeated from; none if it was repeated from the weights of the seed.
    pub from_step: Option<u64>,
}

/// Trains from the newest checkpoint before step `step` (from 1) up to it, and records the step. Without such a
/// checkpoint, from the weights that the seed gives. The run is not changed.
///
/// # Errors
/// No checkpoint before the step in a run that began with weights from elsewhere, unreadable data, or a bad step before
/// it.
pub fn replay(
    folder: &RunFolder,
    step: u64,
    cache: Option<PathBuf>,
    chosen: &Chosen,
    observer: &dyn Observer,
) -> Result<Replay> {
    ensure!(step > 0, "steps count from 1");
    let checkpoint = match folder.checkpoint_before(step - 1) {
        Ok(checkpoint) => Some(checkpoint),
        Err(none) => {
            may_begin_with_the_seed(folder, step, none, observer)?;
            None
        }
    };
    // Settings that may change during a run have the values of the last start.
    let config = &mut folder.config()?;
    let mut data = load_data(config, cache.as_deref(), chosen, &Stop::default(), observer)
        .map_err(|error| images::gone(error, folder))?;
    conditional::settle(config, &mut data, From::Checkpoint, &())?;
    let mut trainer = Trainer::new(config, data.store.len(), chosen.device)?;
    images::balance(&mut trainer, config, &data)?;
    trainer.net.set_precision(chosen.precision);
    if let Some(checkpoint) = &checkpoint {
        state::restore(&mut trainer, checkpoint)?;
    }
    let from_step = checkpoint.map(|checkpoint| checkpoint.meta.step);
    observer.training(trainer.step, step - 1);
    while trainer.step < step - 1 {
        let began = Instant::now();
        let output = trainer.train_step(&data.store)?;
        let [loss, grad_norm, frozen] = [0, 1, 2].map(|i| output.numbers.double_value(&[i]));
        let secs = began.elapsed().as_secs_f64();
        let metrics = StepMetrics {
            step: output.step,
            loss,
            lr: output.lr,
            grad_norm,
            images_per_sec: config.train.batch as f64 / secs.max(1e-9),
            secs,
            loss_by_t: None,
        };
        observer.step(&metrics, secs);
        if frozen != 0.0 {
            let bad = BadStep {
                step: output.step,
                loss,
                grad_norm,
            };
            trainer.rewind_to_before(bad.step);
            match config.train.on_bad_step {
                OnBadStep::Skip => trainer.skip(),
                _ => bail!(
                    "{bad}: training stops there, before step {step}; replay that step instead"
                ),
            }
        }
    }
    observer.finished();
    let record = StepRecord::of_next(&mut trainer, &data, config.diffusion.timesteps)?;
    let path = folder.incident_path(step);
    let then = match path.try_exists()? {
        true => Some(StepRecord::read(&path).context("the record of the step")?),
        false => None,
    };
    Ok(Replay {
        record,
        then,
        logged: of_step(&folder.metrics_path(), step)?,
        from_step,
    })
}

/// Initial weights are a function of the seed, unless others were given. `none` says why there is no checkpoint to
/// begin with.
///
/// # Errors
/// The run began with weights from elsewhere.
fn may_begin_with_the_seed(
    folder: &RunFolder,
    step: u64,
    none: Error,
    observer: &dyn Observer,
) -> Result<()> {
    // With weights from elsewhere, a checkpoint of them is the first thing that a run saves.
    let Ok(later) = folder.checkpoint_before(u64::MAX) else {
        return Ok(());
    };
    let history = later.meta.history;
    match history.given_weights {
        Some(false) => {}
        Some(true) => {
            return Err(none).with_context(|| {
                format!(
                    "step {step} cannot be computed again: this run began with weights from elsewhere (`start.init`), and leads there only from a checkpoint before it; `train.keep` says how many stay"
                )
            });
        }
        None => observer.message(
            "note: this run does not record whether it began with weights from elsewhere (`start.init`); if it did, this is not its step, as replay begins with the weights of the seed",
        ),
    }
    if history.rollbacks > 0 {
        observer.message(
            "note: this run went back after a bad step, with a lower learning rate; from the start, steps after that differ",
        );
    }
    Ok(())
}
