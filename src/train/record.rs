//! The record of one step: written for a bad step, and recomputed by `ddpm replay`.

use std::fmt;
use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use tch::Tensor;

use super::Trainer;
use crate::data::Loaded;
use crate::fs::{read_text, write_bytes};
use crate::optim::norms_of;
use crate::report::StepMetrics;
use crate::text::quoting;

/// Bins of the histogram over t.
const BINS: i64 = 10;

/// Largest record that is read; each image of the batch and each parameter takes about 100 bytes.
const MAX_BYTES: u64 = 64 << 20;

/// A number that JSON may not be able to hold: NaN and infinities become words.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(into = "Text", try_from = "Text")]
pub struct Number(pub f64);

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Text {
    Finite(f64),
    Word(String),
}

impl From<Number> for Text {
    fn from(Number(value): Number) -> Text {
        if value.is_finite() {
            Text::Finite(value)
        } else {
            Text::Word(value.to_string())
        }
    }
}

impl TryFrom<Text> for Number {
    type Error = std::num::ParseFloatError;

    fn try_from(text: Text) -> Result<Number, Self::Error> {
        match text {
            Text::Finite(value) => Ok(Number(value)),
            Text::Word(word) => word.parse().map(Number),
        }
    }
}

impl PartialEq for Number {
    /// Equal bits; all NaNs are equal.
    fn eq(&self, other: &Number) -> bool {
        self.0.to_bits() == other.0.to_bits() || (self.0.is_nan() && other.0.is_nan())
    }
}

/// An image of the batch.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ImageOfBatch {
    /// Index in the data set.
    pub number: i64,
    /// File name, or the name of a built-in image.
    pub name: String,
    /// True if it was mirrored.
    pub mirrored: bool,
    /// Time step.
    pub t: i64,
}

/// The gradient of one parameter.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ParameterGradient {
    /// `state_dict` key.
    pub name: String,
    /// L2 norm.
    pub norm: Number,
}

/// The numbers, images and gradients of one step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StepRecord {
    /// Number of the step, from 1.
    pub step: u64,
    /// Loss of the batch.
    pub loss: Number,
    /// L2 norm of all gradients, before clipping.
    pub grad_norm: Number,
    /// Running geometric means of both.
    pub usual: Option<[Number; 2]>,
    /// Images in each tenth of the time steps, from the least noisy.
    pub t_histogram: Vec<i64>,
    /// The batch.
    #[serde(rename = "pictures")]
    pub images: Vec<ImageOfBatch>,
    /// Gradient norms in the network's order, before clipping.
    pub gradients: Vec<ParameterGradient>,
}

/// Relative difference of loss or gradient norm beyond which two steps are not the same: other machines and numbers of
/// threads differ by rounding, and by less than that within the steps between two checkpoints.
const SAME_STEP: f64 = 1e-3;

impl StepRecord {
    /// True if a line of metrics.jsonl is of another step: its loss or gradient norm is not this one's.
    pub fn is_another(&self, logged: &StepMetrics) -> bool {
        let near = |Number(ours): Number, theirs: f64| {
            ours == theirs
                || (ours.is_nan() && theirs.is_nan())
                || (ours - theirs).abs() <= SAME_STEP * theirs.abs()
        };
        !(near(self.loss, logged.loss) && near(self.grad_norm, logged.grad_norm))
    }

    /// Computes the next step's gradients, and changes nothing else.
    ///
    /// # Errors
    /// As [`Trainer::gradients`].
    pub fn of_next(trainer: &mut Trainer, data: &Loaded, timesteps: i64) -> Result<StepRecord> {
        // The record is of the whole batch, also where ranks share it.
        let gradients = trainer.alone(|trainer| trainer.gradients(&data.store))?;
        let number = |i| Number(gradients.loss_and_grad_norm.double_value(&[i]));
        let draw = trainer.draw(trainer.step);
        let t = Vec::<i64>::try_from(&draw.t)?;
        let mirrored = match &draw.mirrored {
            Some(mirrored) => Vec::<bool>::try_from(mirrored)?,
            None => vec![false; t.len()],
        };
        let mut t_histogram = vec![0; BINS as usize];
        t.iter()
            .for_each(|t| t_histogram[(t * BINS / timesteps) as usize] += 1);
        let images = draw
            .indices
            .iter()
            .zip(mirrored)
            .zip(t)
            .map(|((&number, mirrored), t)| ImageOfBatch {
                number,
                name: name_of(data, number),
                mirrored,
                t,
            });
        Ok(StepRecord {
            step: trainer.step + 1,
            loss: number(0),
            grad_norm: number(1),
            usual: (trainer.guard.running_stats())
                .map(|stats| stats.ln.map(|ln| Number(f64::from(ln).exp()))),
            t_histogram,
            images: images.collect(),
            gradients: gradients_of(trainer)?,
        })
    }

    /// Reads a record.
    ///
    /// # Errors
    /// The file does not exist, or is not a record.
    pub fn read(path: &Path) -> Result<StepRecord> {
        let text = read_text(path, MAX_BYTES)?;
        serde_json::from_str(&text)
            .map_err(quoting)
            .with_context(|| format!("cannot read {}", path.display()))
    }

    /// Writes the record, whole or not at all.
    ///
    /// # Errors
    /// No permission, or a full disk.
    pub fn write(&self, path: &Path) -> Result<()> {
        write_bytes(path, serde_json::to_string_pretty(self)?.as_bytes())
    }

    /// Names of the fields that differ from `other`.
    pub fn differences(&self, other: &StepRecord) -> Vec<&'static str> {
        let checks = [
            ("step", self.step == other.step),
            ("loss", self.loss == other.loss),
            ("grad_norm", self.grad_norm == other.grad_norm),
            ("usual", self.usual == other.usual),
            ("pictures", self.images == other.images),
            ("gradients", self.gradients == other.gradients),
        ];
        let differing = checks.iter().filter(|(_, same)| !same);
        differing.map(|(name, _)| *name).collect()
    }
}

fn name_of(data: &Loaded, number: i64) -> String {
    let name = data.manifest.name(number as usize);
    name.unwrap_or_default().to_owned()
}

fn gradients_of(trainer: &Trainer) -> Result<Vec<ParameterGradient>> {
    let (names, views): (Vec<String>, Vec<Tensor>) = trainer
        .arena
        .state_dict(&trainer.arena.grads)
        .into_iter()
        .unzip();
    let norms = Vec::<f32>::try_from(norms_of(&views, trainer.norms())?)?;
    let pairs = names.into_iter().zip(norms);
    Ok(pairs
        .map(|(name, norm)| ParameterGradient {
            name,
            norm: Number(norm.into()),
        })
        .collect())
}

impl fmt::Display for StepRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 8;
        writeln!(
            f,
            "step {}: loss {}, gradient norm {}",
            self.step, self.loss.0, self.grad_norm.0
        )?;
        if let Some([loss, norm]) = self.usual {
            writeln!(
                f,
                "  running means: loss {:.4}, gradient norm {:.4}",
                loss.0, norm.0
            )?;
        }
        writeln!(
            f,
            "  images per tenth of T, from t = 0: {:?}",
            self.t_histogram
        )?;
        writeln!(f, "  largest gradients:")?;
        let mut by_norm: Vec<_> = self.gradients.iter().collect();
        // NaN first, then by size.
        by_norm.sort_by(|a, b| b.norm.0.abs().total_cmp(&a.norm.0.abs()));
        for gradient in by_norm.iter().take(SHOWN) {
            writeln!(f, "    {:<40} {}", gradient.name, gradient.norm.0)?;
        }
        writeln!(f, "  images:")?;
        for p in self.images.iter().take(SHOWN) {
            let mirrored = if p.mirrored { ", mirrored" } else { "" };
            writeln!(f, "    {} {} at t = {}{mirrored}", p.number, p.name, p.t)?;
        }
        if self.images.len() > SHOWN {
            writeln!(f, "    … and {} more", self.images.len() - SHOWN)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Norms, Preset};
    use crate::rng::{Stream, normal};
    use tch::Device;

    #[test]
    fn gradients_have_the_norms_of_their_run() {
        let mut config = Preset::Demo.config();
        let found = [Norms::Plain, Norms::Blocked].map(|norms| {
            config.optim.norms = norms;
            let trainer = Trainer::new(&config, 4, Device::Cpu).unwrap();
            let mut grads = trainer.arena.grads.shallow_clone();
            grads.copy_(&normal(0, Stream::Noise, 0, &grads.size(), Device::Cpu));
            let views = trainer.arena.views(&grads);
            let wanted = Vec::<f32>::try_from(norms_of(&views, norms).unwrap()).unwrap();
            let found = gradients_of(&trainer).unwrap();
            let found: Vec<f32> = found.iter().map(|g| g.norm.0 as f32).collect();
            assert_eq!(found, wanted);
            found
        });
        assert_ne!(found[0], found[1]);
    }

    #[test]
    fn numbers_outside_json_are_read_back() {
        for value in [
            0.1,
            -0.0,
            f64::NAN,
            f64::INFINITY,
            f64::NEG_INFINITY,
            1e-300,
            // A parser that is not exact is off by one in the last bit.
            95.06493500571783,
            536.8234807493017,
        ] {
            let text = serde_json::to_string(&Number(value)).unwrap();
            let back: Number = serde_json::from_str(&text).unwrap();
            assert_eq!(back, Number(value), "{text}");
        }
        assert_ne!(Number(0.0), Number(-0.0));
        assert!(serde_json::from_str::<Number>("\"much\"").is_err());
    }
}
