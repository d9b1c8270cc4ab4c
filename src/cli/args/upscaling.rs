//! How images are made larger.

use anyhow::{Result, bail};
use clap::Args;

use super::sampler::SamplerArgs;
use crate::cli::out::say;
use crate::pretrained::{Guided, Upscaler, network_settings, sampler_settings};
use crate::report::StageSettings;
use crate::sample::SamplerKind;

/// The sampler that makes images larger without --sampler: a thousand steps for each tile would take long.
pub(in crate::cli) const UPSCALING_SAMPLER: SamplerKind = SamplerKind::DpmPp2m;

/// Tiles, and noise on what is made larger.
#[derive(Debug, Clone, Copy, Default, Args)]
#[command(next_help_heading = "Upscaling")]
pub(in crate::cli) struct UpscalingArgs {
    /// Largest side of a tile, in pixels of the large image [default: the size that the upscaler was trained on]
    ///
    /// An image that is larger than that is made in overlapping tiles, which are blended at each step of the sampler. A
    /// larger tile takes more memory, and shows the network more than it has ever seen at once.
    #[arg(long, value_name = "PIXELS", allow_negative_numbers = true)]
    tile: Option<i64>,
    /// Noise on the small images, from 0 to below 1, as in training: hides their faults, such as those of a network that made
    /// them [default: 0]
    #[arg(long, value_name = "SHARE", allow_negative_numbers = true)]
    condition_noise: Option<f64>,
}

impl UpscalingArgs {
    /// True if a flag is given.
    pub(in crate::cli) fn given(&self) -> bool {
        self.tile.is_some() || self.condition_noise.is_some()
    }

    /// A network that makes images larger with these flags, for the files that hold them.
    ///
    /// # Errors
    /// Weights that are not f32.
    pub(in crate::cli) fn settings(
        &self,
        upscaler: &Upscaler,
        sampler: &SamplerArgs,
    ) -> Result<StageSettings> {
        let options = sampler.options(UPSCALING_SAMPLER);
        Ok(StageSettings {
            network: network_settings(upscaler.guided().network())?,
            sampler: sampler_settings(&options, upscaler.sampler()),
            condition_noise: upscaler.noise(),
            tile: self.tile,
        })
    }

    /// The upscaler of a network, with the sampler of these flags; `tells` what is doubtful.
    ///
    /// # Errors
    /// A network that makes images from noise alone; flags that it cannot have.
    pub(in crate::cli) fn upscaler<'a>(
        &self,
        guided: Guided<'a>,
        sampler: &SamplerArgs,
        tells: bool,
    ) -> Result<Upscaler<'a>> {
        let network = guided.network();
        let measured = || {
            bail!(
                "--sampler analytic needs measurements that `ddpm calibrate` makes, which are not made of networks that make \
                 images larger; choose another sampler"
            )
        };
        let sampler = sampler.choose(network.config(), UPSCALING_SAMPLER, measured)?;
        let mut upscaler = Upscaler::new(guided, sampler)?;
        if let Some(side) = self.tile {
            upscaler = upscaler.with_tile(side)?;
        }
        if let Some(share) = self.condition_noise {
            upscaler = upscaler.with_noise(share)?;
            let known = network.config().upscale.as_ref().map_or(0.0, |u| u.noise);
            if share > known && tells {
                say(&format!(
                    "note: --condition-noise {share} is more than the {known} that this network was trained with"
                ));
            }
        }
        Ok(upscaler)
    }
}
