//! What the terms of all images come to.

use serde::Serialize;

use super::{Bound, Terms};
use crate::evaluate::strata::{ByT, Mean};

/// Adds up the terms of images, in the order in which they are given.
#[derive(Debug)]
pub struct BoundSums<'a> {
    bound: &'a Bound,
    prior: Vec<f64>,
    clipped: Sums,
    unclipped: Sums,
}

/// For one kind of x_0_hat.
#[derive(Debug)]
struct Sums {
    rate: Vec<f64>,
    distortion: Vec<f64>,
    by_t: ByT,
    /// Over all images, for t = 1 to 9, 10 to 99, …
    decades: Vec<f64>,
}

/// The bound of some images, in bits per dimension.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct BoundReport {
    /// Number of images.
    pub images: usize,
    /// Number of time steps T.
    pub timesteps: usize,
    /// 1 if the network was evaluated at all time steps, k if at one out of each k.
    pub every: usize,
    /// The prior term.
    pub prior: Mean,
    /// With x_0_hat clipped to [-1, 1].
    pub clipped: Parts,
    /// With x_0_hat as it is.
    pub unclipped: Parts,
    /// The sums of the terms of t = 1 to 9, 10 to 99, …: what the rate is made of, besides the prior term.
    pub by_decade: Vec<Decade>,
    /// The terms of each time step.
    pub by_t: Curves,
}

/// The terms of some successive time steps, added up, as means over images.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Decade {
    /// The first time step.
    pub from: usize,
    /// The last one.
    pub to: usize,
    /// With x_0_hat clipped.
    pub clipped: f64,
    /// With x_0_hat as it is.
    pub unclipped: f64,
}

/// A bound in its parts.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Parts {
    /// Rate and distortion.
    pub total: Mean,
    /// The prior term and those of t = T - 1 … 1.
    pub rate: Mean,
    /// The term of t = 0.
    pub distortion: Mean,
    /// The total of each image, in the order in which they were given.
    pub total_by_image: Vec<f64>,
}

/// The terms of each time step.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Curves {
    /// Images whose term of t was computed, for t = 0 … T - 1.
    pub images: Vec<u64>,
    /// With x_0_hat clipped.
    pub clipped: Curve,
    /// With x_0_hat as it is.
    pub unclipped: Curve,
}

/// A mean over images for t = 0 … T - 1; none where there are no images.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Curve {
    /// The means.
    pub mean: Vec<Option<f64>>,
    /// Their standard errors; none for a single image.
    pub standard_error: Vec<Option<f64>>,
}

impl Curve {
    pub(in crate::evaluate) fn of(by_t: &ByT) -> Curve {
        let means = by_t.means();
        Curve {
            mean: means.iter().map(|mean| Some((*mean)?.mean)).collect(),
            standard_error: means.iter().map(|mean| (*mean)?.standard_error).collect(),
        }
    }

    /// The same in other units.
    pub(in crate::evaluate) fn times(mut self, scale: f64) -> Curve {
        let values = self.mean.iter_mut().chain(&mut self.standard_error);
        values.flatten().for_each(|value| *value *= scale);
        self
    }
}

impl<'a> BoundSums<'a> {
    /// Of no images yet.
    pub fn new(bound: &'a Bound) -> BoundSums<'a> {
        let sums = || Sums {
            rate: vec![],
            distortion: vec![],
            by_t: ByT::new(bound.timesteps),
            decades: vec![0.0; decade(bound.timesteps - 1) + 1],
        };
        BoundSums {
            bound,
            prior: vec![],
            clipped: sums(),
            unclipped: sums(),
        }
    }

    /// Adds images.
    ///
    /// # Panics
    /// Terms of another bound.
    pub fn add(&mut self, terms: &Terms) {
        for (place, image) in terms.images.iter().enumerate() {
            let prior = terms.prior(place);
            self.prior.push(prior);
            for (sums, clip) in [(&mut self.clipped, true), (&mut self.unclipped, false)] {
                let mut rate = prior;
                for (evaluation, term) in terms.of(place, clip).iter().enumerate() {
                    let t = self.bound.t(*image, evaluation);
                    sums.by_t.add(t, *term);
                    if evaluation == 0 {
                        sums.distortion.push(*term);
                        continue;
                    }
                    let stands_for = term * self.bound.strata.width(evaluation - 1) as f64;
                    rate += stands_for;
                    sums.decades[decade(t)] += stands_for;
                }
                sums.rate.push(rate);
            }
        }
    }

    /// Means and standard errors of what was added, 1 image or more.
    pub fn report(&self) -> BoundReport {
        BoundReport {
            images: self.prior.len(),
            timesteps: self.bound.timesteps,
            every: self.bound.settings.every,
            prior: Mean::of(&self.prior),
            clipped: self.clipped.parts(),
            unclipped: self.unclipped.parts(),
            by_decade: self.by_decade(),
            by_t: Curves {
                images: self.clipped.by_t.images(),
                clipped: Curve::of(&self.clipped.by_t),
                unclipped: Curve::of(&self.unclipped.by_t),
            },
        }
    }
}

impl BoundSums<'_> {
    fn by_decade(&self) -> Vec<Decade> {
        let images = self.prior.len() as f64;
        let sums = self.clipped.decades.iter().zip(&self.unclipped.decades);
        (0u32..)
            .zip(sums)
            .map(|(k, (clipped, unclipped))| Decade {
                from: 10usize.pow(k),
                to: (10usize.pow(k + 1) - 1).min(self.bound.timesteps - 1),
                clipped: clipped / images,
                unclipped: unclipped / images,
            })
            .collect()
    }
}

/// 0 for t = 1 to 9, 1 for 10 to 99, …
fn decade(t: usize) -> usize {
    t.ilog10() as usize
}

impl Sums {
    fn parts(&self) -> Parts {
        let both = self.rate.iter().zip(&self.distortion);
        let totals: Vec<f64> = both.map(|(rate, distortion)| rate + distortion).collect();
        Parts {
            total: Mean::of(&totals),
            rate: Mean::of(&self.rate),
            distortion: Mean::of(&self.distortion),
            total_by_image: totals,
        }
    }
}
