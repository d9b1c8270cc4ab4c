//! Progress on stderr: bars on a terminal, plain lines elsewhere.

use std::cell::Cell;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use super::out::{BARS, HAS_BARS, is_silent, progress, say};
use crate::report::{StepMetrics, duration};

/// Interval between lines where stderr is not a terminal.
const LINE_EVERY: Duration = Duration::from_secs(10);

fn bar(total: u64, template: &str) -> Option<ProgressBar> {
    (*HAS_BARS && !is_silent()).then(|| {
        let style =
            ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
        BARS.add(ProgressBar::new(total).with_style(style))
    })
}

/// Training: step, smoothed loss, images per second, time left.
#[derive(Debug)]
pub(super) struct TrainProgress {
    bar: Option<ProgressBar>,
    steps: u64,
    smoothed_loss: f64,
    smoothed_secs_per_step: f64,
    /// Number of losses in the average so far.
    seen: u64,
    left: Option<Duration>,
    last_line: Instant,
    /// The latest state of the bar.
    state: String,
}

impl TrainProgress {
    /// Progress of a run that has done `step` of `steps` steps.
    pub(super) fn new(step: u64, steps: u64) -> TrainProgress {
        let bar = bar(steps, "step {pos}/{len} {wide_bar} {msg}");
        if let Some(bar) = &bar {
            bar.set_position(step);
        }
        TrainProgress {
            bar,
            steps,
            smoothed_loss: 0.0,
            smoothed_secs_per_step: 0.0,
            seen: 0,
            left: None,
            last_line: Instant::now(),
            state: String::new(),
        }
    }

    /// The time that the run will still take.
    pub(super) fn set_left(&mut self, left: Duration) {
        self.left = Some(left);
    }

    /// Adds one step that took `secs` seconds.
    pub(super) fn step(&mut self, metrics: &StepMetrics, secs: f64) {
        let (step, loss) = (metrics.step, metrics.loss);
        let images = metrics.images_per_sec * secs;
        // The mean of the first steps, then an exponential average over about 50.
        self.seen += 1;
        let weight = 1.0 / self.seen.min(50) as f64;
        self.smoothed_loss += weight * (loss - self.smoothed_loss);
        self.smoothed_secs_per_step += weight * (secs - self.smoothed_secs_per_step);
        let mut parts = vec![format!("loss {:.4}", self.smoothed_loss)];
        parts.extend(rate(images, self.smoothed_secs_per_step));
        if let Some(left) = self.left {
            parts.push(format!("{} left", duration(left)));
        }
        let message = parts.join("  ");
        if let Some(bar) = &self.bar {
            bar.set_position(step);
            self.state = format!("step {step}/{}  {message}", self.steps);
            bar.set_message(message.clone());
        }
        // The last line under a bar is its last state.
        let is_last = step == self.steps && self.bar.is_none();
        if is_last || self.last_line.elapsed() >= LINE_EVERY {
            self.last_line = Instant::now();
            progress(&format!("step {step}/{}  {message}", self.steps));
        }
    }

    /// Continues from `step`, with a fresh average.
    pub(super) fn set(&mut self, step: u64) {
        self.seen = 0;
        if let Some(bar) = &self.bar {
            bar.set_position(step);
        }
    }

    /// Leaves the last state on the screen.
    pub(super) fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
            say(&self.state);
        }
    }
}

/// "12.3 img/s"; nothing where no time was measured, or no step.
fn rate(images: f64, secs: f64) -> Option<String> {
    let rate = images / secs;
    rate.is_finite().then(|| format!("{rate:.1} img/s"))
}

/// Decoding a folder of images.
#[derive(Debug)]
pub(super) struct DecodeProgress {
    bar: Option<ProgressBar>,
}

impl DecodeProgress {
    /// A bar that appears with the first decoded file, when the number of files is known.
    pub(super) fn new() -> DecodeProgress {
        DecodeProgress {
            bar: bar(
                0,
                "decoding images {pos}/{len} {wide_bar} {per_sec} {eta} left",
            ),
        }
    }

    /// `done` of `total` files are decoded.
    pub(super) fn set(&self, done: usize, total: usize) {
        if let Some(bar) = &self.bar {
            bar.set_length(total as u64);
            bar.set_position(done as u64);
        }
    }

    /// Removes the bar.
    pub(super) fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

impl Default for DecodeProgress {
    fn default() -> Self {
        Self::new()
    }
}

/// Sampling: reverse steps over all batches.
#[derive(Debug)]
pub(super) struct SampleProgress {
    bar: Option<ProgressBar>,
    what: String,
    steps: u64,
    started: Instant,
    state: Cell<Lines>,
}

/// Progress without a bar.
#[derive(Debug, Clone, Copy)]
struct Lines {
    done: u64,
    last: Instant,
}

impl SampleProgress {
    /// `what` is being sampled in `steps` reverse steps.
    pub(super) fn new(what: &str, steps: u64) -> SampleProgress {
        let bar = bar(steps, "{msg} {pos}/{len} {wide_bar} {eta} left");
        if let Some(bar) = &bar {
            bar.set_message(what.to_owned());
        }
        let started = Instant::now();
        SampleProgress {
            bar,
            what: what.to_owned(),
            steps,
            started,
            state: Cell::new(Lines {
                done: 0,
                last: started,
            }),
        }
    }

    /// One more step.
    pub(super) fn step(&self) {
        if let Some(bar) = &self.bar {
            bar.inc(1);
        }
        let Lines { done, last } = self.state.get();
        let (done, now) = (done + 1, Instant::now());
        let is_due = now.duration_since(last) >= LINE_EVERY;
        if is_due {
            let line = sampled(
                &self.what,
                done,
                self.steps,
                now.duration_since(self.started),
            );
            progress(&line);
        }
        let last = if is_due { now } else { last };
        self.state.set(Lines { done, last });
    }

    /// Removes the bar.
    pub(super) fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// "sampling 30/100, 23 s left", by the time that the steps took.
fn sampled(what: &str, done: u64, steps: u64, took: Duration) -> String {
    let to_do = steps.saturating_sub(done);
    let left = took.as_secs_f64() / done.max(1) as f64 * to_do as f64;
    let left = Duration::try_from_secs_f64(left).unwrap_or(Duration::MAX);
    format!("{what} {done}/{steps}, {} left", duration(left))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_of_a_sampling_is_told_by_what_it_took() {
        let line = |done| sampled("sampling", done, 100, Duration::from_secs(30));
        assert_eq!(line(25), "sampling 25/100, 1 min 30 s left");
        assert_eq!(line(100), "sampling 100/100, 0 s left");
    }

    #[test]
    fn a_rate_is_a_number_or_nothing() {
        assert_eq!(rate(8.0, 0.5).as_deref(), Some("16.0 img/s"));
        assert_eq!(
            [rate(8.0, 0.0), rate(0.0, 0.0), rate(f64::NAN, 1.0)],
            [None, None, None]
        );
    }
}
