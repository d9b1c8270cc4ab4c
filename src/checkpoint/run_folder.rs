//! The files of a run.
//!
//! ```text
//! RUN/config.toml                        resolved settings, readable by --config
//! RUN/pictures.tsv                       the images it is trained on
//! RUN/skipped.tsv                        files that could not be read, if there are any
//! RUN/metrics.jsonl                      one line per step
//! RUN/log.txt                            what was said while it was trained; log.old.txt, if it grew long
//! RUN/samples/step-00002000-ema.png      grids from the same noise every time
//! RUN/checkpoints/step-00002000.safetensors
//! RUN/checkpoints/latest                 the name of the newest one, written last
//! RUN/checkpoints/step-00002000.1f3a09c2.pin   keeps a checkpoint for a file that needs it (see `pins`)
//! RUN/checkpoints/step-00002000.safetensors.ema.analytic.json   a measurement of it (`ddpm calibrate`)
//! RUN/incidents/step-00001234.json       records of bad steps
//! RUN/lock                               held by the process that trains
//! ```

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use fs_err as fs;

use super::file::{Checkpoint, Meta, read_checkpoint, write_checkpoint};
use super::lock::RunLock;
use super::pins;
use crate::config::{Preset, RunConfig};
use crate::fs::{remove_leftovers, write_bytes};

/// A run's folder.
#[derive(Debug, Clone)]
pub struct RunFolder {
    dir: PathBuf,
}

/// An existing run.
#[derive(Debug)]
pub struct Resumable {
    /// Its settings.
    pub config: RunConfig,
    /// Its newest readable checkpoint; none if it ended before the first.
    pub checkpoint: Option<(PathBuf, Checkpoint)>,
    /// Newer checkpoints that cannot be read.
    pub damaged: Vec<Damaged>,
    /// Keeps other processes out of it.
    pub lock: RunLock,
}

/// A checkpoint that cannot be used.
#[derive(Debug)]
pub struct Damaged {
    /// The file.
    pub path: PathBuf,
    /// Why.
    pub reason: anyhow::Error,
}

impl std::fmt::Display for Damaged {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} cannot be used: {:#}",
            self.path.display(),
            self.reason
        )
    }
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

    /// One line of JSON per step.
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

    /// Files that could not be read, with the reasons.
    pub fn skipped_path(&self) -> PathBuf {
        self.dir.join("skipped.tsv")
    }

    /// The record of a bad step.
    pub fn incident_path(&self, step: u64) -> PathBuf {
        self.dir
            .join("incidents")
            .join(format!("step-{step:08}.json"))
    }

    /// The run that exists here, locked, or `None` without one.
    ///
    /// If the newest checkpoint cannot be read, the one before it is used.
    ///
    /// # Errors
    /// A folder with other things in it, a run that another process is training, or one whose checkpoints
    /// all fail to read.
    pub fn resumable(&self) -> Result<Option<Resumable>> {
        let config_path = self.dir.join("config.toml");
        if !config_path.exists() {
            self.refuse_other_things()?;
            return Ok(None);
        }
        let lock = RunLock::take(&self.dir.join("lock"))?;
        let config = self.config()?;
        let (checkpoint, damaged) = match newest(&self.dir, read_checkpoint)? {
            Some(found) => (Some((found.path, found.read)), found.damaged),
            None => (None, vec![]),
        };
        Ok(Some(Resumable {
            config,
            checkpoint,
            damaged,
            lock,
        }))
    }

    /// The run's settings as they are now.
    ///
    /// # Errors
    /// No run there, or settings that cannot be read.
    pub fn config(&self) -> Result<RunConfig> {
        read_config(&self.dir.join("config.toml"))
    }

    /// A start that ended early leaves everything but the settings; anything else is not ours.
    fn refuse_other_things(&self) -> Result<()> {
        let ours = [
            "lock",
            "samples",
            "checkpoints",
            "incidents",
            "pictures.tsv",
            "skipped.tsv",
            "metrics.jsonl",
            "log.txt",
            "log.old.txt",
        ];
        let entries = match fs::read_dir(&self.dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        for entry in entries {
            let name = entry?.file_name();
            let leftover = name.as_encoded_bytes().starts_with(b".tmp");
            if !leftover && !ours.iter().any(|ours| name == *ours) {
                bail!(
                    "{} is not empty and holds no run (no config.toml); choose another run folder",
                    self.dir.display()
                );
            }
        }
        Ok(())
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

    /// Refuses to begin a run where one is; `lock` is held where its settings are there and no checkpoint yet.
    ///
    /// # Errors
    /// The folder holds a run.
    pub fn refuse_existing(&self, lock: Option<&RunLock>) -> Result<()> {
        ensure!(
            lock.is_some() || !self.dir.join("config.toml").exists(),
            "{} holds a run; resume that, or choose another run folder",
            self.dir.display()
        );
        Ok(())
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
    /// this step, with what was measured of them. Pinned ones stay and do not count.
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
        write_checkpoint(&path, meta, tensors)?;
        write_bytes(&folder.join("latest"), name.as_bytes())?;
        // Later ones are damaged, or from before a rollback: they do not count.
        let so_far = checkpoints(&self.dir)?.into_iter().filter(|p| *p <= path);
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
        let last = format!("step-{step:08}.safetensors");
        for path in checkpoints(&self.dir)? {
            if path.file_name().is_some_and(|name| *name > *last.as_str()) {
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
    let text = fs::read_to_string(path)?;
    RunConfig::from_toml(&text, Preset::Demo)
        .with_context(|| format!("cannot read {}", path.display()))
}

/// Result of [`newest`].
struct Newest<T> {
    path: PathBuf,
    read: T,
    damaged: Vec<Damaged>,
}

/// The checkpoint that `latest` names, or the first before it, or after it, that `read` can read; `None` for a
/// folder without checkpoints.
fn newest<T>(run: &Path, read: impl Fn(&Path) -> Result<T>) -> Result<Option<Newest<T>>> {
    let mut candidates = checkpoints(run)?;
    candidates.reverse();
    if let Some(latest) = latest(run)? {
        // From the newest: those that `latest` allows first.
        candidates.sort_by_key(|path| *path > latest);
        if candidates.first() != Some(&latest) {
            candidates.insert(0, latest);
        }
    }
    let mut damaged = vec![];
    for path in candidates {
        match read(&path) {
            Ok(read) => {
                return Ok(Some(Newest {
                    path,
                    read,
                    damaged,
                }));
            }
            Err(reason) => damaged.push(Damaged { path, reason }),
        }
    }
    if damaged.is_empty() {
        return Ok(None);
    }
    let list: String = damaged.iter().map(|d| format!("\n  {d}")).collect();
    bail!(
        "no checkpoint of {} can be read; begin another run, from its weights if you have them elsewhere:{list}",
        run.display()
    )
}

/// All checkpoints of a run, oldest first.
fn checkpoints(run: &Path) -> Result<Vec<PathBuf>> {
    let folder = run.join("checkpoints");
    let mut found = Vec::new();
    if !folder.is_dir() {
        return Ok(found);
    }
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if is_checkpoint_name(&name) {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// True for the name of a checkpoint of a run.
pub(super) fn is_checkpoint_name(name: &str) -> bool {
    let step = name.strip_prefix("step-");
    let step = step.and_then(|rest| rest.strip_suffix(".safetensors"));
    // As many digits as a step can have.
    step.is_some_and(|step| {
        (1..=20).contains(&step.len()) && step.bytes().all(|byte| byte.is_ascii_digit())
    })
}

/// The checkpoint that `latest` names, which may be missing; `None` without `latest`, or if it names something
/// else.
fn latest(run: &Path) -> Result<Option<PathBuf>> {
    match fs::read(run.join("checkpoints/latest")) {
        Ok(bytes) => {
            let name = String::from_utf8_lossy(&bytes);
            let name = name.trim();
            Ok(is_checkpoint_name(name).then(|| run.join("checkpoints").join(name)))
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// The file that a checkpoint argument stands for: itself, or the newest readable one of a run folder.
///
/// # Errors
/// A missing file, or a folder without checkpoints.
pub fn resolve(argument: &Path) -> Result<PathBuf> {
    find(argument).map(|(path, _)| path)
}

/// As [`resolve`], with the newer checkpoints of a run folder that cannot be read and are passed over.
///
/// # Errors
/// As `resolve`.
pub fn find(argument: &Path) -> Result<(PathBuf, Vec<Damaged>)> {
    if !argument.is_dir() {
        if !argument.exists() {
            bail!("no such file: {}", argument.display());
        }
        return Ok((argument.to_owned(), Vec::new()));
    }
    let found = newest(argument, |path| read_checkpoint(path).map(drop))?;
    let found = found.with_context(|| {
        format!(
            "{} is a folder without checkpoints; give a checkpoint file or a run folder",
            argument.display()
        )
    })?;
    Ok((found.path, found.damaged))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("checkpoints");
        std::fs::create_dir(&folder).unwrap();
        for (name, text) in files {
            std::fs::write(folder.join(name), text).unwrap();
        }
        dir
    }

    /// The steps that were tried, and the one that could be read.
    fn order(files: &[(&str, &str)]) -> (Vec<String>, String) {
        let dir = run(files);
        let read = |path: &Path| match std::fs::read_to_string(path)?.as_str() {
            "good" => Ok(()),
            other => bail!("{other:?}"),
        };
        let name = |path: &Path| path.file_stem().unwrap().to_str().unwrap().to_owned();
        let found = newest(dir.path(), read).unwrap().unwrap();
        let damaged = found.damaged.iter().map(|d| name(&d.path)).collect();
        (damaged, name(&found.path))
    }

    #[test]
    fn the_pointer_comes_first_then_older_ones_then_newer_ones() {
        let (s1, s2, s3) = (
            "step-01.safetensors",
            "step-02.safetensors",
            "step-03.safetensors",
        );
        let (good, bad) = ("good", "bad");
        let all = |latest, [a, b, c]: [&'static str; 3]| {
            order(&[("latest", latest), (s1, a), (s2, b), (s3, c)])
        };
        let none: [&str; 0] = [];
        assert_eq!(
            all(s3, [good; 3]),
            (none.map(str::to_owned).to_vec(), "step-03".into())
        );
        assert_eq!(all(s2, [good; 3]), (vec![], "step-02".into()));
        assert_eq!(
            all(s2, [good, bad, good]),
            (vec!["step-02".into()], "step-01".into())
        );
        assert_eq!(
            all(s2, [bad, bad, good]),
            (vec!["step-02".into(), "step-01".into()], "step-03".into())
        );
        // A torn or lost pointer, and one to a file that is gone.
        assert_eq!(all("step-0", [good; 3]), (vec![], "step-03".into()));
        assert_eq!(
            all("step-0\r2.safetensors", [good; 3]),
            (vec![], "step-03".into())
        );
        assert_eq!(
            all("step-09.safetensors", [good; 3]),
            (vec!["step-09".into()], "step-03".into())
        );
        assert_eq!(
            order(&[(s1, good), (s2, bad)]),
            (vec!["step-02".into()], "step-01".into())
        );
        assert!(newest(run(&[]).path(), |_| Ok(())).unwrap().is_none());
        let hopeless = run(&[(s1, bad)]);
        let refused = |_: &Path| -> Result<()> { bail!("torn") };
        let error = newest(hopeless.path(), refused).err().unwrap().to_string();
        assert!(
            error.contains("step-01") && error.contains("torn"),
            "{error}"
        );
    }
}
