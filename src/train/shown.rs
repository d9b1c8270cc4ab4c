//! What a network of super-resolution is shown of images to make samples from, for grids and evaluations.

use std::ops::Range;

use anyhow::Result;
use tch::{Device, Kind, Tensor};

use super::some_images::{real, real_classes};
use crate::config::RunConfig;
use crate::data::Loaded;
use crate::diffusion::LowResolution;
use crate::images::from_pixels;

/// Images whose low-resolution form samples are made from.
#[derive(Debug)]
pub(super) struct Shown {
    /// Whole, `[N, C, H, W]` u8 on the CPU.
    pub(super) pixels: Tensor,
    /// Their classes, `[N]` i64, for class-conditional networks.
    pub(super) classes: Option<Tensor>,
}

impl Shown {
    /// `number` images held out; without several, of those of the training. Of fewer, some are there again. `None` for a
    /// network that makes images from noise alone.
    ///
    /// # Errors
    /// Out of memory.
    pub(super) fn new(config: &RunConfig, data: &Loaded, number: u64) -> Result<Option<Shown>> {
        if config.upscale.is_none() {
            return Ok(None);
        }
        let images = real(data, number as usize)?;
        let again = Tensor::arange(number as i64, (Kind::Int64, Device::Cpu));
        let again = again.remainder(images.size()[0]);
        let classes = real_classes(config, data, number as usize)?;
        Ok(Some(Shown {
            pixels: images.f_index_select(0, &again)?,
            classes: classes.map(|classes| classes.index_select(0, &again)),
        }))
    }

    /// What the network is given of the images `numbers`, `[numbers.len(), C, H, W]` f32 on `device`.
    ///
    /// # Panics
    /// For a network that makes images from noise alone.
    pub(super) fn condition(
        &self,
        config: &RunConfig,
        numbers: &Range<u64>,
        device: Device,
    ) -> Tensor {
        let count = (numbers.end - numbers.start) as i64;
        let pixels = self.pixels.narrow(0, numbers.start as i64, count);
        condition(config, &from_pixels(&pixels.to_device(device)))
            .expect("it is a run of super-resolution")
    }
}

/// What a network of super-resolution is given of images, `[N, C, H, W]` f32, without noise; none for others.
pub(super) fn condition(config: &RunConfig, x_0: &Tensor) -> Option<Tensor> {
    let low_resolution = LowResolution::new(config.upscale.as_ref()?);
    Some(low_resolution.condition(x_0))
}
