//! How a run stands.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Result, ensure};

use super::disk_bytes;
use crate::checkpoint::{Evaluations, Meta, RunFolder, changed};
use crate::config::RunConfig;
use crate::report::{StepMetrics, newest_steps};
use crate::text::message;

/// The newest steps over which loss and speed are taken.
pub const SMOOTHED_STEPS: usize = 100;

/// What a run is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// A process trains it.
    Training,
    /// It can go on.
    Stopped,
    /// All its steps are done, or it ended as it became no better.
    Finished,
    /// No step is saved, and the next start begins with the first.
    NotBegun,
    /// It cannot go on, or not without help: why, safe to print.
    Damaged(String),
}

impl State {
    /// Its name: `training`, `stopped`, `finished`, `not begun`, `damaged`.
    pub fn name(&self) -> &'static str {
        match self {
            State::Training => "training",
            State::Stopped => "stopped",
            State::Finished => "finished",
            State::NotBegun => "not begun",
            State::Damaged(_) => "damaged",
        }
    }
}

/// The best evaluation of a run.
#[derive(Debug, Clone, PartialEq)]
pub struct Best {
    /// Short name of the measure, as in metrics.jsonl.
    pub metric: String,
    /// The measure in words.
    pub measure: String,
    /// The value; less is better.
    pub value: f64,
    /// The first step with it.
    pub step: u64,
}

/// How a run stands, by its files.
#[derive(Debug, Clone, PartialEq)]
pub struct Standing {
    /// Its folder.
    pub dir: PathBuf,
    /// What it is doing.
    pub state: State,
    /// Who trains it, in the words of its lock.
    pub trained_by: Option<String>,
    /// Steps done: while it is trained the newest, else those that the next start goes on from.
    pub step: u64,
    /// The step of its newest checkpoint.
    pub saved: Option<u64>,
    /// Steps wanted; `None` where its settings cannot be read.
    pub steps: Option<u64>,
    /// Mean loss of the newest steps up to `step`, [`SMOOTHED_STEPS`] at most.
    pub loss: Option<f64>,
    /// Median speed of the same steps.
    pub images_per_sec: Option<f64>,
    /// Its best evaluation up to its newest checkpoint.
    pub best: Option<Best>,
    /// What its folder takes on the disk.
    pub bytes: u64,
    /// When it was trained last.
    pub changed: Option<SystemTime>,
}

impl Standing {
    /// Reads how the run in `dir` stands. It takes no lock and changes nothing, so it may be called at any time. Whether
    /// the tensors of a checkpoint are damaged is not looked at.
    pub fn read(dir: &Path) -> Standing {
        let mut standing = Standing {
            dir: dir.to_owned(),
            state: State::NotBegun,
            trained_by: None,
            step: 0,
            saved: None,
            steps: None,
            loss: None,
            images_per_sec: None,
            best: None,
            bytes: disk_bytes(dir),
            changed: changed(dir),
        };
        if let Err(error) = standing.fill(&RunFolder::new(dir.to_owned())) {
            standing.state = State::Damaged(message(&format!("{error:#}")));
        }
        standing
    }

    /// What goes wrong on the way leaves what was found before it.
    fn fill(&mut self, folder: &RunFolder) -> Result<()> {
        ensure!(folder.dir().is_dir(), "its folder is not there");
        self.trained_by = folder.trained_by()?;
        let metrics = newest_steps(&folder.metrics_path(), usize::MAX);
        let lines = metrics.as_deref().unwrap_or_default();
        self.step = lines.last().map_or(0, |line| line.step);
        let config = folder.config();
        self.steps = config.as_ref().ok().map(|config| config.train.steps);
        let newest = folder.newest_meta();
        let meta = newest.as_ref().ok().and_then(Option::as_ref);
        let meta = meta.map(|(_, meta)| meta);
        self.saved = meta.map(|meta| meta.step);
        if self.trained_by.is_none() {
            // The later steps are done again.
            self.step = self.saved.unwrap_or(self.step);
        }
        self.take_lines(lines);
        let config = config.or_else(|error| match meta {
            // As a resume does.
            Some(meta) if !folder.dir().join("config.toml").exists() => Ok(meta.config.clone()),
            _ => Err(error),
        });
        if self.trained_by.is_some() {
            self.state = State::Training;
        }
        let begun_now = self.trained_by.is_some() && !folder.dir().join("config.toml").exists();
        let config = match config {
            Err(_) if begun_now || self.left_early(folder) => return Ok(()),
            config => config?,
        };
        self.steps = Some(config.train.steps);
        self.best = meta.and_then(|meta| best(meta, &config));
        if self.trained_by.is_some() {
            // Its checkpoints change meanwhile.
            return Ok(());
        }
        metrics?;
        self.state = match newest? {
            Some((_, meta)) => state(&meta, &config),
            None => {
                let lost = self.step > 0;
                let lost = lost.then(|| folder.refuse_lost_checkpoints(&config));
                lost.unwrap_or(Ok(()))?;
                self.step = 0;
                State::NotBegun
            }
        };
        Ok(())
    }

    fn take_lines(&mut self, lines: &[StepMetrics]) {
        let so_far = lines.iter().rev().filter(|line| line.step <= self.step);
        let newest: Vec<&StepMetrics> = so_far.take(SMOOTHED_STEPS).collect();
        let finite = |number: fn(&StepMetrics) -> f64| -> Vec<f64> {
            let numbers = newest.iter().map(|line| number(line));
            numbers.filter(|number| number.is_finite()).collect()
        };
        let losses = finite(|line| line.loss);
        let mean = losses.iter().sum::<f64>() / losses.len() as f64;
        self.loss = (!losses.is_empty()).then_some(mean);
        let mut speeds = finite(|line| line.images_per_sec);
        speeds.sort_by(f64::total_cmp);
        self.images_per_sec = speeds.get(speeds.len() / 2).copied();
    }

    /// True for what a start leaves that ended before it wrote its settings.
    fn left_early(&self, folder: &RunFolder) -> bool {
        self.saved.is_none() && self.step == 0 && folder.refuse_existing(None).is_ok()
    }
}

fn state(meta: &Meta, config: &RunConfig) -> State {
    let evaluations = meta.history.evaluations.as_ref();
    let patience = config.evaluation.as_ref().and_then(|e| e.patience);
    let worn_out = |found: &Evaluations| patience.is_some_and(|most| found.since >= most);
    match meta.step >= config.train.steps || evaluations.is_some_and(worn_out) {
        true => State::Finished,
        false => State::Stopped,
    }
}

fn best(meta: &Meta, config: &RunConfig) -> Option<Best> {
    let found = meta.history.evaluations.as_ref()?;
    let wanted = config.evaluation.as_ref().filter(|e| !e.metrics.is_empty());
    Some(Best {
        metric: wanted
            .map_or("best", |wanted| wanted.deciding().name())
            .to_owned(),
        measure: message(&found.measure),
        value: found.best,
        step: found.best_step,
    })
}
