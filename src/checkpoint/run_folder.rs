//! The files of a run.
//!
//! ```text
//! RUN/config.toml                        resolved settings, readable by --config
//! RUN/metrics.jsonl                      one line a step
//! RUN/samples/step-00002000-ema.png      grids from the same noise every time
//! RUN/checkpoints/step-00002000.safetensors
//! RUN/checkpoints/latest                 the name of the newest one, written last
//! ```

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use fs_err as fs;

use super::file::{Checkpoint, Meta, read_checkpoint, write_checkpoint};
use crate::config::{Preset, RunConfig};
use crate::fs::write_bytes;

/// A run's folder.
#[derive(Debug, Clone)]
pub struct RunFolder {
    dir: PathBuf,
}

/// A run that exists already.
#[derive(Debug)]
pub struct Resumable {
    /// Its settings.
    pub config: RunConfig,
    /// Its newest checkpoint; none if it ended before the first.
    pub checkpoint: Option<(PathBuf, Checkpoint)>,
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

    /// One line of JSON a step.
    pub fn metrics_path(&self) -> PathBuf {
        self.dir.join("metrics.jsonl")
    }

    /// A sample grid of `which` ("raw" or "ema") weights.
    pub fn sample_path(&self, step: u64, which: &str) -> PathBuf {
        self.dir
            .join("samples")
            .join(format!("step-{step:08}-{which}.png"))
    }

    /// What an earlier start left here, or `None` where there is no run.
    ///
    /// # Errors
    /// A folder with other things in it, or a run whose newest checkpoint cannot be read.
    pub fn resumable(&self) -> Result<Option<Resumable>> {
        let config_path = self.dir.join("config.toml");
        if !config_path.exists() {
            let used = self.dir.exists() && fs::read_dir(&self.dir)?.next().is_some();
            if used {
                bail!(
                    "{} is not empty and holds no run (no config.toml); name another folder for --run",
                    self.dir.display()
                );
            }
            return Ok(None);
        }
        let text = fs::read_to_string(&config_path)?;
        let config = RunConfig::from_toml(&text, Preset::Demo)
            .with_context(|| format!("cannot read {}", config_path.display()))?;
        let checkpoint = match latest(&self.dir)? {
            Some(path) => Some((path.clone(), read_checkpoint(&path)?)),
            None => None,
        };
        Ok(Some(Resumable { config, checkpoint }))
    }

    /// Makes the folder and writes the resolved settings.
    pub fn create(&self, config: &RunConfig) -> Result<()> {
        fs::create_dir_all(self.dir.join("samples"))?;
        fs::create_dir_all(self.dir.join("checkpoints"))?;
        write_bytes(&self.dir.join("config.toml"), config.to_toml()?.as_bytes())
    }

    /// Saves a checkpoint, then points `latest` at it, then removes all but the newest `keep`.
    pub fn save(&self, meta: &Meta, tensors: &[(String, tch::Tensor)], keep: usize) -> Result<()> {
        let name = format!("step-{:08}.safetensors", meta.step);
        let path = self.dir.join("checkpoints").join(&name);
        write_checkpoint(&path, meta, tensors)?;
        write_bytes(&self.dir.join("checkpoints/latest"), name.as_bytes())?;
        for old in checkpoints(&self.dir)?
            .into_iter()
            .rev()
            .skip(keep)
            .filter(|old| *old != path)
        {
            fs::remove_file(old)?;
        }
        Ok(())
    }
}

/// All checkpoints of a run, oldest first.
fn checkpoints(run: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(run.join("checkpoints"))? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with("step-") && name.ends_with(".safetensors") {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// The checkpoint that `latest` names; without `latest`, the one of the highest step, if any.
fn latest(run: &Path) -> Result<Option<PathBuf>> {
    let pointer = run.join("checkpoints/latest");
    if !pointer.exists() {
        let any = run.join("checkpoints").is_dir();
        return Ok(if any { checkpoints(run)?.pop() } else { None });
    }
    let name = fs::read_to_string(&pointer)?;
    let name = name.trim();
    if name.contains('/') || !name.ends_with(".safetensors") {
        bail!(
            "{} names {name:?}, which is no checkpoint; write the name of one into it",
            pointer.display()
        );
    }
    Ok(Some(run.join("checkpoints").join(name)))
}

/// The file that a checkpoint argument means: itself, or the newest one of a run folder.
///
/// # Errors
/// No such file, or a folder without checkpoints.
pub fn resolve(argument: &Path) -> Result<PathBuf> {
    if !argument.is_dir() {
        if !argument.exists() {
            bail!("no such file: {}", argument.display());
        }
        return Ok(argument.to_owned());
    }
    latest(argument)?.with_context(|| {
        format!(
            "{} is a folder without checkpoints; name a checkpoint file or a run folder",
            argument.display()
        )
    })
}
