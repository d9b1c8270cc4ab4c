//! The measurement of `ddpm calibrate`, a small JSON file beside the checkpoint.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use ndarray::Array1;
use serde::{Deserialize, Serialize};

use super::Weights;
use crate::fs::{read_regular, write_bytes};
use crate::text::quoting;

/// Version of the layout.
const FORMAT: u32 = 1;
/// Largest file that is read: 100,000 time steps take 2 MiB.
const MAX_BYTES: u64 = 16 << 20;

/// Mean square of eps_hat on data, at each time step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Calibration {
    /// Version of the layout.
    pub format: u32,
    /// [`fingerprint`](super::fingerprint) of the network measured, in hexadecimal.
    pub network: String,
    /// Source of the images, human-readable.
    pub data: String,
    /// Number of images noised at each time step.
    pub images: u64,
    /// Seed of the choice of images and of their noise.
    pub seed: u64,
    /// `E[eps_hat²]` per value, `[T]`; a list in the file.
    #[serde(with = "list")]
    pub mean_sq_eps: Array1<f64>,
}

/// A table as the list of its numbers.
mod list {
    use ndarray::Array1;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(
        table: &Array1<f64>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(table)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Array1<f64>, D::Error> {
        Vec::deserialize(deserializer).map(Array1::from)
    }
}

impl Calibration {
    /// A measurement of the network with this fingerprint.
    pub fn new(network: &blake3::Hash, mean_sq_eps: Array1<f64>) -> Calibration {
        Calibration {
            format: FORMAT,
            network: network.to_hex().to_string(),
            data: String::new(),
            images: 0,
            seed: 0,
            mean_sq_eps,
        }
    }

    /// The file that belongs to one set of a checkpoint's weights: beside it, with `.ema.analytic.json` or
    /// `.raw.analytic.json` after its name.
    pub fn path_beside(checkpoint: &Path, weights: Weights) -> PathBuf {
        let name = checkpoint.file_name().unwrap_or_default();
        let mut name = name.to_owned();
        name.push(format!(
            ".{}.analytic.json",
            weights.to_string().to_lowercase()
        ));
        checkpoint.with_file_name(name)
    }

    /// The checkpoint that a file with the name of a measurement belongs to; `None` for another name.
    pub fn checkpoint_beside(measurement: &Path) -> Option<PathBuf> {
        let name = measurement.file_name()?.to_str()?;
        let of = [Weights::Ema, Weights::Raw].iter().find_map(|weights| {
            let ending = format!(".{}.analytic.json", weights.to_string().to_lowercase());
            name.strip_suffix(&ending)
        })?;
        of.ends_with(".safetensors")
            .then(|| measurement.with_file_name(of))
    }

    /// Writes it, whole or not at all.
    ///
    /// # Errors
    /// A folder that is missing or cannot be written to.
    pub fn write(&self, path: &Path) -> Result<()> {
        let mut text = serde_json::to_string_pretty(self)?;
        text.push('\n');
        write_bytes(path, text.as_bytes())
    }

    /// Reads a measurement of a network with this fingerprint and T time steps.
    ///
    /// # Errors
    /// A missing or damaged file, or one of another network.
    pub fn read(path: &Path, network: &blake3::Hash, timesteps: usize) -> Result<Calibration> {
        let cannot = || format!("cannot use {}", path.display());
        let text = read_regular(path, MAX_BYTES)?;
        let found: Calibration = serde_json::from_slice(&text)
            .map_err(quoting)
            .context("not a file of `ddpm calibrate`, or a damaged one")
            .with_context(cannot)?;
        found.check(network, timesteps).with_context(cannot)?;
        Ok(found)
    }

    fn check(&self, network: &blake3::Hash, timesteps: usize) -> Result<()> {
        ensure!(
            self.format == FORMAT,
            "its format is {} and this program reads {FORMAT}; use the ddpm that wrote it",
            self.format
        );
        ensure!(
            self.network == network.to_hex().as_str(),
            "it was measured with another network (or the other of raw and EMA weights); measure this one"
        );
        ensure!(
            self.mean_sq_eps.len() == timesteps,
            "it has {} time steps, this model has {timesteps}",
            self.mean_sq_eps.len()
        );
        if let Some(t) = (self.mean_sq_eps.iter()).position(|v| !v.is_finite() || *v < 0.0) {
            anyhow::bail!(
                "E[eps²] at t = {t} is {}, want a number of 0 or more",
                self.mean_sq_eps[t]
            );
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_comes_back_and_is_refused_for_another_network() {
        let dir = tempfile::tempdir().unwrap();
        let path = Calibration::path_beside(&dir.path().join("a.safetensors"), Weights::Ema);
        assert!(path.ends_with("a.safetensors.ema.analytic.json"));
        let (mine, other) = (blake3::hash(b"a"), blake3::hash(b"b"));
        let measured = Calibration::new(&mine, ndarray::array![0.1, 1.0 / 3.0]);
        measured.write(&path).unwrap();
        assert_eq!(Calibration::read(&path, &mine, 2).unwrap(), measured);
        let refused = |network, timesteps| {
            let error = Calibration::read(&path, network, timesteps).unwrap_err();
            format!("{error:#}")
        };
        assert!(refused(&other, 2).contains("another network"));
        assert!(refused(&mine, 3).contains("this model has 3"));
        std::fs::write(&path, "{").unwrap();
        assert!(refused(&mine, 2).contains("damaged"));
        let mut negative = measured;
        negative.mean_sq_eps[1] = -1.0;
        negative.write(&path).unwrap();
        assert!(refused(&mine, 2).contains("t = 1"));
    }
}
