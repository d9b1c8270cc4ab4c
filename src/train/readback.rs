//! Reading losses back from the device, a few steps at a time, and telling them.

use std::time::Instant;

use anyhow::Result;
use tch::Device;

use super::{StepOutput, Trainer, refuse_non_finite};
use crate::checkpoint::RunFolder;
use crate::config::RunConfig;
use crate::data::Loaded;
use crate::report::{Metrics, StepMetrics, TrainProgress};

/// Steps that a CUDA device may run ahead of the host. Reading each loss would make it wait.
const CUDA_STEPS_AHEAD: usize = 10;

/// Steps whose numbers are not read yet, and where they go then.
#[derive(Debug)]
pub(super) struct Readback {
    pending: Vec<StepOutput>,
    metrics: Metrics,
    progress: TrainProgress,
    batch: f64,
    started: Instant,
    /// When the last read ended, moved on by time that is not training.
    last_read: Instant,
}

impl Readback {
    pub(super) fn open(
        folder: &RunFolder,
        config: &RunConfig,
        step: u64,
        progress: TrainProgress,
    ) -> Result<Readback> {
        Ok(Readback {
            pending: Vec::new(),
            metrics: Metrics::open(&folder.metrics_path(), step)?,
            progress,
            batch: config.train.batch as f64,
            started: Instant::now(),
            last_read: Instant::now(),
        })
    }

    pub(super) fn push(&mut self, output: StepOutput) {
        self.pending.push(output);
    }

    /// Whether it is time to read: at once on CPU, where nothing runs ahead.
    pub(super) fn is_due(&self, device: Device) -> bool {
        !device.is_cuda() || self.pending.len() >= CUDA_STEPS_AHEAD
    }

    /// Waits for all pending steps, checks them and writes them down.
    ///
    /// # Errors
    /// A loss or gradient that is not finite: the steps before it are written.
    pub(super) fn read(&mut self, trainer: &mut Trainer, data: &Loaded) -> Result<()> {
        let numbers: Vec<(f64, f64)> = self
            .pending
            .iter()
            .map(|o| {
                (
                    o.loss_and_grad_norm.double_value(&[0]),
                    o.loss_and_grad_norm.double_value(&[1]),
                )
            })
            .collect();
        let secs_per_step =
            self.last_read.elapsed().as_secs_f64() / self.pending.len().max(1) as f64;
        let images_per_sec = self.batch / secs_per_step;
        let secs = self.metrics.earlier_secs + self.started.elapsed().as_secs_f64();
        let mut lines = Vec::new();
        let mut verdict = Ok(());
        for (output, (loss, grad_norm)) in self.pending.drain(..).zip(numbers) {
            verdict = refuse_non_finite(output.step, loss, grad_norm, trainer, data);
            if verdict.is_err() {
                break;
            }
            lines.push(StepMetrics {
                step: output.step,
                loss,
                lr: output.lr,
                grad_norm,
                images_per_sec,
                secs,
            });
            self.progress
                .step(output.step, loss, self.batch, secs_per_step);
        }
        self.metrics.write(&lines)?;
        self.last_read = Instant::now();
        verdict
    }

    /// Runs `work` without counting its time as training.
    pub(super) fn outside_the_clock<T>(&mut self, work: impl FnOnce() -> T) -> T {
        let before = Instant::now();
        let result = self.progress.suspend(work);
        self.last_read += before.elapsed();
        result
    }

    pub(super) fn finish(&self) {
        self.progress.finish();
    }
}
