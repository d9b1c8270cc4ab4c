//! All that comes before the first step of a start, in order.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};

use super::Run;
use crate::checkpoint::RunLock;
use crate::config::ImageRules;
use crate::data::Loaded;
use crate::device::{Chosen, ConvolutionSearch};
use crate::model::load_and_grow;
use crate::train::board::Board;
use crate::train::conditional::From;
use crate::train::incident::Incidents;
use crate::train::log::Log;
use crate::train::memory::Fit;
use crate::train::plan;
use crate::train::readback::Readback;
use crate::train::reporter::{Asker, Reporter};
use crate::train::saver::Saver;
use crate::train::{
    Start, Trainer, conditional, device_of, images, layout, load_data, ranks, resume, state,
};

impl Run {
    /// Everything up to the first step. `log` is opened as soon as the folder is there and locked.
    pub(in crate::train) fn begin(mut start: Start, log: &Log) -> Result<Run> {
        if start.lock.is_some() {
            log.open();
        }
        check(&start)?;
        let chosen = device_of(start.chosen.take())?;
        ranks::settle(&mut start, &chosen)?;
        let search = ConvolutionSearch::begin();
        let later = resume::later(&start.config, start.resume.as_ref(), &start.damaged);
        let mut data = load(&start, &chosen)?;
        let from = From::of(&start);
        conditional::settle(&mut start.config, &mut data, from, &*start.observer)?;
        layout::settle(&mut start, &data.store, &chosen)?;
        ranks::share_layout(&mut start)?;
        let given = start.init.is_some();
        let mut trainer = trainer(&mut start, &data, &chosen)?;
        let fit = Fit {
            auto: start.auto_accumulate,
            force: start.force,
            group: start.group.as_deref(),
            reduce: start.reduce,
        };
        let observer = Arc::clone(&start.observer);
        let settings = &mut start.config;
        let mut budget = plan::settle(settings, &mut trainer, &data.store, fit, &*observer)?;
        if let Some(group) = &start.group {
            ranks::agree_on_parts(group, settings)?;
            budget.accumulate = settings.train.accumulate;
            trainer.set_accumulate(settings.train.accumulate);
            trainer.join(group, start.reduce)?;
        }
        let writes = leads(&start);
        let lock = match writes {
            true => Some(take_folder(&mut start, log)?),
            false => None,
        };
        let environment =
            ranks::environment(&chosen.environment, start.group.as_ref(), start.reduce);
        let Start {
            folder,
            config,
            report,
            tensorboard,
            ..
        } = start;
        if writes {
            images::write_lists(&folder, &data)?;
            if let Err(error) = images::write_sheet(&folder, &data) {
                observer.message(&format!(
                    "warning: the report will show no images of the data set: {error:#}"
                ));
            }
        }
        let plan = plan::line(&config, &trainer, &data.store, &chosen, &budget);
        plan.lines().for_each(|line| observer.message(line));
        observer.training(trainer.step, config.train.steps);
        let reporter = (writes && report)
            .then(|| Reporter::start(&folder, &observer))
            .transpose()?;
        let asker = reporter.as_ref().map(Reporter::asker);
        let after_save = move || asker.iter().for_each(Asker::ask);
        let mut run = Run {
            readback: match writes {
                true => Readback::open(&folder, &config, &trainer, later, Arc::clone(&observer))?,
                false => Readback::without_file(&config, &trainer, Arc::clone(&observer)),
            },
            saver: match writes {
                true => Some(Saver::start(&folder, environment, after_save)?),
                false => None,
            },
            _reporter: reporter,
            budget,
            incidents: Incidents::default(),
            evaluator: None,
            told_share: false,
            saved: None,
            _search: search,
            _lock: lock,
            strict: start.strict,
            folder,
            config,
            chosen,
            data,
            trainer,
            stop: start.stop,
            group: start.group,
            asked: None,
            observer,
        };
        if writes && tensorboard {
            let (step, device) = (run.trainer.step, run.chosen.device);
            let observer = Arc::clone(&run.observer);
            run.readback.board = Board::open(&run.folder, &run.config, step, device, observer);
        }
        let group = run.group.clone();
        ranks::led(group.as_ref(), || run.write_missing_outputs(given))?;
        run.share_saved()?;
        run.share_evaluations()?;
        Ok(run)
    }
}

/// True for the process that writes the run's files.
fn leads(start: &Start) -> bool {
    start.group.as_ref().is_none_or(|group| group.leads())
}

/// Refuses what cannot work, before anything takes time.
pub(in crate::train) fn check(start: &Start) -> Result<()> {
    let (folder, observer) = (&start.folder, &start.observer);
    for warning in start.config.validate()? {
        observer.message(&format!("warning: {warning}"));
    }
    for damaged in &start.damaged {
        observer.message(&format!(
            "warning: {damaged}; continuing from an earlier one"
        ));
    }
    if start.resume.is_some()
        && start.config.data.folder.is_some()
        && start.config.data.rules < ImageRules::LATEST
    {
        observer.message(
            "note: this run keeps the rules of images that it began with, those of version 0.1 (docs/images.md); a new run from its weights (`start.init`) has the present ones",
        );
    }
    match &start.resume {
        Some(checkpoint) => resume::refuse_another_run(&start.config, checkpoint)?,
        None if !leads(start) => {}
        None => folder.refuse_existing(start.lock.as_ref())?,
    }
    ensure!(
        folder.dir().to_str().is_some(),
        "run folder {}: libtorch reads checkpoints only where the path is UTF-8 text; choose another `start.folder`",
        folder.dir().display()
    );
    Ok(())
}

/// The images; if those of a run are not where they were, the error says how to name their new place.
pub(in crate::train) fn load(start: &Start, chosen: &Chosen) -> Result<Loaded> {
    let Start {
        folder,
        config,
        cache,
        stop,
        observer,
        ..
    } = start;
    let load = |cache: Option<&Path>| load_data(config, cache, chosen, stop, &**observer);
    let data = match &start.group {
        None => load(cache.as_deref()),
        Some(group) => ranks::load_data(group, config, cache.as_deref(), load),
    };
    match start.lock {
        Some(_) => data.map_err(|error| images::gone(error, folder)),
        None => data,
    }
}

/// The state to go on from: of the checkpoint, of the weights that are given, or drawn.
pub(in crate::train) fn trainer(
    start: &mut Start,
    data: &Loaded,
    chosen: &Chosen,
) -> Result<Trainer> {
    let Start {
        folder,
        config,
        observer,
        ..
    } = &*start;
    let mut trainer = Trainer::new(config, data.store.len(), chosen.device)?;
    images::balance(&mut trainer, config, data)?;
    trainer.net.set_precision(chosen.precision);
    trainer.history.given_weights = Some(start.init.is_some());
    if let Some(checkpoint) = &start.resume {
        if let Some(moved) = images::refuse_others(folder, config, data, checkpoint)? {
            observer.message(&moved);
        }
        state::restore(&mut trainer, checkpoint)?;
        let before = checkpoint.meta.environment.as_deref();
        let now = ranks::environment(&chosen.environment, start.group.as_ref(), start.reduce);
        if let Some(note) = another_place(before, &now) {
            observer.message(&note);
        }
    }
    // Dropped once they are copied.
    if let Some(weights) = start.init.take() {
        let params = trainer.arena.as_params(&trainer.arena.params);
        let grown = load_and_grow(&params, &weights)
            .context("the weights to begin with do not fit this run's network")?;
        if !grown.is_empty() {
            let grown: Vec<String> = grown.iter().map(ToString::to_string).collect();
            start.observer.message(&format!(
                "the network grows, and begins nearly as what it was: {}",
                grown.join(", ")
            ));
        }
    }
    if let Some(group) = &start.group {
        ranks::share_state(group, &mut trainer)?;
    }
    Ok(trainer)
}

/// Locks the folder of the run and makes its parts.
fn take_folder(start: &mut Start, log: &Log) -> Result<RunLock> {
    let lock = match start.lock.take() {
        Some(lock) => lock,
        None => {
            let lock = start.folder.create()?;
            log.open();
            lock
        }
    };
    if let Some(warning) = &lock.warning {
        start.observer.message(&format!("warning: {warning}"));
    }
    start.folder.prepare()?;
    Ok(lock)
}

/// A note that the same steps round differently here.
fn another_place(before: Option<&str>, now: &str) -> Option<String> {
    let before = before.filter(|before| *before != now)?;
    Some(format!(
        "note: the run was on {before}, and continues on {now}: equally good, but not the same bit for bit"
    ))
}
