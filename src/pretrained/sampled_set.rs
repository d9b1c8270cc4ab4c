//! The images that a network makes, as a set to measure.

use std::fmt;

use anyhow::Result;
use tch::Tensor;

use super::Sampling;
use crate::evaluate::ImageSet;
use crate::images::to_pixels;
use crate::text::plural;

/// Images that are sampled while they are measured, and never written.
pub struct SampledSet<'a> {
    /// How they are sampled.
    pub sampling: Sampling<'a>,
    /// How many.
    pub number: u64,
    /// Their seed.
    pub seed: u64,
    /// Called after each reverse step of a batch.
    pub on_step: &'a dyn Fn(),
}

impl fmt::Debug for SampledSet<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SampledSet")
            .field("sampling", &self.sampling)
            .field("number", &self.number)
            .field("seed", &self.seed)
            .finish_non_exhaustive()
    }
}

impl ImageSet for SampledSet<'_> {
    fn chw(&self) -> [i64; 3] {
        self.sampling.pretrained.config().model.chw()
    }

    fn origin(&self) -> String {
        let (images, pretrained) = (plural(self.number, "image"), self.sampling.pretrained);
        format!("{images} sampled from {}", pretrained.path.display())
    }

    fn for_each(&self, take: &mut dyn FnMut(&Tensor) -> Result<()>) -> Result<u64> {
        let mut take = |images: &Tensor| take(&to_pixels(images));
        let mut on_step = |_: crate::sample::Step| (self.on_step)();
        self.sampling
            .sample_each(self.number, self.seed, &mut on_step, &mut take)?;
        Ok(self.number)
    }
}
