//! The runs, as they are now: one look a second for all pages together, and none while nobody listens.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result};
use axum::body::Bytes;
use serde_json::{Value, json};
use tokio::sync::watch;

use super::catalogue::Catalogue;
use crate::runs::{Over, Reported, Standing, State};

/// Time between two looks.
const BETWEEN_LOOKS: Duration = Duration::from_secs(1);
/// A run whose files stay as they are is read again after so long: a process that trained it may be gone.
const READ_AGAIN: Duration = Duration::from_secs(15);

/// A report that is asked for so soon again is the same.
const REPORT_AGAIN: Duration = Duration::from_secs(5);

/// The runs of a server.
#[derive(Debug)]
pub(super) struct Runs {
    catalogue: Arc<Catalogue>,
    seen: Mutex<HashMap<usize, Seen>>,
    /// One at a time is written.
    reports: Mutex<HashMap<usize, Report>>,
    list: watch::Sender<Arc<str>>,
}

/// A run as it was read last.
#[derive(Debug)]
struct Seen {
    stamp: Stamp,
    when: Instant,
    shown: Value,
}

/// The report of a run, and what it was made of: the next is made with less work.
#[derive(Debug)]
struct Report {
    reported: Reported,
    html: Option<(Instant, Bytes)>,
}

/// Length and time of the files that change when a run goes on.
type Stamp = [Option<(u64, SystemTime)>; 3];

impl Runs {
    pub(super) fn new(catalogue: Arc<Catalogue>) -> Runs {
        Runs {
            catalogue,
            seen: Mutex::default(),
            reports: Mutex::default(),
            list: watch::Sender::new(Arc::from("[]")),
        }
    }

    /// Hears of each change.
    pub(super) fn listen(&self) -> watch::Receiver<Arc<str>> {
        self.list.subscribe()
    }

    /// The list in JSON.
    pub(super) fn list(&self) -> Arc<str> {
        Arc::clone(&self.list.borrow())
    }

    /// Whether there is a run of this number.
    pub(super) fn has(&self, id: usize) -> bool {
        self.catalogue.runs().iter().any(|(of, ..)| *of == id)
    }

    /// The report of a run as one HTML file.
    ///
    /// # Errors
    /// No run of this number, or settings that cannot be read.
    pub(super) fn report(&self, id: usize) -> Result<Bytes> {
        let folder = self.catalogue.runs().into_iter().find(|(of, ..)| *of == id);
        let (_, dir, _) = folder.with_context(|| format!("there is no run of number {id}"))?;
        let mut reports = self.reports.lock().unwrap_or_else(PoisonError::into_inner);
        let report = reports.entry(id).or_insert_with(|| Report {
            reported: Reported::new(dir),
            html: None,
        });
        match &report.html {
            Some((when, html)) if when.elapsed() < REPORT_AGAIN => Ok(html.clone()),
            _ => {
                let html = Bytes::from(report.reported.html(Over::Look)?);
                report.html = Some((Instant::now(), html.clone()));
                Ok(html)
            }
        }
    }

    /// Looks at all runs, and tells what is new.
    pub(super) fn look(&self) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        self.catalogue.renew();
        let runs = self.catalogue.runs();
        for (id, dir, _) in &runs {
            let stamp = stamp(dir);
            let fresh = |seen: &Seen| seen.stamp == stamp && seen.when.elapsed() < READ_AGAIN;
            if !seen.get(id).is_some_and(fresh) {
                let (when, shown) = (Instant::now(), shown(*id, dir));
                seen.insert(*id, Seen { stamp, when, shown });
            }
        }
        let all = runs.iter().filter_map(|(id, _, usable)| {
            let mut shown = seen.get(id)?.shown.clone();
            shown["usable"] = (*usable).into();
            Some(shown)
        });
        let all: Vec<Value> = all.collect();
        let all: Arc<str> = Arc::from(json!(all).to_string());
        self.list.send_if_modified(|list| {
            let new = *list != all;
            *list = all;
            new
        });
    }
}

/// Looks again and again while somebody listens.
pub(super) async fn poll(runs: Arc<Runs>) {
    let mut clock = tokio::time::interval(BETWEEN_LOOKS);
    clock.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        clock.tick().await;
        if runs.list.receiver_count() > 0 {
            let runs = Arc::clone(&runs);
            // A panic in it is told where the server was started; the next look is another try.
            let _ = tokio::task::spawn_blocking(move || runs.look()).await;
        }
    }
}

fn stamp(dir: &Path) -> Stamp {
    ["metrics.jsonl", "checkpoints/latest", "config.toml"].map(|file| {
        let metadata = std::fs::metadata(dir.join(file)).ok()?;
        Some((metadata.len(), metadata.modified().ok()?))
    })
}

/// What the page shows of a run.
fn shown(id: usize, dir: &Path) -> Value {
    let run = Standing::read(dir);
    let changed = run
        .changed
        .and_then(|when| when.duration_since(SystemTime::UNIX_EPOCH).ok());
    let why = match &run.state {
        State::Damaged(why) => Some(why.as_str()),
        _ => None,
    };
    json!({
        "id": id,
        "name": crate::text::path(dir),
        "state": run.state.name(),
        "why": why,
        "step": run.step,
        "saved": run.saved,
        "steps": run.steps,
        "loss": run.loss,
        "images_per_sec": run.images_per_sec,
        "best": run.best.as_ref().map(|best| json!({ "measure": best.measure, "value": best.value, "step": best.step })),
        "bytes": run.bytes,
        "changed": changed.map(|since| since.as_secs()),
    })
}
