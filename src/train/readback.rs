//! Reads losses back from the device, several steps at once, and writes and shows them.

use std::fs::File;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tch::Device;

use super::board::Board;
use super::incident::BadStep;
use super::memory::checkpoint_bytes;
use super::outlook::Outlook;
use super::{Observer, StepOutput, Trainer};
use crate::checkpoint::RunFolder;
use crate::config::RunConfig;
use crate::native::Arriving;
use crate::report::{EvaluationMetrics, Later, LossByT, Metrics, PARTS_OF_T, StepMetrics};

/// Steps that a CUDA device may run ahead of the host, which then reads all but the newest: while the host waits and
/// writes, the device still has that one to compute.
const CUDA_STEPS_AHEAD: usize = 10;

/// What a step takes at least, so that no speed is infinite: JSON has no such number.
const SHORTEST_STEP_SECS: f64 = 1e-6;

/// A step whose numbers are not read yet.
#[derive(Debug)]
struct Pending {
    step: u64,
    lr: f64,
    numbers: Arriving,
    images_by_t: [u32; PARTS_OF_T],
}

/// Steps whose numbers are not read yet, metrics.jsonl, and the observer.
#[derive(Debug)]
pub(super) struct Readback {
    pending: Vec<Pending>,
    /// Only who writes the run's files has it.
    metrics: Option<Metrics>,
    observer: Arc<dyn Observer>,
    config: RunConfig,
    pub(super) outlook: Outlook,
    pub(super) board: Board,
    /// True if the last write to metrics.jsonl failed.
    metrics_fail: bool,
    started: Instant,
    /// End of the last read, moved forward by time that is not training.
    last_read: Instant,
}

impl Readback {
    /// Opens metrics.jsonl for a run that goes on from `step`, see [`Metrics::open`].
    pub(super) fn open(
        folder: &RunFolder,
        config: &RunConfig,
        trainer: &Trainer,
        later: Later,
        observer: Arc<dyn Observer>,
    ) -> Result<Readback> {
        let (metrics, notes) = Metrics::open(&folder.metrics_path(), trainer.step, later)?;
        notes.iter().for_each(|note| observer.message(note));
        Ok(Readback {
            metrics: Some(metrics),
            ..Readback::without_file(config, trainer, observer)
        })
    }

    /// Reads, and writes nothing: another rank does.
    pub(super) fn without_file(
        config: &RunConfig,
        trainer: &Trainer,
        observer: Arc<dyn Observer>,
    ) -> Readback {
        Readback {
            pending: Vec::new(),
            metrics: None,
            board: Board::off(),
            observer,
            config: config.clone(),
            outlook: Outlook::new(checkpoint_bytes(trainer)),
            metrics_fail: false,
            started: Instant::now(),
            last_read: Instant::now(),
        }
    }

    /// Takes a step whose numbers are to be read.
    ///
    /// # Errors
    /// Out of memory.
    pub(super) fn push(&mut self, output: &StepOutput) -> Result<()> {
        self.pending.push(Pending {
            step: output.step,
            lr: output.lr,
            numbers: Arriving::send(&output.numbers)?,
            images_by_t: output.images_by_t,
        });
        Ok(())
    }

    /// Pending steps to read now: all after each step on a CPU, where nothing runs ahead, after the first two of a
    /// start, by which the rest is estimated, and if the state is about to be used.
    pub(super) fn due(&self, device: Device, state_is_used: bool) -> usize {
        let pending = self.pending.len();
        if state_is_used || !device.is_cuda() || self.outlook.is_new() {
            pending
        } else if pending > CUDA_STEPS_AHEAD {
            pending - 1
        } else {
            0
        }
    }

    /// Waits for the `count` oldest pending steps and records them up to the first bad one, which it returns: the later
    /// ones changed nothing, and are forgotten.
    ///
    /// # Errors
    /// The device failed meanwhile.
    pub(super) fn read(&mut self, count: usize) -> Result<Option<BadStep>> {
        let Some(last) = self.pending[..count].last() else {
            return Ok(None);
        };
        // Those before it are there too.
        last.numbers.wait()?;
        let elapsed = self.last_read.elapsed().as_secs_f64();
        let secs_per_step = (elapsed / count as f64).max(SHORTEST_STEP_SECS);
        let images_per_sec = self.config.train.batch as f64 / secs_per_step;
        let earlier_secs = self.metrics.as_ref().map_or(0.0, |m| m.earlier_secs);
        let secs = earlier_secs + self.started.elapsed().as_secs_f64();
        let mut lines = Vec::new();
        let mut bad = None;
        for output in self.pending.drain(..count).collect::<Vec<_>>() {
            let number = |place: i64| output.numbers.host().double_value(&[place]);
            let [loss, grad_norm, frozen] = [0, 1, 2].map(number);
            let sums = std::array::from_fn(|part| number(3 + part as i64));
            if frozen != 0.0 {
                bad = Some(BadStep {
                    step: output.step,
                    loss,
                    grad_norm,
                });
                self.pending.clear();
                break;
            }
            let metrics = StepMetrics {
                step: output.step,
                loss,
                lr: output.lr,
                grad_norm,
                images_per_sec,
                secs,
                loss_by_t: Some(LossByT::of_sums(&sums, &output.images_by_t)),
            };
            self.tell(&metrics, secs_per_step);
            self.board.step(&metrics);
            lines.push(metrics);
        }
        self.write(&lines);
        self.last_read = Instant::now();
        Ok(bad)
    }

    /// Shows a step and the time left; when that can be measured at last, in a line of its own too.
    fn tell(&mut self, metrics: &StepMetrics, secs: f64) {
        let was_new = self.outlook.is_new();
        self.outlook.step(secs);
        let left = self.outlook.left(&self.config, metrics.step);
        self.observer.time_left(left);
        self.observer.step(metrics, secs);
        if was_new && !self.outlook.is_new() && metrics.step < self.config.train.steps {
            let line = self.outlook.line(&self.config, metrics.step);
            self.observer.message(&line);
        }
    }

    /// Lines that cannot be written are kept for the next time; training continues.
    fn write(&mut self, lines: &[StepMetrics]) {
        let Some(metrics) = &mut self.metrics else {
            return;
        };
        let result = metrics.write(lines);
        self.note_write(result);
    }

    /// Writes the line of an evaluation; one that cannot be written is kept, as those of steps.
    pub(super) fn write_evaluation(&mut self, evaluation: &EvaluationMetrics) {
        self.board.evaluation(evaluation);
        let Some(metrics) = &mut self.metrics else {
            return;
        };
        let result = metrics.write_evaluation(evaluation);
        self.note_write(result);
    }

    fn note_write(&mut self, result: Result<()>) {
        if let Err(error) = &result
            && !self.metrics_fail
        {
            self.observer.message(&format!(
                "warning: {error:#}; the lines are kept and written later"
            ));
        }
        self.metrics_fail = result.is_err();
    }

    /// metrics.jsonl, to be synced with a checkpoint.
    pub(super) fn metrics_file(&self) -> Result<File> {
        let metrics = self.metrics.as_ref();
        metrics.context("this rank keeps no metrics")?.handle()
    }

    /// Before a save: retries to write lines that could not be written.
    pub(super) fn flush(&mut self) {
        self.board.save();
        if self.metrics_fail {
            self.write(&[]);
        }
    }

    /// Continues from an earlier step: later metrics are dropped.
    ///
    /// # Errors
    /// metrics.jsonl cannot be read or written.
    pub(super) fn go_back_to(&mut self, folder: &RunFolder, step: u64) -> Result<()> {
        let unwritten = self.metrics.as_ref();
        let unwritten = unwritten.map_or(String::new(), |m| m.unwritten_up_to(step));
        let (mut metrics, notes) = Metrics::open(&folder.metrics_path(), step, Later::LeftBehind)?;
        notes.iter().for_each(|note| self.observer.message(note));
        metrics.take(&unwritten);
        self.metrics = Some(metrics);
        self.board.go_back_to(step, &self.config);
        self.started = Instant::now();
        self.observer.training(step, self.config.train.steps);
        Ok(())
    }

    /// Time that a CUDA device still needs for the steps that were not read yet, by those before: it began with them at
    /// the last read. A CPU has done them.
    pub(super) fn queued(&self, device: Device) -> Duration {
        if !device.is_cuda() {
            return Duration::ZERO;
        }
        let steps = self.pending.len() as f64 * self.outlook.secs_per_step();
        let steps = Duration::try_from_secs_f64(steps).unwrap_or_default();
        steps.saturating_sub(self.last_read.elapsed())
    }

    /// Does not count `time`, which has just passed, as training.
    pub(super) fn outside_the_clock_for(&mut self, time: Duration) {
        self.last_read += time;
    }

    /// Runs `work` without counting its time as training.
    pub(super) fn outside_the_clock<T>(&mut self, work: impl FnOnce() -> T) -> T {
        let before = Instant::now();
        let result = work();
        self.last_read += before.elapsed();
        result
    }

    /// Writes what is left; prints a warning if lines are lost.
    pub(super) fn finish(&mut self) {
        self.flush();
        self.board.finish();
        self.observer.finished();
        if self.metrics_fail {
            self.observer
                .message("warning: the last lines of metrics.jsonl could not be written");
        }
    }
}
