//! `ddpm bench`.

mod decode;
mod phases;
mod steps;

use std::fmt::{self, Display};
use std::time::Instant;

use anyhow::Result;
use clap::{Args, ValueEnum};
use serde::Serialize;

use self::phases::{Ceilings, Phases, Work};
use self::steps::Bench;
use super::args::compute::ComputeArgs;
use super::args::settings::{BaseArgs, DataArgs, NetworkArgs};
use super::out;
use crate::config::{MapLayout, Preset, RunConfig};
use crate::device::{Chosen, ConvolutionSearch, peak_bytes, synchronize};
use crate::model::Model;
use crate::report::{bytes, count};

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
enum What {
    /// A whole training step: batch, forward, backward, optimizer, EMA, reading the loss.
    Train,
    /// One reverse step of a batch.
    Sample,
    /// The update of a training step: clipping, the guard, the optimizer, the EMA.
    Optimizer,
    /// Decoding of all images of --data, as in `train` without --cache; a step is the whole folder.
    Decode,
}

/// Benchmark training or sampling steps, or the decoding of images.
///
/// Training and sampling run on random images.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  ddpm bench --preset celebahq128 --batch 2           a training step
  ddpm bench --phases                                 time and speed of each part
  ddpm bench --what sample --preset celebahq128 --batch 16
  ddpm bench --what optimizer --preset keras-ddpm2    the optimizer and the EMA of 92 M parameters
  ddpm bench --what decode --data photos --size 128   decoding a folder of images")]
pub(super) struct BenchCommand {
    /// Work to time
    #[arg(long, value_enum, default_value = "train")]
    what: What,
    /// Warm-up steps before timing
    #[arg(long, default_value_t = 2, value_name = "N")]
    warmup: u32,
    /// Number of steps timed
    #[arg(long, default_value_t = 10, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    iters: u32,
    /// Time each part over --iters more steps, beside the fastest matrix product and copy of this device
    #[arg(long)]
    phases: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    base: BaseArgs,
    /// Images per step [default: the preset's]
    #[arg(long, value_name = "N")]
    batch: Option<i64>,
    #[command(flatten)]
    data: DataArgs,
    #[command(flatten)]
    network: NetworkArgs,
    #[command(flatten)]
    compute: ComputeArgs,
    /// CUDA: layout of maps in memory [default: that of the settings, or nchw]
    #[arg(long, value_enum, help_heading = "Device")]
    layout: Option<MapLayout>,
}

#[derive(Debug, Serialize)]
struct Outcome {
    what: What,
    device: String,
    batch: i64,
    parameters: i64,
    ms_median: f64,
    ms_all: Vec<f64>,
    /// Speed of the convolutions, in 1e9 operations per second; 0 without convolutions.
    gflops: f64,
    peak_bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    phases: Option<Phases>,
}

impl BenchCommand {
    pub(super) fn run(&self) -> Result<()> {
        let mut config = self.base.resolve(Preset::Demo)?;
        self.data.apply(&mut config)?;
        self.network.apply(&mut config)?;
        config.train.batch = self.batch.unwrap_or(config.train.batch);
        config.train.layout = self.layout.or(config.train.layout);
        if let Err(wrong) = config.validate() {
            return Err(self.base.located(wrong));
        }
        let chosen = self.compute.choose()?;
        // The backward pass needs twice the arithmetic of the forward pass.
        let (mut bench, passes): (Box<dyn Bench>, u64) = match self.what {
            What::Train => (Box::new(steps::Train::new(&config, &chosen)?), 3),
            What::Sample => (Box::new(steps::Sample::new(&config, &chosen)?), 1),
            What::Optimizer => (Box::new(steps::Update::new(&config, &chosen)?), 0),
            What::Decode => return self.tell(&decode::measure(&config, self.warmup, self.iters)?),
        };
        self.tell(&self.measure(&config, &chosen, &mut *bench, passes)?)
    }

    fn tell(&self, outcome: &(impl Serialize + Display)) -> Result<()> {
        match self.json {
            true => out::json(&serde_json::to_string(outcome)?),
            false => out::lines(&format!("{outcome}\n")),
        }
        Ok(())
    }

    fn measure(
        &self,
        config: &RunConfig,
        chosen: &Chosen,
        bench: &mut dyn Bench,
        passes: u64,
    ) -> Result<Outcome> {
        // As in training and long sampling; the search itself falls into the steps that warm up.
        let _search = ConvolutionSearch::begin();
        let ms_all = self.time(chosen, bench)?;
        let peak_bytes = peak_bytes(chosen.device).unwrap_or(0);
        let net = Model::new(&config.model, config.diffusion.timesteps, 0);
        let [_, height, width] = config.model.chw();
        let work = Work {
            flops: passes * net.cost(height, width).forward_flops * config.train.batch as u64,
            bytes: steps::bytes_of_update(&config.optim, &net),
        };
        let phases = match self.phases {
            true => Some(Phases::new(
                bench.phases(self.iters)?,
                work,
                Ceilings::measure(chosen)?,
            )),
            false => None,
        };
        let ms_median = median(&ms_all);
        Ok(Outcome {
            what: self.what,
            device: chosen.description.clone(),
            batch: config.train.batch,
            parameters: net.params().iter().map(|p| p.tensor.numel() as i64).sum(),
            gflops: work.flops as f64 / ms_median / 1e6,
            ms_median,
            ms_all,
            peak_bytes,
            phases,
        })
    }

    fn time(&self, chosen: &Chosen, bench: &mut dyn Bench) -> Result<Vec<f64>> {
        for _ in 0..self.warmup {
            bench.step()?;
        }
        synchronize(chosen.device);
        let mut all = Vec::new();
        for _ in 0..self.iters {
            let start = Instant::now();
            bench.step()?;
            synchronize(chosen.device);
            all.push(start.elapsed().as_secs_f64() * 1e3);
        }
        Ok(all)
    }
}

impl Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rate = match self.what {
            What::Optimizer => String::new(),
            _ => format!(
                " ({:.1} img/s), {:.0} GFLOP/s",
                self.batch as f64 / self.ms_median * 1e3,
                self.gflops
            ),
        };
        write!(
            f,
            "{:?} step of {} parameters, batch {}, {}: median {:.1} ms{rate}, peak {}",
            self.what,
            count(self.parameters as u64),
            self.batch,
            self.device,
            self.ms_median,
            bytes(self.peak_bytes)
        )?;
        match &self.phases {
            Some(phases) => write!(f, "\n{phases}"),
            None => Ok(()),
        }
    }
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    if sorted.len() % 2 == 1 {
        sorted[middle]
    } else {
        (sorted[middle - 1] + sorted[middle]) / 2.0
    }
}
