//! The files of a run.
//!
//! ```text
//! RUN/config.toml                        resolved settings, readable by --config
//! RUN/pictures.tsv                       the images it is trained on
//! RUN/labels.tsv                         the classes of the images, and that of each, if they have any
//! RUN/held_out.tsv                       the images it is not trained on, if some are held out
//! RUN/skipped.tsv                        files that could not be read, if there are any
//! RUN/metrics.jsonl                      one line per step, and one per evaluation
//! RUN/data.png                           some of the images, as the network sees them
//! RUN/report.html                        the report of the run (`ddpm report`), made anew after each save
//! RUN/log.txt                            what was said while it was trained; log.old.txt, if it grew long
//! RUN/metrics-bad.jsonl                  lines of it that could not be read, if there were any
//! RUN/metrics-after-step-00002000.jsonl  lines of it whose checkpoints were lost, if there were any
//! RUN/events.out.tfevents.1796049000.HOST.4711.0   what TensorBoard shows, a file each start
//! RUN/samples/step-00002000-ema.png      grids from the same noise every time
//! RUN/checkpoints/step-00002000.safetensors
//! RUN/checkpoints/latest                 the name of the newest one, written last
//! RUN/checkpoints/best.safetensors       a link to the best one by evaluations, which step-00002000.best.pin keeps
//! RUN/checkpoints/step-00002000.1f3a09c2.pin   keeps a checkpoint for a file that needs it (see `pins`)
//! RUN/checkpoints/step-00002000.safetensors.ema.analytic.json   a measurement of it (`ddpm calibrate`)
//! RUN/incidents/step-00001234.json       records of bad steps
//! RUN/lock                               held by the process that trains
//! ```

use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use fs_err as fs;

use super::best;
use super::file::{Checkpoint, Meta, read_checkpoint, read_meta, write_checkpoint};
use super::lock::{RunLock, holder};
use super::newest::{checkpoints, newest, step_of};
use super::pins;
use crate::config::{Preset, RunConfig, Unnamed};
use crate::fs::{read_text, remove_leftovers, write_bytes};

/// Longest config.toml that is read: 100,000 betas take 3 MiB.
const MAX_CONFIG_BYTES: u64 = 16 << 20;

/// A run's folder.
#[derive(Debug, Clone)]
pub struct RunFolder {
    dir: PathBuf,
}

impl RunFolder {
    /// The run at `dir`, which need not exist yet.
    pub fn new(dir: PathBuf) -> RunFolder {
        RunFolder { dir }
    }

    /// Where it is.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The settings.
    pub(super) fn config_path(&self) -> PathBuf {
        self.dir.join("config.toml")
    }

    /// One line of JSON per step, and one per evaluation.
    pub fn metrics_path(&self) -> PathBuf {
        self.dir.join("metrics.jsonl")
    }

    /// A sample grid of `which` ("raw" or "ema") weights.
    pub fn sample_path(&self, step: u64, which: &str) -> PathBuf {
        self.dir
            .join("samples")
            .join(format!("step-{step:08}-{which}.png"))
    }

    /// The images the run is trained on.
    pub fn images_path(&self) -> PathBuf {
        self.dir.join("pictures.tsv")
    }

    /// The classes of the run's images, and that of each.
    pub fn labels_path(&self) -> PathBuf {
        self.dir.join("labels.tsv")
    }

    /// The images held out of the run.
    pub fn held_out_path(&self) -> PathBuf {
        self.dir.join("held_out.tsv")
    }

    /// Files that could not be read, with the reasons.
    pub fn skipped_path(&self) -> PathBuf {
        self.dir.join("skipped.tsv")
    }

    /// A sheet of some of the images, as the network sees them.
    pub fn sheet_path(&self) -> PathBuf {
        self.dir.join("data.png")
    }

    /// The report of the run.
    pub fn report_path(&self) -> PathBuf {
        self.dir.join("report.html")
    }

    /// The record of a bad step.
    pub fn incident_path(&self, step: u64) -> PathBuf {
        self.dir
            .join("incidents")
            .join(format!("step-{step:08}.json"))
    }

    /// The run's settings as they are now.
    ///
    /// # Errors
    /// No run there, or settings that cannot be read.
    pub fn config(&self) -> Result<RunConfig> {
        read_config(&self.config_path())
    }

    /// Who trains the run now, in the words of its lock; `None` if nobody does.
    ///
    /// # Errors
    /// Its lock is there and cannot be read.
    pub fn trained_by(&self) -> Result<Option<String>> {
        let path = self.dir.join("lock");
        holder(&path).with_context(|| format!("cannot read {}", path.display()))
    }

    /// Keeps other processes out of a run that is there.
    ///
    /// # Errors
    /// One trains it, or no permission.
    pub fn lock(&self) -> Result<RunLock> {
        RunLock::take(&self.dir.join("lock"))
    }

    /// Its newest checkpoint and that one's metadata: the one that a resume would take, unless what is within the file is
    /// damaged. `None` without one.
    ///
    /// # Errors
    /// None of its checkpoints can be read.
    pub fn newest_meta(&self) -> Result<Option<(PathBuf, Meta)>> {
        let found = newest(&self.dir, read_meta)?;
        Ok(found.map(|found| (found.path, found.read)))
    }

    /// Makes the folder of a new run and locks it.
    ///
    /// # Errors
    /// No permission, a full disk, or another process that began a run there meanwhile.
    pub fn create(&self) -> Result<RunLock> {
        fs::create_dir_all(&self.dir)?;
        let lock = RunLock::take(&self.dir.join("lock"))?;
        if self.dir.join("config.toml").exists() {
            bail!(
                "another process began a run in {} meanwhile; choose another run folder",
                self.dir.display()
            );
        }
        Ok(lock)
    }

    /// Removes half-written files of a killed process and makes missing folders. The run must be locked.
    ///
    /// # Errors
    /// No permission, or a full disk.
    pub fn prepare(&self) -> Result<()> {
        for part in [".", "samples", "checkpoints", "incidents"] {
            let part = self.dir.join(part);
            fs::create_dir_all(&part)?;
            remove_leftovers(&part)?;
        }
        Ok(())
    }

    /// Writes the resolved settings: from then on the folder holds a run.
    ///
    /// # Errors
    /// No permission, or a full disk.
    pub fn write_config(&self, config: &RunConfig) -> Result<()> {
        write_bytes(&self.dir.join("config.toml"), config.to_toml()?.as_bytes())
    }

    /// Saves a checkpoint, then points `latest` at it, then removes all but the newest `keep` up to
    /// this step, with what was measured of them. Pinned ones stay and do not count, as that of the best step.
    ///
    /// # Errors
    /// The new checkpoint or `latest` cannot be written: older ones stay as they were.
    pub fn save(&self, meta: &Meta, tensors: &[(String, tch::Tensor)], keep: usize) -> Result<()> {
        let name = format!("step-{:08}.safetensors", meta.step);
        let folder = self.dir.join("checkpoints");
        // Somebody may have moved it. If the whole run is gone, the disk may have failed.
        if !folder.exists() {
            fs::create_dir(&folder)?;
        }
        let path = folder.join(&name);
        pins::spare(&path, meta, tensors)?;
        // A FIFO there would be written to, and wait for a reader.
        if std::fs::symlink_metadata(&path).is_ok_and(|found| found.file_type().is_fifo()) {
            fs::remove_file(&path)?;
        }
        write_checkpoint(&path, meta, tensors)?;
        write_bytes(&folder.join("latest"), name.as_bytes())?;
        let evaluations = meta.history.evaluations.as_ref();
        best::keep(&folder, evaluations.map(|found| found.best_step))?;
        // Later ones are damaged, or from before a rollback: they do not count.
        let so_far = checkpoints(&self.dir)?.into_iter();
        let so_far = so_far.filter(|p| step_of(p) <= Some(meta.step));
        let mut kept = 0;
        for old in so_far.rev() {
            if pins::is_pinned(&old)? {
                continue;
            }
            kept += 1;
            if kept > keep.max(1) {
                pins::remove(&old)?;
            }
        }
        Ok(())
    }

    /// Removes the checkpoints after `step`, which a rollback has left behind; pinned ones get another name.
    ///
    /// # Errors
    /// No permission.
    pub fn remove_after(&self, step: u64) -> Result<()> {
        for path in checkpoints(&self.dir)? {
            if step_of(&path) > Some(step) {
                pins::remove_or_set_aside(&path)?;
            }
        }
        Ok(())
    }

    /// The newest checkpoint of at most `step` steps that can be read.
    ///
    /// # Errors
    /// There is none.
    pub fn checkpoint_before(&self, step: u64) -> Result<Checkpoint> {
        let mut reasons = String::new();
        for path in checkpoints(&self.dir)?.into_iter().rev() {
            match read_checkpoint(&path) {
                Ok(checkpoint) if checkpoint.meta.step <= step => return Ok(checkpoint),
                Ok(_) => {}
                Err(error) => reasons += &format!("\n  {error:#}"),
            }
        }
        bail!(
            "{} has no checkpoint of step {step} or before{reasons}",
            self.dir.display()
        )
    }
}

fn read_config(path: &Path) -> Result<RunConfig> {
    let text = read_text(path, MAX_CONFIG_BYTES)?;
    // An empty file would be the demo's settings.
    ensure!(
        !text.trim().is_empty(),
        "cannot read {}: it is empty",
        path.display()
    );
    RunConfig::from_toml_with(&text, Preset::Demo, Unnamed::OLD)
        .map_err(|wrong| wrong.in_file(path))
}
