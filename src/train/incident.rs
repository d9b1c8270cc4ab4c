//! The response to a bad step. The state is still that before it, so a run can stop, skip it or go back.

use anyhow::{Context, Result, bail};

use super::record::StepRecord;
use super::{Observer, Trainer, state};
use crate::checkpoint::{Checkpoint, RunFolder};
use crate::config::{OnBadStep, RunConfig};
use crate::data::Loaded;
use crate::text::shell;

/// Limit on bad steps that are skipped within [`SKIP_WINDOW_STEPS`].
const MOST_SKIPS: usize = 10;
const SKIP_WINDOW_STEPS: u64 = 1000;

/// Limit on rollbacks of a run; the learning rate is then 1/32 of the original.
const MOST_ROLLBACKS: u32 = 5;

/// Factor on the learning rate at each rollback.
const ROLLBACK_LR_FACTOR: f64 = 0.5;

/// A step whose numbers are not finite, or exploded.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct BadStep {
    pub(super) step: u64,
    pub(super) loss: f64,
    pub(super) grad_norm: f64,
}

impl std::fmt::Display for BadStep {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let BadStep {
            step,
            loss,
            grad_norm,
        } = self;
        let finite = loss.is_finite() && grad_norm.is_finite();
        let what = if finite { "exploded" } else { "not finite" };
        write!(
            f,
            "step {step}: loss {loss}, gradient norm {grad_norm} ({what})"
        )
    }
}

/// The last rollback, to see at the next bad step if it helped.
#[derive(Debug, Clone, Copy)]
struct Rollback {
    bad_step: u64,
    to_step: u64,
}

/// Handles bad steps, and remembers the last rollback of this start.
#[derive(Debug, Default)]
pub(super) struct Incidents {
    last: Option<Rollback>,
}

impl Incidents {
    /// Writes a record of a bad step, then does what the settings ask for. The saver must be idle.
    ///
    /// # Errors
    /// The settings ask to stop, or too many steps were bad.
    pub(super) fn handle(
        &mut self,
        bad: BadStep,
        folder: &RunFolder,
        config: &RunConfig,
        trainer: &mut Trainer,
        data: &Loaded,
        observer: &dyn Observer,
    ) -> Result<()> {
        trainer.rewind_to_before(bad.step);
        let record = folder.incident_path(bad.step);
        let written = StepRecord::of_next(trainer, data, config.diffusion.timesteps)
            .and_then(|found| found.write(&record));
        match written {
            Ok(()) => observer.message(&format!("{bad}; see {}", record.display())),
            Err(error) => observer.message(&format!("{bad}; no record of it: {error:#}")),
        }
        match config.train.on_bad_step {
            OnBadStep::Stop => bail!("{bad}. {}", advice(folder, bad.step, OnBadStep::Stop)),
            OnBadStep::Skip => skip(bad, folder, trainer, observer),
            OnBadStep::Rollback => self.roll_back(bad, folder, trainer, observer),
        }
    }

    fn roll_back(
        &mut self,
        bad: BadStep,
        folder: &RunFolder,
        trainer: &mut Trainer,
        observer: &dyn Observer,
    ) -> Result<()> {
        let (rollbacks, factor) = (trainer.history.rollbacks + 1, trainer.history.lr_factor);
        if rollbacks > MOST_ROLLBACKS {
            bail!(
                "{bad}, after {MOST_ROLLBACKS} rollbacks. {}",
                advice(folder, bad.step, OnBadStep::Rollback)
            );
        }
        let checkpoint = self
            .target(bad, folder)
            .with_context(|| format!("{bad}, and there is no checkpoint to go back to"))?;
        state::restore(trainer, &checkpoint)?;
        trainer.history.rollbacks = rollbacks;
        trainer.history.lr_factor = factor * ROLLBACK_LR_FACTOR;
        self.last = Some(Rollback {
            bad_step: bad.step,
            to_step: trainer.step,
        });
        observer.message(&format!(
            "back to step {}, with {} of the learning rate",
            trainer.step, trainer.history.lr_factor
        ));
        Ok(())
    }

    /// The newest checkpoint; if going back to it did not get past the bad step, the one before it, as the newest may
    /// hold bad weights already.
    fn target(&self, bad: BadStep, folder: &RunFolder) -> Result<Checkpoint> {
        if let Some(last) = self.last.filter(|last| bad.step <= last.bad_step)
            && last.to_step > 0
            && let Ok(older) = folder.checkpoint_before(last.to_step - 1)
        {
            return Ok(older);
        }
        folder.checkpoint_before(bad.step - 1)
    }
}

/// What to do after a bad step at which a run ended; `tried` is what it does about bad steps.
fn advice(folder: &RunFolder, step: u64, tried: OnBadStep) -> String {
    let run = shell(folder.dir());
    let others = match tried {
        OnBadStep::Stop => "skip or rollback",
        OnBadStep::Skip => "rollback",
        OnBadStep::Rollback => "skip",
    };
    format!(
        "All checkpoints are from before it. Inspect the step with `ddpm replay {run} --step {step}`; then lower `optim.lr`, set `optim.clip_norm` = 1, or continue with `train.on_bad_step` = {others}"
    )
}

fn skip(
    bad: BadStep,
    folder: &RunFolder,
    trainer: &mut Trainer,
    observer: &dyn Observer,
) -> Result<()> {
    let skipped = &trainer.history.skipped;
    let recent = skipped
        .iter()
        .filter(|step| **step + SKIP_WINDOW_STEPS > bad.step);
    if recent.count() >= MOST_SKIPS {
        bail!(
            "{bad}, after {MOST_SKIPS} skipped steps within the last {SKIP_WINDOW_STEPS}. {}",
            advice(folder, bad.step, OnBadStep::Skip)
        );
    }
    trainer.skip();
    observer.message(&format!("step {} is skipped", bad.step));
    Ok(())
}
