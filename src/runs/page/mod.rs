//! The report of runs: one HTML file that shows them, and loads nothing from elsewhere.
//!
//! What it shows is gathered in [`RunPage`]s, which become JSON in the page; its own JavaScript (`assets/`) draws from that.
//! Text from files reaches the page as text nodes only. Charts are hand-written SVG: the chart libraries that would serve are
//! larger than the whole page, and draw on a canvas, which a screen reader cannot see and a printer prints coarsely.
//! Everything read is read again by each report, and a file that cannot be read is a remark in it, not an error.

mod checkpoints;
mod data_set;
mod evaluations;
mod facts;
mod grids;
mod incidents;
mod jpegs;
mod settings;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde::Serialize;

use super::curves::{Columns, Curves, PartOfRun};
use crate::checkpoint::RunFolder;
use crate::config::RunConfig;
use crate::text;
use jpegs::Jpegs;

/// Most grids in a page, of all its runs together.
const MOST_GRIDS: usize = 48;

/// What a browser may do with the page: show what is in it, and load nothing.
const POLICY: &str =
    "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'";

const SCRIPTS: [&str; 3] = [
    include_str!("assets/dom.js"),
    include_str!("assets/chart.js"),
    include_str!("assets/report.js"),
];

/// Whether a run is over, where whoever asks knows: the process that trains it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Over {
    /// See what its folder says.
    Look,
    /// This start of it ends now.
    Now,
}

/// A run that is reported on, once or again and again: what has not changed since is kept.
#[derive(Debug)]
pub struct Reported {
    folder: RunFolder,
    curves: Curves,
    jpegs: Jpegs,
}

/// All that a page shows.
#[derive(Debug, Serialize)]
struct Page {
    program: String,
    made_at: String,
    runs: Vec<RunPage>,
    differences: Vec<settings::Row>,
}

/// What a page shows of a run.
#[derive(Debug, Serialize)]
struct RunPage {
    name: String,
    state: &'static str,
    state_text: String,
    facts: Vec<(&'static str, String)>,
    go_on: Vec<facts::GoOn>,
    remarks: Vec<String>,
    step: u64,
    steps: u64,
    batch: i64,
    timesteps: i64,
    preset: String,
    curves: Columns,
    by_t: Vec<PartOfRun>,
    grids: Vec<grids::Grid>,
    grids_note: Option<String>,
    evaluation: Vec<evaluations::Values>,
    data: data_set::DataSet,
    settings: Vec<settings::Setting>,
    incidents: Vec<incidents::Incident>,
    checkpoints: Vec<checkpoints::File>,
}

impl Reported {
    /// The run in `dir`, of which nothing is read yet.
    pub fn new(dir: PathBuf) -> Reported {
        Reported {
            folder: RunFolder::new(dir),
            curves: Curves::default(),
            jpegs: Jpegs::default(),
        }
    }

    /// The report of this run alone, as HTML.
    ///
    /// # Errors
    /// No run there, or settings that cannot be read.
    pub fn html(&mut self, over: Over) -> Result<String> {
        let config = self.config()?;
        let run = self.page(&config, over, MOST_GRIDS);
        html(vec![run], Vec::new())
    }

    fn config(&self) -> Result<RunConfig> {
        let dir = self.folder.dir();
        ensure!(
            dir.join("config.toml").exists(),
            "{} is not a run folder: there is no config.toml in it",
            text::path(dir)
        );
        self.folder.config()
    }

    /// Everything of a run but what cannot be read, which is said.
    fn page(&mut self, config: &RunConfig, over: Over, most_grids: usize) -> RunPage {
        let mut remarks = Vec::new();
        let read = self.curves.read_on(&self.folder.metrics_path());
        remark(&mut remarks, read);
        if self.curves.bad_lines() > 0 {
            let lines = text::plural(self.curves.bad_lines(), "line");
            remarks.push(format!("{lines} of metrics.jsonl cannot be read"));
        }
        let checkpoints = checkpoints::Checkpoints::read(self.folder.dir());
        let facts = facts::Facts::read(&self.folder, config, &self.curves, &checkpoints, over);
        let grids = grids::read(&self.folder, most_grids, &mut self.jpegs, &mut remarks);
        let data = data_set::read(&self.folder, config, &mut self.jpegs, &mut remarks);
        self.jpegs.forget_unused();
        let settings = settings::all(config);
        let settings = remark(&mut remarks, settings).unwrap_or_default();
        RunPage {
            name: text::path(self.folder.dir()),
            state: facts.state,
            state_text: facts.state_text,
            go_on: facts.go_on,
            step: facts.step,
            facts: facts.rows,
            steps: config.train.steps,
            batch: config.train.batch,
            timesteps: config.diffusion.timesteps,
            preset: config.preset.name(),
            by_t: self.curves.by_t(),
            curves: self.curves.columns(),
            grids: grids.grids,
            grids_note: grids.note,
            evaluation: evaluations::values(&self.curves),
            data,
            settings,
            incidents: incidents::read(self.folder.dir(), &mut remarks),
            checkpoints: checkpoints.files,
            remarks,
        }
    }
}

/// The report of several runs, side by side.
///
/// # Errors
/// None named; no run in one of the folders, or settings that cannot be read.
pub fn report(dirs: &[PathBuf]) -> Result<String> {
    ensure!(!dirs.is_empty(), "no runs to report on");
    let mut runs: Vec<Reported> = dirs.iter().cloned().map(Reported::new).collect();
    let configs: Vec<RunConfig> = runs.iter().map(Reported::config).collect::<Result<_>>()?;
    let differences = settings::that_differ(&configs)?;
    let each = (MOST_GRIDS / runs.len()).max(2);
    let pages = runs.iter_mut().zip(&configs);
    let pages = pages
        .map(|(run, config)| run.page(config, Over::Look, each))
        .collect();
    html(pages, differences)
}

fn html(runs: Vec<RunPage>, differences: Vec<settings::Row>) -> Result<String> {
    let page = Page {
        program: concat!("ddpm ", env!("CARGO_PKG_VERSION")).to_owned(),
        made_at: facts::now(),
        runs,
        differences,
    };
    // What would end the element, or begin a comment in it, is written otherwise.
    let json = serde_json::to_string(&page)?.replace('<', "\\u003c");
    let (style, scripts) = (include_str!("assets/report.css"), SCRIPTS.join("\n"));
    Ok(format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"{POLICY}\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n<title>ddpm</title>\n\
         <link rel=\"icon\" href=\"data:,\">\n<style>\n{style}</style>\n</head>\n<body>\n\
         <noscript><p>This report draws itself with JavaScript, all of which is in this file.</p></noscript>\n\
         <script type=\"application/json\" id=\"data\">{json}</script>\n<script>\n{scripts}</script>\n</body>\n</html>\n"
    ))
}

/// The value, or `None` with the error in `remarks`.
fn remark<T>(remarks: &mut Vec<String>, result: Result<T>) -> Option<T> {
    match result {
        Ok(value) => Some(value),
        Err(error) => {
            remarks.push(text::one_line(&format!("{error:#}")));
            None
        }
    }
}

/// The text of a file of at most `max_bytes`; `None` if there is none. A link is not followed: a folder from elsewhere must not
/// have any file of this machine shown.
fn text_of(path: &Path, max_bytes: u64) -> Result<Option<String>> {
    ensure!(
        !path.is_symlink(),
        "{} is a link, and not shown",
        text::path(path)
    );
    match crate::fs::read_text(path, max_bytes) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        read => read
            .map(Some)
            .with_context(|| format!("cannot read {}", text::path(path))),
    }
}
