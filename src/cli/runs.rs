//! `ddpm runs`.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Result, ensure};
use clap::Args;
use serde::Serialize;
use time::OffsetDateTime;

use super::evaluate::table::aligned;
use super::flags::with_flags;
use super::out::{self, say};
use crate::checkpoint::RUNS;
use crate::report::{bytes, count};
use crate::runs::{Found, Pruning, Standing, State, runs_below};
use crate::text::{self, plural};

/// List runs: what they are doing, how far they are, how good, how large
#[derive(Debug, Args)]
#[command(
    after_long_help = "Loss is the mean of the newest 100 steps, images/s their median; best is by the metric that decides \
(`--best-by`), of which less is better.

--prune removes what a run needs neither to go on nor to be looked at: checkpoints before the newest but the best and those \
that a file needs (pinned), measurements of checkpoints that are gone, half-written files older than an hour, lines of \
metrics.jsonl that were set aside, log.old.txt. A run is then left with one checkpoint to go on from; if its newest cannot be \
read whole, all of its checkpoints stay. A run that is being trained is passed over, and so is a link to a run."
)]
pub(super) struct RunsCommand {
    /// Folder with runs, at up to four levels below it, or a run
    #[arg(value_name = "DIR", default_value = RUNS)]
    dir: PathBuf,
    /// Print JSON
    #[arg(long, conflicts_with = "prune")]
    json: bool,
    /// Show what could be removed, and with --yes remove it
    #[arg(long)]
    prune: bool,
    /// With --prune: remove it
    #[arg(long, requires = "prune")]
    yes: bool,
    /// With --prune: also remove runs without a checkpoint, as a whole
    #[arg(long, requires = "prune")]
    empty: bool,
}

impl RunsCommand {
    pub(super) fn run(&self) -> Result<()> {
        let by_default = self.dir == Path::new(RUNS);
        ensure!(
            self.dir.is_dir() || by_default && !self.dir.exists(),
            "{} is not a folder; name one that holds runs",
            text::path(&self.dir)
        );
        let found = runs_below(&self.dir);
        if found.is_empty() {
            say(&format!("there is no run in {}", text::path(&self.dir)));
        }
        match self.prune {
            true => self.prune(&found),
            false => self.list(&found),
        }
    }

    fn list(&self, found: &[Found]) -> Result<()> {
        let mut standings: Vec<Standing> =
            found.iter().map(|run| Standing::read(&run.dir)).collect();
        standings.sort_by(|a, b| b.changed.cmp(&a.changed).then_with(|| a.dir.cmp(&b.dir)));
        let now = SystemTime::now();
        if self.json {
            let rows: Vec<Row> = standings.iter().map(|run| Row::of(run, now)).collect();
            out::json(&serde_json::to_string_pretty(&rows)?);
        } else if !standings.is_empty() {
            out::lines(&table(&standings, now));
        }
        Ok(())
    }

    fn prune(&self, found: &[Found]) -> Result<()> {
        let (mut freed, mut files, mut failed) = (0, 0, 0);
        for run in found {
            let name = text::path(&run.dir);
            if run.linked {
                out::result(&format!("{name}: a link, passed over; name the run itself"));
                continue;
            }
            let done = match self.yes {
                true => Pruning::carry_out(&run.dir, self.empty),
                false => Pruning::plan(&run.dir, self.empty),
            };
            match done {
                Ok(pruning) => {
                    freed += pruning.bytes();
                    files += pruning.files.len() as u64;
                    out::lines(&shown(&name, &pruning));
                }
                Err(error) => {
                    failed += 1;
                    let said = with_flags(&format!("{error:#}"));
                    out::result(&format!("{name}: passed over: {said}"));
                }
            }
        }
        let what = format!("{}, {}", plural(files, "file"), bytes(freed));
        out::result(&match (self.yes, files) {
            (_, 0) => "there is nothing to remove".to_owned(),
            (true, _) => format!("removed: {what}"),
            (false, _) => format!("can be removed: {what}; add --yes to do so"),
        });
        if failed > 0 {
            say(&format!("{} passed over", plural(failed, "run")));
        }
        Ok(())
    }
}

/// What there is to remove of a run; nothing if there is nothing to say.
fn shown(name: &str, pruning: &Pruning) -> String {
    if pruning.files.is_empty() && pruning.remarks.is_empty() {
        return String::new();
    }
    let mut text = match pruning.files.len() {
        0 => format!("{name}: nothing\n"),
        _ => format!("{name}: {}\n", bytes(pruning.bytes())),
    };
    let row = |path: PathBuf, size: u64, why: &str| {
        let path = format!("  {}", text::path(&path));
        vec![path, bytes(size), why.to_owned()]
    };
    let files = pruning.files.iter();
    let rows: Vec<Vec<String>> = files
        .map(|file| row(file.path(), file.bytes, file.reason.words()))
        .collect();
    text += &aligned(&rows);
    for remark in &pruning.remarks {
        let remark = with_flags(remark).replace('\n', "\n  ");
        text += &format!("  {remark}\n");
    }
    text
}

/// A run, as JSON.
#[derive(Serialize)]
struct Row<'a> {
    run: String,
    state: &'static str,
    /// What is wrong with it.
    damage: Option<&'a str>,
    trained_by: Option<&'a str>,
    step: u64,
    saved_step: Option<u64>,
    steps: Option<u64>,
    loss: Option<f64>,
    images_per_sec: Option<f64>,
    best: Option<BestRow<'a>>,
    bytes: u64,
    /// RFC 3339, in UTC.
    changed: Option<String>,
    changed_secs_ago: Option<u64>,
}

#[derive(Serialize)]
struct BestRow<'a> {
    metric: &'a str,
    measure: &'a str,
    value: f64,
    step: u64,
}

impl Row<'_> {
    fn of(run: &Standing, now: SystemTime) -> Row<'_> {
        Row {
            run: run.dir.to_string_lossy().into_owned(),
            state: run.state.name(),
            damage: damage(run),
            trained_by: run.trained_by.as_deref(),
            step: run.step,
            saved_step: run.saved,
            steps: run.steps,
            loss: run.loss,
            images_per_sec: run.images_per_sec,
            best: run.best.as_ref().map(|best| BestRow {
                metric: &best.metric,
                measure: &best.measure,
                value: best.value,
                step: best.step,
            }),
            bytes: run.bytes,
            changed: run
                .changed
                .and_then(|time| Some(utc(time)?.replace(' ', "T") + "Z")),
            changed_secs_ago: run.changed.map(|time| since(time, now).as_secs()),
        }
    }
}

fn damage(run: &Standing) -> Option<&str> {
    match &run.state {
        State::Damaged(why) => Some(why),
        _ => None,
    }
}

/// A line a run; what is wrong with one stands at its end.
fn table(runs: &[Standing], now: SystemTime) -> String {
    let header = [
        "run",
        "state",
        "step",
        "loss",
        "best",
        "images/s",
        "size",
        "last change (UTC)",
    ];
    let mut rows = vec![header.map(str::to_owned).to_vec()];
    for run in runs {
        let or_dash = |cell: Option<String>| cell.unwrap_or_else(|| "-".to_owned());
        let steps = run
            .steps
            .map_or_else(|| "?".to_owned(), |steps| steps.to_string());
        let best = run.best.as_ref();
        let note = match (&run.state, &run.trained_by) {
            (State::Damaged(why), _) => Some(why),
            (_, by) => by.as_ref(),
        };
        let words: Vec<&str> = note.map_or("", String::as_str).split_whitespace().collect();
        rows.push(vec![
            text::path(&run.dir),
            run.state.name().to_owned(),
            format!("{} of {steps}", run.step),
            or_dash(run.loss.map(|loss| format!("{loss:.4}"))),
            or_dash(best.map(|best| format!("{} {:.4} at {}", best.metric, best.value, best.step))),
            or_dash(run.images_per_sec.map(speed)),
            bytes(run.bytes),
            or_dash(run.changed.and_then(|time| {
                let minutes = utc(time)?[..16].to_owned();
                Some(format!("{minutes} ({})", ago(since(time, now))))
            })),
            match words[..] {
                [] => String::new(),
                _ => text::printable(&words.join(" ")),
            },
        ]);
    }
    aligned(&rows)
}

fn speed(images_per_sec: f64) -> String {
    match images_per_sec < 100.0 {
        true => format!("{images_per_sec:.1}"),
        false => count(images_per_sec.round() as u64),
    }
}

/// `2026-11-30 14:36:04`; `None` for a time out of range.
fn utc(time: SystemTime) -> Option<String> {
    let secs = time.duration_since(SystemTime::UNIX_EPOCH).ok()?.as_secs();
    let time = OffsetDateTime::from_unix_timestamp(i64::try_from(secs).ok()?).ok()?;
    let (hour, minute, second) = time.to_hms();
    let (year, month, day) = (time.year(), time.month() as u8, time.day());
    Some(format!(
        "{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}"
    ))
}

/// None for a time to come.
fn since(time: SystemTime, now: SystemTime) -> Duration {
    now.duration_since(time).unwrap_or_default()
}

/// "just now", "5 min ago", "3 h ago", "12 d ago".
fn ago(time: Duration) -> String {
    match time.as_secs() {
        0..60 => "just now".to_owned(),
        secs @ 60..3600 => format!("{} min ago", secs / 60),
        secs @ 3600..172_800 => format!("{} h ago", secs / 3600),
        secs => format!("{} d ago", secs / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_read_well() {
        let shown = [0, 59, 60, 3599, 3600, 172_799, 172_800, 864_000];
        let shown = shown.map(|secs| ago(Duration::from_secs(secs)));
        let wanted = [
            "just now",
            "just now",
            "1 min ago",
            "59 min ago",
            "1 h ago",
            "47 h ago",
            "2 d ago",
            "10 d ago",
        ];
        assert_eq!(shown, wanted);
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_796_000_000);
        assert_eq!(utc(time).unwrap(), "2026-11-30 00:53:20");
        // The clock of another machine runs ahead.
        assert_eq!(since(time, SystemTime::UNIX_EPOCH), Duration::ZERO);
    }
}
