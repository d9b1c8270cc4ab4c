//! `ddpm calibrate`.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::Result;
use clap::Args;
use ndarray::Array1;
use serde_json::json;
use tch::{Device, Kind, Tensor};

use super::args::foreign::SamplerHints;
use super::args::load::LoadArgs;
use super::evaluate::images::decode;
use super::made_with::as_given;
use super::out::{self, say};
use crate::checkpoint::Calibration;
use crate::cli::progress::SampleProgress;
use crate::data::{Loaded, Order};
use crate::diffusion::Schedule;
use crate::fs::check_writable;
use crate::interop::Uses;
use crate::pretrained::{Pretrained, network_settings};
use crate::rng::{Stream, normal};
use crate::sample::{Process, Respaced, measure};

/// Measure E[eps_hat²] of a network on data, for `sample --sampler analytic`.
///
/// The result is written beside the checkpoint as NAME.analytic.json and is valid for this network only.
#[derive(Debug, Args)]
pub(super) struct CalibrateCommand {
    /// Folder of images [default: the training data of the model]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Number of images for each time step, rounded up to whole batches
    #[arg(short = 'n', long, default_value_t = 16, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    number: u64,
    /// Images per batch
    #[arg(long, default_value_t = 16, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=65_536))]
    batch: u64,
    /// Seed for the choice of images and their noise
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Print JSON of what was measured
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    load: LoadArgs,
}

impl CalibrateCommand {
    pub(super) fn run(&self) -> Result<()> {
        let started = Instant::now();
        let path = self.load.calibration_path()?;
        check_writable(&path)?;
        let (network, chosen) = self.load.load(SamplerHints::default(), Uses::PROCESS)?;
        network.refuse_upscaling()?;
        let loaded = decode(&network, self.data.as_ref(), "calibrate", true)?;

        let batch = self.batch.min(self.number);
        let batches = self.number.div_ceil(batch);
        let mean_sq_eps = self.measure(&network, &loaded, batch, batches, chosen.device)?;
        let measured = Calibration {
            data: loaded.origin,
            images: batch * batches,
            seed: self.seed,
            ..Calibration::new(&network.fingerprint()?, mean_sq_eps)
        };
        measured.write(&path)?;
        say(&format!(
            "E[eps_hat²] at {} time steps in {}",
            measured.mean_sq_eps.len(),
            path.display()
        ));
        if self.json {
            let made = json!({
                "command": "calibrate",
                "ddpm": env!("CARGO_PKG_VERSION"),
                "file": as_given(&path),
                "network": network_settings(&network)?,
                "time_steps": measured.mean_sq_eps.len(),
                "images": measured.images,
                "data": measured.data,
                "seed": measured.seed,
                "device": chosen.description,
                "precision": chosen.precision.to_string(),
                "seconds": started.elapsed().as_secs_f64(),
            });
            out::json(&serde_json::to_string_pretty(&made)?);
        }
        Ok(())
    }

    fn measure(
        &self,
        network: &Pretrained,
        loaded: &Loaded,
        batch: u64,
        batches: u64,
        device: Device,
    ) -> Result<Array1<f64>> {
        let config = &network.meta.config;
        let [c, h, w] = config.model.chw();
        let shape = [batch as i64, c, h, w];
        let mut order = Order::new(self.seed, loaded.store.len());
        let mut images = |k| loaded.store.batch(&order.batch(k, shape[0]), None);
        let mut noise = |k| normal(self.seed, Stream::Noise, k, &shape, device);
        // A class-conditional network is measured on all classes in turn.
        let classes = (config.model.classes())
            .map(|n| Tensor::arange(shape[0], (Kind::Int64, device)).remainder(n));
        let denoiser = |x: &Tensor, t: &Tensor| network.predict(x, t, classes.as_ref());
        let steps = Respaced::all(&Schedule::new(&config.diffusion));
        let process = Process::new(&denoiser, &steps, &config.diffusion, false);
        let bar = SampleProgress::new("measuring", steps.len() as u64 * batches);
        let mut on_batch = || bar.step();
        let measured = measure(&process, batches, &mut images, &mut noise, &mut on_batch);
        bar.finish();
        measured
    }
}
