//! How training reports to whoever started it. The library prints nothing by itself.

use std::fmt;
use std::time::Duration;

use crate::report::StepMetrics;

/// Hears of a run while it is trained. Every method does nothing unless it is overridden, so `()` trains in silence.
///
/// Methods are called on the thread that trains, except `decoding`, which several threads call.
pub trait Observer: Send + Sync + fmt::Debug {
    /// A text of one or more lines to show: the plan before the first step, notes, warnings. All of them are in the
    /// run's `log.txt` too.
    fn message(&self, text: &str) {
        let _ = text;
    }

    /// `done` of `total` files are decoded.
    fn decoding(&self, done: usize, total: usize) {
        let _ = (done, total);
    }

    /// All files are decoded, or one could not be and that ends the run.
    fn decoded(&self) {}

    /// Training begins at `step` of `steps`, or goes back to it.
    fn training(&self, step: u64, steps: u64) {
        let _ = (step, steps);
    }

    /// The run will probably take `left` more, sample grids and checkpoints included; called before `step`.
    fn time_left(&self, left: Duration) {
        let _ = left;
    }

    /// One step is done and took `secs` seconds. On CUDA, several steps are reported at once.
    fn step(&self, metrics: &StepMetrics, secs: f64) {
        let _ = (metrics, secs);
    }

    /// `done` of `total` network evaluations of a sample grid of `weights` ("raw" or "EMA") are done.
    fn sampling(&self, weights: &str, done: u64, total: u64) {
        let _ = (weights, done, total);
    }

    /// `done` of `total` network evaluations of an evaluation are done.
    fn evaluating(&self, done: u64, total: u64) {
        let _ = (done, total);
    }

    /// The last step of this start is done.
    fn finished(&self) {}
}

impl Observer for () {}
