//! `ddpm bench`.

use std::time::Instant;

use anyhow::Result;
use clap::{Args, ValueEnum};
use serde::Serialize;
use tch::{Device, Kind, Tensor};

use super::compute::ComputeArgs;
use super::settings::{BaseArgs, NetworkArgs};
use crate::config::{Preset, RunConfig};
use crate::data::Store;
use crate::device::{Chosen, peak_bytes, synchronize};
use crate::diffusion::Schedule;
use crate::model::Model;
use crate::report::{bytes, count};
use crate::rng::{Stream, normal};
use crate::sample::{Ddpm, Process, Respaced};
use crate::train::Trainer;

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
enum What {
    /// A whole training step: batch, forward, backward, optimizer, average, reading the loss.
    Train,
    /// One reverse step of a batch.
    Sample,
}

/// Time training or sampling steps of a model on made-up pictures.
#[derive(Debug, Args)]
pub(super) struct BenchCommand {
    /// What to time
    #[arg(long, value_enum, default_value = "train")]
    what: What,
    /// Steps before timing starts
    #[arg(long, default_value_t = 2, value_name = "N")]
    warmup: u32,
    /// Steps timed
    #[arg(long, default_value_t = 10, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    iters: u32,
    /// For programs
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    base: BaseArgs,
    /// Pictures a step
    #[arg(long, value_name = "N")]
    batch: Option<i64>,
    #[command(flatten)]
    network: NetworkArgs,
    #[command(flatten)]
    compute: ComputeArgs,
}

#[derive(Debug, Serialize)]
struct Outcome {
    what: What,
    device: String,
    batch: i64,
    parameters: i64,
    ms_median: f64,
    ms_all: Vec<f64>,
    gflops: f64,
    peak_bytes: u64,
}

/// Pictures in the made-up data set.
const PICTURES: i64 = 256;

impl BenchCommand {
    pub(super) fn run(&self) -> Result<()> {
        let mut config = self.base.resolve(Preset::Demo)?;
        self.network.apply(&mut config)?;
        config.train.batch = self.batch.unwrap_or(config.train.batch);
        config.validate()?;
        let chosen = self.compute.choose()?;
        let outcome = self.measure(&config, &chosen)?;
        if self.json {
            println!("{}", serde_json::to_string(&outcome)?);
        } else {
            println!(
                "{:?} step of {} parameters, batch {}, {}: median {:.1} ms ({:.1} img/s), {:.0} GFLOP/s, peak {}",
                outcome.what,
                count(outcome.parameters as u64),
                outcome.batch,
                outcome.device,
                outcome.ms_median,
                outcome.batch as f64 / outcome.ms_median * 1e3,
                outcome.gflops,
                bytes(outcome.peak_bytes)
            );
        }
        Ok(())
    }

    fn measure(&self, config: &RunConfig, chosen: &Chosen) -> Result<Outcome> {
        let (ms_all, passes) = match self.what {
            What::Train => (self.train(config, chosen)?, 3),
            What::Sample => (self.sample(config, chosen)?, 1),
        };
        let net = Model::new(&config.model, config.diffusion.timesteps, 0);
        let [_, height, width] = config.model.chw();
        let cost = net.cost(height, width);
        let batch = config.train.batch;
        let ms_median = median(&ms_all);
        Ok(Outcome {
            what: self.what,
            device: chosen.description.clone(),
            batch,
            parameters: net.params().iter().map(|p| p.tensor.numel() as i64).sum(),
            gflops: (passes * cost.forward_flops * batch as u64) as f64 / ms_median / 1e6,
            ms_median,
            ms_all,
            peak_bytes: peak_bytes(chosen.device).unwrap_or(0),
        })
    }

    fn train(&self, config: &RunConfig, chosen: &Chosen) -> Result<Vec<f64>> {
        let [c, h, w] = config.model.chw();
        let pixels = Tensor::randint(256, [PICTURES, c, h, w], (Kind::Uint8, Device::Cpu));
        let data = Store::new(pixels, chosen.device)?;
        let mut trainer = Trainer::new(config, data.len(), chosen.device)?;
        trainer.net.set_precision(chosen.precision);
        // Reading the loss is part of a step.
        self.time(chosen, || {
            let output = trainer.train_step(&data)?;
            let _loss = output.numbers.double_value(&[0]);
            Ok(())
        })
    }

    fn sample(&self, config: &RunConfig, chosen: &Chosen) -> Result<Vec<f64>> {
        let _guard = tch::no_grad_guard();
        let mut net = Model::new(&config.model, config.diffusion.timesteps, 0);
        net.move_to(chosen.device)?;
        net.set_precision(chosen.precision);
        let levels = Respaced::all(&Schedule::new(&config.diffusion));
        let options = Ddpm::new(&config.sample);
        let denoiser = |x: &Tensor, t: &Tensor| net.forward(x, t, None, false);
        let process = Process::new(&denoiser, &levels, &config.diffusion, config.sample.clip_x0);
        let last = levels.len() - 1;
        let [c, h, w] = config.model.chw();
        let shape = [config.train.batch, c, h, w];
        let mut x = normal(0, Stream::Sample, 0, &shape, chosen.device);
        self.time(chosen, || {
            let z = normal(0, Stream::Sample, 1, &shape, chosen.device);
            let estimate = process.estimate(&x, last);
            x = options.step(&levels, &estimate, last, || z);
            Ok(())
        })
    }

    fn time(&self, chosen: &Chosen, mut step: impl FnMut() -> Result<()>) -> Result<Vec<f64>> {
        for _ in 0..self.warmup {
            step()?;
        }
        synchronize(chosen.device);
        let mut all = Vec::new();
        for _ in 0..self.iters {
            let start = Instant::now();
            step()?;
            synchronize(chosen.device);
            all.push(start.elapsed().as_secs_f64() * 1e3);
        }
        Ok(all)
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
