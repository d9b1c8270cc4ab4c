//! `ddpm import`.

use std::path::PathBuf;

use anyhow::{Result, ensure};
use clap::Args;

use super::args::foreign::{ForeignArgs, SamplerHints};
use super::findings::ours;
use super::findings::tell;
use super::out::say;
use super::outputs::{ForceArg, Outputs, path_or_stdout};
use crate::checkpoint::write_checkpoint;
use crate::interop::{Foreign, Uses};
use crate::text::plural;

/// Convert another program's checkpoint to a weights file that contains its settings.
///
/// Recognised by content: diffusers UNet2DModel (pipeline, folder or file), OpenAI improved-diffusion
/// and guided-diffusion, pesser/pytorch_diffusion, w86763777/pytorch-ddpm, lucidrains'
/// denoising-diffusion-pytorch (1.9 and later), Keras-DDPM's three networks (HDF5), and state_dicts
/// with this program's own names (with --config). Code in a file is never run. Settings that were found or assumed
/// are printed; the error for a missing one names its flag. Without --to, nothing is written.
///
/// `sample`, `predict`, `export` and others accept such files directly, with the same flags, and ask only for what they
/// need; `train --init-from` accepts those that need none.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  ddpm import model.pt                        what it holds, and which hints it needs
  ddpm import model.pt --known improved-cifar10 --to model.safetensors
  ddpm import ddpm-cifar10-32 --to model.safetensors                   a diffusers folder")]
pub(super) struct ImportCommand {
    /// File or folder: .pt, .pth, .ckpt, .bin, .safetensors, .weights, a diffusers folder, …
    file: PathBuf,
    /// File to write
    #[arg(long, value_name = "FILE.safetensors", value_parser = path_or_stdout())]
    to: Option<PathBuf>,
    #[command(flatten)]
    force: ForceArg,
    /// Import the raw weights instead of their EMA, if the file has both
    #[arg(long)]
    raw: bool,
    #[command(flatten)]
    foreign: ForeignArgs,
    #[command(flatten)]
    sampler: SamplerHints,
}

impl ImportCommand {
    pub(super) fn run(&self) -> Result<()> {
        let mut outputs = Outputs::new(self.force);
        outputs.reads([&self.file].into_iter().chain(self.foreign.file()));
        if let Some(to) = &self.to {
            outputs.writes("--to", to, &["safetensors"], None);
        }
        outputs.check()?;
        ensure!(
            ours(&self.file)?.is_none(),
            "{} is of this program and needs no import; use it as it is, or `ddpm export` for its weights alone",
            self.file.display()
        );
        let request = self.foreign.request(self.raw, self.sampler, Uses::ALL)?;
        let foreign = Foreign::examine(&self.file, &request)?;
        say(&format!("{}: {}", self.file.display(), foreign.family));
        tell(&foreign.report);
        let meta = foreign.meta()?;
        let net = foreign.network()?;
        let weights: Vec<_> = net
            .params()
            .into_iter()
            .map(|p| (p.name, p.tensor))
            .collect();
        let values: usize = weights.iter().map(|(_, t)| t.numel()).sum();
        match &self.to {
            None => say(&format!(
                "{}, {values} values fit; write them with --to",
                plural(weights.len() as u64, "tensor")
            )),
            Some(to) => {
                write_checkpoint(to, &meta, &weights)?;
                say(&format!(
                    "{}, {values} values in {}",
                    plural(weights.len() as u64, "tensor"),
                    to.display()
                ));
            }
        }
        Ok(())
    }
}
