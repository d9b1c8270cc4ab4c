//! `RUN/log.txt`: what a run said, for whoever was not there, or whose terminal or pipe was gone.
//!
//! Each line begins with the time in UTC. A start says what it is: version, command line, host, device. All messages
//! follow, a line of progress a minute, and how it ended. A log that cannot be written ends nothing.

use std::fs::{File, OpenOptions, rename};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::Observer;
use crate::checkpoint::RunFolder;
use crate::report::{StepMetrics, duration};
use crate::text::printable;

/// Interval between lines of progress.
const LINE_EVERY: Duration = Duration::from_secs(60);

/// Length from which a log is put aside, as log.old.txt, and begun anew: half a year of progress.
const MAX_BYTES: u64 = 16 << 20;

/// Lines that are kept until the folder of a new run exists.
const MAX_WAITING: usize = 100;

/// Writes what an observer hears into a run's log, and passes it on.
#[derive(Debug)]
pub(super) struct Log {
    inner: Arc<dyn Observer>,
    lines: Mutex<Lines>,
}

#[derive(Debug)]
struct Lines {
    path: PathBuf,
    old: PathBuf,
    /// `None` before [`Log::open`], and if the file cannot be written.
    file: Option<File>,
    opened: bool,
    /// Lines from before `open`.
    waiting: Vec<String>,
    steps: u64,
    left: Option<Duration>,
    last_line: Instant,
}

impl Log {
    pub(super) fn new(folder: &RunFolder, inner: Arc<dyn Observer>) -> Log {
        Log {
            inner,
            lines: Mutex::new(Lines {
                path: folder.dir().join("log.txt"),
                old: folder.dir().join("log.old.txt"),
                file: None,
                opened: false,
                waiting: Vec::new(),
                steps: 0,
                left: None,
                last_line: Instant::now(),
            }),
        }
    }

    /// Begins to write: the run's folder is there and locked.
    pub(super) fn open(&self) {
        self.lines().open();
    }

    /// Writes `text`, of one line or more, to the log alone.
    pub(super) fn note(&self, text: &str) {
        self.lines().add(text);
    }

    fn lines(&self) -> MutexGuard<'_, Lines> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lines {
    fn open(&mut self) {
        self.opened = true;
        let long = |path: &PathBuf| path.metadata().is_ok_and(|m| m.len() >= MAX_BYTES);
        if long(&self.path) {
            let _ = rename(&self.path, &self.old);
        }
        // A pipe by that name must not be waited for.
        let flags = rustix::fs::OFlags::NONBLOCK.bits() as i32;
        let mut options = OpenOptions::new();
        options.append(true).create(true).custom_flags(flags);
        let file = options.open(&self.path).ok();
        self.file = file.filter(|file| file.metadata().is_ok_and(|m| m.is_file()));
        for line in std::mem::take(&mut self.waiting) {
            self.write(&line);
        }
    }

    fn add(&mut self, text: &str) {
        let mut stamped = now();
        for (number, line) in text.lines().enumerate() {
            let before = if number == 0 { "  " } else { "    " };
            stamped += &format!("{before}{}\n", printable(line));
        }
        if self.opened {
            self.write(&stamped);
        } else if self.waiting.len() < MAX_WAITING {
            self.waiting.push(stamped);
        }
    }

    fn write(&mut self, line: &str) {
        let Some(file) = &mut self.file else { return };
        // What does not fit on a full disk is lost.
        let _ = file.write_all(line.as_bytes());
        if file.metadata().is_ok_and(|m| m.len() >= MAX_BYTES) {
            self.open();
        }
    }
}

impl Observer for Log {
    fn message(&self, text: &str) {
        // First of all for those who see it.
        self.inner.message(text);
        self.note(text);
    }

    fn decoding(&self, done: usize, total: usize) {
        self.inner.decoding(done, total);
    }

    fn decoded(&self) {
        self.inner.decoded();
    }

    fn training(&self, step: u64, steps: u64) {
        self.lines().steps = steps;
        self.inner.training(step, steps);
    }

    fn time_left(&self, left: Duration) {
        self.lines().left = Some(left);
        self.inner.time_left(left);
    }

    fn step(&self, metrics: &StepMetrics, secs: f64) {
        self.inner.step(metrics, secs);
        let mut lines = self.lines();
        if lines.last_line.elapsed() >= LINE_EVERY {
            lines.last_line = Instant::now();
            let left = lines.left.map(|left| format!(", {} left", duration(left)));
            let text = format!(
                "step {}/{}  loss {:.4}{}",
                metrics.step,
                lines.steps,
                metrics.loss,
                left.unwrap_or_default()
            );
            lines.add(&text);
        }
    }

    fn sampling(&self, weights: &str, done: u64, total: u64) {
        self.inner.sampling(weights, done, total);
    }

    fn evaluating(&self, done: u64, total: u64) {
        self.inner.evaluating(done, total);
    }

    fn finished(&self) {
        self.inner.finished();
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.note("ended by a panic");
        }
    }
}

/// The first line of a start: version, command line, host and process.
pub(super) fn start_line() -> String {
    let words: Vec<String> = std::env::args_os()
        .map(|word| quoted(&word.to_string_lossy()))
        .collect();
    let host = rustix::system::uname();
    format!(
        "{} {} as process {} on {}: {}",
        env!("CARGO_PKG_NAME"),
        env!("CARGO_PKG_VERSION"),
        std::process::id(),
        host.nodename().to_string_lossy(),
        words.join(" ")
    )
}

/// A word of a command line, as a shell reads it.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+=,:@%".contains(c);
    match !word.is_empty() && word.chars().all(plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', r"'\''")),
    }
}

/// `2026-11-29 14:36:04 UTC`.
fn now() -> String {
    let now = time::OffsetDateTime::now_utc();
    format!(
        "{:04}-{:02}-{:02} {:02}:{:02}:{:02} UTC",
        now.year(),
        now.month() as u8,
        now.day(),
        now.hour(),
        now.minute(),
        now.second()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(dir: &std::path::Path, name: &str) -> String {
        std::fs::read_to_string(dir.join(name)).unwrap_or_default()
    }

    #[test]
    fn messages_wait_for_the_folder_and_follow_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let run = dir.path().join("run");
        let log = Log::new(&RunFolder::new(run.clone()), Arc::new(()));
        log.message("first\n  with \u{1b}[31ma second line");
        std::fs::create_dir(&run).unwrap();
        log.open();
        log.note("then");
        drop(log);
        let text = read(&run, "log.txt");
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[0].ends_with(" UTC  first"), "{text}");
        assert_eq!(lines[1], r"      with \u{1b}[31ma second line");
        assert!(lines[2].ends_with(" UTC  then"), "{text}");
        assert_eq!(lines.len(), 3);
    }

    #[test]
    fn a_long_log_is_put_aside_and_what_cannot_be_written_is_let_go() {
        let dir = tempfile::tempdir().unwrap();
        let folder = RunFolder::new(dir.path().to_owned());
        let long = File::create(dir.path().join("log.txt")).unwrap();
        long.set_len(MAX_BYTES).unwrap();
        let log = Log::new(&folder, Arc::new(()));
        log.open();
        log.note("new");
        let old = dir.path().join("log.old.txt");
        assert_eq!(old.metadata().unwrap().len(), MAX_BYTES);
        assert!(read(dir.path(), "log.txt").ends_with("  new\n"));

        let gone = RunFolder::new(dir.path().join("no/such/folder"));
        let log = Log::new(&gone, Arc::new(()));
        log.open();
        log.note("nowhere");
    }

    #[test]
    fn words_are_quoted_for_a_shell() {
        for (word, want) in [("--run", "--run"), ("", "''"), ("my photos", "'my photos'")] {
            assert_eq!(quoted(word), want);
        }
        assert_eq!(quoted("it's"), r"'it'\''s'");
    }
}
