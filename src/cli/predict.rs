//! `ddpm predict`: the bare network, to check parity with other code.

use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use tch::{Device, Kind, Tensor};

use super::args::foreign::SamplerHints;
use super::args::load::LoadArgs;
use super::outputs::{ForceArg, Outputs, path_or_stdout};
use crate::config::RunConfig;
use crate::formats::safetensors;
use crate::interop::Uses;
use crate::text::plural;

/// Run the bare network on given x and t, without scaling or clipping.
///
/// The input holds `x` [N, C, H, W] f32, `t` [N] i64 (0-based), and `classes` [N] i64 for class-conditional
/// networks, where the number after the last class means "no class" if the network has that; for a network that makes
/// images larger, x has the channels of the enlarged image behind those of x_t; the output holds `out`, the network's
/// net(x, t). Products are computed in full f32 unless --precision is given.
#[derive(Debug, Args)]
pub(super) struct PredictCommand {
    /// File with `x` and `t`
    #[arg(long, value_name = "IN.safetensors")]
    input: PathBuf,
    /// File to write `out` to
    #[arg(long, value_name = "OUT.safetensors", value_parser = path_or_stdout())]
    output: PathBuf,
    #[command(flatten)]
    force: ForceArg,
    #[command(flatten)]
    load: LoadArgs,
    #[command(flatten)]
    sampler: SamplerHints,
}

impl PredictCommand {
    pub(super) fn run(&self) -> Result<()> {
        let mut outputs = Outputs::new(self.force);
        outputs.reads(self.load.files().chain([&self.input]));
        outputs.writes("--output", &self.output, &["safetensors"], None);
        outputs.check()?;
        let (network, chosen) = self.load.load_exact(self.sampler, Uses::NETWORK)?;
        let input = safetensors::open(&self.input)?;
        let tensor = |name: &str| {
            let found = input.tensors.iter().find(|(n, _)| n == name);
            found
                .map(|(_, t)| t)
                .with_context(|| format!("{} holds no tensor `{name}`", self.input.display()))
        };
        let (x, t) = (tensor("x")?, tensor("t")?);
        let cannot = || format!("cannot use {}", self.input.display());
        check(x, t, &network.meta.config).with_context(cannot)?;
        let classes = match network.meta.config.model.class_rows() {
            None => None,
            Some(known) => {
                let classes = tensor("classes")?;
                let most = network.meta.config.model.null_class().unwrap_or(known - 1);
                check_classes(classes, x.size()[0], most).with_context(cannot)?;
                Some(classes.to_device(chosen.device))
            }
        };
        let out = network.predict(
            &x.to_device(chosen.device),
            &t.to_device(chosen.device),
            classes.as_ref(),
        );
        refuse_not_finite(&out, t)?;
        let about = (
            "ddpm-predict".to_owned(),
            format!(
                "{} weights of step {}",
                self.load.which(),
                network.meta.step
            ),
        );
        safetensors::write(
            &self.output,
            about,
            &[("out".to_owned(), out.to_device(Device::Cpu))],
        )
    }
}

/// Refuses an output with values that are NaN or infinite, and names the first image and its time step.
fn refuse_not_finite(out: &Tensor, t: &Tensor) -> Result<()> {
    let finite = out.isfinite().flatten(1, -1).all_dim(1, false);
    let finite = Vec::<bool>::try_from(finite.to_device(Device::Cpu))?;
    if let Some(first) = finite.iter().position(|finite| !finite) {
        bail!(
            "the network's output is not finite (NaN or infinite) for image {first}, at time step {}; are all values \
             of `x` finite? In bf16 values may also overflow: try --precision f32",
            t.int64_value(&[first as i64])
        );
    }
    Ok(())
}

fn check(x: &Tensor, t: &Tensor, config: &RunConfig) -> Result<()> {
    let channels = config.model.input_channels();
    let size = x.size();
    ensure!(
        x.kind() == Kind::Float && size.len() == 4 && size[0] > 0,
        "x is {:?} {size:?}, want f32 [N, C, H, W]",
        x.kind()
    );
    ensure!(
        size[1] == channels,
        "x has {}, want {channels} for this model",
        plural(size[1] as u64, "channel")
    );
    let factor = config.model.size_factor();
    ensure!(
        size[2] > 0 && size[3] > 0 && size[2] % factor == 0 && size[3] % factor == 0,
        "x is {}x{} pixels, want multiples of {factor} for this model",
        size[2],
        size[3]
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

fn check_classes(classes: &Tensor, images: i64, most: i64) -> Result<()> {
    ensure!(
        classes.kind() == Kind::Int64 && classes.size() == [images],
        "classes is {:?} {:?}, want i64 [{images}]",
        classes.kind(),
        classes.size()
    );
    let (low, high) = (i64::try_from(classes.min())?, i64::try_from(classes.max())?);
    ensure!(
        low >= 0 && high <= most,
        "classes run from {low} to {high}, want 0 to {most}"
    );
    Ok(())
}
