//! Evaluations during training: numbers that say how good the network is, of the EMA weights.
//!
//! Their noise depends on the seed and on the number of an image alone, so that those of different steps are of the
//! same noise, and those of a run that was resumed are the same numbers.

use std::collections::BTreeMap;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use anyhow::{Context, Result};
use ndarray::Array2;
use tch::{Device, Tensor};

use super::shown::{Shown, condition};
use super::some_images::{classes_held_out, of_held_out, real, several_held_out};
use super::{Observer, Stop, Trainer};
use crate::config::{EvaluationConfig, Metric, QuickSampler, RunConfig};
use crate::data::Loaded;
use crate::diffusion::{Schedule, beside};
use crate::evaluate::bound::{Bound, BoundSettings, BoundSums};
use crate::evaluate::features::FeatureExtractor;
use crate::evaluate::features::random::RandomPyramid;
use crate::evaluate::loss_by_t::{LossByT, LossSums};
use crate::evaluate::moments::{Moments, Sums};
use crate::evaluate::sliced::{Patches, SlicedOptions, sliced};
use crate::evaluate::{Stored, frechet};
use crate::images::{from_pixels, to_pixels};
use crate::native::KeptFilters;
use crate::sample::{
    ChosenSampler, Classes, Images, NoiseSource, SamplerKind, SamplerOptions, StartFrom, Step,
    batch_labels, sample_batch,
};
use crate::text::plural;

/// Most images that samples are compared with.
const MOST_REAL: usize = 2048;

/// Values by the names of their metrics.
pub(super) type Values = BTreeMap<String, f64>;

/// True if an evaluation is due after `step` steps: every `every_steps`, and after the last.
pub(super) fn are_due(config: &RunConfig, step: u64) -> bool {
    let due = |every: u64| step == config.train.steps || step.is_multiple_of(every);
    step > 0 && (config.evaluation.as_ref()).is_some_and(|wanted| due(wanted.every_steps))
}

/// What evaluations of a run need besides its network.
#[derive(Debug)]
pub(super) struct Evaluator {
    /// Images held out, `[N, C, H, W]` u8 on the CPU.
    held_out: Option<Tensor>,
    /// Their classes, `[N]` i64, for class-conditional networks.
    classes: Option<Tensor>,
    /// The images that samples are made from, for super-resolution.
    shown: Option<Shown>,
    /// Real images, as fid sees them.
    features: Option<Real>,
    /// Real images, as swd sees them.
    patches: Option<Patches>,
    /// What the value that decides is of.
    pub(super) measure: String,
}

/// The features of real images.
#[derive(Debug)]
struct Real {
    network: RandomPyramid,
    moments: Moments,
    root: Array2<f64>,
}

impl Evaluator {
    /// Reads the images that the network is held against.
    ///
    /// # Errors
    /// Out of memory.
    pub(super) fn new(config: &RunConfig, data: &Loaded, device: Device) -> Result<Evaluator> {
        let wanted = settings(config)?;
        let has = |metric| wanted.metrics.contains(&metric);
        let batch = microbatch(config) as i64;
        let of_held_out = wanted.metrics.iter().any(|metric| !metric.samples());
        let real = match wanted.metrics.iter().any(|metric| metric.samples()) {
            true => Some(real(data, MOST_REAL)?),
            false => None,
        };
        Ok(Evaluator {
            held_out: match of_held_out {
                true => Some(held_out(data, wanted.images as usize)?),
                false => None,
            },
            classes: match of_held_out {
                true => classes_held_out(config, data, wanted.images as usize)?,
                false => None,
            },
            shown: match real {
                Some(_) => Shown::new(config, data, wanted.images)?,
                None => None,
            },
            features: match real.as_ref().filter(|_| has(Metric::Fid)) {
                Some(real) => Some(Real::new(real, batch, device)?),
                None => None,
            },
            patches: match real.as_ref().filter(|_| has(Metric::Swd)) {
                Some(real) => Some(patches(real, config.train.seed)?),
                None => None,
            },
            measure: measure(wanted, data),
        })
    }

    /// Evaluates the EMA weights; `None` if something asks to stop meanwhile.
    ///
    /// # Errors
    /// Values that are not finite; out of memory.
    pub(super) fn evaluate(
        &self,
        config: &RunConfig,
        trainer: &Trainer,
        stop: &Stop,
        observer: &dyn Observer,
    ) -> Result<Option<Values>> {
        let work = Work::new(self, config, trainer)?;
        let (mut done, total) = (0, work.evaluations()?);
        let mut tell = || {
            done += 1;
            observer.evaluating(done, total);
        };
        let weights = trainer.ema.corrected(&trainer.arena);
        let found = trainer.arena.with_weights(&weights, || {
            let kept = KeptFilters::new();
            let predict = |x: &Tensor, t: &Tensor, classes: Option<&Tensor>| {
                if stop.reason().is_some() {
                    // A sampler has no other way out before its last step.
                    resume_unwind(Box::new(GivenUp));
                }
                trainer.predict(x, t, classes, &kept)
            };
            // Whatever else unwinds ends the run, as it would without this.
            catch_unwind(AssertUnwindSafe(|| work.values(&predict, &mut tell)))
        });
        match found {
            Ok(values) => values.map(Some),
            Err(given_up) if given_up.is::<GivenUp>() => {
                observer.evaluating(total, total);
                Ok(None)
            }
            Err(panic) => resume_unwind(panic),
        }
    }
}

/// A network: x_t with what is beside it, t and, for one that takes them, classes, to its output.
type Predict<'a> = dyn Fn(&Tensor, &Tensor, Option<&Tensor>) -> Tensor + 'a;

/// Unwinds an evaluation that is not wanted any more.
struct GivenUp;

/// # Errors
/// A run without evaluations.
fn settings(config: &RunConfig) -> Result<&EvaluationConfig> {
    let settings = config.evaluation.as_ref();
    settings.context("this run has no evaluations")
}

/// Images of a microbatch of training, which is known to fit.
fn microbatch(config: &RunConfig) -> u64 {
    (config.train.batch / config.train.accumulate) as u64
}

/// One evaluation.
struct Work<'a> {
    by: &'a Evaluator,
    config: &'a RunConfig,
    wanted: &'a EvaluationConfig,
    sampler: ChosenSampler,
    loss: LossByT,
    bound: Bound,
    device: Device,
}

impl Work<'_> {
    fn new<'a>(by: &'a Evaluator, config: &'a RunConfig, trainer: &Trainer) -> Result<Work<'a>> {
        let wanted = settings(config)?;
        let (diffusion, device) = (&config.diffusion, trainer.arena.device());
        let timesteps = diffusion.timesteps as usize;
        let every = wanted.every_t.min(timesteps);
        let seed = config.train.seed;
        let of_bound = BoundSettings {
            prediction: diffusion.prediction,
            sigma: config.sample.sigma,
            every,
            seed,
        };
        Ok(Work {
            by,
            config,
            wanted,
            sampler: sampler(config, wanted)?,
            loss: LossByT::new(diffusion, every, seed, device)?,
            bound: Bound::new(&Schedule::new(diffusion), of_bound, device)?,
            device,
        })
    }

    fn samples(&self) -> bool {
        self.wanted.metrics.iter().any(|metric| metric.samples())
    }

    /// Evaluations of the network.
    fn evaluations(&self) -> Result<u64> {
        let mut total = 0;
        if self.samples() {
            total += self.sampler.steps.len() * self.images().batches().count();
        }
        for metric in &self.wanted.metrics {
            total += match metric {
                Metric::Loss => self.loss.evaluations() * self.held_out()?.len(),
                Metric::Bpd => self.bound.evaluations() * self.held_out()?.len(),
                Metric::Swd | Metric::Fid => 0,
            };
        }
        Ok(total as u64)
    }

    fn values(&self, predict: &Predict, tell: &mut dyn FnMut()) -> Result<Values> {
        let sampled = match self.samples() {
            true => Some(self.sample(predict, tell)?),
            false => None,
        };
        let sampled = || sampled.as_ref().context("nothing was sampled");
        let mut values = Values::new();
        for metric in &self.wanted.metrics {
            let value = match metric {
                Metric::Loss => self.loss(predict, tell)?,
                Metric::Bpd => self.bound(predict, tell)?,
                Metric::Swd => self.swd(sampled()?)?,
                Metric::Fid => self.fid(sampled()?)?,
            };
            values.insert(metric.name().to_owned(), value);
        }
        Ok(values)
    }

    /// The images held out, as microbatches.
    fn held_out(&self) -> Result<Vec<HeldOutPart>> {
        let images = self.by.held_out.as_ref();
        let images = images.context("no images are held out")?;
        let parts = images.split(microbatch(self.config) as i64, 0);
        let mut first = 0;
        let numbered = parts.into_iter().map(|part| {
            let next = first + part.size()[0] as u64;
            let numbers: Vec<u64> = (first..next).collect();
            let classes = self.by.classes.as_ref();
            let classes = batch_labels(classes, &(first..next), self.device);
            first = next;
            HeldOutPart {
                pixels: part,
                numbers,
                classes,
            }
        });
        Ok(numbered.collect())
    }

    fn loss(&self, predict: &Predict, tell: &mut dyn FnMut()) -> Result<f64> {
        let mut sums = LossSums::new(&self.loss);
        for part in self.held_out()? {
            let x_0 = from_pixels(&part.pixels.to_device(self.device));
            let condition = condition(self.config, &x_0);
            let denoiser = part.denoiser(predict, condition.as_ref());
            sums.add(&self.loss.losses(&denoiser, &x_0, &part.numbers, tell)?);
        }
        let values = self.config.model.chw().iter().product::<i64>();
        Ok(sums.report(values as usize).mean.mse.mean)
    }

    fn bound(&self, predict: &Predict, tell: &mut dyn FnMut()) -> Result<f64> {
        let mut sums = BoundSums::new(&self.bound);
        for part in self.held_out()? {
            let x_0 = from_pixels(&part.pixels.to_device(self.device));
            let condition = condition(self.config, &x_0);
            let denoiser = part.denoiser(predict, condition.as_ref());
            sums.add(&self.bound.terms(&denoiser, &x_0, &part.numbers, tell)?);
        }
        Ok(sums.report().clipped.total.mean)
    }

    fn images(&self) -> Images {
        let images = self.wanted.images;
        Images {
            noise: NoiseSource::Seed(self.config.train.seed),
            numbers: 0..images,
            batch: images.min(microbatch(self.config)),
            chw: self.config.model.chw(),
            device: self.device,
        }
    }

    /// Samples, `[N, C, H, W]` u8 on the CPU.
    fn sample(&self, predict: &Predict, tell: &mut dyn FnMut()) -> Result<Tensor> {
        let mut on_step = |_: Step| tell();
        let images = self.images();
        let shown = self.by.shown.as_ref();
        let labels = match shown.and_then(|shown| shown.classes.as_ref()) {
            Some(classes) => Some(classes.shallow_clone()),
            None => {
                classes_of_samples(self.config).of_images(&self.config.model, images.numbers.end)?
            }
        };
        let mut batch = |numbers: Range<u64>| -> Result<Tensor> {
            let classes = batch_labels(labels.as_ref(), &numbers, self.device);
            let condition = shown.map(|shown| shown.condition(self.config, &numbers, self.device));
            let denoiser = |x: &Tensor, t: &Tensor| {
                predict(&beside(x, condition.as_ref()), t, classes.as_ref())
            };
            let process = self.sampler.process(&denoiser, &self.config.diffusion);
            let (sampler, start) = (&self.sampler.sampler, &StartFrom::Noise);
            let made = sample_batch(&process, sampler, start, &images, &numbers, &mut on_step)?;
            Ok(to_pixels(&made).to_device(Device::Cpu))
        };
        let batches: Vec<Tensor> = images.batches().map(&mut batch).collect::<Result<_>>()?;
        Ok(Tensor::cat(&batches, 0))
    }

    fn fid(&self, sampled: &Tensor) -> Result<f64> {
        let real = self.by.features.as_ref();
        let real = real.context("no real images were seen")?;
        let moments = moments(&real.network, sampled, microbatch(self.config) as i64)?;
        Ok(frechet::distance(&moments, &real.moments, &real.root)?.distance)
    }

    fn swd(&self, sampled: &Tensor) -> Result<f64> {
        let real = self.by.patches.as_ref();
        let real = real.context("no real images were seen")?;
        Ok(sliced(&patches(sampled, self.config.train.seed)?, real)?.mean)
    }
}

/// Some of the images held out.
struct HeldOutPart {
    /// `[N, C, H, W]` u8.
    pixels: Tensor,
    numbers: Vec<u64>,
    /// `[N]` i64 on the device.
    classes: Option<Tensor>,
}

impl HeldOutPart {
    fn denoiser<'a>(
        &'a self,
        predict: &'a Predict,
        condition: Option<&'a Tensor>,
    ) -> impl Fn(&Tensor, &Tensor) -> Tensor + 'a {
        move |x: &Tensor, t: &Tensor| predict(&beside(x, condition), t, self.classes.as_ref())
    }
}

/// Samples are of the classes of the images that they are compared with.
fn classes_of_samples(config: &RunConfig) -> Classes {
    match &config.conditional {
        Some(conditional) if !conditional.images.is_empty() => {
            Classes::AsOften(conditional.images.clone())
        }
        _ => Classes::All,
    }
}

fn sampler(config: &RunConfig, wanted: &EvaluationConfig) -> Result<ChosenSampler> {
    let kind = kind(wanted.sampler);
    let steps = wanted.steps.min(config.diffusion.timesteps as usize);
    let options = SamplerOptions {
        // ddpm visits them all.
        steps: kind.default_steps().map(|_| steps),
        ..SamplerOptions::new(kind)
    };
    options.choose(config, || {
        unreachable!("analytic alone needs a measurement")
    })
}

fn kind(sampler: QuickSampler) -> SamplerKind {
    match sampler {
        QuickSampler::DpmPp2mSde => SamplerKind::DpmPp2mSde,
        QuickSampler::DpmPp2m => SamplerKind::DpmPp2m,
        QuickSampler::Ddim => SamplerKind::Ddim,
        QuickSampler::Ddpm => SamplerKind::Ddpm,
    }
}

impl Real {
    fn new(images: &Tensor, batch: i64, device: Device) -> Result<Real> {
        let network = RandomPyramid::new(device)?;
        let moments = moments(&network, images, batch)?;
        let root = frechet::sqrt(&moments.cov)?;
        Ok(Real {
            network,
            moments,
            root,
        })
    }
}

fn moments(network: &RandomPyramid, images: &Tensor, batch: i64) -> Result<Moments> {
    let mut sums = Sums::new(network.dims() as i64);
    for some in images.split(batch, 0) {
        sums.add(&network.features(&some)?.pooled)?;
    }
    sums.moments()
}

fn patches(images: &Tensor, seed: u64) -> Result<Patches> {
    let set = Stored {
        batch: images.size()[0],
        pixels: images.shallow_clone(),
        origin: plural(images.size()[0] as u64, "image"),
    };
    let options = SlicedOptions {
        seed,
        ..SlicedOptions::default()
    };
    Patches::of(&set, &options)
}

/// Images held out, from all over the set.
fn held_out(data: &Loaded, most: usize) -> Result<Tensor> {
    let held_out = data.held_out.as_ref();
    of_held_out(
        held_out.context("no images are held out (`data.hold_out`)")?,
        most,
    )
}

/// What the value that decides is of, so that none of another kind is compared with it.
fn measure(wanted: &EvaluationConfig, data: &Loaded) -> String {
    let metric = wanted.deciding();
    let name = metric.name();
    let (images, real) = (wanted.images, several_held_out(data).is_some());
    match metric {
        Metric::Loss | Metric::Bpd => format!(
            "{name} of at most {images} images at one out of {} time steps",
            wanted.every_t
        ),
        Metric::Swd | Metric::Fid => format!(
            "{name} of {images} samples by {} at {} steps from images {}",
            kind(wanted.sampler).name(),
            wanted.steps,
            if real { "held out" } else { "trained on" }
        ),
    }
}
