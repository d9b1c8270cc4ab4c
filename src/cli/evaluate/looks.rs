//! What images are compared by: their pixels made small, or what a network sees in them.

use anyhow::Result;
use ndarray::Array1;
use tch::{Device, Tensor};

use super::features::FeatureArgs;
use super::ranks::Ranks;
use crate::evaluate::ImageSet;
use crate::evaluate::features::FeatureExtractor;
use crate::evaluate::neighbours::{mirrored, thumbnail, vectors};

/// How a vector is made of an image.
pub(super) struct Looks {
    /// Sees the vectors; thumbnails without it.
    pub(super) network: Option<Box<dyn FeatureExtractor>>,
}

impl Looks {
    /// Loads the network that is asked for, which must be the same on all ranks.
    ///
    /// # Errors
    /// A network that cannot be loaded.
    pub(super) fn new(asked: Option<FeatureArgs>, device: Device, ranks: &Ranks) -> Result<Looks> {
        let network = match asked {
            Some(features) => {
                let network = features.open(device)?;
                ranks.same("feature network", || features.fingerprint())?;
                Some(network)
            }
            None => None,
        };
        Ok(Looks { network })
    }

    /// Those that make the vectors of a set that is only read: all ranks if it is a network's work.
    pub(super) fn ranks<'a>(&self, all: &'a Ranks) -> &'a Ranks {
        match self.network {
            Some(_) => all,
            None => &Ranks::ALONE,
        }
    }

    /// Units of a distance of 1: levels from 0 to 255 of pixels.
    pub(super) fn unit(&self) -> f64 {
        match self.network {
            Some(_) => 1.0,
            None => 255.0,
        }
    }

    /// How far apart equal images may be, among such distances: features are rounded by the size of a batch.
    pub(super) fn same_within(&self, distances: &Array1<f64>) -> f64 {
        match self.network {
            Some(_) => 1e-4 * median(distances),
            None => 0.0,
        }
    }

    /// Vectors of images `[N, C, H, W]` u8, `[N, d]` f32 on the CPU.
    ///
    /// # Errors
    /// Those of the network.
    pub(super) fn at(&self, images: &Tensor) -> Result<Tensor> {
        match &self.network {
            Some(network) => Ok(network.features(images)?.pooled.to_device(Device::Cpu)),
            None => Ok(thumbnail(images)),
        }
    }

    /// Vectors of all images of a set.
    ///
    /// # Errors
    /// Those of the set and the network, and a set without images.
    pub(super) fn all(&self, set: &dyn ImageSet) -> Result<Tensor> {
        vectors(set, &mut |images| self.at(images))
    }

    /// As [`all`](Looks::all), then those of the same images mirrored left to right.
    ///
    /// # Errors
    /// As `all`.
    pub(super) fn also_mirrored(&self, set: &dyn ImageSet) -> Result<Tensor> {
        if self.network.is_none() {
            let plain = self.all(set)?;
            return Ok(Tensor::cat(&[&plain, &mirrored(&plain, set.chw())], 0));
        }
        let both = vectors(set, &mut |images| {
            Ok(Tensor::cat(
                &[self.at(images)?, self.at(&images.flip([3]))?],
                1,
            ))
        })?;
        Ok(Tensor::cat(&both.chunk(2, 1), 0))
    }
}

/// The middle of some values.
pub(super) fn median(values: &Array1<f64>) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() % 2 {
        1 => sorted[middle],
        _ => (sorted[middle - 1] + sorted[middle]) / 2.0,
    }
}
