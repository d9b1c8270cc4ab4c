//! What is measured of a sampler.

use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use ndarray::Array2;
use serde::Serialize;
use tch::{Kind, Tensor};

use crate::cli::evaluate::features::FeatureArgs;
use crate::cli::evaluate::images::decode;
use crate::cli::evaluate::source::FolderSource;
use crate::cli::evaluate::trained_on::TrainedOn;
use crate::cli::out::say;
use crate::data::ImageSpec;
use crate::evaluate::features::FeatureExtractor;
use crate::evaluate::frechet;
use crate::evaluate::kernel::{KernelOptions, kernel};
use crate::evaluate::moments::Moments;
use crate::evaluate::precision::precision_recall;
use crate::evaluate::seen::{Keep, see};
use crate::evaluate::sliced::{Patches, SlicedOptions, baseline, sliced};
use crate::evaluate::{ImageSet, Stored};
use crate::images::to_pixels;
use crate::pretrained::{Pretrained, Sampling};
use crate::sample::{Classes, OnStep};
use crate::text::plural;

/// Images of a data set that are passed on at a time.
const BATCH: i64 = 64;

/// A measure of sampled images.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Measure {
    /// Distance from the images of all T steps from the same noise: what the steps left out change
    Answer,
    /// Sliced Wasserstein distance from real images (`ddpm evaluate swd`)
    Swd,
    /// Fréchet distance from real images (`ddpm evaluate fid`)
    Fid,
    /// Kernel distance from real images
    Kid,
    /// Precision and recall beside real images
    Pr,
}

impl Measure {
    /// True if it compares with real images.
    pub(super) fn needs_real(self) -> bool {
        self != Measure::Answer
    }

    /// True if it looks at features.
    pub(super) fn needs_features(self) -> bool {
        matches!(self, Measure::Fid | Measure::Kid | Measure::Pr)
    }
}

/// What was measured of a sampler; nothing for what was not.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub(super) struct Values {
    pub(super) answer: Option<f64>,
    pub(super) swd: Option<f64>,
    pub(super) fid: Option<f64>,
    pub(super) fid_bias: Option<f64>,
    pub(super) kid: Option<f64>,
    pub(super) kid_std: Option<f64>,
    pub(super) precision: Option<f64>,
    pub(super) recall: Option<f64>,
}

/// Real images, of which all is computed once.
pub(super) struct Real {
    pub(super) origin: String,
    pub(super) images: u64,
    /// What swd looks at, and what two halves of them are apart.
    patches: Option<(Patches, f64)>,
    features: Option<RealFeatures>,
}

struct RealFeatures {
    network: Box<dyn FeatureExtractor>,
    moments: Moments,
    /// Of the covariance, if FID is measured.
    root: Option<Array2<f64>>,
    /// `[N, d]`, if they are compared one by one.
    each: Option<Tensor>,
}

/// Images of one sampler.
pub(super) struct Sampled {
    /// The first, `[some, C, H, W]` f32.
    pub(super) first: Tensor,
    /// All of them, if they are to be compared with real ones.
    pixels: Option<Stored>,
    /// Seconds that an image took.
    pub(super) secs_per_image: f64,
}

/// How images are sampled.
#[derive(Debug, Clone)]
pub(super) struct Sampler {
    pub(super) seed: u64,
    pub(super) batch: u64,
    pub(super) classes: Classes,
    /// Of an image that is compared with the answer.
    pub(super) first: u64,
    /// Of all, if there are distances from real images.
    pub(super) all: Option<u64>,
}

impl Sampler {
    /// Images that are sampled for each sampler.
    pub(super) fn images(&self) -> u64 {
        self.all.unwrap_or(self.first)
    }

    /// Images that are sampled for an answer: whole batches, as the last bits of an image depend on how many are
    /// sampled together.
    pub(super) fn images_of_answer(&self) -> u64 {
        (self.first.div_ceil(self.batch) * self.batch).min(self.images())
    }

    /// Samples images of one sampler.
    ///
    /// # Errors
    /// Values that are not finite; a class that the network does not have.
    pub(super) fn sample(&self, sampling: Sampling, on_step: &mut OnStep) -> Result<Sampled> {
        self.some(sampling, self.images(), self.all.is_some(), on_step)
    }

    /// The images that others are compared with, `[first, C, H, W]` f32.
    ///
    /// # Errors
    /// As `sample`.
    pub(super) fn answer(&self, sampling: Sampling, on_step: &mut OnStep) -> Result<Tensor> {
        Ok(self
            .some(sampling, self.images_of_answer(), false, on_step)?
            .first)
    }

    fn some(
        &self,
        sampling: Sampling,
        number: u64,
        keeps_all: bool,
        on_step: &mut OnStep,
    ) -> Result<Sampled> {
        let sampling = sampling.classes(self.classes.clone());
        let (mut first, mut pixels, mut seen) = (Vec::new(), Vec::new(), 0);
        let mut take = |images: &Tensor| {
            let more = (self.first as i64 - seen).clamp(0, images.size()[0]);
            if more > 0 {
                first.push(images.narrow(0, 0, more));
            }
            seen += images.size()[0];
            if keeps_all {
                pixels.push(to_pixels(images));
            }
            Ok(())
        };
        let started = Instant::now();
        (sampling.batch(self.batch)).sample_each(number, self.seed, on_step, &mut take)?;
        let secs = started.elapsed().as_secs_f64();
        Ok(Sampled {
            first: Tensor::f_cat(&first, 0)?,
            pixels: match keeps_all {
                true => Some(Stored {
                    pixels: Tensor::f_cat(&pixels, 0)?,
                    origin: plural(number, "sampled image"),
                    batch: self.batch as i64,
                }),
                false => None,
            },
            secs_per_image: secs / number as f64,
        })
    }
}

impl Real {
    /// Reads the images of a folder, or without one those that the network's run held out, else its training images,
    /// and computes what the measures need.
    ///
    /// # Errors
    /// Images or weights that cannot be read, or that a measure cannot use.
    pub(super) fn new(
        network: &Pretrained,
        folder: Option<&Path>,
        features: &FeatureArgs,
        measures: &[Measure],
        seed: u64,
    ) -> Result<Real> {
        // Found wrong before images are read.
        let extractor = match measures.iter().any(|measure| measure.needs_features()) {
            true => Some(features.open(network.device())?),
            false => None,
        };
        let set: Box<dyn ImageSet> = match folder {
            Some(folder) => {
                let config = network.config();
                let spec = ImageSpec::of(config.model.chw(), &config.data);
                Box::new(FolderSource::open(folder, Some(spec))?)
            }
            None => Box::new(own_images(network)?),
        };
        let wants = |measure| measures.contains(&measure);
        let patches = match wants(Measure::Swd) {
            true => {
                let patches = Patches::of(&*set, &options(seed))?;
                let apart = baseline(&patches)?.mean;
                Some((patches, apart))
            }
            false => None,
        };
        let features = match extractor {
            Some(network) => {
                let keep = Keep {
                    features: wants(Measure::Kid) || wants(Measure::Pr),
                    logits: false,
                };
                let seen = see(&*set, &*network, keep)?;
                Some(RealFeatures {
                    root: match wants(Measure::Fid) {
                        true => Some(frechet::sqrt(&seen.moments.cov)?),
                        false => None,
                    },
                    network,
                    moments: seen.moments,
                    each: seen.features,
                })
            }
            None => None,
        };
        let counted = patches.as_ref().map(|(patches, _)| patches.images());
        let count = features.as_ref().and_then(|seen| seen.moments.count);
        Ok(Real {
            origin: set.origin(),
            images: counted.or(count).context("no real images were seen")?,
            patches,
            features,
        })
    }

    /// The sliced Wasserstein distance of two halves of them.
    pub(super) fn swd_of_halves(&self) -> Option<f64> {
        self.patches.as_ref().map(|(_, apart)| *apart)
    }

    /// The network whose features are compared.
    pub(super) fn features(&self) -> Option<String> {
        self.features.as_ref().map(|seen| seen.network.name())
    }

    /// Measures sampled images; adds to `remarks` what makes a number less exact than it looks.
    ///
    /// # Errors
    /// Too few images for a measure.
    pub(super) fn measure(
        &self,
        sampled: &Sampled,
        measures: &[Measure],
        seed: u64,
        remarks: &mut Vec<String>,
    ) -> Result<Values> {
        let set = sampled
            .pixels
            .as_ref()
            .context("the images were not kept")?;
        let mut values = Values::default();
        if let Some((patches, _)) = &self.patches {
            values.swd = Some(sliced(&Patches::of(set, &options(seed))?, patches)?.mean);
        }
        let Some(real) = &self.features else {
            return Ok(values);
        };
        let keep = Keep {
            features: real.each.is_some(),
            logits: false,
        };
        let seen = see(set, &*real.network, keep)?;
        if let Some(root) = &real.root {
            let found = frechet::distance(&seen.moments, &real.moments, root)?;
            values.fid = Some(found.distance);
            let lacks_rank =
                |remark: &frechet::Remark| matches!(remark, frechet::Remark::RankDeficient { .. });
            // Of a covariance that lacks rank it means little.
            values.fid_bias = found.bias.filter(|_| !found.remarks.iter().any(lacks_rank));
            for remark in found.remarks {
                let said = format!("note: fid: {remark}");
                if !remarks.contains(&said) {
                    remarks.push(said);
                }
            }
        }
        if let (Some(own), Some(theirs)) = (&seen.features, &real.each) {
            if measures.contains(&Measure::Kid) {
                let found = kernel(own, theirs, &KernelOptions::default())?;
                (values.kid, values.kid_std) = (Some(found.mean), Some(found.std));
            }
            if measures.contains(&Measure::Pr) {
                let found = precision_recall(own, theirs)?;
                (values.precision, values.recall) = (Some(found.precision), Some(found.recall));
            }
        }
        Ok(values)
    }
}

fn options(seed: u64) -> SlicedOptions {
    SlicedOptions {
        seed,
        ..SlicedOptions::default()
    }
}

/// What the network's run held out, else the images that it was trained on; says which.
fn own_images(network: &Pretrained) -> Result<Stored> {
    let loaded = decode(network, None, "compare", true)?;
    TrainedOn::of(network)?.check_held_out(&loaded, true)?;
    if loaded.held_out.is_none() {
        say(
            "note: these are the images that the network was trained on, so copies of them count as good; name others with \
             --data DIR, or keep some apart by `ddpm train --hold-out 5%`",
        );
    }
    let loaded = loaded.held_out_or_all(network.device())?;
    Ok(Stored {
        pixels: loaded.store.pixels().shallow_clone(),
        origin: loaded.origin,
        batch: BATCH,
    })
}

/// Root mean square difference of the values of two sets of images.
///
/// # Errors
/// Sets of different shapes.
pub(super) fn rms(a: &Tensor, b: &Tensor) -> Result<f64> {
    ensure!(
        a.size() == b.size(),
        "{:?} images beside {:?}",
        a.size(),
        b.size()
    );
    let difference = a.to_kind(Kind::Double) - b.to_kind(Kind::Double);
    Ok(difference
        .square()
        .mean(Kind::Double)
        .sqrt()
        .double_value(&[]))
}
