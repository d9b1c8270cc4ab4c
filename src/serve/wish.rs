//! What the page asks for: settings in JSON, untrusted.

use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::config::RunConfig;
use crate::sample::{Classes, Guidance, Resampling, SamplerKind, SamplerOptions};

/// Most images of one job.
pub(super) const MOST_IMAGES: u64 = 16;
/// Fewest images from one seed to another.
const FEWEST_BETWEEN: u64 = 2;
/// Most steps that inpainting goes back, and most passes over a stretch.
const MOST_RESAMPLING: usize = 50;

/// A job that is asked for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Wish {
    /// The network, by its number in the server's list.
    pub network: u32,
    /// The step of its checkpoint; the newest without.
    #[serde(default)]
    pub step: Option<u64>,
    /// The raw weights instead of their average.
    #[serde(default)]
    pub raw: bool,
    /// The sampler's name.
    #[serde(serialize_with = "write_name", deserialize_with = "read_name")]
    pub sampler: SamplerKind,
    /// Reverse steps; the sampler's default without.
    #[serde(default)]
    pub steps: Option<usize>,
    /// Seed of the noise, as a number or its digits: a script in a page has no whole numbers above 2^53.
    #[serde(serialize_with = "write_digits", deserialize_with = "read_digits")]
    pub seed: u64,
    /// Images, 1 to 16.
    pub number: u64,
    /// Their class.
    #[serde(default)]
    pub class: Class,
    /// Guidance; 1 for none.
    #[serde(default = "no_guidance")]
    pub guidance: f64,
    /// What is shown after each step.
    #[serde(default)]
    pub shows: Shows,
    /// What is made.
    pub task: Task,
}

/// What is made.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Task {
    /// Images from noise.
    Sample,
    /// Images from the noise of one seed to that of another.
    Interpolate {
        /// The other seed.
        #[serde(serialize_with = "write_digits", deserialize_with = "read_digits")]
        to_seed: u64,
    },
    /// The noise of an image, and the image of that noise.
    Invert {
        /// The number of the upload.
        image: u64,
    },
    /// Variations of an image.
    Vary {
        /// The number of the upload.
        image: u64,
        /// How much noise is added, above 0 (almost the image) to 1 (noise only).
        strength: f64,
    },
    /// An image filled in where a mask is white.
    Fill {
        /// The number of the upload.
        image: u64,
        /// That of the mask, which is of the network's size.
        mask: u64,
        /// Steps in a jump back.
        jump: usize,
        /// Passes over each stretch of that many steps.
        passes: usize,
    },
}

/// The class of images.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Class {
    /// All classes in turn, for a network that has some.
    #[default]
    All,
    /// No class.
    None,
    /// This one.
    Number(i64),
}

/// What is shown after each step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Shows {
    /// The network's estimate of the image.
    #[default]
    Estimate,
    /// The image with what noise is left.
    Noisy,
}

impl Wish {
    /// Reads JSON, and checks all that does not depend on the network.
    ///
    /// # Errors
    /// JSON of another form, or numbers out of range.
    pub fn read(json: &[u8]) -> Result<Wish> {
        let wish = serde_json::from_slice::<Wish>(json).map_err(crate::text::quoting);
        let wish = wish.context("this is not the JSON of a job")?;
        ensure!(
            (1..=MOST_IMAGES).contains(&wish.number),
            "{} images: want 1 to {MOST_IMAGES}",
            wish.number
        );
        match wish.task {
            Task::Sample => {}
            Task::Invert { .. } => ensure!(
                wish.sampler == SamplerKind::Ddim && wish.number == 1,
                "inversion: want the sampler ddim, and one image"
            ),
            Task::Interpolate { .. } => ensure!(
                wish.number >= FEWEST_BETWEEN,
                "interpolation: want {FEWEST_BETWEEN} to {MOST_IMAGES} images"
            ),
            Task::Vary { strength, .. } => ensure!(
                strength > 0.0 && strength <= 1.0,
                "strength {strength}: want more than 0, to 1 (noise only)"
            ),
            Task::Fill { jump, passes, .. } => {
                ensure!(
                    (1..=MOST_RESAMPLING).contains(&jump)
                        && (1..=MOST_RESAMPLING).contains(&passes),
                    "a jump of {jump} steps and {passes} passes: want 1 to {MOST_RESAMPLING} of each"
                );
                ensure!(
                    wish.sampler == SamplerKind::Ddpm,
                    "filling in needs the sampler ddpm (RePaint)"
                );
            }
        }
        Ok(wish)
    }

    /// Checks what depends on the network, so that a job that cannot be done is refused before it waits.
    ///
    /// # Errors
    /// A sampler, a number of steps, a class or guidance that this network does not have.
    pub(super) fn check(&self, config: &RunConfig) -> Result<()> {
        let timesteps = config.diffusion.timesteps;
        if let Some(steps) = self.steps {
            ensure!(
                1 <= steps && steps as i64 <= timesteps,
                "{steps} steps: this network has T = {timesteps} time steps, want 1 to {timesteps}"
            );
        }
        ensure!(
            self.sampler != SamplerKind::Ddcm,
            "the sampler ddcm takes its noise from codebooks, and is for `ddpm sample` and `ddpm decode`"
        );
        self.guidance().check(timesteps)?;
        self.classes().of_images(&config.model, self.number)?;
        if self.is_guided() {
            ensure!(
                config.model.null_class().is_some(),
                "guidance: this network was not trained without a class now and then, so there is nothing to be guided away from"
            );
            ensure!(
                self.class != Class::None,
                "guidance: there is nothing to guide without a class"
            );
        }
        let is_one = matches!(self.task, Task::Interpolate { .. } | Task::Invert { .. });
        ensure!(
            !is_one || config.model.classes().is_none() || self.class != Class::All,
            "choose one class, as all images here are of the same"
        );
        if let Task::Interpolate { .. } = self.task
            && matches!(
                self.sampler,
                SamplerKind::Ddpm | SamplerKind::Analytic | SamplerKind::DpmPp2mSde
            )
        {
            bail!(
                "interpolation needs a sampler that adds no noise: ddim, dpmpp-2m, heun or unipc"
            );
        }
        Ok(())
    }

    pub(super) fn options(&self) -> SamplerOptions {
        SamplerOptions {
            steps: self.steps,
            ..SamplerOptions::new(self.sampler)
        }
    }

    pub(super) fn guidance(&self) -> Guidance {
        Guidance::of_scale(self.guidance)
    }

    pub(super) fn is_guided(&self) -> bool {
        !self.guidance().is_none()
    }

    pub(super) fn classes(&self) -> Classes {
        match self.class {
            Class::All => Classes::All,
            Class::None => Classes::None,
            Class::Number(class) => Classes::These(vec![class]),
        }
    }

    /// The uploads that it needs.
    pub(super) fn uploads(&self) -> Vec<u64> {
        match self.task {
            Task::Sample | Task::Interpolate { .. } => vec![],
            Task::Invert { image } | Task::Vary { image, .. } => vec![image],
            Task::Fill { image, mask, .. } => vec![image, mask],
        }
    }

    /// Images that the network sees at once.
    pub(super) fn batch(&self) -> u64 {
        match self.task {
            Task::Invert { .. } => 1,
            _ => self.number,
        }
    }
}

impl Task {
    pub(super) fn resampling(self) -> Option<Resampling> {
        match self {
            Task::Fill { jump, passes, .. } => Some(Resampling {
                jump,
                times: passes,
            }),
            _ => None,
        }
    }
}

fn no_guidance() -> f64 {
    1.0
}

fn write_name<S: Serializer>(kind: &SamplerKind, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(&kind.name())
}

fn read_name<'de, D: Deserializer<'de>>(from: D) -> Result<SamplerKind, D::Error> {
    let name = String::deserialize(from)?;
    SamplerKind::from_str(&name, false)
        .map_err(|_| serde::de::Error::custom("`sampler` is not the name of one"))
}

fn write_digits<S: Serializer>(number: &u64, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(&number.to_string())
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Digits {
    Number(u64),
    Text(String),
}

fn read_digits<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
    let number = match Digits::deserialize(from) {
        Ok(Digits::Number(number)) => Some(number),
        Ok(Digits::Text(text)) => text.parse().ok(),
        Err(_) => None,
    };
    number.ok_or_else(|| serde::de::Error::custom("a seed is not a whole number of 0 to 2^64 - 1"))
}

#[cfg(test)]
mod tests;
