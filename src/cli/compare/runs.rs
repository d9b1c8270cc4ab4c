//! `ddpm compare RUN…`: what runs measured while they were trained. It reads, and holds no run's lock.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use clap::{Args, ValueEnum};
use serde::Serialize;

use super::comparable::Setting;
use super::figure::draw;
use super::markdown::{marked, number, table};
use crate::checkpoint::{RunFolder, nearest_run};
use crate::cli::args::run::run_or_latest;
use crate::cli::flags::with_flags;
use crate::cli::out::{self, say};
use crate::cli::outputs::{ForceArg, Outputs};
use crate::config::EvaluationConfig;
use crate::report::{EvaluationHistory, PlotLine, duration, evaluation_history};
use crate::text::{self, plural};

/// What lies along the bottom of the figure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Against {
    /// Steps of training
    Steps,
    /// Time of the run, over all its starts, with all that it did
    Time,
    /// Images trained on, a step's batch each time, so that runs of different batches can be compared
    Images,
}

/// Runs, and what to show of them.
#[derive(Debug, Args)]
pub(super) struct RunsArgs {
    /// Run folders; `latest` is the newest run in runs/
    #[arg(required = true, value_name = "RUN", value_parser = run_or_latest())]
    runs: Vec<PathBuf>,
    /// Metrics to show; by the first is said which step is the best [default: all, first the one by which the first run
    /// chooses its best step]
    #[arg(long, alias = "metric", value_name = "LIST", value_delimiter = ',')]
    metrics: Vec<String>,
    /// Draw the first metric, a line a run
    #[arg(long, value_name = "FILE.svg")]
    plot: Option<PathBuf>,
    /// What lies along the bottom of the figure
    #[arg(long, value_enum, default_value_t = Against::Images)]
    against: Against,
    /// Print JSON, with all that was measured
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    force: ForceArg,
}

/// A run as it was read.
struct Run {
    path: PathBuf,
    setting: Setting,
    history: EvaluationHistory,
}

/// What is printed as JSON.
#[derive(Serialize)]
struct Report<'a> {
    /// The one that decides.
    metric: &'a str,
    less_is_better: bool,
    /// False if a difference of the deciding metric may have other reasons than the networks.
    comparable: bool,
    remarks: &'a [String],
    runs: Vec<OfRun<'a>>,
}

#[derive(Serialize)]
struct OfRun<'a> {
    run: String,
    last_step: u64,
    settings: Option<&'a EvaluationConfig>,
    evaluations: Vec<Point<'a>>,
    best: Option<Point<'a>>,
}

/// An evaluation.
#[derive(Clone, Serialize)]
struct Point<'a> {
    step: u64,
    images: Option<u64>,
    secs: Option<f64>,
    values: &'a BTreeMap<String, f64>,
}

impl RunsArgs {
    pub(super) fn run(&self) -> Result<()> {
        let mut outputs = Outputs::new(self.force);
        if let Some(plot) = &self.plot {
            outputs.writes("--plot", plot, &["svg"], None);
        }
        outputs.check()?;
        let (with, without): (Vec<Run>, Vec<Run>) = (self.runs.iter())
            .map(|path| Run::read(path))
            .collect::<Result<Vec<_>>>()?
            .into_iter()
            .partition(|run| !run.history.evaluations.is_empty());
        if with.is_empty() {
            let lines: Vec<String> = without.iter().map(Run::says_no_evaluations).collect();
            bail!("{}", lines.join("\n"));
        }
        let mut remarks: Vec<String> = without.iter().map(Run::says_no_evaluations).collect();
        remarks.extend(with.iter().flat_map(Run::remarks));
        let metrics = self.metrics(&with)?;
        let apart = incomparable(&with, &metrics)?;
        let comparable = !apart.iter().any(|(metric, _)| **metric == metrics[0]);
        remarks.extend(apart.into_iter().map(|(_, said)| said));
        remarks.dedup();
        remarks.extend(other_noise(&with));
        remarks.iter().for_each(|remark| say(remark));
        if let Some(plot) = &self.plot {
            self.draw(plot, &with, &metrics[0])?;
        }
        match self.json {
            true => {
                let report = Report {
                    metric: &metrics[0],
                    less_is_better: true,
                    comparable,
                    remarks: &remarks,
                    runs: with.iter().map(|run| run.report(&metrics[0])).collect(),
                };
                out::json(&serde_json::to_string(&report)?);
            }
            false => out::lines(&shown(&with, &metrics, comparable)),
        }
        Ok(())
    }

    /// The columns, the deciding one first.
    fn metrics(&self, runs: &[Run]) -> Result<Vec<String>> {
        let evaluations = runs.iter().flat_map(|run| &run.history.evaluations);
        let measured: BTreeSet<&String> = evaluations
            .flat_map(|evaluation| evaluation.metrics.evaluation.keys())
            .collect();
        let known: Vec<&str> = measured.iter().map(|name| name.as_str()).collect();
        if let Some(other) = self
            .metrics
            .iter()
            .find(|name| !known.contains(&name.as_str()))
        {
            bail!(
                "--metrics {other}: these runs have measured {}",
                known.join(", ")
            );
        }
        ensure!(!known.is_empty(), "these evaluations hold no values");
        let mut wanted = self.metrics.clone();
        if wanted.is_empty() {
            let settings = runs.iter().find_map(Run::evaluation);
            let settings = settings.into_iter();
            let of_settings = settings.flat_map(|settings| {
                let deciding = settings.best.into_iter();
                deciding.chain(settings.metrics.iter().copied())
            });
            wanted.extend(of_settings.map(|metric| metric.name().to_owned()));
            wanted.extend(known.iter().map(|name| (*name).to_owned()));
            wanted.retain(|name| known.contains(&name.as_str()));
        }
        let mut seen = BTreeSet::new();
        wanted.retain(|name| seen.insert(name.clone()));
        Ok(wanted)
    }

    fn draw(&self, path: &Path, runs: &[Run], metric: &str) -> Result<()> {
        let label = match self.against {
            Against::Steps => "steps",
            Against::Time => "hours of training",
            Against::Images => "images trained on",
        };
        let place = |point: &Point| match self.against {
            Against::Steps => Some(point.step as f64),
            Against::Time => point.secs.map(|secs| secs / 3600.0),
            Against::Images => point.images.map(|images| images as f64),
        };
        let line = |run: &Run| PlotLine {
            name: run.name(),
            points: (run.points())
                .filter_map(|point| Some((place(&point)?, *point.values.get(metric)?)))
                .collect(),
        };
        let lines: Vec<PlotLine> = runs.iter().map(line).collect();
        for (run, line) in runs.iter().zip(&lines) {
            let left_out = run.history.evaluations.len() - line.points.len();
            if left_out > 0 {
                say(&format!(
                    "note: {} of {} not drawn: no {metric} or no {label} is known",
                    plural(left_out as u64, "evaluation"),
                    run.name()
                ));
            }
        }
        draw(
            path,
            &format!("{metric} while training"),
            (label, false),
            metric,
            lines,
        )
    }
}

impl Run {
    fn read(path: &Path) -> Result<Run> {
        let metrics = RunFolder::new(path.to_owned()).metrics_path();
        if !metrics.exists() {
            let near = match nearest_run(path) {
                Some(near) if !path.exists() => format!("; did you mean {}?", text::path(&near)),
                _ => String::new(),
            };
            bail!(
                "{} is not a run folder: there is no {}{near}",
                text::path(path),
                text::path(&metrics)
            );
        }
        Ok(Run {
            path: path.to_owned(),
            setting: Setting::read(path),
            history: evaluation_history(&metrics)?,
        })
    }

    fn name(&self) -> String {
        text::path(&self.path)
    }

    fn evaluation(&self) -> Option<&EvaluationConfig> {
        self.setting.config()?.evaluation.as_ref()
    }

    fn says_no_evaluations(&self) -> String {
        let (run, step) = (self.name(), self.history.last_step);
        match self.evaluation() {
            Some(wanted) => format!(
                "{run} has no evaluation yet: it is at step {step}, and there is one every {}",
                plural(wanted.every_steps, "step")
            ),
            None => format!(
                "{run} has no evaluations, which a run makes only when asked: \
                 `ddpm train --run {} --evaluate-every N` goes on with them",
                text::shell(&self.path)
            ),
        }
    }

    /// What is odd about its files.
    fn remarks(&self) -> Vec<String> {
        let mut remarks = Vec::new();
        if let Some(missing) = &self.setting.missing {
            remarks.push(format!("warning: {}: {missing}", self.name()));
        }
        if self.history.bad_lines > 0 {
            remarks.push(format!(
                "warning: {} of {} cannot be read",
                plural(self.history.bad_lines, "line"),
                text::path(&RunFolder::new(self.path.clone()).metrics_path())
            ));
        }
        remarks
    }

    fn points(&self) -> impl Iterator<Item = Point<'_>> {
        let batch = self
            .setting
            .config()
            .map(|config| config.train.batch as u64);
        self.history
            .evaluations
            .iter()
            .map(move |evaluation| Point {
                step: evaluation.metrics.step,
                images: batch.and_then(|batch| batch.checked_mul(evaluation.metrics.step)),
                secs: evaluation.secs,
                values: &evaluation.metrics.evaluation,
            })
    }

    /// The first of the evaluations with the best value.
    fn best(&self, metric: &str) -> Option<Point<'_>> {
        let value = |point: &Point| point.values.get(metric).copied();
        (self.points())
            .filter(|point| value(point).is_some_and(f64::is_finite))
            .min_by(|a, b| {
                value(a)
                    .partial_cmp(&value(b))
                    .unwrap_or(std::cmp::Ordering::Equal)
            })
    }

    fn report(&self, metric: &str) -> OfRun<'_> {
        OfRun {
            run: self.name(),
            last_step: self.history.last_step,
            settings: self.evaluation(),
            evaluations: self.points().collect(),
            best: self.best(metric),
        }
    }

    /// Its best value, for people.
    fn summary(&self, metric: &str) -> String {
        let Some(best) = self.best(metric) else {
            return format!("{}: no {metric}", self.name());
        };
        let mut after = Vec::new();
        after.extend(best.images.map(|images| plural(images, "image")));
        after.extend(shown_time(best.secs));
        let after = match after.is_empty() {
            true => String::new(),
            false => format!(", after {}", after.join(" and ")),
        };
        format!(
            "{}: best {metric} {} at step {}{after}; {}, now at step {}",
            self.name(),
            number(best.values.get(metric).copied().unwrap_or(f64::NAN)),
            best.step,
            plural(self.history.evaluations.len() as u64, "evaluation"),
            self.history.last_step
        )
    }
}

fn shown_time(secs: Option<f64>) -> Option<String> {
    let time = Duration::try_from_secs_f64(secs?).ok()?;
    Some(duration(time))
}

/// Which metrics of which runs cannot be compared with those of the first run, with the reasons.
fn incomparable<'a>(runs: &[Run], metrics: &'a [String]) -> Result<Vec<(&'a String, String)>> {
    let Some((first, others)) = runs.split_first() else {
        return Ok(Vec::new());
    };
    let mut found = Vec::new();
    for run in others {
        // One line for metrics with the same reasons.
        let mut by_reasons: Vec<(Vec<String>, Vec<&String>)> = Vec::new();
        for metric in metrics {
            let reasons = run.setting.differences(&first.setting, metric)?;
            match by_reasons.iter_mut().find(|(known, _)| *known == reasons) {
                Some((_, metrics)) => metrics.push(metric),
                None => by_reasons.push((reasons, vec![metric])),
            }
        }
        for (reasons, metrics) in by_reasons
            .into_iter()
            .filter(|(reasons, _)| !reasons.is_empty())
        {
            let names: Vec<&str> = metrics.iter().map(|name| name.as_str()).collect();
            let said = with_flags(&format!(
                "warning: {} of {} cannot be compared with those of {}: {}",
                names.join(", "),
                run.name(),
                first.name(),
                reasons.join("; ")
            ));
            found.extend(metrics.into_iter().map(|metric| (metric, said.clone())));
        }
    }
    Ok(found)
}

/// Says which runs have other noise than the first.
fn other_noise(runs: &[Run]) -> Option<String> {
    let (first, others) = runs.split_first()?;
    let differ = |run: &&Run| run.setting.has_other_noise(&first.setting);
    let names: Vec<String> = others.iter().filter(differ).map(Run::name).collect();
    (!names.is_empty()).then(|| {
        format!(
            "note: other seeds than that of {}, so other noise: {}; small differences are chance",
            first.name(),
            names.join(", ")
        )
    })
}

/// The table and a line for each run.
fn shown(runs: &[Run], metrics: &[String], comparable: bool) -> String {
    let mut header: Vec<String> = ["run", "step", "images", "time"]
        .map(str::to_owned)
        .to_vec();
    header.extend(metrics.iter().cloned());
    let mut rows = Vec::new();
    for run in runs {
        let best: Vec<Option<u64>> = metrics
            .iter()
            .map(|metric| Some(run.best(metric)?.step))
            .collect();
        for point in run.points() {
            let mut row = vec![run.name(), point.step.to_string()];
            row.push(
                point
                    .images
                    .map_or_else(String::new, |images| images.to_string()),
            );
            row.push(shown_time(point.secs).unwrap_or_default());
            for (metric, best) in metrics.iter().zip(&best) {
                let value = point.values.get(metric);
                row.push(value.map_or_else(String::new, |value| {
                    marked(*value, *best == Some(point.step))
                }));
            }
            rows.push(row);
        }
    }
    let mut text = table(&header, 1, &rows);
    text += "\nLess is better; bold is the best of a run.\n";
    for run in runs {
        text += &format!("{}\n", run.summary(&metrics[0]));
    }
    if let ([_, _, ..], true) = (runs, comparable) {
        let value = |run: &&Run| run.best(&metrics[0])?.values.get(&metrics[0]).copied();
        let having = runs.iter().filter(|run| value(run).is_some());
        let best = having.min_by(|a, b| {
            value(a)
                .partial_cmp(&value(b))
                .unwrap_or(std::cmp::Ordering::Equal)
        });
        if let Some(best) = best {
            text += &format!("best {} of all: {}\n", metrics[0], best.name());
        }
    }
    text
}
