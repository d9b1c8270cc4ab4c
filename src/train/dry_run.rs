//! What a start would do, found without writing anything.

use std::time::{Duration, Instant};

use anyhow::Result;

use super::memory::{Fit, MemoryBudget, checkpoint_bytes};
use super::outlook::Outlook;
use super::run::begin;
use super::{Start, Trainer, conditional, device_of, layout, plan};
use crate::config::RunConfig;
use crate::data::Store;
use crate::device::synchronize;
use crate::report::bytes;
use crate::text::plural;

/// A first step that takes longer is the only one.
const PATIENCE: Duration = Duration::from_secs(10);

/// Loads what a start would load, says all that it would say before its first step, and returns the settings that it would
/// train with. Two steps are computed, for the time that one takes, and thrown away; one, if it takes long.
///
/// Neither a folder nor a lock nor a cache is made, and a cache that is there is not read.
///
/// # Errors
/// Those that the start would end with before its first step.
pub fn dry_run(mut start: Start) -> Result<RunConfig> {
    begin::check(&start)?;
    let chosen = device_of(start.chosen.take())?;
    if let Some(cache) = start.cache.take() {
        start.observer.message(&format!(
            "note: the cache {} is neither read nor written",
            cache.display()
        ));
    }
    let mut data = begin::load(&start, &chosen)?;
    let from = conditional::From::of(&start);
    conditional::settle(&mut start.config, &mut data, from, &*start.observer)?;
    let measures = layout::is_open(&start, &chosen);
    let mut trainer = begin::trainer(&mut start, &data, &chosen)?;
    let fit = Fit {
        auto: start.auto_accumulate,
        force: start.force,
        group: None,
        reduce: start.reduce,
    };
    let Start {
        mut config,
        observer,
        ..
    } = start;
    let budget = plan::settle(&mut config, &mut trainer, &data.store, fit, &*observer)?;
    let plan = plan::line(&config, &trainer, &data.store, &chosen, &budget);
    plan.lines().for_each(|line| observer.message(line));
    let checkpoint = checkpoint_bytes(&trainer);
    observer.message(&format!(
        "a checkpoint takes {} on the disk, and {} are kept",
        bytes(checkpoint),
        plural(config.train.keep as u64, "checkpoint")
    ));
    if measures {
        observer.message(
            "the layout of maps is measured before the first step, and is not known now (`train.layout`)",
        );
    }
    let left = trainer.step < config.train.steps;
    if left {
        let time = time(&config, &mut trainer, &data.store, &budget, checkpoint)?;
        observer.message(&time);
    }
    Ok(config)
}

/// The time that the run would take, by its first steps.
fn time(
    config: &RunConfig,
    trainer: &mut Trainer,
    data: &Store,
    budget: &MemoryBudget,
    checkpoint: u64,
) -> Result<String> {
    let before = trainer.step;
    let mut outlook = Outlook::new(checkpoint);
    let mut timed = 0;
    while timed < 2 && before + timed < config.train.steps {
        let started = Instant::now();
        budget.watch(|| {
            let gradients = trainer.gradients(data)?;
            trainer.update(gradients)
        })?;
        synchronize(trainer.arena.device());
        outlook.step(started.elapsed().as_secs_f64());
        timed += 1;
        if started.elapsed() > PATIENCE {
            break;
        }
    }
    let by = match timed {
        1 => "the first step, which is slower than others",
        _ => "two steps; the first minutes of training tell better",
    };
    Ok(format!("{} (by {by})", outlook.line(config, before)))
}
