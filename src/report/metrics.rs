//! metrics.jsonl: one line of JSON per step.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::fs::write_bytes;

/// One line.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct StepMetrics {
    /// Steps done, from 1.
    pub step: u64,
    /// Loss of the batch.
    pub loss: f64,
    /// Learning rate of the step.
    pub lr: f64,
    /// L2 norm of all gradients, before clipping.
    pub grad_norm: f64,
    /// Training speed, without sampling and saving.
    pub images_per_sec: f64,
    /// Seconds of the run so far, over all its starts.
    pub secs: f64,
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
    /// Opens the metrics of a run that has done `step` steps, dropping lines past it (and a line that
    /// a crash cut short), so that a resumed run writes each step once.
    pub fn open(path: &Path, step: u64) -> Result<Metrics> {
        let (kept, earlier_secs) = lines_up_to(path, step)?;
        write_bytes(path, kept.as_bytes())?;
        let file = OpenOptions::new()
            .append(true)
            .open(path)
            .with_context(|| format!("cannot append to {}", path.display()))?;
        Ok(Metrics {
            path: path.to_owned(),
            file,
            len: kept.len() as u64,
            pending: String::new(),
            earlier_secs,
        })
    }

    /// Lines of steps up to `step` that could not be written, for [`Metrics::take`] of a newly opened file.
    pub fn unwritten_up_to(&self, step: u64) -> String {
        let early = |line: &&str| {
            serde_json::from_str::<StepMetrics>(line).is_ok_and(|metrics| metrics.step <= step)
        };
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

/// The whole lines up to `step`, and their seconds; all from the first damaged line on is dropped.
fn lines_up_to(path: &Path, step: u64) -> Result<(String, f64)> {
    let (mut kept, mut secs) = (String::new(), 0.0);
    if !path.exists() {
        return Ok((kept, secs));
    }
    let cannot = || format!("cannot read {}", path.display());
    let file = File::open(path).with_context(cannot)?;
    for line in BufReader::new(file).split(b'\n') {
        let line = line.with_context(cannot)?;
        match serde_json::from_slice::<StepMetrics>(&line) {
            Ok(m) if m.step <= step => {
                secs = m.secs;
                // JSON is UTF-8.
                kept += &String::from_utf8_lossy(&line);
                kept.push('\n');
            }
            _ => break,
        }
    }
    Ok((kept, secs))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reopened_file_keeps_only_whole_lines_up_to_the_step() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("metrics.jsonl");
        let line = |step| StepMetrics {
            step,
            loss: 0.1,
            lr: 1e-3,
            grad_norm: 2.0,
            images_per_sec: 100.0,
            secs: step as f64,
        };
        let mut metrics = Metrics::open(&path, 0).unwrap();
        metrics.write(&[line(1), line(2), line(3)]).unwrap();
        metrics.file.write_all(b"{\"step\":4,\"lo\xff").unwrap();
        let again = Metrics::open(&path, 2).unwrap();
        assert_eq!(again.earlier_secs, 2.0);
        assert_eq!(std::fs::read_to_string(&path).unwrap().lines().count(), 2);
    }
}
