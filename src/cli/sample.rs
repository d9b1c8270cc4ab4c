//! `ddpm sample`.

use std::path::PathBuf;

use anyhow::{Result, bail, ensure};
use clap::Args;
use tch::{Kind, Tensor};

use super::args::batch::BatchSize;
use super::args::image_out::OutputArgs;
use super::args::load::LoadArgs;
use super::args::sampler::SamplerArgs;
use super::args::start::StartArgs;
use super::args::trajectory::TrajectoryArgs;
use super::outputs::Outputs;
use super::progress::SampleProgress;
use crate::formats::safetensors;
use crate::pretrained::{batch_labels, class_labels};
use crate::sample::{
    Choice, ChosenSampler, Codebook, Images, NoiseSource, SamplerKind, Step, sample_batch,
};

/// Sample images from a trained model, of this program or another.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  ddpm sample runs/NAME -n 64 --out grid.png
  ddpm sample runs/NAME --sampler dpmpp-2m --steps 20
  ddpm sample runs/NAME --init-image photo.png --strength 0.6
  ddpm sample cifar10_uncond_50M_500K.pt --known improved-cifar10")]
pub(super) struct SampleCommand {
    /// Number of images
    #[arg(short = 'n', long, default_value_t = 16, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    number: u64,
    /// Seed; image i depends on (seed, i), and on --batch by rounding alone
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Images per batch; auto for the fastest number that fits
    #[arg(long, default_value = "16", value_name = "N|auto")]
    batch: BatchSize,
    /// Class, for class-conditional networks [default: all classes in turn]
    #[arg(long, value_name = "K")]
    class: Option<i64>,
    /// With --sampler ddcm: codebook entries per step, a power of two [default: 64]
    #[arg(long, value_name = "K", hide_short_help = true)]
    codebook: Option<u32>,
    /// With --sampler ddcm: seed of the codebooks; --seed chooses their entries [default: 0]
    #[arg(long, value_name = "SEED", hide_short_help = true)]
    codebook_seed: Option<u64>,
    /// Noise from a file instead of --seed: `noise` [steps+1, N, C, H, W] f32, x_T first, then that of each step in
    /// order; for comparison with other programs
    #[arg(long, value_name = "FILE.safetensors", hide_short_help = true)]
    noise: Option<PathBuf>,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    trajectory: TrajectoryArgs,
    #[command(flatten)]
    sampler: SamplerArgs,
    #[command(flatten)]
    start: StartArgs,
    #[command(flatten)]
    load: LoadArgs,
}

impl SampleCommand {
    pub(super) fn run(&self) -> Result<()> {
        self.check_outputs()?;
        let mut output = self.output.open();
        let uses = self.sampler.uses(SamplerKind::Ddpm);
        let (network, device) = self.load.load(self.sampler.hints(), uses)?;
        let config = &network.meta.config;
        let measured = || network.measured();
        let mut chosen = self.sampler.choose(config, SamplerKind::Ddpm, measured)?;
        let start = self.start.start(config, &mut chosen.steps, device.device)?;
        let classes = class_labels(config.model.classes(), self.class, self.number)?;
        let wanted = Images {
            noise: self.noise(&chosen, config.model.chw())?,
            numbers: 0..self.number,
            batch: self.batch.resolve(&network, device.device, self.number)?,
            chw: config.model.chw(),
            device: device.device,
        };

        let steps = start.evaluations(chosen.steps.len());
        let bar = SampleProgress::new("sampling", (steps * wanted.batches().count()) as u64);
        let mut trajectory = self.trajectory.open(steps);
        for numbers in wanted.batches() {
            let classes = batch_labels(classes.as_ref(), &numbers, device.device);
            let denoiser = |x: &Tensor, t: &Tensor| network.predict(x, t, classes.as_ref());
            let process = chosen.process(&denoiser, &config.diffusion);
            let mut on_step = |step: Step| {
                bar.step();
                trajectory.see(&step);
            };
            let x_0 = sample_batch(
                &process,
                &chosen.sampler,
                &start,
                &wanted,
                &numbers,
                &mut on_step,
            )?;
            output.take(&x_0)?;
            trajectory.end_batch();
        }
        bar.finish();
        trajectory.finish()?;
        output.finish(format!("step {}", network.meta.step))
    }

    fn check_outputs(&self) -> Result<()> {
        let mut outputs = Outputs::new(self.output.force);
        outputs.reads(self.load.files());
        outputs.reads(self.start.files().chain(&self.noise));
        self.output.declare(self.number, &mut outputs);
        self.trajectory.declare(&mut outputs)?;
        outputs.check()
    }

    /// The noise of --noise, of codebooks, or the seed's.
    fn noise(&self, chosen: &ChosenSampler, chw: [i64; 3]) -> Result<NoiseSource> {
        let from_codebook = chosen.kind == SamplerKind::Ddcm;
        let flags = [
            ("--codebook", self.codebook.is_some()),
            ("--codebook-seed", self.codebook_seed.is_some()),
        ];
        for (flag, given) in flags {
            ensure!(
                from_codebook || !given,
                "{flag}: only --sampler ddcm takes its noise from a codebook"
            );
        }
        let Some(path) = &self.noise else {
            return Ok(if from_codebook {
                let codebook = Codebook::new(
                    self.codebook_seed.unwrap_or(0),
                    self.codebook.unwrap_or(64),
                    chw,
                )?;
                NoiseSource::Codebook(codebook, Choice::Seed(self.seed))
            } else {
                NoiseSource::Seed(self.seed)
            });
        };
        let steps = chosen.steps.len();
        let file = safetensors::open(path)?;
        let found = file.tensors.iter().find(|(name, _)| name == "noise");
        let Some((_, noise)) = found else {
            bail!("{} holds no tensor `noise`", path.display());
        };
        let want = [&[steps as i64 + 1, self.number as i64], &chw[..]].concat();
        ensure!(
            noise.kind() == Kind::Float && noise.size() == want,
            "{}: noise is {:?} {:?}, want f32 {want:?} for {steps} steps and -n {}",
            path.display(),
            noise.kind(),
            noise.size(),
            self.number
        );
        Ok(NoiseSource::Given(noise.shallow_clone()))
    }
}
