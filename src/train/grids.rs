//! Sample grids during training: they show its progress, within a time limit.

use std::cell::Cell;
use std::ops::Range;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use ndarray::Array3;
use tch::{Device, Tensor};

use super::shown::Shown;
use super::{Observer, Stop, Trainer};
use crate::checkpoint::{RunFolder, Weights};
use crate::config::RunConfig;
use crate::data::Loaded;
use crate::diffusion::beside;
use crate::images::{to_array, to_pixels};
use crate::native::KeptFilters;
use crate::report::{duration, grid, grid_of_columns, with_names, write_png};
use crate::sample::{
    Ddpm, Images, NoiseSource, Process, Respaced, Sampler, Spacing, StartFrom, Step, Visit,
    batch_labels, give_up, sample_batch, unless_given_up,
};

/// Evaluations after which the time of a grid is estimated.
const EVALUATIONS_TIMED: u32 = 5;

/// True if a grid is due after `step` steps: every `every_steps`, and after the last.
pub(super) fn are_due(config: &RunConfig, step: u64) -> bool {
    let every = config.sample.every_steps;
    step > 0 && every > 0 && (step == config.train.steps || step.is_multiple_of(every))
}

/// Writes grids of raw and EMA weights, from the same noise at every step of the run.
///
/// # Errors
/// A grid that would take longer than the settings allow, is not finite, or cannot be written. A request to stop is not
/// an error: the grid is left to the next start.
pub(super) fn write(
    folder: &RunFolder,
    config: &RunConfig,
    trainer: &Trainer,
    data: &Loaded,
    stop: &Stop,
    observer: &dyn Observer,
) -> Result<()> {
    let form = Form::new(config, data)?;
    for which in [Weights::Raw, Weights::Ema] {
        let Some(images) = draw(config, trainer, &form, which, stop, observer)? else {
            return Ok(());
        };
        let name = which.to_string().to_lowercase();
        let path = folder.sample_path(trainer.step, &name);
        write_png(&path, form.figure(config, &images).view())?;
    }
    Ok(())
}

/// What a grid shows.
enum Form {
    /// Images of noise alone.
    Plain(u64),
    /// A row a class.
    Classes(Rows),
    /// Three columns: images small, but in the size of the others; made large; and what they are.
    Upscaled(Shown),
}

impl Form {
    fn new(config: &RunConfig, data: &Loaded) -> Result<Form> {
        if let Some(shown) = Shown::new(config, data, config.sample.images)? {
            return Ok(Form::Upscaled(shown));
        }
        Ok(match Rows::of(config) {
            Some(rows) => Form::Classes(rows),
            None => Form::Plain(config.sample.images),
        })
    }

    fn images(&self) -> u64 {
        match self {
            Form::Plain(images) => *images,
            Form::Classes(rows) => rows.images(),
            Form::Upscaled(shown) => shown.pixels.size()[0] as u64,
        }
    }

    /// The classes of images of the grid, `[numbers.len()]` i64; `None` for a network without.
    fn classes_of(&self, numbers: &Range<u64>, device: Device) -> Option<Tensor> {
        match self {
            Form::Plain(_) => None,
            Form::Classes(rows) => Some(rows.classes_of(numbers, device)),
            Form::Upscaled(shown) => batch_labels(shown.classes.as_ref(), numbers, device),
        }
    }

    /// What the network is given beside x_t of images of the grid, `[numbers.len(), C, H, W]` f32.
    fn condition_of(
        &self,
        config: &RunConfig,
        numbers: &Range<u64>,
        device: Device,
    ) -> Option<Tensor> {
        match self {
            Form::Upscaled(shown) => Some(shown.condition(config, numbers, device)),
            Form::Plain(_) | Form::Classes(_) => None,
        }
    }

    /// The grid of `images`, `[N, C, H, W]` f32.
    fn figure(&self, config: &RunConfig, images: &Tensor) -> Array3<u8> {
        match self {
            Form::Plain(_) => grid(to_array(images).view()),
            Form::Classes(rows) => {
                let figure = grid_of_columns(to_array(images).view(), rows.columns);
                with_names(&figure, &rows.names)
            }
            Form::Upscaled(shown) => {
                let small = shown.condition(config, &(0..self.images()), Device::Cpu);
                let made = to_pixels(images).to_device(Device::Cpu);
                let three = [&to_pixels(&small), &made, &shown.pixels];
                let side_by_side = Tensor::stack(&three, 1).flatten(0, 1);
                // About as high as wide.
                let beside = (self.images() as f64 / 3.0).sqrt().ceil() as usize;
                grid_of_columns(to_array(&side_by_side).view(), 3 * beside)
            }
        }
    }
}

/// A grid of a class-conditional network: a row a class.
struct Rows {
    /// The class of each row.
    classes: Vec<i64>,
    names: Vec<String>,
    columns: usize,
}

impl Rows {
    /// `None` for a network without classes. Of more classes than images in a grid, some from all over the list are shown.
    fn of(config: &RunConfig) -> Option<Rows> {
        let known = config.model.classes()?;
        let rows = known.min(config.sample.images as i64);
        let classes: Vec<i64> = (0..rows).map(|row| row * known / rows).collect();
        let conditional = config.conditional.as_ref();
        let named = |class: &i64| {
            let name = conditional.and_then(|conditional| conditional.classes.get(*class as usize));
            name.cloned().unwrap_or_else(|| class.to_string())
        };
        Some(Rows {
            names: classes.iter().map(named).collect(),
            columns: (config.sample.images as usize).div_ceil(classes.len()),
            classes,
        })
    }

    fn images(&self) -> u64 {
        (self.classes.len() * self.columns) as u64
    }

    /// The classes of images of the grid, `[numbers.len()]` i64.
    fn classes_of(&self, numbers: &Range<u64>, device: Device) -> Tensor {
        let class = |number: u64| self.classes[number as usize / self.columns];
        let classes: Vec<i64> = numbers.clone().map(class).collect();
        Tensor::from_slice(&classes).to_device(device)
    }
}

fn draw(
    config: &RunConfig,
    trainer: &Trainer,
    form: &Form,
    which: Weights,
    stop: &Stop,
    observer: &dyn Observer,
) -> Result<Option<Tensor>> {
    let settings = &config.sample;
    let images = form.images();
    let wanted = Images {
        noise: NoiseSource::Seed(config.train.seed),
        numbers: 0..images,
        // The microbatch of training, which is known to fit.
        batch: images.min((config.train.batch / config.train.accumulate) as u64),
        chw: config.model.chw(),
        device: trainer.arena.device(),
    };
    let steps = match config.train.sample_steps {
        0 => Respaced::all(&trainer.schedule),
        steps => Respaced::new(&trainer.schedule, &Visit::Count(steps, Spacing::Trailing))?,
    };
    let sampler = Sampler::Ddpm(Ddpm::new(settings));
    let weights = match which {
        Weights::Raw => trainer.arena.params.detach(),
        Weights::Ema => trainer.ema.corrected(&trainer.arena),
    };
    let evaluations = (steps.len() * wanted.batches().count()) as u32;
    let limit = TimeLimit::new(
        evaluations,
        Duration::from_secs(config.train.sample_limit_secs),
        stop,
    );
    let weights_name = which.to_string();
    let mut done = 0;
    let drawn = trainer.arena.with_weights(&weights, || {
        let kept = KeptFilters::new();
        let mut on_step = |_: Step| {
            done += 1;
            observer.sampling(&weights_name, done, evaluations.into());
        };
        unless_given_up(|| {
            let mut batch = |numbers: Range<u64>| {
                let classes = form.classes_of(&numbers, wanted.device);
                let condition = form.condition_of(config, &numbers, wanted.device);
                let denoiser = |x: &Tensor, t: &Tensor| {
                    if !limit.allows() {
                        give_up();
                    }
                    trainer.predict(&beside(x, condition.as_ref()), t, classes.as_ref(), &kept)
                };
                let process = Process::new(&denoiser, &steps, &config.diffusion, settings.clip_x0);
                let start = &StartFrom::Noise;
                sample_batch(&process, &sampler, start, &wanted, &numbers, &mut on_step)
            };
            let batches: Vec<Tensor> = wanted.batches().map(&mut batch).collect::<Result<_>>()?;
            Ok(Tensor::cat(&batches, 0))
        })
    });
    match drawn {
        Some(images) => images.map(Some),
        None => {
            observer.sampling(&weights_name, evaluations.into(), evaluations.into());
            limit.check().map(|()| None)
        }
    }
}

/// Network evaluations of the images of one of the two grids.
pub(super) fn evaluations_each(config: &RunConfig) -> u64 {
    match config.train.sample_steps {
        0 => config.diffusion.timesteps as u64,
        steps => steps as u64,
    }
}

/// The time limit of a grid.
struct TimeLimit<'a> {
    started: Instant,
    evaluations: u32,
    done: Cell<u32>,
    limit: Duration,
    /// Estimated total time, once that exceeds the limit.
    too_long: Cell<Option<Duration>>,
    stopped: Cell<bool>,
    stop: &'a Stop,
}

impl TimeLimit<'_> {
    fn new(evaluations: u32, limit: Duration, stop: &Stop) -> TimeLimit<'_> {
        TimeLimit {
            started: Instant::now(),
            evaluations,
            done: Cell::new(0),
            limit,
            too_long: Cell::new(None),
            stopped: Cell::new(false),
            stop,
        }
    }

    /// True if the next evaluation may run; called once before each.
    fn allows(&self) -> bool {
        let done = self.done.get();
        self.done.set(done + 1);
        if !self.limit.is_zero() && (EVALUATIONS_TIMED..self.evaluations).contains(&done) {
            let all = self.started.elapsed() / done * self.evaluations;
            if self.too_long.get().is_none() && all > self.limit {
                self.too_long.set(Some(all));
            }
        }
        self.stopped
            .set(self.stopped.get() || self.stop.reason().is_some());
        !self.given_up()
    }

    fn given_up(&self) -> bool {
        self.stopped.get() || self.too_long.get().is_some()
    }

    /// # Errors
    /// The grid was given up because it would take too long.
    fn check(&self) -> Result<()> {
        match self.too_long.get() {
            Some(all) if !self.stopped.get() => bail!(
                "it would take {}, and `train.sample_limit_secs` allows {}; lower `train.sample_steps` or `sample.images`",
                duration(all),
                duration(self.limit)
            ),
            _ => Ok(()),
        }
    }
}
