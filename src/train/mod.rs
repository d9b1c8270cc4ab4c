//! Training: the loop, read top to bottom.

mod memory;
mod plan;
mod readback;
mod state;
mod stop;
mod trainer;

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use tch::Tensor;

pub use stop::Stop;
pub use trainer::{Draw, StepOutput, Trainer};

use crate::checkpoint::{Checkpoint, RunFolder, Which};
use crate::config::RunConfig;
use crate::data::{self, Loaded};
use crate::device::Chosen;
use crate::model::load_state_dict;
use crate::report::{
    DecodeProgress, SampleProgress, TrainProgress, duration, grid, to_pixels, write_png,
};
use crate::sample::{Ddpm, NoiseSource, Pictures, Process, Respaced, Sampler, sample_pictures};
use readback::Readback;

/// Everything about a start of a run that its config does not fix.
#[derive(Debug)]
pub struct Start {
    /// Where the run is kept.
    pub folder: RunFolder,
    /// Resolved and validated settings.
    pub config: RunConfig,
    /// The checkpoint to go on from.
    pub resume: Option<Checkpoint>,
    /// Weights to begin with instead of drawn ones.
    pub init: Option<Vec<(String, Tensor)>>,
    /// File for the decoded pictures.
    pub cache: Option<PathBuf>,
    /// Where to compute.
    pub chosen: Chosen,
    /// Whether the batch is split into as few parts as memory allows, whatever the settings say.
    pub auto_accumulate: bool,
}

/// How a start ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// All steps are done.
    Finished,
    /// Saved and stopped for a signal.
    Stopped(i32),
}

/// Trains until all steps are done or a signal comes.
///
/// # Errors
/// Unreadable data, a file that cannot be written, out of memory, a loss that is not finite; the
/// newest checkpoint stays as it was.
pub fn train(start: Start) -> Result<End> {
    let Start {
        folder,
        mut config,
        resume,
        init,
        cache,
        chosen,
        auto_accumulate,
    } = start;
    ensure!(
        config.model.classes().is_none(),
        "this network is told a class, and pictures of a folder have none; only sampling works with it"
    );
    let stop = Stop::install()?;
    let data = load_data(&config, cache.as_deref(), &chosen)?;

    let mut trainer = Trainer::new(&config, data.store.len(), chosen.device)?;
    if let Some(weights) = init {
        load_state_dict(&trainer.arena.as_params(&trainer.arena.params), &weights)
            .context("the weights of --init-from do not fit this run's network")?;
    }
    if let Some(checkpoint) = resume {
        state::restore(&mut trainer, &checkpoint)?;
        warn_of_other_pictures(checkpoint.meta.pictures, data.store.len());
    }
    let plan = plan::Plan::make(&mut config, &mut trainer, &data.store, auto_accumulate)?;
    folder.create(&config)?;
    if grids_are_due(&config, trainer.step) && !folder.sample_path(trainer.step, "ema").exists() {
        // The last start ended between this step's checkpoint and its grids.
        write_grids(&folder, &config, &trainer)?;
    }
    eprintln!(
        "{}",
        plan::line(&config, &trainer, &data.store, &chosen, &plan)
    );

    let progress = TrainProgress::new(trainer.step, config.train.steps);
    let mut readback = Readback::open(&folder, &config, trainer.step, progress)?;
    while trainer.step < config.train.steps {
        let output = plan.budget.watch(|| trainer.train_step(&data.store))?;
        readback.push(output);

        let signal = stop.signal();
        let last = trainer.step == config.train.steps || signal.is_some();
        let save = last || trainer.step.is_multiple_of(config.train.save_every_steps);
        let sample = signal.is_none() && grids_are_due(&config, trainer.step);

        if save || sample || readback.is_due(chosen.device) {
            readback.read(&mut trainer, &data)?;
        }
        if save {
            readback.outside_the_clock(|| save_checkpoint(&folder, &config, &trainer))?;
        }
        if sample {
            readback.outside_the_clock(|| write_grids(&folder, &config, &trainer))?;
        }
        if let Some(signal) = signal {
            readback.finish();
            eprintln!(
                "saved at step {}; go on with: ddpm train --run {}",
                trainer.step,
                folder.dir().display()
            );
            return Ok(End::Stopped(signal));
        }
    }
    readback.finish();
    Ok(End::Finished)
}

fn load_data(
    config: &RunConfig,
    cache: Option<&std::path::Path>,
    chosen: &Chosen,
) -> Result<Loaded> {
    let started = Instant::now();
    let bar = DecodeProgress::new();
    let progress = |done, total| bar.set(done, total);
    let seed = config.train.seed;
    let loaded = data::load(
        &config.data,
        &config.model,
        seed,
        cache,
        chosen.device,
        &progress,
    );
    bar.finish();
    let loaded = loaded?;
    eprintln!(
        "{}, ready in {:.1} s",
        loaded.origin,
        started.elapsed().as_secs_f64()
    );
    if !loaded.skipped.is_empty() {
        eprintln!(
            "{} files could not be read and are left out:",
            loaded.skipped.len()
        );
        for (path, reason) in loaded.skipped.iter().take(10) {
            eprintln!("  {}: {reason}", path.display());
        }
        if loaded.skipped.len() > 10 {
            eprintln!("  … and {} more", loaded.skipped.len() - 10);
        }
    }
    Ok(loaded)
}

/// Grids are made every so many steps, and at the last one.
fn grids_are_due(config: &RunConfig, step: u64) -> bool {
    let every = config.sample.every_steps;
    step > 0 && every > 0 && (step == config.train.steps || step.is_multiple_of(every))
}

/// The order of pictures depends on their number, so a changed folder ends an exact resume.
fn warn_of_other_pictures(before: u64, now: u64) {
    if before != now {
        eprintln!(
            "warning: this run was trained on {before} pictures and there are {now} now; it goes on with these, in another order"
        );
    }
}

fn save_checkpoint(folder: &RunFolder, config: &RunConfig, trainer: &Trainer) -> Result<()> {
    let (meta, tensors) = state::snapshot(trainer, config);
    // A finite loss says nothing yet about the update that followed it.
    ensure!(
        bool::try_from(trainer.arena.params.isfinite().all())?,
        "the weights after step {} are not finite and are not saved; earlier checkpoints are untouched. Lower --lr or set --clip-norm",
        meta.step
    );
    folder
        .save(&meta, &tensors, config.train.keep)
        .with_context(|| {
            format!(
                "step {} is not saved; earlier checkpoints are untouched",
                meta.step
            )
        })
}

/// Grids of raw and EMA weights, from the same noise at every step of the run.
fn write_grids(folder: &RunFolder, config: &RunConfig, trainer: &Trainer) -> Result<()> {
    let wanted = Pictures {
        noise: NoiseSource::Seed(config.train.seed),
        numbers: 0..config.sample.images,
        batch: config.sample.images.min(config.train.batch as u64),
        chw: config.model.chw(),
        device: trainer.arena.device(),
    };
    let levels = Respaced::all(&trainer.schedule);
    let sampler = Sampler::Ddpm(Ddpm::new(&config.sample));
    for which in [Which::Raw, Which::Ema] {
        let weights = match which {
            Which::Raw => trainer.arena.params.detach(),
            Which::Ema => trainer.ema.corrected(&trainer.arena),
        };
        let steps = levels.len() * wanted.batches().count();
        let bar = SampleProgress::new(&format!("sampling {which}"), steps as u64);
        let pictures = trainer.arena.with_weights(&weights, || {
            let denoiser = |x: &tch::Tensor, t: &tch::Tensor| trainer.predict(x, t);
            let process =
                Process::new(&denoiser, &levels, &config.diffusion, config.sample.clip_x0);
            sample_pictures(&process, &sampler, &wanted, &mut |_| bar.step())
        });
        bar.finish();
        let name = which.to_string().to_lowercase();
        write_png(
            &folder.sample_path(trainer.step, &name),
            &grid(&to_pixels(&pictures)),
        )?;
    }
    Ok(())
}

/// Refuses a step whose numbers are not finite, naming what went into it.
fn refuse_non_finite(
    step: u64,
    loss: f64,
    grad_norm: f64,
    trainer: &mut Trainer,
    data: &Loaded,
) -> Result<()> {
    if loss.is_finite() && grad_norm.is_finite() {
        return Ok(());
    }
    let draw = trainer.draw(step - 1);
    let pictures: Vec<String> = draw
        .indices
        .iter()
        .map(|&i| {
            data.paths
                .get(i as usize)
                .map_or(i.to_string(), |p| p.display().to_string())
        })
        .collect();
    let t = Vec::<i64>::try_from(&draw.t)?;
    bail!(
        "step {step} gave loss {loss} and gradient norm {grad_norm}, which are not finite. The newest checkpoint is untouched. Lower --lr or set --clip-norm, and resume.\n  t: {t:?}\n  pictures: {}",
        pictures.join(", ")
    )
}

/// The end of a finished run, for people.
pub fn farewell(folder: &RunFolder, config: &RunConfig, took: std::time::Duration) -> String {
    let dir = folder.dir().display();
    let grid = folder.sample_path(config.train.steps, "ema");
    let grid = if grid.exists() {
        format!("\nits pictures: {}", grid.display())
    } else {
        String::new()
    };
    format!(
        "{} steps done, {} this time{grid}\nmore pictures: ddpm sample {dir} -n 16 --out grid.png",
        config.train.steps,
        duration(took)
    )
}
