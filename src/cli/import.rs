//! `ddpm import`.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use clap::Args;

use super::settings::read_config;
use crate::checkpoint::{Contents, Meta, read_state_dict, write_checkpoint};
use crate::config::Preset;
use crate::model::{UNet, load_state_dict};

/// Turn a plain state_dict back into a model that knows its settings.
///
/// The keys and shapes must be those of the network that the settings describe; every missing,
/// unexpected and mis-shaped key is named otherwise. A pickle can run nothing here.
#[derive(Debug, Args)]
pub(super) struct ImportCommand {
    /// state_dict: .pt, .pth, .bin, .ckpt (torch.save, any version) or .safetensors
    file: PathBuf,
    /// Settings of the model, as config.toml of a run has them; what it leaves out is as in the
    /// preset it names, or celebahq128
    #[arg(long, value_name = "FILE.toml")]
    config: PathBuf,
    /// File to write
    #[arg(long, value_name = "FILE.safetensors")]
    to: PathBuf,
}

impl ImportCommand {
    pub(super) fn run(&self) -> Result<()> {
        ensure!(
            self.to.extension().is_some_and(|e| e == "safetensors"),
            "--to {}: want a name ending in .safetensors",
            self.to.display()
        );
        let config = read_config(&self.config, Preset::Celebahq128)?;
        config.validate()?;
        let state_dict = read_state_dict(&self.file)?;
        let net = UNet::new(&config.model, config.diffusion.timesteps, 0);
        let params = net.params();
        load_state_dict(&params, &state_dict).with_context(|| {
            format!(
                "{} does not fit the settings in {}",
                self.file.display(),
                self.config.display()
            )
        })?;
        let weights: Vec<_> = params.into_iter().map(|p| (p.name, p.tensor)).collect();
        write_checkpoint(&self.to, &Meta::new(Contents::Weights, &config), &weights)?;
        eprintln!("{} tensors in {}", weights.len(), self.to.display());
        Ok(())
    }
}
