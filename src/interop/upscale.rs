//! How a network that is given an image beside x_t makes it larger, which no file says.

use anyhow::{Result, ensure};

use super::hints::Hints;
use super::report::Report;
use super::settings::{Settings, spelled};
use crate::checkpoint::Family;
use crate::config::{Interpolation, UpscaleConfig};

/// The factor of most published networks of super-resolution.
const USUAL_FACTOR: i64 = 4;

/// What is given, or assumed and reported; `None` for a network that makes images from noise alone.
///
/// # Errors
/// A hint about a network without.
pub(super) fn of(
    settings: &Settings,
    hints: &Hints,
    report: &mut Report,
) -> Result<Option<UpscaleConfig>> {
    if settings.model.condition_channels().is_none() {
        ensure!(
            hints.upscale.is_none(),
            "`hints.upscale`: this network is given no image beside x_t, to make it larger; leave it out"
        );
        return Ok(None);
    }
    let factor = hints.upscale.unwrap_or(USUAL_FACTOR);
    if hints.upscale.is_none() {
        report.assume(format!(
            "it makes images {factor} times as high and wide; `hints.upscale` says otherwise"
        ));
    }
    // OpenAI's code, `SuperResModel`; others have no code of their own for it.
    let interpolation = match settings.origin.family {
        Family::Openai => Interpolation::Bilinear,
        _ => Interpolation::Bicubic,
    };
    report.assume(format!(
        "the small image is brought to the size of the large one by {} interpolation",
        spelled(&interpolation)
    ));
    Ok(Some(UpscaleConfig {
        factor,
        noise: 0.0,
        interpolation,
    }))
}
