//! Sampling from a pretrained network, in one expression.

use anyhow::{Result, ensure};
use ndarray::Array4;
use tch::Tensor;

use super::{Guided, Pretrained};
use crate::images::to_array;
use crate::sample::{
    ChosenSampler, Classes, Guidance, Images, NoiseSource, OnStep, SamplerKind, SamplerOptions,
    Spacing, StartFrom, batch_labels, sample_batch,
};

/// Images that are sampled together unless told otherwise.
const BATCH: u64 = 16;

/// How to sample, for [`Pretrained::sampler`]: what is not chosen is the sampler's default, or what the network's settings
/// say.
#[derive(Debug, Clone)]
pub struct Sampling<'a> {
    pub(super) pretrained: &'a Pretrained,
    options: SamplerOptions,
    classes: Classes,
    guidance: Guidance,
    guide: Option<&'a Pretrained>,
    batch: u64,
    /// The first batch, and how many there are from one to the next.
    part: (usize, usize),
}

impl<'a> Sampling<'a> {
    pub(super) fn new(pretrained: &'a Pretrained, kind: SamplerKind) -> Sampling<'a> {
        Sampling {
            pretrained,
            options: SamplerOptions::new(kind),
            classes: Classes::All,
            guidance: Guidance::NONE,
            guide: None,
            batch: BATCH,
            part: (0, 1),
        }
    }

    /// Reverse steps, 1 to T.
    pub fn steps(mut self, steps: usize) -> Sampling<'a> {
        self.options.steps = Some(steps);
        self
    }

    /// How the steps are spread over the T time steps.
    pub fn spacing(mut self, spacing: Spacing) -> Sampling<'a> {
        self.options.spacing = Some(spacing);
        self
    }

    /// Noise of DDIM, 0 (none) to 1 (as DDPM).
    pub fn eta(mut self, eta: f64) -> Sampling<'a> {
        self.options.eta = Some(eta);
        self
    }

    /// Clips the predicted x_0 to [-1, 1] at each step, or does not.
    pub fn clip_x0(mut self, clip_x0: bool) -> Sampling<'a> {
        self.options.clip_x0 = Some(clip_x0);
        self
    }

    /// The class of every image, for class-conditional networks; without it image `i` is of class `i` modulo their number.
    pub fn class(self, class: i64) -> Sampling<'a> {
        self.classes(Classes::These(vec![class]))
    }

    /// The classes of the images, for class-conditional networks.
    pub fn classes(mut self, classes: Classes) -> Sampling<'a> {
        self.classes = classes;
        self
    }

    /// Guidance, by the network's own output for no class.
    pub fn guidance(mut self, guidance: Guidance) -> Sampling<'a> {
        self.guidance = guidance;
        self
    }

    /// Guidance by another network instead, smaller or earlier than this one.
    pub fn guide_with(mut self, other: &'a Pretrained) -> Sampling<'a> {
        self.guide = Some(other);
        self
    }

    /// Images sampled together, 16 by default.
    pub fn batch(mut self, images: u64) -> Sampling<'a> {
        self.batch = images;
        self
    }

    /// Samples only every `of`-th batch of all, from number `first` on, counted from 0: the part of one of several processes.
    pub fn part(mut self, first: usize, of: usize) -> Sampling<'a> {
        self.part = (first, of.max(1));
        self
    }

    /// All choices of a sampler at once, its kind among them, in place of those made so far.
    pub fn options(mut self, options: SamplerOptions) -> Sampling<'a> {
        self.options = options;
        self
    }

    /// Samples `number` images. Image `i` depends on `(seed, i)` only.
    ///
    /// # Shapes
    /// Returns `[number, H, W, C]`, 0 to 255.
    ///
    /// # Errors
    /// Choices that contradict each other or the network; the sampler `analytic` without measurements; no images.
    pub fn sample(&self, number: u64, seed: u64) -> Result<Array4<u8>> {
        Ok(to_array(&self.sample_tensor(number, seed, &mut |_| ())?))
    }

    /// As [`Sampling::sample`], as a tensor on the CPU; `on_step` is called after each reverse step of each batch.
    ///
    /// # Shapes
    /// Returns `[number, C, H, W]` f32, clipped to [-1, 1].
    ///
    /// # Errors
    /// As [`Sampling::sample`].
    pub fn sample_tensor(&self, number: u64, seed: u64, on_step: &mut OnStep) -> Result<Tensor> {
        let mut batches = Vec::new();
        let mut take = |images: &Tensor| {
            batches.push(images.shallow_clone());
            Ok(())
        };
        self.sample_each(number, seed, on_step, &mut take)?;
        Ok(Tensor::cat(&batches, 0))
    }

    /// As [`Sampling::sample_tensor`], batch by batch, of which none is kept.
    ///
    /// # Shapes
    /// `take` receives `[batch, C, H, W]` f32 on the CPU, clipped to [-1, 1]; the last may be smaller.
    ///
    /// # Errors
    /// As [`Sampling::sample`], and those of `take`.
    pub fn sample_each(
        &self,
        number: u64,
        seed: u64,
        on_step: &mut OnStep,
        take: &mut dyn FnMut(&Tensor) -> Result<()>,
    ) -> Result<()> {
        ensure!(number > 0, "0 images: expected 1 or more");
        let chosen = self.chosen()?;
        let pretrained = self.pretrained;
        let config = pretrained.config();
        let guided = Guided::new(pretrained, self.guidance, self.guide)?;
        let classes = guided.labels(&self.classes, number)?;
        let wanted = Images {
            noise: NoiseSource::Seed(seed),
            numbers: 0..number,
            batch: self.batch,
            chw: config.model.chw(),
            device: pretrained.device(),
        };
        let (first, of) = self.part;
        for numbers in wanted.batches().skip(first).step_by(of) {
            let classes = batch_labels(classes.as_ref(), &numbers, pretrained.device());
            let denoiser = guided.denoiser(classes);
            let process = chosen.process(&denoiser, &config.diffusion);
            let sampler = &chosen.sampler;
            let start = &StartFrom::Noise;
            take(&sample_batch(
                &process, sampler, start, &wanted, &numbers, on_step,
            )?)?;
        }
        Ok(())
    }

    /// The sampler, with what was left open filled in.
    ///
    /// # Errors
    /// Choices that contradict each other or the network; the sampler `analytic` without measurements.
    pub fn chosen(&self) -> Result<ChosenSampler> {
        ensure!(
            self.options.kind != SamplerKind::Ddcm,
            "the sampler ddcm takes its noise from codebooks; sample with `NoiseSource::Codebook` and `sample_images`"
        );
        let pretrained = self.pretrained;
        self.options
            .choose(pretrained.config(), || pretrained.measured())
    }
}
