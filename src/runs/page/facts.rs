//! The head of a report: what a run is, how it stands, where it was trained, and how to go on.

use std::time::{Duration, SystemTime};

use clap::ValueEnum;
use serde::Serialize;
use time::OffsetDateTime;

use super::Over;
use super::checkpoints::Checkpoints;
use crate::checkpoint::{Meta, RunFolder};
use crate::config::RunConfig;
use crate::report::{bytes, duration};
use crate::runs::curves::Curves;
use crate::runs::{SMOOTHED_STEPS, Standing, State};
use crate::text::{self, plural};

/// Something to do next.
#[derive(Debug, Serialize)]
pub(super) struct GoOn {
    what: &'static str,
    command: String,
}

/// Name and value of what stands at the head.
#[derive(Debug)]
pub(super) struct Facts {
    pub(super) state: &'static str,
    pub(super) state_text: String,
    pub(super) step: u64,
    pub(super) rows: Vec<(&'static str, String)>,
    pub(super) go_on: Vec<GoOn>,
}

impl Facts {
    pub(super) fn read(
        folder: &RunFolder,
        config: &RunConfig,
        curves: &Curves,
        checkpoints: &Checkpoints,
        over: Over,
    ) -> Facts {
        let standing = Standing::read(folder.dir());
        let meta = folder.newest_meta().ok().flatten().map(|(_, meta)| meta);
        let state = match over {
            Over::Look => standing.state.clone(),
            Over::Now if standing.step >= config.train.steps => State::Finished,
            Over::Now => State::Stopped,
        };
        let step = standing.step.max(if state == State::Training {
            curves.last_step()
        } else {
            0
        });
        Facts {
            state_text: state_text(&state, step, config.train.steps),
            go_on: go_on(&state, folder, config, !checkpoints.files.is_empty()),
            rows: rows(config, curves, checkpoints, &standing, meta.as_ref()),
            state: state.name(),
            step,
        }
    }
}

fn state_text(state: &State, step: u64, steps: u64) -> String {
    match state {
        State::Training => format!("training: step {step} of {steps}"),
        State::Stopped => format!("stopped at step {step} of {steps}"),
        State::Finished if step < steps => format!("finished at step {step}, no longer better"),
        State::Finished => format!("finished: {}", plural(step, "step")),
        State::NotBegun => "not begun".to_owned(),
        State::Damaged(why) => format!("damaged: {why}"),
    }
}

fn go_on(state: &State, folder: &RunFolder, config: &RunConfig, has_checkpoint: bool) -> Vec<GoOn> {
    let dir = text::shell(folder.dir());
    let mut ways = Vec::new();
    match state {
        State::Stopped | State::NotBegun => ways.push(GoOn {
            what: "To go on",
            command: format!("ddpm train --run {dir}"),
        }),
        State::Finished => ways.push(GoOn {
            what: "To train longer",
            command: format!(
                "ddpm train --run {dir} --steps {}",
                config.train.steps.saturating_mul(2)
            ),
        }),
        State::Training | State::Damaged(_) => {}
    }
    if has_checkpoint {
        ways.push(match config.upscale {
            Some(_) => GoOn {
                what: "To make images larger",
                command: format!("ddpm upscale {dir} IMAGE"),
            },
            None => GoOn {
                what: "To sample",
                command: format!("ddpm sample {dir} -n 16 --out grid.png"),
            },
        });
    }
    ways
}

fn rows(
    config: &RunConfig,
    curves: &Curves,
    checkpoints: &Checkpoints,
    standing: &Standing,
    meta: Option<&Meta>,
) -> Vec<(&'static str, String)> {
    let mut rows = vec![("Network", network(config))];
    let data = config.data.folder.as_ref().map_or_else(
        || "built-in images".to_owned(),
        |folder| text::printable(&folder.to_string()),
    );
    rows.push(("Images from", data));
    let columns = curves.columns();
    let secs = columns.secs.last().copied().flatten();
    if let Some(time) = secs.and_then(|secs| Duration::try_from_secs_f64(secs).ok()) {
        rows.push(("Trained for", duration(time)));
    }
    if let Some(loss) = standing.loss {
        let of = format!("mean of its newest steps, at most {SMOOTHED_STEPS}");
        rows.push(("Loss", format!("{loss:.4} ({of})")));
    }
    if let Some(changed) = standing.changed {
        rows.push(("Last change", stamp(changed)));
    }
    let environment = meta.and_then(|meta| meta.environment.as_deref());
    rows.extend(environment.map(|environment| ("Machine", text::printable(environment))));
    if let Some(who) = &standing.trained_by {
        rows.push(("Trained by", text::printable(who)));
    }
    rows.extend(meta.map(|meta| ("Program", text::printable(&meta.written_by))));
    if let Some(best) = &standing.best {
        rows.push((
            "Best step",
            format!("{} with {:.4} ({})", best.step, best.value, best.measure),
        ));
    }
    if let Some(history) = meta.map(|meta| &meta.history) {
        if !history.skipped.is_empty() {
            rows.push((
                "Steps skipped",
                plural(history.skipped.len() as u64, "bad step"),
            ));
        }
        if history.rollbacks > 0 {
            let (times, factor) = (plural(history.rollbacks.into(), "time"), history.lr_factor);
            rows.push((
                "Rolled back",
                format!("{times}; the learning rate is {factor} of the settings'"),
            ));
        }
    }
    let all = bytes(standing.bytes);
    rows.push((
        "On disk",
        format!("{all}, {} of it checkpoints", bytes(checkpoints.bytes())),
    ));
    rows
}

fn network(config: &RunConfig) -> String {
    let [channels, height, width] = config.model.chw();
    let colours = if channels == 1 { "grey" } else { "RGB" };
    let mut said = format!("{}, {width} by {height} pixels, {colours}", kind(config));
    if let Some(classes) = config.model.classes() {
        said += &format!(", {}", plural_classes(classes));
    }
    if let Some(upscale) = &config.upscale {
        said += &format!(", makes images {} times as large", upscale.factor);
    }
    said + &format!("; preset {}", config.preset.name())
}

/// The name of the network, as `--model` takes it.
fn kind(config: &RunConfig) -> String {
    let value = config.model.kind().to_possible_value();
    value.map_or_else(String::new, |value| value.get_name().to_owned())
}

fn plural_classes(classes: i64) -> String {
    match classes {
        1 => "1 class".to_owned(),
        more => format!("{more} classes"),
    }
}

/// Now, as `2026-11-29 14:36:04 UTC`.
pub(super) fn now() -> String {
    stamp(SystemTime::now())
}

fn stamp(time: SystemTime) -> String {
    let time = OffsetDateTime::from(time);
    let (hour, minute, second) = time.to_hms();
    format!("{} {hour:02}:{minute:02}:{second:02} UTC", time.date())
}
