//! `--log`: all that is said, in a file too, each line with the time in UTC. It is appended to, and what cannot be written there
//! ends nothing.

use std::fs::File;
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use serde_json::json;
use time::OffsetDateTime;

use crate::checkpoint::run_that_owns;
use crate::fs::{Target, open_regular};
use crate::text::{self, printable};

/// How lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(super) enum LogFormat {
    /// The time and the message
    #[default]
    Text,
    /// A JSON object a line: time, level and message
    Json,
}

/// What kind of message it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Level {
    /// Why the program ends.
    Error,
    /// What may be wrong.
    Warning,
    /// All else that is said.
    Info,
    /// What is said with --verbose alone.
    Detail,
}

impl Level {
    /// That of a message, by its first word.
    pub(super) fn of(message: &str) -> Level {
        match message {
            _ if message.starts_with("error: ") => Level::Error,
            _ if message.starts_with("warning: ") => Level::Warning,
            _ => Level::Info,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Level::Error => "error",
            Level::Warning => "warning",
            Level::Info => "info",
            Level::Detail => "debug",
        }
    }
}

/// A file that is appended to.
#[derive(Debug)]
pub(super) struct LogFile {
    file: Mutex<File>,
    format: LogFormat,
}

impl LogFile {
    /// Opens a new file, or a log that is there.
    ///
    /// # Errors
    /// A file of a run, one that is no log, or one that cannot be written.
    pub(super) fn open(path: &Path, format: LogFormat) -> Result<LogFile> {
        let name = format!("--log {}", text::path(path));
        let target = Target::of(path).with_context(|| name.clone())?;
        if let Target::File(file) = &target {
            let run = run_that_owns(file, None);
            ensure!(
                run.is_none(),
                "{name} is a place for files of a run alone; choose a name outside of it"
            );
            ensure!(
                is_log(file).with_context(|| name.clone())?,
                "{name} exists and is no log of this program; choose another name"
            );
        }
        let (Target::File(to) | Target::Stream(to)) = target;
        let file = (File::options().append(true).create(true).open(to)).with_context(|| name)?;
        Ok(LogFile {
            file: Mutex::new(file),
            format,
        })
    }

    /// Adds a message of one line or more.
    pub(super) fn add(&self, level: Level, message: &str) {
        let line = line(self.format, OffsetDateTime::now_utc(), level, message);
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        // In one call, so that lines of several processes do not mix.
        let _ = file.write_all(line.as_bytes());
    }
}

/// True for a log, by its first line, which ends; for an empty file, and for none.
fn is_log(path: &Path) -> std::io::Result<bool> {
    let mut file = match open_regular(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(true),
        file => file?,
    };
    let mut head = [0; 9];
    let mut last = [b'\n'];
    let read = (&mut file).take(9).read(&mut head)?;
    if read > 0 {
        file.seek(SeekFrom::End(-1))?;
        file.read_exact(&mut last)?;
    }
    let is_year = |b: &[u8]| b.len() == 9 && b[..4].iter().all(u8::is_ascii_digit) && b[4] == b'-';
    let is_ours = is_year(&head[..read]) || &head == b"{\"time\":\"";
    Ok(read == 0 || (is_ours && last == [b'\n']))
}

fn line(format: LogFormat, now: OffsetDateTime, level: Level, message: &str) -> String {
    let now = now.replace_nanosecond(0).unwrap_or(now);
    let (date, (hour, minute, second)) = (now.date(), now.to_hms());
    let time = format!("{date}T{hour:02}:{minute:02}:{second:02}Z");
    let message = message.trim_end_matches('\n');
    match format {
        LogFormat::Json => {
            let (level, message) = (level.name(), without_level(level, message));
            // In this order, which a map of JSON would not keep.
            let [time, level, message] = [json!(time), json!(level), json!(message)];
            let line = format!(r#"{{"time":{time},"level":{level},"message":{message}}}"#);
            text::json(&line) + "\n"
        }
        LogFormat::Text => {
            let lines = message.lines().enumerate();
            let indented = lines.map(|(number, line)| match number {
                0 => format!("{time}  {}\n", printable(line)),
                _ => format!("{time}    {}\n", printable(line)),
            });
            indented.collect()
        }
    }
}

/// A message without the word that says its level.
fn without_level(level: Level, message: &str) -> &str {
    let word = format!("{}: ", level.name());
    message.strip_prefix(&word).unwrap_or(message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_have_a_time_and_cannot_be_forged() {
        let now = OffsetDateTime::from_unix_timestamp(1_800_000_000).unwrap();
        let said = "warning: a\nerror: forged \u{1b}[2J";
        let text = line(LogFormat::Text, now, Level::of(said), said);
        let time = "2027-01-15T08:00:00Z";
        let wanted = format!("{time}  warning: a\n{time}    error: forged \\u{{1b}}[2J\n");
        assert_eq!(text, wanted);
        let json = line(LogFormat::Json, now, Level::of(said), said);
        let read: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(
            (read["level"].as_str(), read["time"].as_str()),
            (Some("warning"), Some(time))
        );
        assert_eq!(read["message"], "a\nerror: forged \u{1b}[2J");
        assert_eq!(json.lines().count(), 1);
        assert!(!json.contains('\u{1b}') && json.starts_with(r#"{"time":"#));
    }

    #[test]
    fn only_logs_are_appended_to() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        for format in [LogFormat::Text, LogFormat::Json] {
            for _ in 0..2 {
                LogFile::open(&path, format).unwrap().add(Level::Info, "x");
            }
            let text = std::fs::read_to_string(&path).unwrap();
            assert_eq!(text.lines().count(), 2, "{text}");
            std::fs::remove_file(&path).unwrap();
        }
        for other in ["a", "photo of 2026\n", "2026-01-01 half a line", "{}\n"] {
            std::fs::write(&path, other).unwrap();
            let error = LogFile::open(&path, LogFormat::Text)
                .unwrap_err()
                .to_string();
            assert!(error.contains("is no log"), "{error}");
        }
        assert!(LogFile::open(dir.path(), LogFormat::Text).is_err());
    }
}
