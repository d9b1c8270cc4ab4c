//! What of a run is needed neither to go on nor to look at, and its removal.
//!
//! Only plain files that lie where a run keeps them are removed, each below an open handle of its folder: no link leads a
//! removal elsewhere, not even one that is put there meanwhile.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail, ensure};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, openat, unlinkat};
use rustix::io::Errno;

use crate::checkpoint::{
    Calibration, RunFolder, every_checkpoint, is_own, is_pinned, newest_readable, read_meta,
    step_of,
};
use crate::text;

/// Age from which a temporary file is nobody's work any more.
const ABANDONED: Duration = Duration::from_secs(3600);

/// Folders of a run with files in them, itself first.
const PARTS: [&str; 4] = ["", "samples", "checkpoints", "incidents"];

/// Why a file is not needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// What a killed process left of a file that it was writing.
    HalfWritten,
    /// A checkpoint before the newest, which is neither the best nor pinned.
    OlderCheckpoint,
    /// A checkpoint that was set aside for a file that needed it, and that no file needs now.
    Unpinned,
    /// What was measured of a checkpoint that is gone.
    Measurement,
    /// Lines of metrics.jsonl that a start could not use.
    SetAside,
    /// The older part of a long log.
    OldLog,
    /// Part of a run without a checkpoint, which is removed as a whole.
    EmptyRun,
}

impl Reason {
    /// In words.
    pub fn words(self) -> &'static str {
        match self {
            Reason::HalfWritten => "half-written",
            Reason::OlderCheckpoint => "an older checkpoint",
            Reason::Unpinned => "a checkpoint that no file needs any more",
            Reason::Measurement => "a measurement of a checkpoint that is gone",
            Reason::SetAside => "lines of metrics.jsonl that were set aside",
            Reason::OldLog => "the older part of the log",
            Reason::EmptyRun => "of a run without a checkpoint",
        }
    }
}

/// A file that is not needed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unneeded {
    /// Folder below the run's: one of four.
    part: &'static str,
    name: OsString,
    /// Why.
    pub reason: Reason,
    /// What its removal frees.
    pub bytes: u64,
}

impl Unneeded {
    /// Its path below the run's folder.
    pub fn path(&self) -> PathBuf {
        Path::new(self.part).join(&self.name)
    }
}

/// What can be removed of a run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pruning {
    /// The files.
    pub files: Vec<Unneeded>,
    /// Why some others stay, a sentence each, safe to print.
    pub remarks: Vec<String>,
    /// True if the run's folder goes too, once it is empty.
    pub whole: bool,
}

impl Pruning {
    /// Looks for what the run in `dir` does not need. `empty`: all of a run that has no checkpoint. Changes nothing.
    ///
    /// # Errors
    /// A process trains it, or its folder cannot be read.
    pub fn plan(dir: &Path, empty: bool) -> Result<Pruning> {
        let folder = RunFolder::new(dir.to_owned());
        refuse_others(&folder)?;
        if let Some(holder) = folder.trained_by()? {
            bail!("it is being trained ({})", text::printable(&holder));
        }
        Pruning::of(&folder, empty)
    }

    /// Removes what [`plan`](Pruning::plan) finds now, with the run locked, and returns what was removed.
    ///
    /// # Errors
    /// As `plan`, or no permission; what was removed by then stays so.
    pub fn carry_out(dir: &Path, empty: bool) -> Result<Pruning> {
        let folder = RunFolder::new(dir.to_owned());
        refuse_others(&folder)?;
        let _lock = folder.lock()?;
        let plan = Pruning::of(&folder, empty)?;
        let run = open(CWD, dir.as_os_str(), OFlags::empty())?;
        for file in &plan.files {
            let path = dir.join(file.path());
            let pinned = file.reason == Reason::OlderCheckpoint && is_pinned(&path)?;
            if !pinned {
                remove(&run, file).with_context(|| format!("cannot remove {}", path.display()))?;
            }
        }
        if plan.whole {
            remove_folders(&run, dir)?;
        }
        Ok(plan)
    }

    /// Bytes that are freed.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes).sum()
    }

    fn of(folder: &RunFolder, empty: bool) -> Result<Pruning> {
        let entries = Entry::all(folder.dir())?;
        let mut plan = Pruning::default();
        if empty && is_empty(folder, &mut plan.remarks) {
            plan.whole = true;
            let own = entries.iter();
            let own = own.filter(|entry| is_own(&entry.path()) || entry.is_temporary());
            plan.files = own.map(|entry| entry.unneeded(Reason::EmptyRun)).collect();
            if plan.files.len() < entries.len() {
                plan.remarks.push(
                    "its folder stays, as there are files in it that are not a run's".to_owned(),
                );
            }
            return Ok(plan);
        }
        let gone = plan.checkpoints(folder)?;
        for entry in &entries {
            if let Some(reason) = entry.reason(folder.dir(), &gone) {
                plan.files.push(entry.unneeded(reason));
            }
        }
        Ok(plan)
    }

    /// The checkpoints that are not needed; none if the newest cannot be read whole.
    fn checkpoints(&mut self, folder: &RunFolder) -> Result<BTreeSet<PathBuf>> {
        let mut gone = BTreeSet::new();
        let all = every_checkpoint(folder.dir());
        let [_, _, ..] = &all[..] else {
            return Ok(gone);
        };
        let (newest, damaged) = match newest_readable(folder.dir()) {
            Ok(Some(found)) => found,
            Ok(None) => return Ok(gone),
            Err(error) => {
                let said = text::message(&format!("its checkpoints stay: {error:#}"));
                self.remarks.push(said);
                return Ok(gone);
            }
        };
        for damaged in damaged {
            self.remarks.push(text::message(&damaged.to_string()));
        }
        for path in all {
            let set_aside = step_of(&path).is_none();
            if (set_aside || step_of(&path) < step_of(&newest)) && !is_pinned(&path)? {
                gone.insert(path);
            }
        }
        Ok(gone)
    }
}

/// Refuses a folder that only looks like a run of this program: other programs have a config.toml and checkpoints too.
fn refuse_others(folder: &RunFolder) -> Result<()> {
    let mut checkpoints = every_checkpoint(folder.dir()).into_iter();
    let ours = folder.config().is_ok() || checkpoints.any(|path| read_meta(&path).is_ok());
    ensure!(
        ours,
        "neither its config.toml nor a checkpoint is one of this program"
    );
    Ok(())
}

/// True for a run without a checkpoint that has not lost any.
fn is_empty(folder: &RunFolder, remarks: &mut Vec<String>) -> bool {
    if !every_checkpoint(folder.dir()).is_empty() {
        return false;
    }
    // Grids are made by steps that were saved.
    let mut samples = std::fs::read_dir(folder.dir().join("samples"))
        .into_iter()
        .flatten();
    if samples.next().is_some() {
        remarks.push("it stays: it has no checkpoint, but sample grids".to_owned());
        return false;
    }
    let lost = match folder.config() {
        Ok(config) => folder.refuse_lost_checkpoints(&config),
        Err(_) => folder.refuse_existing(None),
    };
    if let Err(error) = &lost {
        remarks.push(text::message(&format!("it stays: {error:#}")));
    }
    lost.is_ok()
}

/// A file in a run's folder, or a link there.
#[derive(Debug)]
struct Entry {
    part: &'static str,
    name: OsString,
    bytes: u64,
    changed: Option<SystemTime>,
}

impl Entry {
    /// All of a run, without what lies in folders that are links, or in others than a run has.
    fn all(dir: &Path) -> Result<Vec<Entry>> {
        let mut found = Vec::new();
        for part in PARTS {
            let folder = dir.join(part);
            // The run's own folder may be a link that the caller has followed.
            let there = std::fs::symlink_metadata(&folder).is_ok_and(|found| found.is_dir());
            if !there && !part.is_empty() {
                continue;
            }
            for entry in fs_err::read_dir(&folder)? {
                let entry = entry?;
                let Ok(metadata) = std::fs::symlink_metadata(entry.path()) else {
                    continue;
                };
                if metadata.is_dir() {
                    continue;
                }
                let shared = metadata.nlink() > 1;
                found.push(Entry {
                    part,
                    name: entry.file_name(),
                    bytes: if shared { 0 } else { metadata.blocks() * 512 },
                    changed: metadata.modified().ok(),
                });
            }
        }
        found.sort_by_key(Entry::path);
        Ok(found)
    }

    fn path(&self) -> PathBuf {
        Path::new(self.part).join(&self.name)
    }

    fn is_temporary(&self) -> bool {
        self.name.as_encoded_bytes().starts_with(b".tmp")
    }

    fn unneeded(&self, reason: Reason) -> Unneeded {
        Unneeded {
            part: self.part,
            name: self.name.clone(),
            reason,
            bytes: self.bytes,
        }
    }

    /// Why it is not needed in the run at `dir` without the checkpoints `gone`; `None` if it is.
    fn reason(&self, dir: &Path, gone: &BTreeSet<PathBuf>) -> Option<Reason> {
        let name = self.name.to_str()?;
        let path = dir.join(self.path());
        if self.is_temporary() {
            let age = self.changed.and_then(|changed| changed.elapsed().ok());
            return age
                .is_some_and(|age| age >= ABANDONED)
                .then_some(Reason::HalfWritten);
        }
        match self.part {
            "checkpoints" if gone.contains(&path) => Some(match step_of(&path) {
                Some(_) => Reason::OlderCheckpoint,
                None => Reason::Unpinned,
            }),
            "checkpoints" => {
                let of = Calibration::checkpoint_beside(&path)?;
                (gone.contains(&of) || !of.exists()).then_some(Reason::Measurement)
            }
            "" if name == "log.old.txt" => Some(Reason::OldLog),
            "" if name == "metrics-bad.jsonl" || is_set_aside(name) => Some(Reason::SetAside),
            _ => None,
        }
    }
}

/// `metrics-after-step-00002000.jsonl`
fn is_set_aside(name: &str) -> bool {
    let step = name.strip_prefix("metrics-after-step-");
    let step = step.and_then(|rest| rest.strip_suffix(".jsonl"));
    step.is_some_and(|step| !step.is_empty() && step.bytes().all(|byte| byte.is_ascii_digit()))
}

fn open(at: impl std::os::fd::AsFd, name: &OsStr, more: OFlags) -> Result<OwnedFd> {
    let flags = OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::RDONLY | more;
    let opened = openat(at, name, flags, Mode::empty());
    opened.with_context(|| format!("cannot open {}", name.display()))
}

/// Removes the file itself; what a link points to stays.
fn remove(run: &OwnedFd, file: &Unneeded) -> Result<()> {
    let removed = match file.part {
        "" => unlinkat(run, &file.name, AtFlags::empty()),
        part => {
            let part = open(run, part.as_ref(), OFlags::NOFOLLOW)?;
            unlinkat(&part, &file.name, AtFlags::empty())
        }
    };
    match removed {
        Err(Errno::NOENT) | Ok(()) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Removes the folders of an empty run, as far as nothing is in them.
fn remove_folders(run: &OwnedFd, dir: &Path) -> Result<()> {
    let parts = PARTS.iter().filter(|part| !part.is_empty());
    let parts = parts.map(|part| unlinkat(run, *part, AtFlags::REMOVEDIR));
    let all = parts.chain(std::iter::once_with(|| rustix::fs::rmdir(dir)));
    for removed in all {
        match removed {
            Ok(())
            | Err(Errno::NOENT | Errno::NOTEMPTY | Errno::EXIST | Errno::NOTDIR | Errno::INVAL) => {
            }
            Err(error) => {
                return Err(error).with_context(|| format!("cannot remove {}", dir.display()));
            }
        }
    }
    Ok(())
}
