//! `ddpm sample`.

use std::path::PathBuf;

use anyhow::{Result, ensure};
use clap::Args;
use tch::Tensor;

use super::compute::ComputeArgs;
use super::network::Network;
use crate::checkpoint::Which;
use crate::config::Sigma;
use crate::diffusion::Schedule;
use crate::fs::check_writable;
use crate::report::{SampleProgress, grid, to_pixels, write_png};
use crate::sample::{Ddpm, Pictures, sample_pictures};

/// Make pictures with a trained model.
#[derive(Debug, Args)]
pub(super) struct SampleCommand {
    /// Checkpoint, weights file, or run folder (its newest checkpoint)
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
    #[command(flatten)]
    compute: ComputeArgs,
}

impl SampleCommand {
    pub(super) fn run(&self) -> Result<()> {
        self.check_places()?;
        let chosen = self.compute.choose()?;
        let which = if self.raw { Which::Raw } else { Which::Ema };
        let network = Network::load(&self.checkpoint, which, chosen.device)?;
        let config = &network.meta.config;
        eprintln!(
            "{which} weights of step {} on {}",
            network.meta.step, chosen.description
        );

        let schedule = Schedule::new(&config.diffusion);
        let options = Ddpm {
            sigma: self.sigma.unwrap_or(config.sample.sigma),
            clip_x0: self.clip_x0.unwrap_or(config.sample.clip_x0),
        };
        let steps = schedule.len() as u64 * self.number.div_ceil(self.batch);
        let bar = SampleProgress::new("sampling", steps);
        let denoiser = |x: &Tensor, t: &Tensor| network.predict(x, t);
        let mut all = Vec::new();
        for start in (0..self.number).step_by(self.batch as usize) {
            let wanted = Pictures {
                seed: self.seed,
                numbers: start..(start + self.batch).min(self.number),
                batch: self.batch,
                chw: config.model.chw(),
                device: chosen.device,
            };
            let pictures =
                sample_pictures(&denoiser, &schedule, options, &wanted, &mut || bar.step());
            let pixels = to_pixels(&pictures);
            self.write_separate(&pixels, start)?;
            all.push(pixels);
        }
        bar.finish();
        self.write_grid(&Tensor::cat(&all, 0))
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
            (None, None) => Some("samples.png".into()),
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
