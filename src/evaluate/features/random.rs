//! A fixed pyramid of random convolutions: features without any file.
//!
//! What it sees are means and spreads of random filters at four scales: colours, contrast, sharpness, noise and
//! texture. It is good for following one run, or for comparing runs on the same data: its distances grow with blur and
//! noise. It knows no objects, and its numbers compare with nothing but its own.

use anyhow::Result;
use tch::{Device, Kind, Tensor};

use super::resize::antialiased;
use super::{FeatureExtractor, Features, in_parts};
use crate::rng::{Stream, normal};

/// Height and width that all images are brought to.
const SIZE: i64 = 64;
/// Channels after each convolution; between two of them the maps are halved.
const WIDTHS: [i64; 4] = [16, 32, 40, 40];
/// Seed of the weights: part of the network's definition.
const SEED: u64 = 20_151_205;
const MOST_IMAGES: i64 = 256;
/// Added to a variance before its root is taken, whose slope is infinite at 0.
const SPREAD_EPS: f64 = 1e-6;

/// The network.
#[derive(Debug)]
pub struct RandomPyramid {
    /// `[out, in, 3, 3]`
    filters: Vec<Tensor>,
    device: Device,
}

impl RandomPyramid {
    /// Draws the weights, the same on every device.
    ///
    /// # Errors
    /// Errors of libtorch.
    pub fn new(device: Device) -> Result<Self> {
        let mut inputs = 3;
        let mut filters = Vec::new();
        for (index, width) in WIDTHS.into_iter().enumerate() {
            let shape = [width, inputs, 3, 3];
            let weight = normal(SEED, Stream::Init, index as u64, &shape, Device::Cpu);
            // Keeps the mean square through a ReLU.
            let scale = (2.0 / (inputs * 9) as f64).sqrt();
            filters.push(weight.f_mul_scalar(scale)?.f_to_device(device)?);
            inputs = width;
        }
        Ok(Self { filters, device })
    }
}

impl FeatureExtractor for RandomPyramid {
    fn name(&self) -> String {
        "random convolutions (comparable only with themselves)".to_owned()
    }

    fn dims(&self) -> usize {
        2 * WIDTHS.iter().sum::<i64>() as usize
    }

    /// Mean and standard deviation of each channel after each convolution.
    fn features(&self, images: &Tensor) -> Result<Features> {
        in_parts(images, MOST_IMAGES, |some| {
            let mut x = antialiased(some, SIZE, self.device)?.f_expand([-1, 3, -1, -1], false)?;
            let mut seen = Vec::new();
            for (index, filter) in self.filters.iter().enumerate() {
                if index > 0 {
                    x = x.f_avg_pool2d([2, 2], [2, 2], [0, 0], false, true, None)?;
                }
                x = x
                    .f_conv2d(filter, None::<&Tensor>, [1, 1], [1, 1], [1, 1], 1)?
                    .f_relu()?;
                let pixels = [2i64, 3];
                seen.push(x.f_mean_dim(pixels.as_slice(), false, Kind::Float)?);
                let variance = x.f_var_dim(pixels.as_slice(), false, false)?;
                seen.push(variance.f_add_scalar(SPREAD_EPS)?.f_sqrt()?);
            }
            Ok(Features {
                pooled: Tensor::f_cat(&seen, 1)?,
                logits: None,
            })
        })
    }
}
