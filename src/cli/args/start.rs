//! Flags for sampling that starts from an image instead of noise.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use tch::Device;

use super::image_in::{read_image, read_mask};
use crate::cli::made_with::as_given;
use crate::cli::out::detail;
use crate::config::RunConfig;
use crate::data::upright_size;
use crate::report::StartSettings;
use crate::sample::{Inpaint, Resampling, Respaced, StartFrom};
use crate::text;

/// Noise that is added to an image without --strength.
const STRENGTH: f64 = 0.5;

/// An image to start from, and its mask.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "From an image")]
pub(in crate::cli) struct StartArgs {
    /// Image to start from, cropped and resized as in training
    #[arg(long, value_name = "FILE")]
    init_image: Option<PathBuf>,
    /// Noise added, above 0 (almost the image) to 1 (noise only) [default: 0.5]
    #[arg(
        long,
        value_name = "S",
        requires = "init_image",
        conflicts_with = "mask",
        allow_negative_numbers = true
    )]
    strength: Option<f64>,
    /// Inpaint where this image is white (RePaint; --sampler ddpm only)
    ///
    /// It must have the size of --init-image.
    #[arg(long, value_name = "FILE", requires = "init_image")]
    mask: Option<PathBuf>,
    /// With --mask: number of steps in a jump back
    #[arg(long, default_value_t = 10, value_name = "N", requires = "mask", value_parser = clap::value_parser!(u16).range(1..), hide_short_help = true)]
    jump: u16,
    /// With --mask: number of passes over each stretch of --jump steps; 1 for no jumps back
    #[arg(long, default_value_t = 10, value_name = "N", requires = "mask", value_parser = clap::value_parser!(u16).range(1..), hide_short_help = true)]
    resample: u16,
}

impl StartArgs {
    /// The files that are read.
    pub(in crate::cli) fn files(&self) -> impl Iterator<Item = &PathBuf> {
        self.init_image.iter().chain(&self.mask)
    }

    /// The image and what is done with it, for the files that are made of it.
    pub(in crate::cli) fn settings(&self) -> Option<StartSettings> {
        let image = as_given(self.init_image.as_ref()?);
        let passes = |number: u16| self.mask.is_some().then_some(u64::from(number));
        Some(StartSettings {
            image,
            strength: (self.mask.is_none()).then(|| self.strength.unwrap_or(STRENGTH)),
            mask: self.mask.as_deref().map(as_given),
            jump: passes(self.jump),
            resample: passes(self.resample),
        })
    }

    /// Reads the images, and cuts `steps` down to the steps that are needed.
    ///
    /// # Errors
    /// Files that are not images, a mask of another size, a strength that leaves no step to run.
    pub(in crate::cli) fn start(
        &self,
        config: &RunConfig,
        steps: &mut Respaced,
        device: Device,
    ) -> Result<StartFrom> {
        let Some(path) = &self.init_image else {
            return Ok(StartFrom::Noise);
        };
        let x_0 = read_image(path, &config.model, &config.data)?.to_device(device);
        (self.files()).for_each(|file| detail(&format!("reading {}", text::path(file))));
        if let Some(mask) = &self.mask {
            refuse_other_size(mask, path)?;
            let unknown = read_mask(mask, &config.model, &config.data)?;
            let resampling = Resampling {
                jump: self.jump.into(),
                times: self.resample.into(),
            };
            return Ok(StartFrom::Part(Inpaint { x_0, unknown }, resampling));
        }
        let strength = self.strength.unwrap_or(STRENGTH);
        ensure!(
            strength != 0.0,
            "--strength 0 leaves no step to run and the image as it is; want 0 < S <= 1 (noise only)"
        );
        ensure!(
            strength > 0.0 && strength <= 1.0,
            "--strength {strength}: want 0 < S <= 1 (noise only)"
        );
        let timesteps = config.diffusion.timesteps;
        let Some(walked) = steps.up_to(strength, timesteps) else {
            let least = steps.times[0];
            bail!(
                "--strength {strength} leaves no step to run: the least noisy visited time step is t = {least} of T = \
                 {timesteps}; raise --strength above {}, or visit more time steps (--steps)",
                least as f64 / timesteps as f64
            );
        };
        *steps = walked;
        Ok(StartFrom::Image(x_0))
    }
}

/// Both are cropped alike, so they must have the same size.
fn refuse_other_size(mask: &Path, image: &Path) -> Result<()> {
    let size = |path: &Path| {
        upright_size(path).with_context(|| format!("cannot use image {}", path.display()))
    };
    let ((mask_height, mask_width), (height, width)) = (size(mask)?, size(image)?);
    ensure!(
        (mask_height, mask_width) == (height, width),
        "--mask {} has {mask_width}x{mask_height} pixels, and {} has {width}x{height}; want a mask of the same size",
        mask.display(),
        image.display()
    );
    Ok(())
}
