//! What a job makes with its network.

use std::f64::consts::FRAC_PI_2;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use ndarray::{Array3, Array4, Axis};
use tch::{Device, Tensor};

use super::uploads;
use super::wish::{Task, Wish};
use crate::config::RunConfig;
use crate::images::to_array;
use crate::pretrained::{Guided, Pretrained, sampler_settings};
use crate::report::{SamplerSettings, grid, grid_of_columns, psnr_db};
use crate::rng::image_noise;
use crate::sample::{
    ChosenSampler, Ddim, Images, Inpaint, NoiseSource, Process, Respaced, SamplerOptions, Spacing,
    StartFrom, Step, batch_labels, ddim, ddim_invert, mixing, sample_batch,
};

/// Steps of inversion without a number, as of `ddpm invert`.
const INVERSION_STEPS: usize = 100;

/// Who watches.
pub(super) trait Watcher {
    /// So many steps will be made.
    fn begin(&mut self, steps: usize);
    /// One is made.
    fn step(&mut self, step: &Step);
}

/// The images of a job.
#[derive(Debug)]
pub(super) struct Drawn {
    /// `[N, H, W, C]`.
    pub(super) images: Array4<u8>,
    /// All in one.
    pub(super) figure: Array3<u8>,
    /// What there is to say.
    pub(super) notes: Vec<String>,
    /// The sampler as it was chosen, before an image to start from cuts its steps down.
    pub(super) sampler: SamplerSettings,
}

/// Makes the images of a job; `files` are those that it names, in their order.
///
/// # Errors
/// What the network cannot do; damaged images; values that are not finite.
pub(super) fn draw(
    network: &Pretrained,
    wish: &Wish,
    files: &[Arc<Vec<u8>>],
    watcher: &mut dyn Watcher,
) -> Result<Drawn> {
    let config = network.config();
    wish.check(config)?;
    let guided = Guided::new(network, wish.guidance(), None)?;
    let options = options(wish, config);
    let mut chosen = options.choose(config, || network.measured())?;
    let job = Job {
        network,
        guided: &guided,
        wish,
        sampler: sampler_settings(&options, &chosen),
    };
    let file = |number: usize| files.get(number).context("an image is missing");
    let image =
        || Ok::<_, anyhow::Error>(uploads::tensor(file(0)?, config)?.to_device(network.device()));
    match wish.task {
        Task::Sample => job.sample(chosen, &StartFrom::Noise, watcher),
        Task::Interpolate { to_seed } => job.interpolate(chosen, to_seed, watcher),
        Task::Invert { .. } => job.invert(chosen, &image()?, watcher),
        Task::Vary { strength, .. } => {
            let start = StartFrom::Image(image()?);
            let steps = chosen.steps.up_to(strength, config.diffusion.timesteps);
            chosen.steps = steps.with_context(|| {
                format!(
                    "strength {strength} leaves no step to run; choose a larger one, or more steps"
                )
            })?;
            job.sample(chosen, &start, watcher)
        }
        Task::Fill { .. } => {
            let resampling = wish.task.resampling().context("resampling")?;
            let known = Inpaint {
                x_0: image()?,
                unknown: uploads::mask(file(1)?, config)?,
            };
            job.sample(chosen, &StartFrom::Part(known, resampling), watcher)
        }
    }
}

struct Job<'a> {
    network: &'a Pretrained,
    guided: &'a Guided<'a>,
    wish: &'a Wish,
    sampler: SamplerSettings,
}

fn options(wish: &Wish, config: &RunConfig) -> SamplerOptions {
    match wish.task {
        Task::Invert { .. } => {
            let most = config.diffusion.timesteps as usize;
            SamplerOptions {
                steps: Some(wish.steps.unwrap_or(INVERSION_STEPS.min(most))),
                spacing: Some(Spacing::Linspace),
                // Clipped steps cannot be inverted.
                clip_x0: Some(false),
                ..wish.options()
            }
        }
        _ => wish.options(),
    }
}

impl Job<'_> {
    /// The class of each of so many images, on the device.
    fn labels(&self, images: u64) -> Result<Option<Tensor>> {
        let labels = self.guided.labels(&self.wish.classes(), images)?;
        Ok(batch_labels(
            labels.as_ref(),
            &(0..images),
            self.network.device(),
        ))
    }

    /// As `ddpm sample` does.
    fn sample(
        &self,
        chosen: ChosenSampler,
        start: &StartFrom,
        watcher: &mut dyn Watcher,
    ) -> Result<Drawn> {
        let config = self.network.config();
        let wanted = Images {
            noise: NoiseSource::Seed(self.wish.seed),
            numbers: 0..self.wish.number,
            batch: self.wish.number,
            chw: config.model.chw(),
            device: self.network.device(),
        };
        watcher.begin(start.evaluations(chosen.steps.len()));
        let denoiser = self.guided.denoiser(self.labels(self.wish.number)?);
        let process = chosen.process(&denoiser, &config.diffusion);
        let mut on_step = |step: Step| watcher.step(&step);
        let numbers = &wanted.numbers;
        let x_0 = sample_batch(
            &process,
            &chosen.sampler,
            start,
            &wanted,
            numbers,
            &mut on_step,
        )?;
        let images = to_array(&x_0);
        Ok(Drawn {
            figure: grid(images.view()),
            images,
            notes: vec![],
            sampler: self.sampler.clone(),
        })
    }

    /// As `ddpm interpolate --latent` does with the noise of two seeds.
    fn interpolate(
        &self,
        chosen: ChosenSampler,
        to_seed: u64,
        watcher: &mut dyn Watcher,
    ) -> Result<Drawn> {
        let config = self.network.config();
        let number = self.wish.number;
        let (chw, device) = (config.model.chw(), self.network.device());
        let noise = |seed| image_noise(seed, 0..1, 0, chw, device).get(0);
        let (from, to) = (noise(self.wish.seed), noise(to_seed));
        let x_start = mixing::spherical(&from, &to, number as usize, FRAC_PI_2);
        watcher.begin(chosen.steps.len());
        let denoiser = self.guided.denoiser(self.labels(number)?);
        let process = chosen.process(&denoiser, &config.diffusion);
        let mut on_step = |step: Step| watcher.step(&step);
        let mut no_noise = |_| x_start.zeros_like();
        let start = x_start.shallow_clone();
        let x_0 = chosen
            .sampler
            .run(&process, start, &mut no_noise, &mut on_step);
        process.check_finite()?;
        let images = to_array(&x_0.clamp(-1.0, 1.0).to_device(Device::Cpu));
        Ok(Drawn {
            figure: grid_of_columns(images.view(), number as usize),
            images,
            notes: vec![],
            sampler: self.sampler.clone(),
        })
    }

    /// As `ddpm invert` does.
    fn invert(
        &self,
        chosen: ChosenSampler,
        x_0: &Tensor,
        watcher: &mut dyn Watcher,
    ) -> Result<Drawn> {
        let config = self.network.config();
        let steps: &Respaced = &chosen.steps;
        watcher.begin(2 * steps.len());
        let denoiser = self.guided.denoiser(self.labels(1)?);
        let process = Process::new(&denoiser, steps, &config.diffusion, false);
        let x_0 = x_0.unsqueeze(0);
        let mut on_step = |step: Step| watcher.step(&step);
        let x_t = ddim_invert(&process, x_0.shallow_clone(), &mut on_step);
        let none = x_t.zeros_like();
        let again = ddim(
            &process,
            &Ddim::new(0.0)?,
            x_t.shallow_clone(),
            &mut |_| none.shallow_clone(),
            &mut on_step,
        );
        process.check_finite()?;
        // Latents exceed the range of images: three standard deviations are shown.
        let images = to_array(&Tensor::cat(&[&x_0, &(x_t / 3.0), &again], 0));
        ensure!(images.dim().0 == 3, "an inversion makes three images");
        let of = |number: usize| images.index_axis(Axis(0), number);
        let psnr = psnr_db(of(0), of(2));
        Ok(Drawn {
            figure: grid_of_columns(images.view(), 3),
            notes: vec![format!(
                "the image, its noise (three standard deviations of it), and the image of that noise: PSNR {psnr:.2} dB"
            )],
            images,
            sampler: self.sampler.clone(),
        })
    }
}
