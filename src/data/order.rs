//! The order of images: the batch of each step.

use std::collections::HashMap;

use tch::{Device, Kind, Tensor};

use super::Labels;
use crate::rng::{Stream, key, part_key, seeded};

/// Shuffles the data set anew each epoch; every image is seen exactly once per epoch, and batches may
/// span two epochs.
///
/// A [`balanced`](Order::balanced) one shuffles the classes, each of which comes once before any comes again, and the
/// images of each class.
#[derive(Debug)]
pub struct Order {
    seed: u64,
    images: u64,
    /// For a balanced order, the images of each class that has any.
    classes: Vec<Vec<i64>>,
    /// The current permutation of the images, or of each class (from 1) and of the classes (0), so that it is not drawn
    /// at every step.
    current: HashMap<u64, (u64, Vec<i64>)>,
}

impl Order {
    /// An order over `images` images; `images` must be at least 1.
    pub fn new(seed: u64, images: u64) -> Order {
        Order {
            seed,
            images,
            classes: vec![],
            current: HashMap::new(),
        }
    }

    /// An order that takes images from all classes alike, however many each has. Images without a label never come.
    ///
    /// # Panics
    /// No image has a label.
    pub fn balanced(seed: u64, labels: &Labels) -> Order {
        let mut classes = vec![vec![]; labels.classes()];
        for (image, class) in labels.of.iter().enumerate() {
            if let Some(class) = class {
                classes[*class as usize].push(image as i64);
            }
        }
        classes.retain(|images| !images.is_empty());
        assert!(!classes.is_empty(), "no image has a label");
        Order {
            classes,
            ..Order::new(seed, labels.of.len() as u64)
        }
    }

    /// Images in the data set.
    pub fn images(&self) -> u64 {
        self.images
    }

    /// Indices of the `batch` images of step `step` (from 0): a function of seed, `step` and `batch` only.
    pub fn batch(&mut self, step: u64, batch: i64) -> Vec<i64> {
        let batch = batch as u64;
        let places = step * batch..(step + 1) * batch;
        match self.classes.len() as u64 {
            0 => {
                let images = self.images;
                places
                    .map(|p| self.permutation(0, images, p / images)[(p % images) as usize])
                    .collect()
            }
            classes => places.map(|p| self.of_a_class(p, classes)).collect(),
        }
    }

    /// The image at a place of a balanced order.
    fn of_a_class(&mut self, place: u64, classes: u64) -> i64 {
        // Each round has every class once, so its number is that of the images that a class has given.
        let round = place / classes;
        let class = self.permutation(0, classes, round)[(place % classes) as usize] as usize;
        let images = self.classes[class].len() as u64;
        let shuffled = self.permutation(class as u64 + 1, images, round / images);
        let image = shuffled[(round % images) as usize];
        self.classes[class][image as usize]
    }

    /// Permutation `epoch` of `length` things: of stream 0 all images or all classes, of others the images of a class.
    fn permutation(&mut self, stream: u64, length: u64, epoch: u64) -> &[i64] {
        let drawn = self.current.get(&stream).is_some_and(|(e, _)| *e == epoch);
        if !drawn {
            let seed = match stream {
                0 => key(self.seed, Stream::Order, epoch),
                class => part_key(self.seed, Stream::Order, epoch, class),
            };
            let draw = || Tensor::randperm(length as i64, (Kind::Int64, Device::Cpu));
            let drawn = Vec::try_from(seeded(seed, draw));
            let drawn = drawn.expect("randperm returns a 1-d i64 tensor");
            self.current.insert(stream, (epoch, drawn));
        }
        self.current.get(&stream).map_or(&[], |(_, drawn)| drawn)
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

    #[test]
    fn a_balanced_order_takes_from_all_classes_alike() {
        // Ten of one class, two of another, none of the third, and one without a label.
        let mut of = vec![Some(0); 10];
        of.extend([Some(2), None, Some(2)]);
        let labels = Labels {
            names: ["a", "b", "c"].map(str::to_owned).to_vec(),
            of,
        };
        let mut order = Order::balanced(5, &labels);
        let walked: Vec<i64> = (0..10).flat_map(|step| order.batch(step, 4)).collect();
        assert_eq!(order.images(), 13);
        let of_c = |image: &&i64| [10, 12].contains(*image);
        for round in walked.chunks(2) {
            assert_eq!(round.iter().filter(of_c).count(), 1, "{round:?}");
        }
        // Each image of a class comes before any comes again.
        let of_a: Vec<i64> = walked
            .iter()
            .filter(|image| **image < 10)
            .copied()
            .collect();
        for epoch in of_a.chunks(10) {
            let mut sorted = epoch.to_vec();
            sorted.sort_unstable();
            assert_eq!(sorted, (0..10).collect::<Vec<_>>());
        }
        assert_ne!(of_a[..10], of_a[10..]);
        assert_eq!(Order::balanced(5, &labels).batch(7, 4), walked[28..32]);
    }
}
