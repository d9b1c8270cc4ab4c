//! The classes of sampled images.

use std::ops::Range;

use anyhow::{Result, ensure};
use tch::{Device, Kind, Tensor};

use crate::config::ModelConfig;

/// Classes of sampled images.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Classes {
    /// All classes of the network in turn: image `i` is of class `i` modulo their number.
    #[default]
    All,
    /// These in turn.
    These(Vec<i64>),
    /// As often as these numbers, spread over the images as evenly as can be: those of a data set, class after class.
    AsOften(Vec<u64>),
    /// No class, for a network that was trained without now and then.
    None,
}

impl Classes {
    /// The class of each of `number` images, `[number]` i64 on the CPU; `None` for a network without classes.
    ///
    /// # Errors
    /// Classes for a network without, or that it does not have; no class for one that must have one.
    pub fn of_images(&self, model: &ModelConfig, number: u64) -> Result<Option<Tensor>> {
        let Some(known) = model.classes() else {
            ensure!(
                *self == Classes::All,
                "`sampler.class`: this network is not class-conditional; leave it out"
            );
            return Ok(None);
        };
        let number = number as i64;
        let place = Tensor::arange(number, (Kind::Int64, Device::Cpu));
        Ok(Some(match self {
            Classes::All => place.remainder(known),
            Classes::None => {
                let none = model.null_class();
                ensure!(
                    none.is_some(),
                    "`sampler.class` = none: this network was never trained without a class; want one of 0 to {}",
                    known - 1
                );
                Tensor::full(
                    [number],
                    none.unwrap_or_default(),
                    (Kind::Int64, Device::Cpu),
                )
            }
            Classes::AsOften(counts) => {
                ensure!(
                    counts.len() as i64 == known && counts.iter().any(|count| *count > 0),
                    "`sampler.class`: {} numbers of images, for a network of {known} classes",
                    counts.len()
                );
                Tensor::from_slice(&as_often(counts, number as usize))
            }
            Classes::These(classes) => {
                ensure!(
                    !classes.is_empty(),
                    "`sampler.class`: want one or more classes"
                );
                for class in classes {
                    ensure!(
                        (0..known).contains(class),
                        "`sampler.class` = {class}: this network has the classes 0 to {}",
                        known - 1
                    );
                }
                let these = Tensor::from_slice(classes);
                these.index_select(0, &place.remainder(classes.len() as i64))
            }
        }))
    }
}

/// The labels of the images `numbers`, on `device`.
pub fn batch_labels(
    labels: Option<&Tensor>,
    numbers: &Range<u64>,
    device: Device,
) -> Option<Tensor> {
    let count = (numbers.end - numbers.start) as i64;
    labels.map(|l| l.narrow(0, numbers.start as i64, count).to_device(device))
}

/// Classes of `images` images as often as `counts` says: each next one is of the class that lacks most.
fn as_often(counts: &[u64], images: usize) -> Vec<i64> {
    let all: f64 = counts.iter().map(|count| *count as f64).sum();
    let mut had = vec![0.0; counts.len()];
    let mut next = |image: usize| {
        let lack = |class: usize| counts[class] as f64 * (image + 1) as f64 / all - had[class];
        // Of several, the first.
        let most = (0..counts.len())
            .rev()
            .max_by(|a, b| lack(*a).total_cmp(&lack(*b)));
        let class = most.unwrap_or(0);
        had[class] += 1.0;
        class as i64
    };
    (0..images).map(&mut next).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Preset;

    fn labels(classes: &Classes, null_class: bool, number: u64) -> Result<Vec<i64>, String> {
        let mut model = Preset::Demo.config().model;
        model.set_classes(Some(3), null_class);
        let labels = classes.of_images(&model, number);
        let labels = labels.map_err(|error| error.to_string())?;
        Ok(Vec::try_from(labels.unwrap()).unwrap())
    }

    #[test]
    fn images_get_the_classes_asked_for() {
        let of = |classes| labels(&classes, true, 5);
        assert_eq!(of(Classes::All), Ok(vec![0, 1, 2, 0, 1]));
        assert_eq!(of(Classes::These(vec![2, 0])), Ok(vec![2, 0, 2, 0, 2]));
        assert_eq!(of(Classes::None), Ok(vec![3; 5]));
        assert!(of(Classes::These(vec![3])).unwrap_err().contains("0 to 2"));
        assert!(of(Classes::These(vec![])).is_err());
        assert!(of(Classes::AsOften(vec![1, 1])).is_err());
        let never = labels(&Classes::None, false, 5).unwrap_err();
        assert!(never.contains("never trained without"), "{never}");
        let plain = Preset::Demo.config().model;
        assert!(Classes::All.of_images(&plain, 4).unwrap().is_none());
        assert!(Classes::None.of_images(&plain, 4).is_err());
    }

    #[test]
    fn classes_come_as_often_as_in_a_data_set() {
        let counts = [6, 3, 1];
        let classes = labels(&Classes::AsOften(counts.to_vec()), true, 100).unwrap();
        for first in [10, 50, 100] {
            for (class, count) in counts.iter().enumerate() {
                let had = classes[..first]
                    .iter()
                    .filter(|c| **c == class as i64)
                    .count();
                let want = *count as f64 / 10.0 * first as f64;
                assert!((had as f64 - want).abs() <= 1.0, "{class} {first} {had}");
            }
        }
        let none_of_one = labels(&Classes::AsOften(vec![0, 2, 0]), true, 9).unwrap();
        assert_eq!(none_of_one, [1; 9]);
    }
}
