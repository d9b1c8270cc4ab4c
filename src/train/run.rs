//! A run while it is trained: its parts, and what is done between its steps.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Error, Result};

use super::evaluations::Evaluator;
use super::incident::{BadStep, Incidents};
use super::memory::MemoryBudget;
use super::readback::Readback;
use super::reporter::Reporter;
use super::saver::Saver;
use super::{Observer, Reason, StepOutput, Stop, Trainer, grids, ranks};
use crate::checkpoint::{RunFolder, RunLock};
use crate::config::{OnBadStep, RunConfig};
use crate::data::Loaded;
use crate::device::{Chosen, ConvolutionSearch};
use crate::distributed::{Ask, Group};

pub(super) mod begin;
mod evaluate;

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
    /// Only who writes the run's files has one.
    saver: Option<Saver>,
    /// Follows the last save.
    _reporter: Option<Reporter>,
    budget: MemoryBudget,
    incidents: Incidents,
    /// Made for the first evaluation.
    evaluator: Option<Evaluator>,
    /// True once the time that evaluations take is told.
    told_share: bool,
    /// The step of the last save that was begun.
    saved: Option<u64>,
    pub(super) stop: Stop,
    group: Option<Arc<Group>>,
    /// What the ranks were asked at the beginning of this step.
    asked: Option<Ask>,
    observer: Arc<dyn Observer>,
    /// All steps have the same shapes.
    _search: ConvolutionSearch,
    /// The last to go: nobody else may write as long as the writer does.
    _lock: Option<RunLock>,
}

/// What was asked of a run until now.
#[derive(Debug, Clone, Copy)]
pub(super) struct Requests {
    /// To stop.
    pub(super) stop: Option<Reason>,
    /// To save and sample.
    pub(super) save: bool,
}

impl Run {
    /// One training step. In a group, what is asked of one rank reaches the others meanwhile.
    pub(super) fn step(&mut self) -> Result<StepOutput> {
        if let Some(group) = &self.group {
            let Requests { stop, save } = self.own_requests();
            let own = [stop.map_or(0, Reason::to_number), i64::from(save)];
            self.asked = Some(group.ask(&own)?);
        }
        let Run {
            trainer,
            data,
            saver,
            ..
        } = self;
        self.budget.watch(|| {
            let gradients = trainer.gradients(&data.store)?;
            // The writer may still read what the update changes.
            saver.iter_mut().for_each(Saver::wait_for_copy);
            trainer.update(gradients)
        })
    }

    /// What was asked, of this rank or of any other: all do the same after the same step.
    pub(super) fn requests(&mut self) -> Result<Requests> {
        let (Some(group), Some(ask)) = (&self.group, self.asked.take()) else {
            return Ok(self.own_requests());
        };
        let answer = group.answer(ask)?;
        Ok(Requests {
            stop: Reason::of_number(answer[0]),
            save: answer[1] != 0,
        })
    }

    /// The same reason on all ranks, if any has one.
    pub(super) fn agree(&self, own: Option<Reason>) -> Result<Option<Reason>> {
        let Some(group) = &self.group else {
            return Ok(own);
        };
        let ask = group.ask(&[own.map_or(0, Reason::to_number)])?;
        Ok(Reason::of_number(group.answer(ask)?[0]))
    }

    fn own_requests(&self) -> Requests {
        let queued = self.readback.queued(self.chosen.device);
        Requests {
            stop: self.stop.reason_after(queued),
            save: self.stop.save_asked(),
        }
    }

    /// True for the process that writes the run's files.
    fn writes(&self) -> bool {
        self.saver.is_some()
    }

    /// The end of a start whose other ranks are gone: the state is that after the last step, and rank 0 saves it without
    /// them. Returns what is `lost`, with what else failed.
    pub(super) fn rescue(&mut self, lost: Error) -> Error {
        if self.writes() {
            let pending = self.readback.due(self.chosen.device, true);
            let good = matches!(self.readback.read(pending), Ok(None));
            if good && self.saved != Some(self.trainer.step) {
                if let Err(error) = self.save_here(true) {
                    return error.context(format!("while {lost:#}"));
                }
                self.observer
                    .message(&format!("saved at step {}", self.trainer.step));
            }
            self.readback.finish();
        }
        lost
    }

    /// What must be there before the first step, and what the last start did not get to. `given`: the run begins
    /// with weights from elsewhere, which a resume must find.
    fn write_missing_outputs(&mut self, given: bool) -> Result<()> {
        let step = self.trainer.step;
        if step == 0 && given {
            self.save_here(true)?;
        } else if step == 0 && self.config.train.on_bad_step == OnBadStep::Rollback {
            self.save_here(false)?;
        }
        self.folder.write_config(&self.config)?;
        if self.lacks_evaluation() {
            self.make_up_for_evaluation()?;
        }
        if self.lacks_grids() {
            // It ended between this step's checkpoint and its grids.
            self.sample_here()?;
        }
        Ok(())
    }

    /// True if grids are due now and not there.
    pub(super) fn lacks_grids(&self) -> bool {
        let step = self.trainer.step;
        self.writes()
            && grids::are_due(&self.config, step)
            && !self.folder.sample_path(step, "ema").exists()
    }

    /// Saves beside training; what fails is told, and the next save tries again. A last save is waited for, and must
    /// not fail. Ranks whose weights differ end the run.
    pub(super) fn save(&mut self, last: bool) -> Result<()> {
        if let Some(group) = &self.group {
            ranks::compare_weights(group, &self.trainer)?;
        }
        self.save_here(last)
    }

    fn save_here(&mut self, last: bool) -> Result<()> {
        self.saved = Some(self.trainer.step);
        let Some(saver) = &mut self.saver else {
            return Ok(());
        };
        let started = Instant::now();
        let before = self.readback.outside_the_clock(|| match last {
            true => saver.finish(),
            false => saver.wait(),
        });
        self.warn_unless_strict(before)?;
        self.readback.flush();
        let metrics = self.readback.metrics_file()?;
        let Some(saver) = &mut self.saver else {
            return Ok(());
        };
        let begun = saver.save(&self.trainer, &self.config, metrics);
        let pause = started.elapsed().as_secs_f64();
        self.readback.outlook.save(pause, saver.last_took);
        if !last {
            return self.warn_unless_strict(begun);
        }
        begun?;
        self.readback.outside_the_clock(|| saver.finish())
    }

    pub(super) fn poll_saver(&mut self) -> Result<()> {
        let heard = self.saver.as_mut().map_or(Ok(()), Saver::poll);
        self.warn_unless_strict(heard)
    }

    /// Draws the grids; other ranks wait for it.
    pub(super) fn sample(&mut self) -> Result<()> {
        let group = self.group.clone();
        ranks::led(group.as_ref(), || self.sample_here())
    }

    fn sample_here(&mut self) -> Result<()> {
        // Sampling swaps the weights for their average.
        self.saver.iter_mut().for_each(Saver::wait_for_copy);
        let started = Instant::now();
        let drawn = self.readback.outside_the_clock(|| {
            self.budget.watch(|| {
                grids::write(
                    &self.folder,
                    &self.config,
                    &self.trainer,
                    &self.data,
                    &self.stop,
                    &*self.observer,
                )
            })
        });
        self.readback.outlook.grids(started.elapsed().as_secs_f64());
        self.readback.board.grids(self.trainer.step);
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
            let group = self.group.clone();
            ranks::led(group.as_ref(), || match self.stop.reason().is_none() {
                true => self.evaluate_here(),
                false => Ok(()),
            })?;
            self.share_evaluations()?;
            self.save(true)?;
            ranks::led(group.as_ref(), || {
                let due = self.writes() && grids::are_due(&self.config, self.trainer.step);
                match due && self.stop.reason().is_none() {
                    true => self.sample_here(),
                    false => Ok(()),
                }
            })?;
        }
        self.tell_best();
        self.readback.finish();
        let waited = self.data.store.waited();
        if waited >= WAIT_WORTH_TELLING {
            self.observer.message(&format!(
                "data loading held training up for {:.1} s",
                waited.as_secs_f64()
            ));
        }
        let stall = self.saver.as_ref().map(|saver| saver.longest_stall);
        let stall = stall.unwrap_or_default();
        if stall >= STALL_WORTH_TELLING {
            self.observer.message(&format!(
                "longest pause for a checkpoint: {} ms",
                stall.as_millis()
            ));
        }
        Ok(())
    }

    /// Does what the settings say about a bad step; other ranks go on from where rank 0 is then.
    pub(super) fn handle_bad_step(&mut self, bad: BadStep) -> Result<()> {
        let group = self.group.clone();
        ranks::led(group.as_ref(), || self.handle_bad_step_here(bad))?;
        let Some(group) = group else {
            return Ok(());
        };
        ranks::share_state(&group, &mut self.trainer)?;
        self.share_saved()
    }

    /// Has all ranks know what rank 0 has saved by itself, so that they all save, or none does.
    fn share_saved(&mut self) -> Result<()> {
        if let Some(group) = &self.group {
            let saved = group.share(|| Ok(serde_json::to_vec(&self.saved)?))?;
            self.saved = serde_json::from_slice(&saved)?;
        }
        Ok(())
    }

    fn handle_bad_step_here(&mut self, bad: BadStep) -> Result<()> {
        let saved = self.saver.as_mut().map_or(Ok(()), Saver::finish);
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
            let saved = self.save_here(true);
            if saved.is_ok() {
                self.folder.remove_after(step)?;
            }
            self.warn_unless_strict(saved)?;
        }
        Ok(())
    }
}
