//! Reads losses back from the device, several steps at once, and writes and shows them.

use std::fs::File;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;
use tch::{Device, Tensor};

use super::incident::BadStep;
use super::memory::checkpoint_bytes;
use super::outlook::Outlook;
use super::{Observer, StepOutput, Trainer};
use crate::checkpoint::RunFolder;
use crate::config::RunConfig;
use crate::report::{Later, Metrics, StepMetrics};

/// Steps that a CUDA device may run ahead of the host; it would idle while the host reads each loss.
const CUDA_STEPS_AHEAD: usize = 10;

/// What a step takes at least, so that no speed is infinite: JSON has no such number.
const SHORTEST_STEP_SECS: f64 = 1e-6;

/// Steps whose numbers are not read yet, metrics.jsonl, and the observer.
#[derive(Debug)]
pub(super) struct Readback {
    pending: Vec<StepOutput>,
    metrics: Metrics,
    observer: Arc<dyn Observer>,
    config: RunConfig,
    pub(super) outlook: Outlook,
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
            pending: Vec::new(),
            metrics,
            observer,
            config: config.clone(),
            outlook: Outlook::new(checkpoint_bytes(trainer)),
            metrics_fail: false,
            started: Instant::now(),
            last_read: Instant::now(),
        })
    }

    pub(super) fn push(&mut self, output: StepOutput) {
        self.pending.push(output);
    }

    /// True if it is time to read: after each step on a CPU, where nothing runs ahead, and after the first two of a
    /// start, by which the rest is estimated.
    pub(super) fn is_due(&self, device: Device) -> bool {
        !device.is_cuda() || self.outlook.is_new() || self.pending.len() >= CUDA_STEPS_AHEAD
    }

    /// Waits for all pending steps and records them up to the first bad one, which it returns: the later ones changed
    /// nothing.
    pub(super) fn read(&mut self) -> Option<BadStep> {
        let rows: Vec<&Tensor> = self.pending.iter().map(|o| &o.numbers).collect();
        // One read for all of them.
        let numbers: Vec<[f64; 3]> = match rows.is_empty() {
            true => Vec::new(),
            false => {
                let all = Tensor::stack(&rows, 0).to_device(Device::Cpu);
                let row = |i: i64| [0, 1, 2].map(|j| all.double_value(&[i, j]));
                (0..rows.len() as i64).map(row).collect()
            }
        };
        let elapsed = self.last_read.elapsed().as_secs_f64();
        let secs_per_step = (elapsed / self.pending.len().max(1) as f64).max(SHORTEST_STEP_SECS);
        let images_per_sec = self.config.train.batch as f64 / secs_per_step;
        let secs = self.metrics.earlier_secs + self.started.elapsed().as_secs_f64();
        let mut lines = Vec::new();
        let mut bad = None;
        for (output, [loss, grad_norm, frozen]) in
            std::mem::take(&mut self.pending).into_iter().zip(numbers)
        {
            if frozen != 0.0 {
                bad = Some(BadStep {
                    step: output.step,
                    loss,
                    grad_norm,
                });
                break;
            }
            let metrics = StepMetrics {
                step: output.step,
                loss,
                lr: output.lr,
                grad_norm,
                images_per_sec,
                secs,
            };
            self.tell(&metrics, secs_per_step);
            lines.push(metrics);
        }
        self.write(&lines);
        self.last_read = Instant::now();
        bad
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
        let result = self.metrics.write(lines);
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
        self.metrics.handle()
    }

    /// Retries to write lines that could not be written.
    pub(super) fn flush(&mut self) {
        if self.metrics_fail {
            self.write(&[]);
        }
    }

    /// Continues from an earlier step: later metrics are dropped.
    ///
    /// # Errors
    /// metrics.jsonl cannot be read or written.
    pub(super) fn go_back_to(&mut self, folder: &RunFolder, step: u64) -> Result<()> {
        let unwritten = self.metrics.unwritten_up_to(step);
        let (metrics, notes) = Metrics::open(&folder.metrics_path(), step, Later::LeftBehind)?;
        notes.iter().for_each(|note| self.observer.message(note));
        self.metrics = metrics;
        self.metrics.take(&unwritten);
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
        self.observer.finished();
        if self.metrics_fail {
            self.observer
                .message("warning: the last lines of metrics.jsonl could not be written");
        }
    }
}
