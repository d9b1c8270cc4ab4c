//! The order of images: the batch of each step.

use tch::{Device, Kind, Tensor};

use crate::rng::{Stream, key, seeded};

/// Shuffles the data set anew each epoch; every image is seen exactly once per epoch, and batches may
/// span two epochs.
#[derive(Debug)]
pub struct Order {
    seed: u64,
    images: u64,
    /// The current permutation, so that it is not drawn at every step.
    current: Option<(u64, Vec<i64>)>,
}

impl Order {
    /// An order over `images` images; `images` must be at least 1.
    pub fn new(seed: u64, images: u64) -> Order {
        Order {
            seed,
            images,
            current: None,
        }
    }

    /// Images in the data set.
    pub fn images(&self) -> u64 {
        self.images
    }

    /// Indices of the `batch` images of step `step` (from 0): a function of seed, `step` and `batch` only.
    pub fn batch(&mut self, step: u64, batch: i64) -> Vec<i64> {
        let (batch, images) = (batch as u64, self.images);
        (step * batch..(step + 1) * batch)
            .map(|p| self.permutation(p / images)[(p % images) as usize])
            .collect()
    }

    fn permutation(&mut self, epoch: u64) -> &[i64] {
        if self.current.as_ref().is_none_or(|(e, _)| *e != epoch) {
            let draw = || Tensor::randperm(self.images as i64, (Kind::Int64, Device::Cpu));
            let drawn = seeded(key(self.seed, Stream::Order, epoch), draw);
            let drawn = Vec::try_from(drawn).expect("randperm returns a 1-d i64 tensor");
            self.current = Some((epoch, drawn));
        }
        self.current.as_ref().map_or(&[], |(_, drawn)| drawn)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_image_comes_once_an_epoch_and_steps_can_be_replayed() {
        let mut order = Order::new(3, 10);
        let walked: Vec<i64> = (0..5).flat_map(|step| order.batch(step, 4)).collect();
        for epoch in walked.chunks(10) {
            let mut sorted = epoch.to_vec();
            sorted.sort_unstable();
            assert_eq!(sorted, (0..10).collect::<Vec<_>>());
        }
        assert_ne!(walked[..10], walked[10..]);
        assert_eq!(Order::new(3, 10).batch(2, 4), walked[8..12]);
    }
}
