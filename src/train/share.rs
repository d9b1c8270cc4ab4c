//! The random choices of a step, and the part of its batch that one process computes.

use anyhow::Result;
use tch::Tensor;

use crate::report::PARTS_OF_T;

/// The random choices of a step, a function of (seed, step) alone.
#[derive(Debug)]
pub struct StepDraws {
    /// Numbers of the images.
    pub indices: Vec<i64>,
    /// True for mirrored images, `[B]` bool; `None` if flipping is off.
    pub mirrored: Option<Tensor>,
    /// True for images whose class the network is not told, `[B]` bool; `None` if it is always told, or never.
    pub unlabelled: Option<Tensor>,
    /// Time steps, `[B]` i64 on CPU.
    pub t: Tensor,
}

impl StepDraws {
    /// Images in each part of the `timesteps` time steps.
    pub(super) fn images_by_t(&self, timesteps: i64) -> Result<[u32; PARTS_OF_T]> {
        let mut images = [0; PARTS_OF_T];
        for t in Vec::<i64>::try_from(&self.t)? {
            images[(t * PARTS_OF_T as i64 / timesteps) as usize] += 1;
        }
        Ok(images)
    }
}

/// A part of a step's batch.
#[derive(Debug)]
pub(super) struct Share {
    /// Places of its images in the batch, in order.
    pub(super) places: Vec<i64>,
    /// Images in the batch.
    pub(super) of: i64,
}

impl Share {
    /// Images of a batch of `of` that lie together.
    pub(super) fn of_range(first: i64, images: i64, of: i64) -> Share {
        Share {
            places: (first..first + images).collect(),
            of,
        }
    }

    /// The microbatches of `micro` images that one of `ranks` ranks computes.
    pub(super) fn of_rank(rank: i64, ranks: i64, micro: i64, of: i64) -> Share {
        let is_own = |place: &i64| place / micro % ranks == rank;
        Share {
            places: (0..of).filter(is_own).collect(),
            of,
        }
    }

    /// The draws of its images, from those of the batch.
    pub(super) fn draws(&self, draws: &StepDraws) -> StepDraws {
        let places = Tensor::from_slice(&self.places);
        let own = |all: &Tensor| all.index_select(0, &places);
        StepDraws {
            indices: self.numbers(&draws.indices),
            mirrored: draws.mirrored.as_ref().map(own),
            unlabelled: draws.unlabelled.as_ref().map(own),
            t: own(&draws.t),
        }
    }

    /// The numbers of its images, from those of the batch.
    pub(super) fn numbers(&self, batch: &[i64]) -> Vec<i64> {
        let number = |place: &i64| batch[*place as usize];
        self.places.iter().map(number).collect()
    }
}
