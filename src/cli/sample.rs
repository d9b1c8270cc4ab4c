//! `ddpm sample`.

use std::path::PathBuf;

use anyhow::{Result, bail, ensure};
use clap::Args;
use tch::{Device, Kind, Tensor};

use super::compute::ComputeArgs;
use super::foreign_args::{ForeignArgs, SamplerHints};
use super::network::{Network, which};
use crate::checkpoint::safetensors;
use crate::config::Sigma;
use crate::diffusion::Schedule;
use crate::fs::check_writable;
use crate::report::{SampleProgress, grid, to_pixels, write_png};
use crate::sample::{Ddpm, Pictures, ddpm, sample_pictures};

/// Make pictures with a trained model, of this program or another.
#[derive(Debug, Args)]
pub(super) struct SampleCommand {
    /// Checkpoint, weights file, run folder (its newest checkpoint), or anything that `import` takes
    checkpoint: PathBuf,
    /// How many pictures
    #[arg(short = 'n', long, default_value_t = 16, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    number: u64,
    /// Picture i depends on (seed, i) only
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Noise of the reverse steps [default: as the model's settings say]
    #[arg(long, value_enum)]
    sigma: Option<Sigma>,
    /// Clip the predicted x_0 to [-1, 1] at each step [default: as the model's settings say]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    clip_x0: Option<bool>,
    /// Raw weights instead of their average
    #[arg(long)]
    raw: bool,
    /// Pictures at a time
    #[arg(long, default_value_t = 16, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=65_536))]
    batch: u64,
    /// Grid of all pictures [default: samples.png unless --separate]
    #[arg(long, value_name = "FILE.png")]
    out: Option<PathBuf>,
    /// One file a picture, 00000.png onwards
    #[arg(long, value_name = "DIR")]
    separate: Option<PathBuf>,
    /// For models that are told a class: which one [default: picture i is of class i modulo their number]
    #[arg(long, value_name = "K")]
    class: Option<i64>,
    /// Noise to use instead of the seed's: `noise` [T+1, N, C, H, W] f32, x_T first and then one for each
    /// step in order; for comparing with other programs
    #[arg(long, value_name = "FILE.safetensors")]
    noise: Option<PathBuf>,
    /// Pictures as numbers: `pictures` [N, C, H, W] f32 in [-1, 1]
    #[arg(long, value_name = "FILE.safetensors")]
    out_tensor: Option<PathBuf>,
    #[command(flatten)]
    foreign: ForeignArgs,
    #[command(flatten)]
    compute: ComputeArgs,
}

impl SampleCommand {
    pub(super) fn run(&self) -> Result<()> {
        self.check_places()?;
        let chosen = self.compute.choose()?;
        let sampler = SamplerHints::new(self.sigma, self.clip_x0);
        let request = self.foreign.request(self.raw, sampler)?;
        let network = Network::load(&self.checkpoint, &request, chosen.device)?;
        let config = &network.meta.config;
        eprintln!(
            "{} weights of step {} on {}",
            which(&request),
            network.meta.step,
            chosen.description
        );

        let schedule = Schedule::new(&config.diffusion);
        let mut options = Ddpm::new(&config.diffusion, &config.sample);
        options.sigma = self.sigma.unwrap_or(options.sigma);
        options.clip_x0 = self.clip_x0.unwrap_or(options.clip_x0);
        ensure!(
            options.sigma != Sigma::Learned || config.model.learned_variance(),
            "--sigma learned: this network places no variances; want beta or posterior"
        );
        let classes = self.classes(config.model.classes())?;
        let given = self.given_noise(&config.model.chw(), schedule.len())?;

        let steps = schedule.len() as u64 * self.number.div_ceil(self.batch);
        let bar = SampleProgress::new("sampling", steps);
        let mut all = Vec::new();
        for start in (0..self.number).step_by(self.batch as usize) {
            let numbers = start..(start + self.batch).min(self.number);
            let classes = classes.as_ref().map(|c| {
                let count = (numbers.end - numbers.start) as i64;
                c.narrow(0, start as i64, count).to_device(chosen.device)
            });
            let denoiser = |x: &Tensor, t: &Tensor| network.predict(x, t, classes.as_ref());
            let pictures = match &given {
                None => {
                    let wanted = Pictures {
                        seed: self.seed,
                        numbers,
                        batch: self.batch,
                        chw: config.model.chw(),
                        device: chosen.device,
                    };
                    sample_pictures(&denoiser, &schedule, options, &wanted, &mut || bar.step())
                }
                Some(noise) => {
                    let count = (numbers.end - numbers.start) as i64;
                    let noise = noise.narrow(1, start as i64, count);
                    let mut draw = |k: u64| noise.get(k as i64).to_device(chosen.device);
                    let x_start = draw(0);
                    ddpm(
                        &denoiser,
                        &schedule,
                        options,
                        x_start,
                        &mut draw,
                        &mut |_, _| bar.step(),
                    )
                    .clamp(-1.0, 1.0)
                    .to_device(Device::Cpu)
                }
            };
            self.write_separate(&to_pixels(&pictures), start)?;
            all.push(pictures);
        }
        bar.finish();
        let all = Tensor::cat(&all, 0);
        if let Some(out) = &self.out_tensor {
            let about = (
                "ddpm-sample".to_owned(),
                format!("step {}", network.meta.step),
            );
            safetensors::write(out, about, &[("pictures".to_owned(), all.shallow_clone())])?;
        }
        self.write_grid(&to_pixels(&all))
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

    /// The noise of --noise.
    fn given_noise(&self, chw: &[i64; 3], timesteps: usize) -> Result<Option<Tensor>> {
        let Some(path) = &self.noise else {
            return Ok(None);
        };
        let file = safetensors::open(path)?;
        let found = file.tensors.iter().find(|(name, _)| name == "noise");
        let Some((_, noise)) = found else {
            bail!("{} holds no tensor `noise`", path.display());
        };
        let want = [&[timesteps as i64 + 1, self.number as i64], &chw[..]].concat();
        ensure!(
            noise.kind() == Kind::Float && noise.size() == want,
            "{}: noise is {:?} {:?}, want f32 {want:?} for -n {}",
            path.display(),
            noise.kind(),
            noise.size(),
            self.number
        );
        Ok(Some(noise.shallow_clone()))
    }

    /// Fails before the long work if its results could not be written.
    fn check_places(&self) -> Result<()> {
        if let Some(dir) = &self.separate {
            fs_err::create_dir_all(dir)?;
            check_writable(&dir.join("00000.png"))?;
        }
        if let Some(out) = self.grid_path() {
            ensure!(
                out.extension().is_some_and(|e| e == "png"),
                "--out {}: want a .png file",
                out.display()
            );
            check_writable(&out)?;
        }
        Ok(())
    }

    fn grid_path(&self) -> Option<PathBuf> {
        match (&self.out, &self.separate) {
            (Some(out), _) => Some(out.clone()),
            (None, None) if self.out_tensor.is_none() => Some("samples.png".into()),
            (None, None) => None,
            (None, Some(_)) => None,
        }
    }

    /// Written batch by batch, so that an interrupted command leaves what it has made.
    fn write_separate(&self, pixels: &Tensor, first: u64) -> Result<()> {
        let Some(dir) = &self.separate else {
            return Ok(());
        };
        for i in 0..pixels.size()[0] {
            let number = first + i as u64;
            write_png(&dir.join(format!("{number:05}.png")), &pixels.get(i))?;
        }
        Ok(())
    }

    fn write_grid(&self, pixels: &Tensor) -> Result<()> {
        if let Some(dir) = &self.separate {
            eprintln!("{} pictures in {}", self.number, dir.display());
        }
        if let Some(out) = self.grid_path() {
            write_png(&out, &grid(pixels))?;
            eprintln!("{} pictures in {}", self.number, out.display());
        }
        Ok(())
    }
}
