//! One pass of a feature network over a set of images: all that the distances of two sets are computed from.

use anyhow::{Context, Result};
use tch::{Device, Kind, Tensor};

use super::ImageSet;
use super::features::FeatureExtractor;
use super::moments::{Moments, Sums};
use crate::text::plural;

/// Images that a network sees at a time. Its maps of one image take tens of MB, and more images at once are no faster.
const BATCH: i64 = 32;

/// What is kept of a pass besides the moments.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Keep {
    /// The features of every image: 4 bytes a number, 8 KB an image of FID's network.
    pub features: bool,
    /// What the network's classifier says of every image.
    pub logits: bool,
}

/// What a network saw in a set of images.
#[derive(Debug)]
pub struct Seen {
    /// Mean and covariance of the features.
    pub moments: Moments,
    /// `[N, d]` f32 on the CPU, if they were to be kept.
    pub features: Option<Tensor>,
    /// `[N, classes]` f32 on the CPU, if they were to be kept and the network classifies.
    pub logits: Option<Tensor>,
}

/// Has a network see all images of a set, in one pass.
///
/// # Errors
/// Those of the set and of the network; features that are not finite, with the number of the image; fewer than two images.
pub fn see(set: &dyn ImageSet, network: &dyn FeatureExtractor, keep: Keep) -> Result<Seen> {
    let mut sums = Sums::new(network.dims() as i64);
    let (mut features, mut logits) = (Vec::new(), Vec::new());
    let on_host = |x: &Tensor| x.to_device(Device::Cpu).to_kind(Kind::Float);
    let mut measure = |images: &Tensor| {
        let (mut features, mut logits) = (Vec::new(), Vec::new());
        for some in images.split(BATCH, 0) {
            let found = network.features(&some)?;
            features.push(on_host(&found.pooled));
            if keep.logits {
                logits.extend(found.logits.iter().map(on_host));
            }
        }
        let parts = [features, logits];
        let parts = parts.iter().filter(|parts| !parts.is_empty());
        Ok(parts.map(|parts| Tensor::cat(parts, 0)).collect())
    };
    set.measure(&mut measure, &mut |found| {
        let mut found = found.into_iter();
        let seen = found.next().context("features of some images")?;
        sums.add(&seen)?;
        if keep.features {
            features.push(seen);
        }
        logits.extend(found);
        Ok(())
    })?;
    let all = |parts: Vec<Tensor>| (!parts.is_empty()).then(|| Tensor::cat(&parts, 0));
    let images = plural(sums.count(), "image");
    Ok(Seen {
        moments: sums
            .moments()
            .with_context(|| format!("{}, of which {images} were seen", set.origin()))?,
        features: all(features),
        logits: all(logits),
    })
}
