//! The run that a folder holds, to go on with. A folder that holds parts of one is never begun anew.

use std::io;
use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};
use fs_err as fs;

use super::file::{Checkpoint, read_checkpoint};
use super::lock::RunLock;
use super::newest::{Damaged, checkpoints, newest};
use super::run_folder::RunFolder;
use crate::config::RunConfig;
use crate::report::{is_events_file, last_step};
use crate::text::plural;

/// What a start leaves that ended before it wrote its settings; the folders are empty then, and metrics.jsonl too.
const LEFT_EARLY: [&str; 13] = [
    "lock",
    "samples",
    "checkpoints",
    "incidents",
    "pictures.tsv",
    "held_out.tsv",
    "labels.tsv",
    "skipped.tsv",
    "metrics.jsonl",
    "data.png",
    "report.html",
    "log.txt",
    "log.old.txt",
];

/// An existing run.
#[derive(Debug)]
pub struct Resumable {
    /// Its settings.
    pub config: RunConfig,
    /// True if config.toml is missing, and the settings are the checkpoint's.
    pub config_restored: bool,
    /// Its newest readable checkpoint; none if it ended before the first.
    pub checkpoint: Option<(PathBuf, Checkpoint)>,
    /// Newer checkpoints that cannot be read.
    pub damaged: Vec<Damaged>,
    /// Keeps other processes out of it.
    pub lock: RunLock,
}

impl RunFolder {
    /// The run that exists here, locked, or `None` without one.
    ///
    /// If the newest checkpoint cannot be read, the one before it is used. If config.toml is missing, the settings are
    /// the checkpoint's own.
    ///
    /// # Errors
    /// A folder with other things in it, a run that another process is training, one whose checkpoints all fail to
    /// read, or one whose settings or checkpoints are gone.
    pub fn resumable(&self) -> Result<Option<Resumable>> {
        self.found(|| RunLock::take(&self.dir().join("lock")))
    }

    /// As [`resumable`](RunFolder::resumable), without a lock, and without changing anything: what is there now, and may be
    /// trained by another process.
    ///
    /// # Errors
    /// As `resumable`, but for that.
    pub fn look(&self) -> Result<Option<Resumable>> {
        self.found(|| RunLock::of_nobody(self.dir()))
    }

    fn found(&self, lock: impl FnOnce() -> Result<RunLock>) -> Result<Option<Resumable>> {
        ensure!(
            self.dir().is_dir() || !self.dir().exists(),
            "{} is not a folder, and a run is one; name that with `start.folder`",
            self.dir().display()
        );
        let has_config = self.config_path().exists();
        if !has_config && checkpoints(self.dir())?.is_empty() {
            self.refuse_remains()?;
            return Ok(None);
        }
        let lock = lock()?;
        let found = newest(self.dir(), read_checkpoint)?;
        let config = match &found {
            Some(found) if !has_config => found.read.meta.config.clone(),
            Some(_) => self.config().with_context(
                || "repair it, or remove it to go on with the settings of the newest checkpoint",
            )?,
            None => self.config()?,
        };
        let (checkpoint, damaged) = match found {
            Some(found) => (Some((found.path, found.read)), found.damaged),
            None => (None, vec![]),
        };
        if checkpoint.is_none() {
            self.refuse_lost_checkpoints(&config)?;
        }
        Ok(Some(Resumable {
            config,
            config_restored: !has_config,
            checkpoint,
            damaged,
            lock,
        }))
    }

    /// Refuses to begin a run where one is, or parts of one; `lock` is held where its settings are there and no
    /// checkpoint yet.
    ///
    /// # Errors
    /// The folder holds a run.
    pub fn refuse_existing(&self, lock: Option<&RunLock>) -> Result<()> {
        if lock.is_some() {
            return Ok(());
        }
        ensure!(
            !self.config_path().exists() && checkpoints(self.dir())?.is_empty(),
            "{} holds a run; resume that, or choose another `start.folder`",
            self.dir().display()
        );
        self.refuse_remains()
    }

    /// A run that has done steps without a checkpoint has lost its checkpoints, unless it ended before the first.
    pub(crate) fn refuse_lost_checkpoints(&self, config: &RunConfig) -> Result<()> {
        let steps = last_step(&self.metrics_path())?;
        if steps == 0 {
            return Ok(());
        }
        let folder = self.dir().join("checkpoints");
        let every = config.train.save_every_steps;
        // `latest` was written after a checkpoint.
        let (is, lost) = match folder.exists() {
            false => ("missing", true),
            true => (
                "empty",
                steps > unsaved_steps(config) || folder.join("latest").exists(),
            ),
        };
        ensure!(
            !lost,
            "{} is {is}, but metrics.jsonl has {}, with a checkpoint every {every}: put the checkpoints back, or choose another `start.folder`; to begin this run again from step 0, move metrics.jsonl away",
            folder.display(),
            plural(steps, "step"),
        );
        Ok(())
    }

    /// Refuses a folder without settings and checkpoints that holds anything but what a start leaves that ended early.
    fn refuse_remains(&self) -> Result<()> {
        let dir = self.dir().display();
        let entries = match fs::read_dir(self.dir()) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        let names: Vec<_> = entries
            .map(|entry| Ok(entry?.file_name()))
            .collect::<io::Result<_>>()?;
        let steps = last_step(&self.metrics_path())?;
        ensure!(
            steps == 0,
            "{dir} holds a run without its config.toml and its checkpoints: metrics.jsonl has {}; put them back, or choose another `start.folder`",
            plural(steps, "step")
        );
        for name in &names {
            let leftover = name.as_encoded_bytes().starts_with(b".tmp");
            let events = name.to_str().is_some_and(is_events_file);
            if !leftover && !events && !LEFT_EARLY.iter().any(|ours| name == *ours) {
                bail!(
                    "{dir} is not empty and holds no run (no config.toml); choose another `start.folder`"
                );
            }
        }
        for part in ["samples", "incidents", "checkpoints"] {
            let part = self.dir().join(part);
            let count = fs::read_dir(&part).map_or(0, Iterator::count) as u64;
            ensure!(
                count == 0,
                "{dir} holds a run without its config.toml and its checkpoints: {} has {}; put them back, or choose another `start.folder`",
                part.display(),
                plural(count, "file")
            );
        }
        Ok(())
    }
}

/// Steps that a run does until its next checkpoint is on the disk: one is written while the steps of the next interval
/// are done.
pub fn unsaved_steps(config: &RunConfig) -> u64 {
    config.train.save_every_steps.saturating_mul(2)
}
