//! `ddpm export`.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail, ensure};
use clap::Args;
use tch::Device;

use super::args::foreign::{ForeignArgs, SamplerHints};
use super::args::load::weights_line;
use super::args::run::run_or_latest;
use super::findings;
use super::out::say;
use super::outputs::{ForceArg, Outputs};
use crate::checkpoint::{Contents, Family, Meta, Weights, write_checkpoint};
use crate::interop::{Foreign, Uses, write_family_pt, write_family_safetensors, write_pipeline};

/// Write a model's weights for PyTorch or for other programs.
///
/// A .pt file loads with torch.load(weights_only=True) and load_state_dict(strict=True): into the network of the
/// program that the weights were imported from, else into the one in scripts/reference/ (the network with
/// attention: into diffusers' UNet2DModel, whose names it has). A .safetensors file keeps the model's settings, so
/// that `ddpm sample` accepts it. A folder becomes a diffusers pipeline for DDPMPipeline.from_pretrained.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  ddpm export runs/NAME --to model.pt                a state_dict for PyTorch
  ddpm export runs/NAME --to model.safetensors       weights and settings, for `ddpm sample`
  ddpm export runs/NAME --to pipeline                a folder for diffusers
  ddpm export model.pt --to out.pt --layout openai   from one program's layout to another's")]
pub(super) struct ExportCommand {
    /// Run folder, checkpoint, weights file, or any file that `import` accepts
    #[arg(value_parser = run_or_latest())]
    checkpoint: PathBuf,
    /// File to write (.pt, .pth, .bin, .ckpt or .safetensors), or new folder
    #[arg(long, value_name = "FILE|DIR")]
    to: PathBuf,
    #[command(flatten)]
    force: ForceArg,
    /// Program whose names and layout to write [default: the one the weights came from; ddpm for .safetensors]
    #[arg(long, value_enum)]
    layout: Option<Family>,
    /// Export the raw weights instead of their EMA
    #[arg(long)]
    raw: bool,
    #[command(flatten)]
    foreign: ForeignArgs,
    #[command(flatten)]
    sampler: SamplerHints,
}

impl ExportCommand {
    pub(super) fn run(&self) -> Result<()> {
        let form = self.form()?;
        self.check_outputs(form)?;
        let uses = self.uses();
        let request = self.foreign.request(self.raw, self.sampler, uses)?;
        let network = findings::load(&self.checkpoint, &request, Device::Cpu)?;
        let weights = network.state_dict();
        let meta = &network.meta;
        let origin = match meta.origin.as_ref().map(|o| o.family) {
            // Keras' HDF5 files are not written.
            None | Some(Family::KerasDdpm) => Family::Ddpm,
            Some(family) => family,
        };
        let to = self.to.as_path();
        match form {
            Form::Safetensors => match self.layout {
                None | Some(Family::Ddpm) => {
                    write_checkpoint(to, &of_weights(meta, request.which()), &weights)?;
                }
                Some(family) => write_family_safetensors(to, family, meta, &weights)?,
            },
            Form::Pt => {
                let family = self.layout.unwrap_or(origin);
                write_family_pt(to, family, meta, &weights)?;
                say(&format!("in the layout of {family}"));
            }
            Form::Pipeline => {
                for note in write_pipeline(to, meta, &weights)? {
                    say(&format!("note: {note}"));
                }
            }
        }
        let weights = weights_line(&network, request.which(), &self.checkpoint);
        say(&format!("{weights} in {}", to.display()));
        Ok(())
    }

    /// What --to asks for by its ending.
    fn form(&self) -> Result<Form> {
        let to = self.to.as_path();
        match to.extension().and_then(|e| e.to_str()) {
            Some("safetensors") => Ok(Form::Safetensors),
            Some("pt" | "pth" | "bin" | "ckpt") => Ok(Form::Pt),
            None if wants_folder(to) => {
                ensure!(
                    self.layout.is_none_or(|l| l == Family::Diffusers),
                    "--to {}: a folder is a diffusers pipeline; for another --layout name a .pt file",
                    to.display()
                );
                Ok(Form::Pipeline)
            }
            _ => bail!(
                "--to {}: want a name ending in .pt, .pth, .bin, .ckpt or .safetensors, or a new folder for a diffusers pipeline",
                to.display()
            ),
        }
    }

    /// What is written: all settings, or the network alone; lucidrains' files hold their betas too.
    fn uses(&self) -> Uses {
        let extension = self.to.extension().and_then(|e| e.to_str());
        let state_dict = match extension {
            Some("pt" | "pth" | "bin" | "ckpt") => true,
            Some("safetensors") => self.layout.is_some_and(|family| family != Family::Ddpm),
            _ => false,
        };
        if !state_dict {
            return Uses::ALL;
        }
        let request = self.foreign.request(self.raw, self.sampler, Uses::NETWORK);
        let family = self.layout.or_else(|| {
            let foreign = Foreign::examine(&self.checkpoint, &request.ok()?).ok()?;
            Some(foreign.family)
        });
        let betas = family == Some(Family::Lucidrains);
        Uses {
            schedule: betas,
            timesteps: betas,
            prediction: betas,
            ..Uses::NETWORK
        }
    }

    fn check_outputs(&self, form: Form) -> Result<()> {
        let mut outputs = Outputs::new(self.force);
        outputs.reads([&self.checkpoint].into_iter().chain(self.foreign.file()));
        match form {
            Form::Safetensors => outputs.writes("--to", &self.to, &["safetensors"], None),
            Form::Pt => outputs.writes("--to", &self.to, &["pt", "pth", "bin", "ckpt"], None),
            Form::Pipeline => outputs.makes_folder("--to", &self.to),
        }
        outputs.check()
    }
}

/// Kind of file or folder to write.
#[derive(Debug, Clone, Copy)]
enum Form {
    Safetensors,
    Pt,
    Pipeline,
}

fn wants_folder(to: &Path) -> bool {
    to.is_dir() || !to.exists()
}

/// Metadata of a file that holds these weights only.
fn of_weights(meta: &Meta, which: Weights) -> Meta {
    let contents = match (meta.contents, which) {
        (Contents::Training, Weights::Ema) => Contents::EmaWeights,
        (Contents::Training, Weights::Raw) => Contents::RawWeights,
        (weights_only, _) => weights_only,
    };
    Meta {
        contents,
        ..meta.clone()
    }
}
