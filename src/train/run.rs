//! A run while it is trained: its parts, and what is done between its steps.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::incident::{BadStep, Incidents};
use super::memory::MemoryBudget;
use super::readback::Readback;
use super::saver::Saver;
use super::{Observer, StepOutput, Stop, Trainer, grids};
use crate::checkpoint::{RunFolder, RunLock};
use crate::config::{OnBadStep, RunConfig};
use crate::data::Loaded;
use crate::device::{Chosen, ConvolutionSearch};

mod begin;

/// Shortest pause for a checkpoint that is printed.
const STALL_WORTH_TELLING: Duration = Duration::from_millis(1);

/// Shortest wait for images that is printed: 0.1 s when rounded.
const WAIT_WORTH_TELLING: Duration = Duration::from_millis(50);

/// A run that is being trained.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) folder: RunFolder,
    pub(super) config: RunConfig,
    pub(super) chosen: Chosen,
    strict: bool,
    pub(super) data: Loaded,
    pub(super) trainer: Trainer,
    pub(super) readback: Readback,
    pub(super) saver: Saver,
    budget: MemoryBudget,
    incidents: Incidents,
    /// The step of the last save that was begun.
    saved: Option<u64>,
    pub(super) stop: Stop,
    observer: Arc<dyn Observer>,
    /// All steps have the same shapes.
    _search: ConvolutionSearch,
    /// The last to go: nobody else may write as long as the writer does.
    _lock: RunLock,
}

impl Run {
    /// One training step.
    pub(super) fn step(&mut self) -> Result<StepOutput> {
        let Run {
            trainer,
            data,
            saver,
            ..
        } = self;
        self.budget.watch(|| {
            let gradients = trainer.gradients(&data.store)?;
            // The writer may still read what the update changes.
            saver.wait_for_copy();
            trainer.update(gradients)
        })
    }

    /// What must be there before the first step, and what the last start did not get to. `given`: the run begins
    /// with weights from elsewhere, which a resume must find.
    fn write_missing_outputs(&mut self, given: bool) -> Result<()> {
        let step = self.trainer.step;
        if step == 0 && given {
            self.save(true)?;
        } else if step == 0 && self.config.train.on_bad_step == OnBadStep::Rollback {
            self.save(false)?;
        }
        self.folder.write_config(&self.config)?;
        if self.lacks_grids() {
            // It ended between this step's checkpoint and its grids.
            self.sample()?;
        }
        Ok(())
    }

    /// True if grids are due now and not there.
    pub(super) fn lacks_grids(&self) -> bool {
        let step = self.trainer.step;
        grids::are_due(&self.config, step) && !self.folder.sample_path(step, "ema").exists()
    }

    /// Saves beside training; what fails is told, and the next save tries again. A last save is waited for, and must
    /// not fail.
    pub(super) fn save(&mut self, last: bool) -> Result<()> {
        let started = Instant::now();
        let saver = &mut self.saver;
        let before = self.readback.outside_the_clock(|| match last {
            true => saver.finish(),
            false => saver.wait(),
        });
        self.warn_unless_strict(before)?;
        self.readback.flush();
        self.saved = Some(self.trainer.step);
        let metrics = self.readback.metrics_file()?;
        let begun = self.saver.save(&self.trainer, &self.config, metrics);
        let pause = started.elapsed().as_secs_f64();
        self.readback.outlook.save(pause, self.saver.last_took);
        if !last {
            return self.warn_unless_strict(begun);
        }
        begun?;
        let saver = &mut self.saver;
        self.readback.outside_the_clock(|| saver.finish())
    }

    pub(super) fn poll_saver(&mut self) -> Result<()> {
        let heard = self.saver.poll();
        self.warn_unless_strict(heard)
    }

    pub(super) fn sample(&mut self) -> Result<()> {
        // Sampling swaps the weights for their average.
        self.saver.wait_for_copy();
        let started = Instant::now();
        let drawn = self.readback.outside_the_clock(|| {
            self.budget.watch(|| {
                grids::write(
                    &self.folder,
                    &self.config,
                    &self.trainer,
                    &self.stop,
                    &*self.observer,
                )
            })
        });
        self.readback.outlook.grids(started.elapsed().as_secs_f64());
        if self.stop.reason().is_some() && drawn.is_ok() && self.lacks_grids() {
            let step = self.trainer.step;
            self.observer.message(&format!(
                "the grid of step {step} is not drawn, as the run is stopping"
            ));
        }
        self.warn_unless_strict(
            drawn.with_context(|| format!("the grid of step {} is left out", self.trainer.step)),
        )
    }

    /// What runs beside training does not end it, unless asked.
    fn warn_unless_strict(&self, result: Result<()>) -> Result<()> {
        match result {
            Err(error) if !self.strict => {
                self.observer
                    .message(&format!("warning: {error:#}; training continues"));
                Ok(())
            }
            result => result,
        }
    }

    /// The end of a start: what training came to is saved.
    pub(super) fn finish(&mut self) -> Result<()> {
        // A bad last step was passed over, and its save with it.
        if self.saved != Some(self.trainer.step) {
            self.save(true)?;
            if self.stop.reason().is_none() && grids::are_due(&self.config, self.trainer.step) {
                self.sample()?;
            }
        }
        self.readback.finish();
        let waited = self.data.store.waited();
        if waited >= WAIT_WORTH_TELLING {
            self.observer.message(&format!(
                "data loading held training up for {:.1} s",
                waited.as_secs_f64()
            ));
        }
        let stall = self.saver.longest_stall;
        if stall >= STALL_WORTH_TELLING {
            self.observer.message(&format!(
                "longest pause for a checkpoint: {} ms",
                stall.as_millis()
            ));
        }
        Ok(())
    }

    pub(super) fn handle_bad_step(&mut self, bad: BadStep) -> Result<()> {
        let saved = self.saver.finish();
        self.warn_unless_strict(saved)?;
        let Run {
            folder,
            config,
            trainer,
            data,
            readback,
            incidents,
            observer,
            ..
        } = self;
        let way = readback.outside_the_clock(|| {
            incidents.handle(bad, folder, config, trainer, data, &**observer)
        });
        way?;
        let step = trainer.step;
        if step < bad.step {
            readback.go_back_to(folder, step)?;
            // A resume must find this way, and not the one that was left.
            let saved = self.save(true);
            if saved.is_ok() {
                self.folder.remove_after(step)?;
            }
            self.warn_unless_strict(saved)?;
        }
        Ok(())
    }
}
