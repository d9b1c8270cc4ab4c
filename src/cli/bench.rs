//! `ddpm bench`.

use std::time::Instant;

use anyhow::Result;
use clap::{Args, ValueEnum};
use serde::Serialize;
use tch::{Kind, Tensor};

use super::compute::ComputeArgs;
use super::settings::{BaseArgs, SettingArgs};
use crate::config::{Preset, RunConfig};
use crate::data::Store;
use crate::device::{Chosen, peak_bytes, synchronize};
use crate::report::{bytes, count};
use crate::rng::{Stream, normal};
use crate::sample::{Ddpm, ddpm_step};
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
    #[command(flatten)]
    settings: SettingArgs,
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
        self.settings.apply(&mut config)?;
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
        let [c, h, w] = config.model.chw();
        let pixels = Tensor::randint(256, [PICTURES, c, h, w], (Kind::Uint8, tch::Device::Cpu));
        let data = Store::new(pixels, chosen.device)?;
        let mut trainer = Trainer::new(config, data.len(), chosen.device)?;
        let cost = trainer.net.cost(h, w);
        let batch = config.train.batch;
        let (ms_all, passes) = match self.what {
            What::Train => {
                let step = || {
                    Ok(trainer
                        .train_step(&data)?
                        .loss_and_grad_norm
                        .double_value(&[0]))
                };
                (self.time(chosen, step)?, 3.0)
            }
            What::Sample => {
                let _guard = tch::no_grad_guard();
                let shape = [batch, c, h, w];
                let mut x = normal(0, Stream::Sample, 0, &shape, chosen.device);
                let options: Ddpm = (&config.sample).into();
                let last = trainer.schedule.len() - 1;
                let step = || {
                    let z = normal(0, Stream::Sample, 1, &shape, chosen.device);
                    let denoiser = |x: &Tensor, t: &Tensor| trainer.predict(x, t);
                    x = ddpm_step(&denoiser, &trainer.schedule, options, &x, last, &z);
                    Ok(0.0)
                };
                (self.time(chosen, step)?, 1.0)
            }
        };
        let ms_median = median(&ms_all);
        Ok(Outcome {
            what: self.what,
            device: chosen.description.clone(),
            batch,
            parameters: trainer.arena.parameters(),
            gflops: passes * cost.forward_flops as f64 * batch as f64 / ms_median / 1e6,
            ms_median,
            ms_all,
            peak_bytes: peak_bytes(chosen.device).unwrap_or(0),
        })
    }

    fn time(&self, chosen: &Chosen, mut step: impl FnMut() -> Result<f64>) -> Result<Vec<f64>> {
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
