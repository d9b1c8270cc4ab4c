//! `ddpm bench`.

mod decode;
mod phases;
mod ranks;
mod steps;

use std::fmt::{self, Display};
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Result, bail};
use clap::{Args, ValueEnum};
use serde::Serialize;

use self::phases::{Ceilings, Phases, Work};
use self::ranks::{Exchange, Ranks};
use self::steps::Bench;
use super::args::compute::ComputeArgs;
use super::args::group::{GroupArgs, as_rank, before_meeting};
use super::args::network::NetworkArgs;
use super::args::settings::{BaseArgs, DataArgs};
use super::out;
use crate::config::{MapLayout, Preset, RunConfig};
use crate::device::{Chosen, ConvolutionSearch, peak_bytes, synchronize};
use crate::distributed::{Group, Place, Reduce};
use crate::model::Model;
use crate::report::{bytes, count};
use crate::train::share_batches;

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

impl What {
    /// Its name as a flag's value.
    fn name(self) -> &'static str {
        match self {
            What::Train => "train",
            What::Sample => "sample",
            What::Optimizer => "optimizer",
            What::Decode => "decode",
        }
    }
}

/// Benchmark training or sampling steps, or the decoding of images.
///
/// Training and sampling run on random images. Under torchrun, srun or mpirun the ranks share each training step as in
/// `train`, and rank 0 prints what that takes.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  ddpm bench --preset celebahq128 --batch 2           a training step
  ddpm bench --phases                                 time and speed of each part
  ddpm bench --what sample --preset celebahq128 --batch 16
  ddpm bench --what optimizer --preset keras-ddpm2    the optimizer and the EMA of 92 M parameters
  ddpm bench --what decode --data photos --size 128   decoding a folder of images
  torchrun --no-python --nproc-per-node 2 -- ddpm bench --preset celebahq128 --batch 4   a step of two ranks")]
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
    /// Images per step, those of all ranks together [default: the preset's]
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
    /// How the ranks of a group add up their gradients
    #[arg(long, value_enum, default_value_t = Reduce::F32, help_heading = "Several GPUs or hosts", hide_short_help = true)]
    reduce: Reduce,
    #[command(flatten)]
    group: GroupArgs,
}

#[derive(Debug, Serialize)]
struct Outcome {
    what: What,
    device: String,
    /// Of maps in memory, on CUDA.
    #[serde(skip_serializing_if = "Option::is_none")]
    layout: Option<MapLayout>,
    batch: i64,
    parameters: i64,
    ms_median: f64,
    ms_all: Vec<f64>,
    /// Speed of the convolutions of this process, in 1e9 operations per second; 0 without convolutions.
    gflops: f64,
    peak_bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    ranks: Option<Ranks>,
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
        let place = Place::of_environment()?;
        if let (Some(place), true) = (&place, self.what != What::Train) {
            bail!(
                "--what {} times one process, and this is {place}: start it by itself, or time --what train",
                self.what.name()
            );
        }
        let chosen = before_meeting(place.as_ref(), || self.compute.choose_for(place.as_ref()))?;
        let group = self.group.join(place, &chosen)?;
        as_rank(group.as_ref(), || {
            self.bench(config, &chosen, group.as_ref())
        })
    }

    fn bench(
        &self,
        mut config: RunConfig,
        chosen: &Chosen,
        group: Option<&Arc<Group>>,
    ) -> Result<()> {
        if let Some(group) = group {
            group.compare(
                "number of steps",
                &format!("{} and {}, {}", self.warmup, self.iters, self.phases),
            )?;
            share_batches(group, self.reduce, chosen, &mut config)?;
        }
        let config = &config;
        // The backward pass needs twice the arithmetic of the forward pass.
        let (mut bench, passes): (Box<dyn Bench>, u64) = match self.what {
            What::Train => {
                let ranks = group.map(|group| (group, self.reduce));
                (Box::new(steps::Train::new(config, chosen, ranks)?), 3)
            }
            What::Sample => (Box::new(steps::Sample::new(config, chosen)?), 1),
            What::Optimizer => (Box::new(steps::Update::new(config, chosen)?), 0),
            What::Decode => return self.tell(&decode::measure(config, self.warmup, self.iters)?),
        };
        let ranks = group.map_or(1, |group| group.size());
        let outcome = self.measure(config, chosen, &mut *bench, (passes, ranks))?;
        match group.is_none_or(|group| group.leads()) {
            true => self.tell(&outcome),
            false => Ok(()),
        }
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
        (passes, ranks): (u64, i64),
    ) -> Result<Outcome> {
        // As in training and long sampling; the search itself falls into the steps that warm up.
        let _search = ConvolutionSearch::begin();
        let (ms_all, exchanges) = self.time(chosen, bench)?;
        let peak_bytes = peak_bytes(chosen.device).unwrap_or(0);
        let net = Model::new(&config.model, config.diffusion.timesteps, 0);
        let [_, height, width] = config.model.chw();
        let work = Work {
            flops: passes
                * net.cost(height, width).forward_flops
                * (config.train.batch / ranks) as u64,
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
            layout: (chosen.device.is_cuda())
                .then(|| config.train.layout.unwrap_or(MapLayout::Nchw)),
            batch: config.train.batch,
            parameters: net.params().iter().map(|p| p.tensor.numel() as i64).sum(),
            gflops: work.flops as f64 / ms_median / 1e6,
            ms_median,
            ms_all,
            peak_bytes,
            ranks: bench.bytes_sent().map(|bytes_sent| Ranks {
                count: ranks,
                reduce: self.reduce.to_string(),
                bytes_sent,
                exchange: Exchange::median_of(&exchanges),
            }),
            phases,
        })
    }

    /// Milliseconds of each step, and what it spent on other ranks, where that is known.
    fn time(&self, chosen: &Chosen, bench: &mut dyn Bench) -> Result<(Vec<f64>, Vec<Exchange>)> {
        for _ in 0..self.warmup {
            bench.step()?;
        }
        synchronize(chosen.device);
        let (mut all, mut exchanges) = (Vec::new(), Vec::new());
        for _ in 0..self.iters {
            let start = Instant::now();
            bench.step()?;
            synchronize(chosen.device);
            let step = start.elapsed();
            all.push(step.as_secs_f64() * 1e3);
            exchanges.extend(bench.exchange(step));
        }
        Ok((all, exchanges))
    }
}

impl Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rate = match self.what {
            What::Optimizer => String::new(),
            _ => format!(
                " ({:.1} img/s), {:.0} GFLOP/s{}",
                self.batch as f64 / self.ms_median * 1e3,
                self.gflops,
                self.ranks.as_ref().map_or("", |_| " a rank")
            ),
        };
        let layout = self
            .layout
            .map_or(String::new(), |layout| format!(", {layout}"));
        write!(
            f,
            "{:?} step of {} parameters, batch {}, {}{layout}: median {:.1} ms{rate}, peak {}",
            self.what,
            count(self.parameters as u64),
            self.batch,
            self.device,
            self.ms_median,
            bytes(self.peak_bytes)
        )?;
        if let Some(ranks) = &self.ranks {
            write!(f, "\n{ranks}")?;
        }
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
