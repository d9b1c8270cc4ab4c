//! Which lines of metrics.jsonl a resumed run keeps, and what becomes of the others.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use super::{EvaluationHistory, EvaluationMetrics, Later, Line, StepMetrics, TimedEvaluation};
use crate::fs::{open_regular, open_regular_with, write_atomic};
use crate::text::plural;

/// Longest line that is read; a step takes about 150 bytes.
const MAX_LINE_BYTES: u64 = 1 << 16;

/// Longest end of a file that counts as a line cut short, and is dropped.
const MAX_TORN_BYTES: u64 = 1 << 12;

/// Bad lines whose numbers a message gives.
const SHOWN_LINES: usize = 5;

/// Parts of the file, each of whole lines.
#[derive(Debug, Default)]
pub(super) struct Lines {
    /// Steps up to the one that the run goes on from.
    kept: Vec<Range<u64>>,
    /// Steps after it.
    later: Vec<Range<u64>>,
    /// What cannot be read.
    bad: Vec<Range<u64>>,
    /// Numbers of the bad lines, from 1.
    bad_numbers: Vec<u64>,
    /// The largest step of all.
    pub(super) last_step: u64,
    /// The step of the last line that is kept.
    kept_to: u64,
    /// True if the last line is cut short.
    torn: bool,
    /// Seconds of the run at the last line that is kept.
    pub(super) secs: f64,
    /// True if the last line is kept and has no newline.
    pub(super) ends_open: bool,
    /// Length of the file.
    bytes: u64,
}

impl Lines {
    /// Reads the file, which may be missing, for a run that goes on from `step`.
    pub(super) fn find(path: &Path, step: u64) -> Result<Lines> {
        let mut lines = Lines::default();
        let cannot = || format!("cannot read {}", path.display());
        let file = match open_regular(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(lines),
            file => file.with_context(cannot)?,
        };
        let mut reader = BufReader::new(file);
        let mut line = Vec::new();
        for number in 1.. {
            let start = lines.bytes;
            let whole = next_line(&mut reader, &mut line, &mut lines.bytes).with_context(cannot)?;
            if lines.bytes == start {
                break;
            }
            lines.add(number, &line, start..lines.bytes, whole, step);
        }
        Ok(lines)
    }

    fn add(&mut self, number: u64, line: &[u8], place: Range<u64>, whole: bool, step: u64) {
        let part = match step_of(line) {
            Some((of, secs)) => {
                self.last_step = self.last_step.max(of);
                if of <= step {
                    // An evaluation is no sign that the line of its step is there.
                    if let Some(secs) = secs {
                        (self.secs, self.kept_to) = (secs, of);
                    }
                    self.ends_open = !whole;
                    &mut self.kept
                } else {
                    &mut self.later
                }
            }
            None if !whole && place.end - place.start <= MAX_TORN_BYTES => {
                self.torn = true;
                return;
            }
            None => {
                self.bad_numbers.push(number);
                &mut self.bad
            }
        };
        match part.last_mut() {
            Some(last) if last.end == place.start => last.end = place.end,
            _ => part.push(place),
        }
    }

    /// Takes the lines out of the file that are not kept, and sets aside those that nothing else holds. Returns what
    /// there is to say.
    pub(super) fn sort_out(&self, path: &Path, step: u64, later: Later) -> Result<Vec<String>> {
        let mut notes = Vec::new();
        if !self.bad.is_empty() {
            let aside = path.with_file_name("metrics-bad.jsonl");
            set_aside(path, &self.bad, &aside)?;
            notes.push(self.say_bad(path, &aside));
        }
        if self.torn && self.kept_to < step {
            notes.push(say_torn(path, self.kept_to, step));
        }
        let last = self.last_step;
        if let (Later::Unsaved { explained_to }, false) = (later, self.later.is_empty()) {
            if last <= explained_to {
                notes.push(say_again(step, last));
            } else {
                let aside = path.with_file_name(format!("metrics-after-step-{step:08}.jsonl"));
                set_aside(path, &self.later, &aside)?;
                notes.push(say_lost(path, step, last, &aside));
            }
        }
        self.shrink(path)
            .with_context(|| format!("cannot write {}", path.display()))?;
        Ok(notes)
    }

    /// Leaves the lines in the file that are kept.
    fn shrink(&self, path: &Path) -> Result<()> {
        let end = match &self.kept[..] {
            [] => 0,
            [all] if all.start == 0 => all.end,
            parts => {
                // A link to a file on another disk stays one.
                let path = path.canonicalize()?;
                let mut source = File::open(&path)?;
                return write_atomic(&path, |file| {
                    Ok(copy_parts(&mut source, parts, file.as_file_mut())?)
                });
            }
        };
        if end < self.bytes {
            let file = open_regular_with(path, File::options().write(true))?;
            file.set_len(end)?;
        }
        Ok(())
    }

    fn say_bad(&self, path: &Path, aside: &Path) -> String {
        let count = self.bad_numbers.len();
        let shown: Vec<String> = (self.bad_numbers.iter().take(SHOWN_LINES))
            .map(ToString::to_string)
            .collect();
        let more = if count > shown.len() { ", …" } else { "" };
        let (number, them) = if count == 1 {
            ("number", "it is")
        } else {
            ("numbers", "they are")
        };
        format!(
            "warning: {} of {} cannot be read ({number} {}{more}); {them} set aside in {}",
            plural(count as u64, "line"),
            path.display(),
            shown.join(", "),
            name(aside).display()
        )
    }
}

fn say_torn(path: &Path, kept_to: u64, step: u64) -> String {
    let steps = match step - kept_to {
        1 => format!("step {step}"),
        _ => format!("steps {} to {step}", kept_to + 1),
    };
    format!(
        "warning: the last line of {} is cut short; the file has no numbers of {steps}",
        path.display()
    )
}

fn say_again(step: u64, last: u64) -> String {
    let steps = match last - step {
        1 => format!("step {last} was not saved before the run ended, and is"),
        _ => format!(
            "steps {} to {last} were not saved before the run ended, and are",
            step + 1
        ),
    };
    format!("{steps} done again")
}

fn say_lost(path: &Path, step: u64, last: u64, aside: &Path) -> String {
    let from = match step {
        0 => "the run begins again at step 0".to_owned(),
        _ => format!("the newest checkpoint that can be used is of step {step}"),
    };
    format!(
        "warning: {} goes on to step {last}, but {from}; the lines after it are set aside in {}",
        path.display(),
        name(aside).display()
    )
}

fn name(path: &Path) -> PathBuf {
    path.file_name().unwrap_or_default().into()
}

/// The step of a line, and its time if it is a step's own.
pub(super) fn step_of(line: &[u8]) -> Option<(u64, Option<f64>)> {
    if let Ok(metrics) = serde_json::from_slice::<StepMetrics>(line) {
        return Some((metrics.step, Some(metrics.secs)));
    }
    let evaluation = serde_json::from_slice::<EvaluationMetrics>(line).ok()?;
    Some((evaluation.step, None))
}

/// The line of `step`; the last, if there are several.
pub(super) fn find_step(path: &Path, step: u64) -> Result<Option<StepMetrics>> {
    let mut found = None;
    for_each(path, |line, _| {
        let metrics = serde_json::from_slice::<StepMetrics>(line).ok();
        found = metrics.filter(|metrics| metrics.step == step).or(found);
    })?;
    Ok(found)
}

/// All evaluations.
pub(super) fn find_evaluations(path: &Path) -> Result<Vec<EvaluationMetrics>> {
    let mut found = Vec::new();
    for_each(path, |line, _| {
        found.extend(serde_json::from_slice::<EvaluationMetrics>(line).ok());
    })?;
    Ok(found)
}

/// All evaluations with the times of their steps.
pub(super) fn find_history(path: &Path) -> Result<EvaluationHistory> {
    let mut found = EvaluationHistory::default();
    let mut by_step = BTreeMap::new();
    let mut newest: Option<StepMetrics> = None;
    for_each(path, |line, whole| {
        if let Ok(metrics) = serde_json::from_slice::<StepMetrics>(line) {
            found.last_step = found.last_step.max(metrics.step);
            newest = Some(metrics);
        } else if let Ok(metrics) = serde_json::from_slice::<EvaluationMetrics>(line) {
            found.last_step = found.last_step.max(metrics.step);
            let own = newest.filter(|newest| newest.step == metrics.step);
            let secs = own.map(|own| own.secs).filter(|secs| secs.is_finite());
            // A later line of a step counts.
            by_step.insert(metrics.step, TimedEvaluation { metrics, secs });
        } else if whole {
            found.bad_lines += 1;
        }
    })?;
    found.evaluations = by_step.into_values().collect();
    Ok(found)
}

/// All whole lines from byte `from` on; see [`read_lines`](super::read_lines).
pub(super) fn read_from(path: &Path, from: u64, take: &mut dyn FnMut(Line)) -> Result<u64> {
    for_each_from(path, from, |line, whole| {
        if whole {
            let step = serde_json::from_slice(line).map(Line::Step);
            let evaluation = || serde_json::from_slice(line).map(Line::Evaluation);
            take(step.or_else(|_| evaluation()).unwrap_or(Line::Bad));
        }
    })
}

/// Calls `take` with each line, and whether it ends in a newline; not at all without the file.
fn for_each(path: &Path, take: impl FnMut(&[u8], bool)) -> Result<()> {
    for_each_from(path, 0, take).map(drop)
}

/// As [`for_each`] from byte `from` on. Returns where the last line with a newline ends.
fn for_each_from(path: &Path, from: u64, mut take: impl FnMut(&[u8], bool)) -> Result<u64> {
    let cannot = || format!("cannot read {}", path.display());
    let mut file = match open_regular(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound && from == 0 => return Ok(0),
        file => file.with_context(cannot)?,
    };
    let length = file.metadata().with_context(cannot)?.len();
    ensure!(
        from <= length,
        "{} has become shorter than the {from} bytes that were read of it",
        path.display()
    );
    file.seek(SeekFrom::Start(from)).with_context(cannot)?;
    let (mut reader, mut line, mut position) = (BufReader::new(file), Vec::new(), from);
    let mut read_to = from;
    loop {
        let start = position;
        let whole = next_line(&mut reader, &mut line, &mut position).with_context(cannot)?;
        if position == start {
            return Ok(read_to);
        }
        if whole {
            read_to = position;
        }
        take(&line, whole);
    }
}

/// Reads a line without its newline into `line`, and adds its length in the file to `position`. Returns true if it
/// ended in a newline. Of a longer line than any of ours only the start is read.
fn next_line(
    reader: &mut impl BufRead,
    line: &mut Vec<u8>,
    position: &mut u64,
) -> io::Result<bool> {
    line.clear();
    loop {
        let kept = line.len();
        let read = reader
            .by_ref()
            .take(MAX_LINE_BYTES)
            .read_until(b'\n', line)?;
        *position += read as u64;
        let whole = line.pop_if(|last| *last == b'\n').is_some();
        if kept > 0 {
            line.truncate(kept);
        }
        if whole || read as u64 != MAX_LINE_BYTES {
            return Ok(whole);
        }
    }
}

/// Appends parts of `path` to `aside`, and waits until they are on the disk.
fn set_aside(path: &Path, parts: &[Range<u64>], aside: &Path) -> Result<()> {
    let copy = || -> io::Result<()> {
        let mut source = open_regular(path)?;
        let mut file = open_regular_with(aside, File::options().append(true).create(true))?;
        copy_parts(&mut source, parts, &mut file)?;
        file.sync_all()
    };
    copy().with_context(|| {
        format!(
            "cannot set lines of {} aside in {}",
            path.display(),
            aside.display()
        )
    })
}

/// Copies parts of whole lines; where the last has no newline, the copy gets one.
fn copy_parts(source: &mut File, parts: &[Range<u64>], to: &mut File) -> io::Result<()> {
    for part in parts {
        source.seek(SeekFrom::Start(part.start))?;
        io::copy(&mut (&*source).take(part.end - part.start), to)?;
    }
    source.seek(SeekFrom::Current(-1))?;
    let mut last = [0];
    source.read_exact(&mut last)?;
    match last[0] {
        b'\n' => Ok(()),
        _ => to.write_all(b"\n"),
    }
}
