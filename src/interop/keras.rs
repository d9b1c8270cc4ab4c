//! Keras-DDPM's weight files: `model.weights` and `model.ema.weights` of its three programs.
//!
//! Layers are named by kind and number in the order of creation, which is ours. A network built after
//! others in one process begins at higher numbers. Each network has its own
//! file: `ddpm` (the simplified U-Net), `ddpm2` (concatenated skips), `gau` (patches).
//!
//! The maths of the conversion is `scripts/reference/keras_weights.py`.

use anyhow::{Result, bail, ensure};

use super::Settings;
use crate::checkpoint::{Family, Origin};
use crate::config::{
    DiffusionConfig, LossKind, ModelConfig, Prediction, SampleConfig, ScheduleKind, Sigma,
};
use crate::interop::hints::Hints;
use crate::interop::keys::Keys;
use crate::interop::layout::Entry;
use crate::interop::report::Report;

mod ddpm;
mod ddpm2;
mod gau;
mod numbers;
mod poolings;
#[cfg(test)]
mod tests;
mod weights;

use weights::Weight;

/// Fixed in both programs with group norms.
const NORM_GROUPS: i64 = 32;
/// Fixed there too.
const NORM_EPS: f64 = 1e-6;
/// Widest layer that is accepted; sums and products of widths then do not overflow.
const MOST_WIDTH: i64 = 65_536;

/// One of Keras-DDPM's programs, each with a network of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Program {
    Ddpm,
    Ddpm2,
    Gau,
}

/// True for weights of a Keras-DDPM network.
pub(super) fn matches(keys: &Keys) -> bool {
    let ends = |suffix: &str| keys.iter().any(|(key, _)| key.ends_with(suffix));
    keys.any("embedding") && ends("/embeddings:0") && ends("/kernel:0")
}

/// The settings of the file; `layers` is its list of all layers, empty if it has none.
///
/// # Errors
/// Weights that do not fit together, or hints that contradict the file.
pub(super) fn infer(
    keys: &Keys,
    layers: &[String],
    hints: &Hints,
    report: &mut Report,
) -> Result<Settings> {
    let program = Program::of(keys);
    report.fact("network", program.network(), "kinds of layers");
    let (model, timesteps) = match program {
        Program::Ddpm => ddpm::infer(keys, layers, hints, report)?,
        Program::Ddpm2 => ddpm2::infer(keys, layers, hints, report)?,
        Program::Gau => gau::infer(keys, hints, report)?,
    };
    report.fact(
        "colours",
        "BGR in the file, turned into RGB",
        format!("{}, which reads images with OpenCV", program.name()),
    );
    report.fact(
        "averaging",
        "none stored: used as they are",
        format!(
            "{}, which corrects model.ema.weights before it saves them",
            program.name()
        ),
    );
    Ok(Settings {
        model,
        diffusion: program.diffusion(timesteps, hints, report)?,
        sample: program.sample(hints, report),
        origin: Origin::new(Family::KerasDdpm),
    })
}

/// Their names for our parameters, in the order of creation (a norm's beta before its gamma), with the
/// numbers that the layers in `keys` have, or those of the first network in a process if there are none.
///
/// # Errors
/// A network of another kind, or with classes; layers without numbers.
pub(super) fn layout(model: &ModelConfig, timesteps: i64, keys: &Keys) -> Result<Vec<Entry>> {
    ensure!(
        model.classes().is_none(),
        "Keras-DDPM has no networks with classes"
    );
    let weights = match model {
        ModelConfig::Unet(m) => ddpm::weights(m, timesteps, keys)?,
        ModelConfig::UnetConcat(m) => ddpm2::weights(m, timesteps, keys)?,
        ModelConfig::Gau(m) => gau::weights(m, timesteps, keys)?,
        other => bail!("Keras-DDPM has no network like {}", other.kind().name()),
    };
    Ok(weights.into_iter().map(Weight::into_entry).collect())
}

impl Program {
    /// The program whose network has these layers; `ddpm.py` by default.
    fn of(keys: &Keys) -> Program {
        if keys.any("gated_attention_unit") {
            return Program::Gau;
        }
        // ddpm2.py begins with the time embedding's two layers, E to 4 E and 4 E to 4 E. ddpm.py's first
        // two dense kernels never have 4 E rows both times: a block's time projection has E.
        let dense = |n: u64| keys.shape(&numbers::path("dense", n, "kernel:0"), 2).ok();
        let first = numbers::first_of(keys, "dense").unwrap_or(1);
        match (dense(first), dense(first.saturating_add(1))) {
            (Some(&[e, wide]), Some(second))
                if e.checked_mul(4) == Some(wide) && *second == [wide, wide] =>
            {
                Program::Ddpm2
            }
            _ => Program::Ddpm,
        }
    }

    /// The file in Keras-DDPM.
    fn name(self) -> &'static str {
        match self {
            Program::Ddpm => "ddpm.py",
            Program::Ddpm2 => "ddpm2.py",
            Program::Gau => "ddpm-gau.py",
        }
    }

    fn network(self) -> &'static str {
        match self {
            Program::Ddpm => "the simplified U-Net of ddpm.py",
            Program::Ddpm2 => "the U-Net with concatenated skips of ddpm2.py",
            Program::Gau => "the gated attention units of ddpm-gau.py",
        }
    }

    fn diffusion(
        self,
        timesteps: i64,
        hints: &Hints,
        report: &mut Report,
    ) -> Result<DiffusionConfig> {
        ensure!(
            hints.timesteps.is_none_or(|t| t == timesteps),
            "timesteps = {}: the embedding has {timesteps} rows; leave timesteps out",
            hints.timesteps.unwrap_or_default()
        );
        let name = self.name();
        if hints.schedule.is_none() {
            report.assume(format!("betas are 0.02 (t + 1) / T, fixed in {name}"));
        }
        if hints.prediction.is_none() {
            report.assume(format!(
                "it predicts the noise, and its loss is summed over the pixels, as in {name}"
            ));
        }
        Ok(DiffusionConfig {
            timesteps,
            schedule: hints.schedule.unwrap_or(ScheduleKind::KerasDdpm),
            betas: Vec::new(),
            prediction: hints.prediction.unwrap_or(Prediction::Eps),
            loss: LossKind::Sum,
        })
    }

    fn sample(self, hints: &Hints, report: &mut Report) -> SampleConfig {
        let name = self.name();
        if hints.sigma.is_none() {
            report.assume(format!(
                "reverse steps have sigma = sqrt(beta), as in {name}"
            ));
        }
        if hints.clip_x0.is_none() {
            report.assume(format!(
                "x_0 is not clipped, and the last step adds noise too, as in {name}"
            ));
        }
        SampleConfig {
            sigma: hints.sigma.unwrap_or(Sigma::Beta),
            clip_x0: hints.clip_x0.unwrap_or(false),
            last_noise: true,
            images: 16,
            every_steps: 0,
        }
    }
}

/// Reports the fixed settings of the two programs with group norms.
fn assume_groups(program: Program, report: &mut Report) {
    report.assume(format!(
        "norms have {NORM_GROUPS} groups, interleaved, and eps {NORM_EPS:e}, fixed in {}",
        program.name()
    ));
}

/// The side of the square images, in pixels: no weight depends on it, so a hint must give it; none if the
/// hint is missing.
fn image_side(about: &str, hints: &Hints, report: &mut Report) -> Result<Option<i64>> {
    let (height, width) = report.need(&hints.image_size, "--image-size N", about, (0, 0));
    if hints.image_size.is_none() {
        return Ok(None);
    }
    ensure!(
        height == width && height > 0,
        "image_size = {height}×{width}: Keras-DDPM's images are square"
    );
    Ok(Some(height))
}

/// The colours of an image, from a U-Net's first convolution.
fn colours(channels: i64) -> Result<i64> {
    ensure!(
        channels == 1 || channels == 3,
        "images of {channels} channels, want 3 (BGR) or 1"
    );
    Ok(channels)
}

/// Checks a U-Net's width: a multiple of `unit`, within bounds.
fn check_width(width: i64, unit: i64, what: &str) -> Result<()> {
    ensure!(
        width > 0 && width % unit == 0 && width <= MOST_WIDTH,
        "{what} is {width} channels wide, want a multiple of {unit} up to {MOST_WIDTH}"
    );
    Ok(())
}
