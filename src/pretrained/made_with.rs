//! What images were made with, for the files that hold them: the network and the sampler.

use anyhow::Result;
use clap::ValueEnum;

use super::Pretrained;
use crate::checkpoint::Weights;
use crate::report::{NetworkSettings, SamplerSettings};
use crate::sample::{ChosenSampler, Sampler, SamplerOptions};

/// The name of a network's file, and what tells it from others.
///
/// # Errors
/// Weights that are not f32.
pub(crate) fn network_settings(network: &Pretrained) -> Result<NetworkSettings> {
    let file = network.path.file_name().unwrap_or_default();
    Ok(NetworkSettings {
        file: file.to_string_lossy().into_owned(),
        step: Some(network.meta.step).filter(|step| *step > 0),
        weights: match network.which {
            Weights::Ema => "ema".to_owned(),
            Weights::Raw => "raw".to_owned(),
        },
        fingerprint: network.fingerprint()?.to_hex().to_string(),
    })
}

/// A sampler as it was chosen by `options`, before an image to start from cuts its steps down.
pub(crate) fn sampler_settings(
    options: &SamplerOptions,
    chosen: &ChosenSampler,
) -> SamplerSettings {
    let is_counted = options.stride.is_none() && options.times.is_none();
    let spacing = (options.steps.or(options.kind.default_steps()))
        .filter(|_| is_counted)
        .map(|_| options.spacing.unwrap_or(options.kind.default_spacing()));
    let (mut eta, mut order, mut sigma) = (None, None, None);
    match &chosen.sampler {
        Sampler::Ddpm(ddpm) => sigma = Some(name_of(&ddpm.sigma)),
        Sampler::Ddim(ddim) => eta = Some(ddim.eta),
        Sampler::UniPc(_) => order = Some(options.order.unwrap_or(2) as u64),
        Sampler::DpmSolver(_) | Sampler::Heun => {}
    }
    let times = options.times.as_ref();
    SamplerSettings {
        name: chosen.kind.name(),
        steps: chosen.steps.len() as u64,
        spacing: spacing.map(|spacing| name_of(&spacing)),
        stride: options.stride.map(|stride| stride as u64),
        times: times.map(|times| times.iter().map(|t| *t as u64).collect()),
        eta,
        order,
        sigma,
        clip_x0: chosen.clip_x0,
    }
}

/// A choice as the command line names it.
pub(crate) fn name_of(choice: &impl ValueEnum) -> String {
    let value = choice.to_possible_value();
    value.map_or_else(String::new, |value| value.get_name().to_owned())
}
