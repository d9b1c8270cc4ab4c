//! `ddpm sample`.

use std::ops::Range;
use std::path::PathBuf;

use anyhow::{Result, bail, ensure};
use clap::Args;
use tch::{Device, Kind, Tensor};

use super::load_args::LoadArgs;
use super::picture_out::OutputArgs;
use super::sampler_args::{ChosenSampler, SamplerArgs};
use crate::checkpoint::safetensors;
use crate::report::SampleProgress;
use crate::sample::{NoiseSource, OnStep, Pictures, Process};

/// Make pictures with a trained model, of this program or another.
#[derive(Debug, Args)]
pub(super) struct SampleCommand {
    /// How many pictures
    #[arg(short = 'n', long, default_value_t = 16, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    number: u64,
    /// Picture i depends on (seed, i) only
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Pictures at a time
    #[arg(long, default_value_t = 16, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=65_536))]
    batch: u64,
    /// For models that are told a class: which one [default: picture i is of class i modulo their number]
    #[arg(long, value_name = "K")]
    class: Option<i64>,
    /// Noise to use instead of the seed's: `noise` [steps+1, N, C, H, W] f32, x_T first and then one for each
    /// step in order; for comparing with other programs
    #[arg(long, value_name = "FILE.safetensors")]
    noise: Option<PathBuf>,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    sampler: SamplerArgs,
    #[command(flatten)]
    load: LoadArgs,
}

impl SampleCommand {
    pub(super) fn run(&self) -> Result<()> {
        let mut output = self.output.open()?;
        let (network, device) = self.load.load(self.sampler.hints())?;
        let config = &network.meta.config;
        let chosen = self
            .sampler
            .choose(config, || self.load.measured(&network))?;
        let classes = self.classes(config.model.classes())?;
        let wanted = Pictures {
            noise: self.noise(config.model.chw(), chosen.levels.len())?,
            numbers: 0..self.number,
            batch: self.batch,
            chw: config.model.chw(),
            device: device.device,
        };

        let steps = chosen.levels.len() * wanted.batches().count();
        let bar = SampleProgress::new("sampling", steps as u64);
        for numbers in wanted.batches() {
            let classes = of_batch(classes.as_ref(), &numbers, device.device);
            let denoiser = |x: &Tensor, t: &Tensor| network.predict(x, t, classes.as_ref());
            let process = chosen.process(&denoiser, &network);
            let x_0 = sample_batch(&process, &chosen, &wanted, &numbers, &mut |_| bar.step());
            output.take(&x_0.clamp(-1.0, 1.0))?;
        }
        bar.finish();
        output.finish(format!("step {}", network.meta.step))
    }

    /// The class of each picture, `[N]` i64, for models that are told one.
    fn classes(&self, known: Option<i64>) -> Result<Option<Tensor>> {
        let Some(known) = known else {
            ensure!(
                self.class.is_none(),
                "--class: this model knows no classes; leave it out"
            );
            return Ok(None);
        };
        let number = self.number as i64;
        Ok(Some(match self.class {
            None => Tensor::arange(number, (Kind::Int64, Device::Cpu)).remainder(known),
            Some(class) => {
                ensure!(
                    (0..known).contains(&class),
                    "--class {class}: this model knows the classes 0 to {}",
                    known - 1
                );
                Tensor::full([number], class, (Kind::Int64, Device::Cpu))
            }
        }))
    }

    /// The noise of --noise, or the seed's.
    fn noise(&self, chw: [i64; 3], steps: usize) -> Result<NoiseSource> {
        let Some(path) = &self.noise else {
            return Ok(NoiseSource::Seed(self.seed));
        };
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

/// One batch from pure noise, not clipped.
fn sample_batch(
    process: &Process,
    chosen: &ChosenSampler,
    wanted: &Pictures,
    numbers: &Range<u64>,
    on_step: &mut OnStep,
) -> Tensor {
    let mut noise = |k| wanted.draw(numbers, k);
    let x_start = noise(0);
    chosen.sampler.run(process, x_start, &mut noise, on_step)
}

/// The classes of one batch, on the network's device.
fn of_batch(classes: Option<&Tensor>, numbers: &Range<u64>, device: Device) -> Option<Tensor> {
    let count = (numbers.end - numbers.start) as i64;
    classes.map(|c| c.narrow(0, numbers.start as i64, count).to_device(device))
}
