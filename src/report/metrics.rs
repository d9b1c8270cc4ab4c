//! metrics.jsonl: one line of JSON per step, and one per evaluation.

mod lines;
mod tail;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::{Deserialize, Deserializer, Serialize};

use self::lines::Lines;
pub use self::tail::newest_steps;
use crate::fs::open_regular_with;

/// The line of a step.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct StepMetrics {
    /// Steps done, from 1.
    pub step: u64,
    /// Loss of the batch.
    #[serde(deserialize_with = "number")]
    pub loss: f64,
    /// Learning rate of the step.
    #[serde(deserialize_with = "number")]
    pub lr: f64,
    /// L2 norm of all gradients, before clipping.
    #[serde(deserialize_with = "number")]
    pub grad_norm: f64,
    /// Training speed, without sampling and saving.
    #[serde(deserialize_with = "number")]
    pub images_per_sec: f64,
    /// Seconds of the run so far, over all its starts.
    #[serde(deserialize_with = "number")]
    pub secs: f64,
    /// The loss in parts of the time steps; `None` in lines of before it was measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loss_by_t: Option<LossByT>,
}

/// Equal parts of the time steps in which the loss is measured apart. Three are a quarter.
pub const PARTS_OF_T: usize = 12;

/// The mean loss of the images of a batch in each part of the time steps, from the least noisy; `None` where the batch had no
/// image. Of learned variances only the squared error is in it. Files have four digits of each.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct LossByT(pub [Option<f64>; PARTS_OF_T]);

impl LossByT {
    /// From the sum of the losses of so many images in each part.
    pub fn of_sums(sums: &[f64; PARTS_OF_T], images: &[u32; PARTS_OF_T]) -> LossByT {
        let mut means = [None; PARTS_OF_T];
        for ((mean, sum), images) in means.iter_mut().zip(sums).zip(images) {
            let value = sum / f64::from(*images);
            *mean = value.is_finite().then(|| four_digits(value));
        }
        LossByT(means)
    }

    /// The mean of each quarter's parts.
    pub fn quarters(&self) -> [Option<f64>; 4] {
        let (quarters, _) = self.0.as_chunks::<{ PARTS_OF_T / 4 }>();
        [0, 1, 2, 3].map(|quarter| {
            let known: Vec<f64> = quarters[quarter].iter().flatten().copied().collect();
            let sum: f64 = known.iter().sum();
            (!known.is_empty()).then(|| sum / known.len() as f64)
        })
    }
}

/// Twelve numbers a line are for curves, and need no more.
fn four_digits(value: f64) -> f64 {
    format!("{value:.3e}").parse().unwrap_or(value)
}

/// The line of an evaluation, which follows that of its step. It holds no times, so that a run that was resumed has the
/// same as one that was not.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EvaluationMetrics {
    /// Steps done.
    pub step: u64,
    /// The value of each measure, by its name.
    pub evaluation: BTreeMap<String, f64>,
}

/// An evaluation, and when in its run it was.
#[derive(Debug, Clone, PartialEq)]
pub struct TimedEvaluation {
    /// Its step and its values.
    pub metrics: EvaluationMetrics,
    /// Seconds of the run when its step was done, over all its starts, with all but steps that were lost; `None`
    /// without the line of its step.
    pub secs: Option<f64>,
}

/// The evaluations of a run, as its metrics.jsonl tells them.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct EvaluationHistory {
    /// One a step, in the order of steps.
    pub evaluations: Vec<TimedEvaluation>,
    /// The largest step in the file.
    pub last_step: u64,
    /// Whole lines that are neither of a step nor of an evaluation.
    pub bad_lines: u64,
}

/// JSON has no infinities and NaNs: they are written as null.
fn number<'de, D: Deserializer<'de>>(json: D) -> Result<f64, D::Error> {
    Ok(Option::deserialize(json)?.unwrap_or(f64::NAN))
}

/// What becomes of the lines after the step that a run goes on from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Later {
    /// They are dropped: a rollback has left these steps behind.
    LeftBehind,
    /// These steps were not saved. They are dropped, as the run does them again; but if one is later than
    /// `explained_to`, checkpoints may have been lost, and the lines are set aside in `metrics-after-step-….jsonl`.
    Unsaved {
        /// The last step that a run may have come to before it saved again.
        explained_to: u64,
    },
}

/// The largest step in metrics.jsonl; 0 if there is no such file, or no step in it.
///
/// # Errors
/// Not a regular file, or one that cannot be read.
pub fn last_step(path: &Path) -> Result<u64> {
    Ok(Lines::find(path, u64::MAX)?.last_step)
}

/// The line of step `step` in metrics.jsonl; `None` without one, or without the file.
///
/// # Errors
/// Not a regular file, or one that cannot be read.
pub fn of_step(path: &Path, step: u64) -> Result<Option<StepMetrics>> {
    lines::find_step(path, step)
}

/// The evaluations in metrics.jsonl, in order; none without the file.
///
/// # Errors
/// Not a regular file, or one that cannot be read.
pub fn evaluations(path: &Path) -> Result<Vec<EvaluationMetrics>> {
    lines::find_evaluations(path)
}

/// The evaluations in metrics.jsonl with their times; none without the file. A last line that is cut short, as while a
/// run is writing it, is passed over.
///
/// # Errors
/// Not a regular file, or one that cannot be read.
pub fn evaluation_history(path: &Path) -> Result<EvaluationHistory> {
    lines::find_history(path)
}

/// A whole line of metrics.jsonl.
#[derive(Debug, Clone, PartialEq)]
#[allow(
    clippy::large_enum_variant,
    reason = "most lines are of steps, and one is made at a time"
)]
pub enum Line {
    /// Of a step.
    Step(StepMetrics),
    /// Of an evaluation.
    Evaluation(EvaluationMetrics),
    /// Of neither.
    Bad,
}

/// Reads metrics.jsonl from byte `from` on, and hands its lines to `take`; none without the file. Returns where the last whole
/// line ends: to go on from there later. A last line that is cut short, as while a run is writing it, is left for then.
///
/// # Errors
/// Not a regular file, one that cannot be read, or one that is shorter than `from`.
pub fn read_lines(path: &Path, from: u64, take: &mut dyn FnMut(Line)) -> Result<u64> {
    lines::read_from(path, from, take)
}

/// The open file.
#[derive(Debug)]
pub struct Metrics {
    path: PathBuf,
    file: File,
    /// Length of the whole lines in the file, in bytes.
    len: u64,
    /// Lines that could not be written yet.
    pending: String,
    /// Seconds of earlier starts of the run.
    pub earlier_secs: f64,
}

impl Metrics {
    /// Opens the metrics of a run that goes on from `step`, without the lines after it, so that each step is there
    /// once. Also returns what there is to say about lines that are not kept.
    ///
    /// A line that cannot be read is set aside in `metrics-bad.jsonl`; one at the end that a crash cut short is
    /// dropped.
    ///
    /// # Errors
    /// Not a regular file; no permission to read or write it, or no room for lines that are set aside.
    pub fn open(path: &Path, step: u64, later: Later) -> Result<(Metrics, Vec<String>)> {
        let lines = Lines::find(path, step)?;
        let notes = lines.sort_out(path, step, later)?;
        let mut file = open_regular_with(path, File::options().append(true).create(true))
            .with_context(|| format!("cannot append to {}", path.display()))?;
        if lines.ends_open {
            file.write_all(b"\n")
                .with_context(|| format!("cannot append to {}", path.display()))?;
        }
        let metrics = Metrics {
            path: path.to_owned(),
            len: file.metadata()?.len(),
            file,
            pending: String::new(),
            earlier_secs: lines.secs,
        };
        Ok((metrics, notes))
    }

    /// Lines of steps up to `step` that could not be written, for [`Metrics::take`] of a newly opened file.
    pub fn unwritten_up_to(&self, step: u64) -> String {
        let early = |line: &&str| lines::step_of(line.as_bytes()).is_some_and(|(of, _)| of <= step);
        let lines = self.pending.lines().filter(early);
        lines.flat_map(|line| [line, "\n"]).collect()
    }

    /// Adds whole lines that are written with the next ones.
    pub fn take(&mut self, lines: &str) {
        self.pending += lines;
    }

    /// The file, to be synced elsewhere.
    ///
    /// # Errors
    /// Too many open files.
    pub fn handle(&self) -> Result<File> {
        Ok(self.file.try_clone()?)
    }

    /// Appends lines in one write, so that none is torn by another writer.
    ///
    /// # Errors
    /// A full disk, for example: a partial line is removed again, and the next call writes these lines too.
    pub fn write(&mut self, steps: &[StepMetrics]) -> Result<()> {
        for step in steps {
            self.pending += &serde_json::to_string(step)?;
            self.pending.push('\n');
        }
        self.write_pending()
    }

    /// Appends the line of an evaluation, as [`write`](Metrics::write) does.
    ///
    /// # Errors
    /// As `write`.
    pub fn write_evaluation(&mut self, evaluation: &EvaluationMetrics) -> Result<()> {
        self.pending += &serde_json::to_string(evaluation)?;
        self.pending.push('\n');
        self.write_pending()
    }

    fn write_pending(&mut self) -> Result<()> {
        if let Err(error) = self.file.write_all(self.pending.as_bytes()) {
            // Shrinking a file works on a full disk too.
            let _ = self.file.set_len(self.len);
            return Err(error).with_context(|| format!("cannot append to {}", self.path.display()));
        }
        self.len += self.pending.len() as u64;
        self.pending.clear();
        Ok(())
    }
}

#[cfg(test)]
mod tests;
