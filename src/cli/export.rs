//! `ddpm export`.

use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::Args;
use tch::Device;

use super::network::Network;
use crate::checkpoint::{Contents, Meta, Which, write_checkpoint, write_state_dict};

/// Write a model's weights as a plain state_dict, for PyTorch or for others.
///
/// A .pt file loads with torch.load(weights_only=True) and load_state_dict(strict=True) into the
/// network in scripts/reference/. A .safetensors file also keeps the model's settings, so that
/// `ddpm sample` takes it.
#[derive(Debug, Args)]
pub(super) struct ExportCommand {
    /// Checkpoint or run folder
    checkpoint: PathBuf,
    /// File to write: .pt, .pth, .bin, .ckpt, or .safetensors
    #[arg(long, value_name = "FILE")]
    to: PathBuf,
    /// Raw weights instead of their average
    #[arg(long)]
    raw: bool,
}

impl ExportCommand {
    pub(super) fn run(&self) -> Result<()> {
        let which = if self.raw { Which::Raw } else { Which::Ema };
        let network = Network::load(&self.checkpoint, which, Device::Cpu)?;
        let weights = network.state_dict();
        let meta = &network.meta;
        match self.to.extension().and_then(|e| e.to_str()) {
            Some("safetensors") => {
                let contents = match (meta.contents, which) {
                    (Contents::Training, Which::Ema) => Contents::EmaWeights,
                    (Contents::Training, Which::Raw) => Contents::RawWeights,
                    (weights_only, _) => weights_only,
                };
                let meta = Meta {
                    contents,
                    ..meta.clone()
                };
                write_checkpoint(&self.to, &meta, &weights)?;
            }
            Some("pt" | "pth" | "bin" | "ckpt") => write_state_dict(&self.to, &weights)?,
            _ => bail!(
                "--to {}: want a name ending in .pt, .pth, .bin, .ckpt or .safetensors",
                self.to.display()
            ),
        }
        eprintln!(
            "{which} weights of step {} in {}",
            meta.step,
            self.to.display()
        );
        Ok(())
    }
}
