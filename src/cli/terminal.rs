//! Training as a terminal shows it: bars, and lines above them.

use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use super::flags::with_flags;
use super::out::say;
use super::progress::{DecodeProgress, SampleProgress, TrainProgress};
use super::signals;
use crate::report::StepMetrics;
use crate::train::Observer;

/// Shows a run on stderr.
#[derive(Debug, Default)]
pub(super) struct Terminal {
    bars: Mutex<Bars>,
}

/// Another rank shows the run: this one says nothing.
#[derive(Debug, Default)]
pub(super) struct Quiet;

impl Observer for Quiet {
    fn training(&self, _step: u64, _steps: u64) {
        signals::training_begins();
    }
}

#[derive(Debug, Default)]
struct Bars {
    decoding: Option<DecodeProgress>,
    training: Option<TrainProgress>,
    sampling: Option<SampleProgress>,
}

impl Terminal {
    fn bars(&self) -> MutexGuard<'_, Bars> {
        // A panic while a bar was drawn leaves the bar as good as it was.
        self.bars
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// `done` of `total` network evaluations of one work are done.
    fn evaluations(&self, work: &str, done: u64, total: u64) {
        let mut bars = self.bars();
        let new = || SampleProgress::new(work, total);
        bars.sampling.get_or_insert_with(new).step();
        if done == total
            && let Some(bar) = bars.sampling.take()
        {
            bar.finish();
        }
    }
}

impl Observer for Terminal {
    fn message(&self, text: &str) {
        say(&with_flags(text));
    }

    fn decoding(&self, done: usize, total: usize) {
        let mut bars = self.bars();
        let bar = bars.decoding.get_or_insert_with(DecodeProgress::new);
        bar.set(done, total);
    }

    fn decoded(&self) {
        if let Some(bar) = self.bars().decoding.take() {
            bar.finish();
        }
    }

    fn training(&self, step: u64, steps: u64) {
        signals::training_begins();
        match &mut self.bars().training {
            Some(bar) => bar.set(step),
            none => *none = Some(TrainProgress::new(step, steps)),
        }
    }

    fn time_left(&self, left: Duration) {
        if let Some(bar) = &mut self.bars().training {
            bar.set_left(left);
        }
    }

    fn step(&self, metrics: &StepMetrics, secs: f64) {
        if let Some(bar) = &mut self.bars().training {
            bar.step(metrics, secs);
        }
    }

    fn sampling(&self, weights: &str, done: u64, total: u64) {
        self.evaluations(&format!("sampling {weights}"), done, total);
    }

    fn evaluating(&self, done: u64, total: u64) {
        self.evaluations("evaluating", done, total);
    }

    fn finished(&self) {
        if let Some(bar) = self.bars().training.take() {
            bar.finish();
        }
    }
}
