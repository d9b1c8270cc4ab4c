//! Some images of a run, from all over the set: what samples are held against.

use anyhow::{Context, Result};
use tch::{Device, Tensor};

use crate::config::RunConfig;
use crate::data::{HeldOut, Loaded};
use crate::images::to_pixels;

/// At most `most` of `count` numbers, evenly.
pub(super) fn spread(count: usize, most: usize) -> impl Iterator<Item = usize> {
    let chosen = count.min(most);
    (0..chosen).map(move |place| place * count / chosen)
}

/// At most `most` images held out, `[N, C, H, W]` u8 on the CPU.
///
/// # Errors
/// Out of memory.
pub(super) fn of_held_out(held_out: &HeldOut, most: usize) -> Result<Tensor> {
    let image = |number| held_out.pixels(number..number + 1);
    let images: Vec<Tensor> = (spread(held_out.len(), most))
        .map(image)
        .collect::<Result<_>>()?;
    Ok(Tensor::f_cat(&images, 0)?)
}

/// The images held out that samples can be compared with: one alone has no spread.
pub(super) fn several_held_out(data: &Loaded) -> Option<&HeldOut> {
    data.held_out.as_ref().filter(|held_out| held_out.len() > 1)
}

/// At most `most` images held out; without several, of those of the training. `[N, C, H, W]` u8 on the CPU.
///
/// # Errors
/// Out of memory.
pub(super) fn real(data: &Loaded, most: usize) -> Result<Tensor> {
    if let Some(held_out) = several_held_out(data) {
        return of_held_out(held_out, most);
    }
    trained_on(data, most)
}

/// At most `most` images of the training, `[N, C, H, W]` u8 on the CPU.
///
/// # Errors
/// Out of memory.
pub(super) fn trained_on(data: &Loaded, most: usize) -> Result<Tensor> {
    // By the store's numbers, of which those held out have none.
    let numbers = spread(data.store.len() as usize, most).map(|number| number as i64);
    let numbers: Vec<i64> = numbers.collect();
    let read = |some: &[i64]| {
        let images = data.store.batch(some, None)?;
        Ok(to_pixels(&images).to_device(Device::Cpu))
    };
    let parts: Vec<Tensor> = numbers.chunks(64).map(read).collect::<Result<_>>()?;
    Ok(Tensor::cat(&parts, 0))
}

/// The classes of the images of [`of_held_out`], `[N]` i64; `None` for a network without.
///
/// # Errors
/// An image without a class, for a network that must always have one.
pub(super) fn classes_held_out(
    config: &RunConfig,
    data: &Loaded,
    most: usize,
) -> Result<Option<Tensor>> {
    if config.model.classes().is_none() {
        return Ok(None);
    }
    let held_out = data.held_out.as_ref().context("no images are held out")?;
    let labels = held_out.labels.as_ref();
    let none = config.model.null_class();
    let class = |number: usize| {
        let label = labels.and_then(|labels| labels.of[number]);
        let class = label.map(i64::from).or(none);
        class.context("an image held out has no label, and this network must always have a class")
    };
    let classes: Vec<i64> = spread(held_out.len(), most)
        .map(class)
        .collect::<Result<_>>()?;
    Ok(Some(Tensor::from_slice(&classes)))
}

/// The classes of the images of [`real`], `[N]` i64; `None` for a network without.
///
/// # Errors
/// As [`classes_held_out`].
pub(super) fn real_classes(
    config: &RunConfig,
    data: &Loaded,
    most: usize,
) -> Result<Option<Tensor>> {
    if several_held_out(data).is_some() {
        return classes_held_out(config, data, most);
    }
    let numbers = spread(data.store.len() as usize, most).map(|number| number as i64);
    data.store.classes(&numbers.collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_are_from_all_over_a_set() {
        let chosen = |count, most| spread(count, most).collect::<Vec<_>>();
        assert_eq!(chosen(3, 5), [0, 1, 2]);
        assert_eq!(chosen(10, 4), [0, 2, 5, 7]);
        assert_eq!(chosen(4, 4), [0, 1, 2, 3]);
    }
}
