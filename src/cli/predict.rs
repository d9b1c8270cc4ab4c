//! `ddpm predict`: the bare network, for checking parity with other code.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use clap::Args;
use tch::{Device, Kind, Tensor};

use super::compute::ComputeArgs;
use super::network::Network;
use crate::checkpoint::{Which, safetensors};
use crate::config::RunConfig;

/// Run the bare network on given x and t: no scaling, no clipping.
///
/// The input holds `x` [N, C, H, W] f32 and `t` [N] i64 (0-based); the output file gets `out`, the
/// network's net(x, t). Products are computed in full f32 unless --precision says otherwise.
#[derive(Debug, Args)]
pub(super) struct PredictCommand {
    /// Checkpoint, weights file, or run folder
    checkpoint: PathBuf,
    /// File with `x` and `t`
    #[arg(long, value_name = "IN.safetensors")]
    input: PathBuf,
    /// File to write `out` to
    #[arg(long, value_name = "OUT.safetensors")]
    output: PathBuf,
    /// Raw weights instead of their average
    #[arg(long)]
    raw: bool,
    #[command(flatten)]
    compute: ComputeArgs,
}

impl PredictCommand {
    pub(super) fn run(&self) -> Result<()> {
        let chosen = self.compute.choose_exact()?;
        let which = if self.raw { Which::Raw } else { Which::Ema };
        let network = Network::load(&self.checkpoint, which, chosen.device)?;
        let input = safetensors::open(&self.input)?;
        let tensor = |name: &str| {
            let found = input.tensors.iter().find(|(n, _)| n == name);
            found
                .map(|(_, t)| t)
                .with_context(|| format!("{} holds no tensor `{name}`", self.input.display()))
        };
        let (x, t) = (tensor("x")?, tensor("t")?);
        check(x, t, &network.meta.config)
            .with_context(|| format!("cannot use {}", self.input.display()))?;
        let out = network.predict(&x.to_device(chosen.device), &t.to_device(chosen.device));
        let about = (
            "ddpm-predict".to_owned(),
            format!("{which} weights of step {}", network.meta.step),
        );
        safetensors::write(
            &self.output,
            about,
            &[("out".to_owned(), out.to_device(Device::Cpu))],
        )
    }
}

fn check(x: &Tensor, t: &Tensor, config: &RunConfig) -> Result<()> {
    let m = &config.model;
    let size = x.size();
    ensure!(
        x.kind() == Kind::Float && size.len() == 4 && size[0] > 0,
        "x is {:?} {size:?}, want f32 [N, C, H, W]",
        x.kind()
    );
    ensure!(
        size[1] == m.channels,
        "x has {} channels, this model wants {}",
        size[1],
        m.channels
    );
    let factor = m.size_factor();
    ensure!(
        size[2] > 0 && size[3] > 0 && size[2] % factor == 0 && size[3] % factor == 0,
        "x is {}x{} pixels, this model wants multiples of {factor} and was trained at {}x{}",
        size[2],
        size[3],
        m.height,
        m.width
    );
    ensure!(
        t.kind() == Kind::Int64 && t.size() == [size[0]],
        "t is {:?} {:?}, want i64 [{}]",
        t.kind(),
        t.size(),
        size[0]
    );
    let (low, high) = (i64::try_from(t.min())?, i64::try_from(t.max())?);
    ensure!(
        low >= 0 && high < config.diffusion.timesteps,
        "t runs from {low} to {high}, want 0 to {} (0-based)",
        config.diffusion.timesteps - 1
    );
    Ok(())
}
